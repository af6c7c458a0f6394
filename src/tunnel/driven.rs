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
use tokio::runtime::Handle;

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
    turn: Turn,
}

/// The connection point's end.
pub(super) struct Server<IO: AsyncRead + AsyncWrite + Unpin> {
    pub(super) connection: server::Connection<Io<IO>, Bytes>,
    push: Push<Watched<IO>>,
    turn: Turn,
}

/// Whether other tasks that are ready come first: they have something to say as well, and all goes out together.
#[derive(Debug)]
struct Turn {
    /// Whether there may be others.
    others: bool,
    one_worker: bool,
    /// Whether the others have had theirs.
    is_taken: bool,
}

impl Turn {
    /// On the runtime that this is called on. Others are expected until something else is said.
    fn new() -> Self {
        Self {
            others: true,
            one_worker: Handle::current().metrics().num_workers() == 1,
            is_taken: false,
        }
    }

    /// Where there is no other request, another worker would be woken to look for one. A single worker wakes none.
    fn expect(&mut self, in_flight: usize) {
        self.others = self.one_worker || in_flight > 1;
    }

    /// Lets others come first, unless they have; the task is polled again after them.
    fn gives_way(&mut self, cx: &Context<'_>) -> bool {
        let waits = self.others && !std::mem::replace(&mut self.is_taken, true);
        if waits {
            cx.waker().wake_by_ref();
        }
        waits
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Is told how many requests are in flight, those that wait for long included. The last word holds.
    pub(super) fn expect(&mut self, in_flight: usize) {
        self.turn.expect(in_flight);
    }

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
            turn: Turn::new(),
        };
        Ok((sender, driven))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Client<IO> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.turn.gives_way(cx) {
            return Poll::Pending;
        }
        this.turn.is_taken = false;
        let polled = Pin::new(&mut this.connection).poll(cx);
        if polled.is_pending() {
            this.push.push(cx);
        }
        polled
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Server<IO> {
    /// Is told how many requests are in flight, those that wait for long included. The last word holds.
    pub(super) fn expect(&mut self, in_flight: usize) {
        self.turn.expect(in_flight);
    }

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
            turn: Turn::new(),
        })
    }

    /// The next request, once there is one; `None` when the connection is over. What was written before goes out.
    pub(super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Accepted, h2::Error>>> {
        if self.turn.gives_way(cx) {
            return Poll::Pending;
        }
        let polled = self.connection.poll_accept(cx);
        if polled.is_pending() {
            self.turn.is_taken = false;
            self.push.push(cx);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;
    use crate::tunnel::io::Traffic;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often a connection with so many requests is polled until it sends; each poll before asks for the next.
    async fn polls_to_send(in_flight: usize) -> usize {
        let (ours, mut theirs) = duplex(1 << 16);
        let (io, _pulse) = Watched::new(ours, Traffic::default());
        let (_sender, mut client) = Client::begin(&Wire::default(), io).await.unwrap();
        client.expect(in_flight);
        let wakes = Arc::<Wakes>::default();
        let waker = Arc::clone(&wakes).into();
        let mut cx = Context::from_waker(&waker);
        for polls in 1..=3 {
            assert!(client.poll_unpin(&mut cx).is_pending());
            if theirs.read_u8().now_or_never().is_some() {
                return polls;
            }
            assert_eq!(wakes.0.load(Ordering::Relaxed), polls);
        }
        panic!("nothing is sent");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_requests_with_others_wait_for_them_where_that_would_wake_a_worker() {
        assert_eq!(polls_to_send(1).await, 1);
        assert_eq!(polls_to_send(2).await, 2);
    }

    #[tokio::test]
    async fn a_single_worker_lets_others_come_first_in_any_case() {
        assert_eq!(polls_to_send(1).await, 2);
    }
}
