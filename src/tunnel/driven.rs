//! A connection of HTTP/2 on a tunnel's stream: what many requests write at once goes out in one piece.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Watched;
use super::settings::Wire;
use super::wire;
use crate::pieces::{Gather, Push, gather};

type Io<IO> = Gather<Watched<IO>>;

/// A request and the way back.
type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// The gateway's end. As a future it moves bytes until the connection is over.
pub(super) struct Client<IO: AsyncRead + AsyncWrite + Unpin> {
    pub(super) connection: client::Connection<Io<IO>, Bytes>,
    push: Push<Watched<IO>>,
    waited: bool,
}

/// The connection point's end.
pub(super) struct Server<IO: AsyncRead + AsyncWrite + Unpin> {
    pub(super) connection: server::Connection<Io<IO>, Bytes>,
    push: Push<Watched<IO>>,
    waited: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Begins HTTP/2. The first bytes are written when the connection is first polled.
    ///
    /// # Errors
    /// The stream's.
    pub(super) async fn begin(
        settings: &Wire,
        io: Watched<IO>,
    ) -> Result<(SendRequest<Bytes>, Self), h2::Error> {
        let (io, push) = gather(io);
        let (sender, connection) = wire::client(settings).handshake(io).await?;
        let driven = Self {
            connection,
            push,
            waited: false,
        };
        Ok((sender, driven))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Client<IO> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !std::mem::replace(&mut this.waited, true) {
            // Other tasks that are ready have requests, too: they come first, and all go out together.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.waited = false;
        let polled = Pin::new(&mut this.connection).poll(cx);
        if polled.is_pending() {
            this.push.push(cx);
        }
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Server<IO> {
    /// Begins HTTP/2, once the gateway has.
    ///
    /// # Errors
    /// The stream's, and what the gateway did wrong.
    pub(super) async fn begin(settings: &Wire, io: Watched<IO>) -> Result<Self, h2::Error> {
        let (io, push) = gather(io);
        let handshake = wire::server(settings).handshake(io);
        let mut handshake = std::pin::pin!(handshake);
        let connection = poll_fn(|cx| {
            let polled = handshake.as_mut().poll(cx);
            push.push(cx);
            polled
        });
        Ok(Self {
            connection: connection.await?,
            push,
            waited: false,
        })
    }

    /// The next request, once there is one; `None` when the connection is over. What was written before goes out.
    pub(super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Accepted, h2::Error>>> {
        if !std::mem::replace(&mut self.waited, true) {
            // As for the gateway's end: other tasks have answers.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.connection.poll_accept(cx);
        if polled.is_pending() {
            self.waited = false;
            self.push.push(cx);
        }
        polled
    }
}
