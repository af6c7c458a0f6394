//! A WebSocket of a client: opened over HTTP/1.1, carried through the tunnel as extended CONNECT (RFC 8441).
//!
//! The connection becomes one of bytes only when the 101 has been written; what carries them is left with the peer of
//! the connection, whose driver goes on with it under the same rules of trust, drain and age.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::ext::Protocol;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, Sleep, sleep};

use super::answer::Payload;
use super::connection::Peer;
use super::{Shared, request};
use crate::message::body::BodyError;
use crate::message::refusal::Refusal;
use crate::message::websocket;
use crate::reason::Reason;
use crate::routing::Published;
use crate::tunnel::{self, Need};

type Io = TokioIo<Upgraded>;

/// How much is read from a client at once.
const PART: usize = 16 << 10;

/// A request that asks for a WebSocket.
pub(super) struct Opening {
    accept: HeaderValue,
    upgrade: OnUpgrade,
}

impl Opening {
    /// Takes what opens a WebSocket out of a head; `None` if the request is not for one, or has a body, which leaves
    /// it a plain request.
    ///
    /// # Errors
    /// `bad-request` for an opening with another version or without a proper key.
    pub(super) fn take(head: &mut Parts, has_body: bool) -> Result<Option<Self>, Refusal> {
        let plain = has_body || head.method != Method::GET || head.version != Version::HTTP_11;
        if plain || !websocket::is_asked_for(&head.headers) {
            return Ok(None);
        }
        let Some(upgrade) = head.extensions.remove::<OnUpgrade>() else {
            return Ok(None);
        };
        let accept = websocket::take_key(&mut head.headers)
            .map_err(|fault| Refusal::new(Reason::BadRequest).detail(fault))?;
        // A length of 0 is that of the GET, and what comes after the 101 has none.
        head.headers.remove(CONTENT_LENGTH);
        Ok(Some(Self { accept, upgrade }))
    }

    /// Opens the stream in the tunnel. An answer other than success is passed on as that of a plain request.
    pub(super) async fn open(
        self,
        shared: &Shared,
        peer: &Peer,
        mut need: Need,
        mut head: Parts,
        published: Arc<Published>,
    ) -> Result<Response<Payload>, Refusal> {
        need.long_poll = true;
        head.method = Method::CONNECT;
        head.extensions
            .insert(Protocol::from_static(websocket::PROTOCOL));
        let client = Arc::<FromClient>::default();
        let body = Outgoing(Arc::clone(&client));
        let response = request::send(shared, need, Request::from_parts(head, body)).await?;
        let response = request::receive(response, &published, peer, false);
        if !response.status().is_success() {
            return Ok(response);
        }
        let (mut head, payload) = response.into_parts();
        let Payload::Tunnel(body) = payload else {
            return Err(Refusal::new(Reason::InternalError));
        };
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        websocket::accept(&mut head.headers, self.accept);
        peer.leave(Box::new(Relay {
            upgrade: self.upgrade,
            client,
            body,
            published,
            idle: shared.settings.websocket_idle,
        }));
        Ok(Response::from_parts(head, Payload::Own(Full::default())))
    }
}

/// What comes from a client, once its connection is one of bytes.
#[derive(Default)]
struct FromClient {
    half: Mutex<Option<ReadHalf<Io>>>,
    received: AtomicU64,
}

/// The way to the tunnel, as a body.
struct Outgoing(Arc<FromClient>);

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut half = self.0.half.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(half) = half.as_mut() else {
            // Whoever puts it in goes on with this body.
            return Poll::Pending;
        };
        let mut part = [0; PART];
        let mut part = ReadBuf::new(&mut part);
        Poll::Ready(match ready!(Pin::new(half).poll_read(cx, &mut part)) {
            Ok(()) if part.filled().is_empty() => None,
            Ok(()) => {
                let len = part.filled().len() as u64;
                self.0.received.fetch_add(len, Ordering::Relaxed);
                Some(Ok(Frame::data(Bytes::copy_from_slice(part.filled()))))
            }
            Err(error) => Some(Err(BodyError::new(Reason::ClientGone, error.to_string()))),
        })
    }
}

/// A WebSocket between a client and its tunnel.
pub(super) struct Relay {
    upgrade: OnUpgrade,
    client: Arc<FromClient>,
    body: tunnel::Body,
    published: Arc<Published>,
    idle: Duration,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    /// Carries bytes both ways until one side ends, or neither says anything for too long. Backpressure of one
    /// direction does not hold up the other.
    ///
    /// # Errors
    /// How the client's stream, or the tunnel's, broke.
    pub(super) async fn run(self: Box<Self>) -> io::Result<()> {
        let io = TokioIo::new(self.upgrade.await.map_err(io::Error::other)?);
        let (reading, writing) = split(io);
        let half = &self.client.half;
        *half.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        let mut carrier = Carrier {
            client: self.client,
            writing,
            body: self.body,
            published: self.published,
            part: Bytes::new(),
            sent: 0,
            seen: 0,
            idle: self.idle,
            timer: Box::pin(sleep(self.idle)),
        };
        poll_fn(|cx| carrier.poll(cx)).await?;
        carrier.writing.shutdown().await
    }
}

struct Carrier {
    client: Arc<FromClient>,
    writing: WriteHalf<Io>,
    body: tunnel::Body,
    published: Arc<Published>,
    /// What has come from the tunnel and is not yet written.
    part: Bytes,
    sent: u64,
    /// What had passed in both directions when the timer was set.
    seen: u64,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
}

/// What was carried counts however the carrying ends: a drain, for one, drops it.
impl Drop for Carrier {
    fn drop(&mut self) {
        let metrics = &self.published.metrics;
        metrics.bytes_in.inc_by(self.received());
        metrics.bytes_out.inc_by(self.sent);
    }
}

impl Carrier {
    fn received(&self) -> u64 {
        self.client.received.load(Ordering::Relaxed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let carried = self.poll_carry(cx);
        if carried.is_ready() {
            return carried;
        }
        self.poll_idle(cx).map(|()| Ok(()))
    }

    fn poll_carry(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.part.is_empty() {
                // Goes on with the other direction, too.
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.part = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(io::Error::other(error)));
                    }
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => {
                        // What it comes to is found out by the next write.
                        let _ = Pin::new(&mut self.writing).poll_flush(cx);
                        return Poll::Pending;
                    }
                }
            }
            match Pin::new(&mut self.writing).poll_write(cx, &self.part) {
                Poll::Ready(written) => {
                    let written = written?;
                    self.part.advance(written);
                    self.sent += written as u64;
                }
                Poll::Pending => {
                    self.body.poll_upload(cx).map_err(io::Error::other)?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Ready when nothing has passed for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let passed = self.sent + self.received();
            if std::mem::replace(&mut self.seen, passed) == passed {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(Instant::now() + self.idle);
        }
    }
}
