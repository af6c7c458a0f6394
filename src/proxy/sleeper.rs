//! An HTTP/1.1 connection that sleeps while it is idle.
//!
//! hyper holds a parser, the place of a request's future and a buffer for each direction, about 20 KiB, as long as a
//! connection lives, and most connections are idle most of the time. So hyper is taken off the stream of one that rests,
//! and put on it again by the next byte.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::driver::WindUp;
use super::stream::Stream;

type Awake<IO, S> = http1::UpgradeableConnection<TokioIo<Stream<IO>>, S>;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What can serve a connection of HTTP/1.1.
pub(super) trait Service:
    HttpService<
        Incoming,
        ResBody: Body<Data = Bytes, Error: Into<Fault>> + 'static,
        Error: Into<Fault>,
    > + Unpin
{
}

impl<S> Service for S
where
    S: HttpService<Incoming, Error: Into<Fault>> + Unpin,
    S::ResBody: Body<Data = Bytes, Error: Into<Fault>> + 'static,
{
}

/// A connection that is served by `S` whenever it is awake.
pub(super) struct Sleeper<IO, S>
where
    S: HttpService<Incoming>,
{
    server: http1::Builder,
    state: State<IO, S>,
}

enum State<IO, S>
where
    S: HttpService<Incoming>,
{
    Awake(Box<Awake<IO, S>>),
    Asleep(Stream<IO>, S),
    /// Told to end while it slept.
    Closing(Stream<IO>),
    Over,
}

impl<IO, S> Sleeper<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    /// A connection on `stream`, awake.
    pub(super) fn new(server: http1::Builder, stream: Stream<IO>, service: S) -> Self {
        let mut new = Self {
            server,
            state: State::Over,
        };
        new.wake(stream, service);
        new
    }

    fn wake(&mut self, stream: Stream<IO>, service: S) {
        let io = TokioIo::new(stream);
        let awake = self.server.serve_connection(io, service).with_upgrades();
        self.state = State::Awake(Box::new(awake));
    }
}

impl<IO, S> Future for Sleeper<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Awake(connection) => return Pin::new(&mut **connection).poll(cx),
                State::Asleep(stream, _) => ready!(stream.poll_peek(cx)),
                State::Closing(stream) => {
                    // A client that has gone has closed as well.
                    let _ = ready!(Pin::new(stream).poll_shutdown(cx));
                    this.state = State::Over;
                }
                State::Over => return Poll::Ready(Ok(())),
            }
            if let State::Asleep(stream, service) = std::mem::replace(&mut this.state, State::Over)
            {
                this.wake(stream, service);
            }
        }
    }
}

impl<IO, S> WindUp for Sleeper<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service,
{
    fn wind_up(mut self: Pin<&mut Self>) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Awake(mut connection) => {
                Pin::new(&mut *connection).graceful_shutdown();
                State::Awake(connection)
            }
            State::Asleep(stream, _) => State::Closing(stream),
            state @ (State::Closing(_) | State::Over) => state,
        };
    }

    fn rest(mut self: Pin<&mut Self>) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Awake(connection) => match connection.into_parts() {
                Some(parts) => {
                    let mut stream = parts.io.into_inner();
                    stream.put_back(&parts.read_buf);
                    State::Asleep(stream, parts.service)
                }
                // Its stream is another's by now.
                None => State::Over,
            },
            state @ (State::Asleep(..) | State::Closing(_) | State::Over) => state,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::time::Duration;

    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::super::activity::Activity;
    use super::*;
    use crate::allowance::Allowance;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    async fn serve(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(Response::new(Full::from("here")))
    }

    fn open() -> (DuplexStream, impl WindUp + Unpin) {
        let (theirs, ours) = tokio::io::duplex(4096);
        let activity = Arc::new(Activity::new());
        let stream = Stream::http1(ours, activity, Duration::from_secs(9), Allowance::default());
        let sleeper = Sleeper::new(http1::Builder::new(), stream, service_fn(serve));
        (theirs, sleeper)
    }

    /// Sends `asks` and returns the answers, while the connection is polled.
    async fn answers(
        theirs: &mut DuplexStream,
        connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin),
        asks: usize,
    ) -> String {
        let talk = async {
            theirs.write_all(&ASK.repeat(asks)).await.unwrap();
            let mut found = String::new();
            while found.matches("here").count() < asks {
                found.push(char::from(theirs.read_u8().await.unwrap()));
            }
            found
        };
        tokio::select! {
            found = talk => found,
            over = connection => panic!("{over:?}"),
        }
    }

    async fn poll_once(connection: &mut (impl Future<Output = hyper::Result<()>> + Unpin)) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *connection).poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_connection_that_slept_answers_what_wakes_it_whole() {
        let (mut theirs, mut connection) = open();
        for asks in 1..4 {
            Pin::new(&mut connection).rest();
            assert!(!poll_once(&mut connection).await);
            let found = answers(&mut theirs, &mut connection, asks).await;
            assert_eq!(found.matches("HTTP/1.1 200 OK").count(), asks, "{found}");
        }
    }

    #[tokio::test]
    async fn what_was_read_before_a_connection_slept_is_not_lost() {
        let (mut theirs, mut connection) = open();
        let (half, rest) = ASK.split_at(9);
        theirs.write_all(half).await.unwrap();
        assert!(!poll_once(&mut connection).await);
        Pin::new(&mut connection).rest();
        theirs.write_all(rest).await.unwrap();
        let found = answers(&mut theirs, &mut connection, 0).await;
        assert_eq!(found, "");
        assert!(!poll_once(&mut connection).await);
        let mut found = [0; 15];
        theirs.read_exact(&mut found).await.unwrap();
        assert_eq!(&found, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn a_sleeping_connection_ends_when_its_client_goes_or_when_it_is_told_to() {
        let (theirs, mut connection) = open();
        Pin::new(&mut connection).rest();
        drop(theirs);
        assert!(connection.await.is_ok());

        let (mut theirs, mut connection) = open();
        Pin::new(&mut connection).rest();
        Pin::new(&mut connection).wind_up();
        assert!(connection.await.is_ok());
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }

    #[test]
    fn a_sleeping_connection_is_small() {
        let size = size_of_val(&open().1);
        assert!((100..400).contains(&size), "{size}");
    }
}
