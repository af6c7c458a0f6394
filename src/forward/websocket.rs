//! A WebSocket that came through a tunnel as extended CONNECT (RFC 8441), and goes to its backend over HTTP/1.1.

use std::fmt;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::{Method, Request, StatusCode, response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf, split};

use crate::backend;
use crate::message::body::BodyError;
use crate::message::refusal::Refusal;
use crate::message::websocket;
use crate::reason::Reason;
use crate::tasks::Tasks;
use crate::tunnel;

type Io = TokioIo<Upgraded>;

/// How much is read from a backend at once.
const PART: usize = 16 << 10;

/// Whether a request is the opening of a WebSocket; makes it the `GET` that its endpoint and backend know.
pub(super) fn take_opening<B>(request: &mut Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    let opens = request.method() == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str() == websocket::PROTOCOL);
    if opens {
        *request.method_mut() = Method::GET;
    }
    opens
}

/// Takes a backend's 101 for the success that it is in a tunnel, and puts bytes in place of messages.
///
/// # Errors
/// `backend-protocol` for success without a 101, which would be taken for one; `backend-broken` if the connection is
/// lost at that moment.
pub(super) async fn switch(
    head: &mut response::Parts,
    answer: backend::AnswerBody<tunnel::Body>,
    from_client: tunnel::Body,
    tasks: &Tasks,
) -> Result<Switched, Refusal> {
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let Some(upgrade) = upgrade.filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS) else {
        let detail = format!("{} to the opening of a WebSocket", head.status);
        return Err(Refusal::new(Reason::BackendProtocol).detail(detail));
    };
    head.status = StatusCode::OK;
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    let broken =
        |error: hyper::Error| Refusal::new(Reason::BackendBroken).detail(error.to_string());
    let (from_backend, to_backend) = split(TokioIo::new(upgrade.await.map_err(broken)?));
    tasks.spawn(carry(from_client, to_backend));
    Ok(Switched {
        from_backend,
        _place: answer,
    })
}

/// Carries what a client says until it has said all. It ends with the stream in the tunnel, too.
async fn carry(mut from_client: tunnel::Body, mut to_backend: WriteHalf<Io>) {
    while let Some(Ok(frame)) = from_client.frame().await {
        let data = frame.into_data().unwrap_or_default();
        if to_backend.write_all(&data).await.is_err() || to_backend.flush().await.is_err() {
            return;
        }
    }
    // The backend answers the end by its own.
    let _ = to_backend.shutdown().await;
}

/// What a backend says on a connection that has become one of bytes.
pub(super) struct Switched {
    from_backend: ReadHalf<Io>,
    /// The exchange's place in the backend's capacity.
    _place: backend::AnswerBody<tunnel::Body>,
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched").finish_non_exhaustive()
    }
}

impl Switched {
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut part = [const { MaybeUninit::uninit() }; PART];
        let mut part = ReadBuf::uninit(&mut part);
        let read = Pin::new(&mut self.from_backend).poll_read(cx, &mut part);
        Poll::Ready(match ready!(read) {
            Ok(()) if part.filled().is_empty() => None,
            Ok(()) => Some(Ok(Frame::data(Bytes::copy_from_slice(part.filled())))),
            Err(error) => Some(Err(BodyError::new(
                Reason::BackendBroken,
                error.to_string(),
            ))),
        })
    }
}
