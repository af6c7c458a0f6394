//! The stream below the TLS of a server: tickets cost no packet of their own.

use std::io::{self, IoSlice};
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// More than this is not held back: four tickets with long chains.
const MOST: usize = 16 << 10;

/// How long tickets wait for something to go with: a client whose first request is a long poll needs them before its answer.
const LONGEST: Duration = Duration::from_secs(1);

/// Holds the tickets of a handshake back until something else is written, and sends them with that.
///
/// RFC 8446 §4.6.1 has a server send tickets at any time after the client's Finished; a client whose tickets come with
/// its first answer reads once in place of twice. Closing sends them, and so does a flush, or a read that finds nothing, once
/// they have waited for a second; no timer of their own does.
#[derive(Debug)]
pub struct LateTickets<IO> {
    io: IO,
    state: State,
}

#[derive(Debug)]
enum State {
    /// What is written goes out.
    Passing,
    /// The server's flight goes out. What is written after the next bytes of the client is no part of it.
    Flight,
    /// The client has answered the flight: what is written are tickets, or the alert that ends the handshake.
    Gathering(Vec<u8>),
    /// The handshake is over.
    Held {
        tickets: Vec<u8>,
        sent: usize,
        since: Instant,
    },
}

impl<IO> LateTickets<IO> {
    /// Holds nothing back until [`LateTickets::hold`].
    pub(super) fn new(io: IO) -> Self {
        let state = State::Passing;
        Self { io, state }
    }

    /// Is called before the flight of a handshake in which the client has the last word (TLS 1.3, RFC 8446 §2), and in
    /// which it speaks once more only.
    pub(super) fn hold(&mut self) {
        self.state = State::Flight;
    }

    /// Is called when the handshake is over, for better or worse: no more is gathered.
    pub(super) fn end_handshake(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Passing) {
            State::Gathering(tickets) if !tickets.is_empty() => State::Held {
                tickets,
                sent: 0,
                since: Instant::now(),
            },
            held @ State::Held { .. } => held,
            State::Passing | State::Flight | State::Gathering(_) => State::Passing,
        };
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The stream itself. Bytes written to it would go before the tickets.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

impl<IO: AsyncWrite + Unpin> LateTickets<IO> {
    /// Sends what is held and, behind it, some of the buffers: how much of them.
    fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while let State::Held { tickets, sent, .. } = &mut self.state {
            let left = &tickets[*sent..];
            let all: Vec<_> = iter::once(IoSlice::new(left))
                .chain(buffers.iter().copied())
                .collect();
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &all))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(behind) = written.checked_sub(left.len()) {
                self.state = State::Passing;
                return Poll::Ready(Ok(behind));
            }
            *sent += written;
        }
        Poll::Ready(Ok(0))
    }

    /// Sends what has been held for too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Held { since, .. } = &self.state
            && since.elapsed() >= LONGEST
        {
            ready!(self.poll_held(cx, &[]))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for LateTickets<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_pending() {
            // The next read says what is wrong with the stream.
            let _ = self.poll_overdue(cx);
        }
        ready!(read)?;
        if matches!(self.state, State::Flight) && buffer.filled().len() > before {
            self.state = State::Gathering(Vec::new());
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for LateTickets<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let len = buffers.iter().map(|buffer| buffer.len()).sum();
        if let State::Gathering(tickets) = &mut this.state {
            if tickets.len() + len <= MOST {
                buffers
                    .iter()
                    .for_each(|buffer| tickets.extend_from_slice(buffer));
                return Poll::Ready(Ok(len));
            }
            this.end_handshake();
        }
        let behind = ready!(this.poll_held(cx, buffers))?;
        if behind > 0 {
            return Poll::Ready(Ok(behind));
        }
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, buffers);
        // Of a flight that does not go out at once, the rest would be taken for tickets.
        if matches!(this.state, State::Flight)
            && !matches!(written, Poll::Ready(Ok(all)) if all == len)
        {
            this.state = State::Passing;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_overdue(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_handshake();
        ready!(self.poll_held(cx, &[]))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A stream whose flight has been answered, and the client.
    async fn answered(room: usize) -> (LateTickets<DuplexStream>, DuplexStream) {
        let (mut client, io) = duplex(room);
        let mut server = LateTickets::new(io);
        server.hold();
        server.write_all(b"flight").await.unwrap();
        assert_eq!(some(&mut client), b"flight");
        client.write_all(b"finished").await.unwrap();
        assert_eq!(some(&mut server), b"finished");
        (server, client)
    }

    /// What can be read at once.
    fn some(io: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        let read = io.read(&mut bytes).now_or_never();
        let len = read.expect("something is there to be read").unwrap();
        bytes.truncate(len);
        bytes
    }

    #[tokio::test]
    async fn tickets_go_out_with_what_is_written_after_the_handshake() {
        let (mut server, mut client) = answered(1 << 10).await;
        server.write_all(b"one ").await.unwrap();
        server.write_all(b"two ").await.unwrap();
        server.end_handshake();
        server.flush().await.unwrap();
        assert!(client.read_u8().now_or_never().is_none());
        server.write_all(b"answer").await.unwrap();
        assert_eq!(some(&mut client), b"one two answer");
        server.write_all(b"more").await.unwrap();
        assert_eq!(some(&mut client), b"more");
    }

    #[tokio::test(start_paused = true)]
    async fn tickets_that_nothing_follows_go_out_with_a_flush_or_a_read_after_a_second() {
        for with_read in [false, true] {
            let (mut server, mut client) = answered(1 << 10).await;
            server.write_all(b"ticket").await.unwrap();
            server.end_handshake();
            tokio::time::advance(LONGEST / 2).await;
            server.flush().await.unwrap();
            assert!(server.read_u8().now_or_never().is_none());
            assert!(client.read_u8().now_or_never().is_none());
            tokio::time::advance(LONGEST / 2).await;
            if with_read {
                assert!(server.read_u8().now_or_never().is_none());
            } else {
                server.flush().await.unwrap();
            }
            assert_eq!(some(&mut client), b"ticket");
        }
    }

    #[tokio::test]
    async fn tickets_and_what_follows_go_out_in_pieces_where_there_is_little_room() {
        let (mut server, mut client) = answered(8).await;
        let ticket: Vec<u8> = (0..=255).collect();
        server.write_all(&ticket).await.unwrap();
        server.end_handshake();
        let write = async {
            server.write_all(b"answer").await.unwrap();
            drop(server);
        };
        let mut seen = Vec::new();
        let (seen_len, ()) = tokio::join!(client.read_to_end(&mut seen), write);
        seen_len.unwrap();
        assert_eq!(seen, [&ticket[..], b"answer"].concat());
    }

    #[tokio::test]
    async fn the_alert_of_a_handshake_that_fails_goes_out_when_it_is_closed() {
        let (mut server, mut client) = answered(1 << 10).await;
        server.write_all(b"alert").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(some(&mut client), b"alert");
        assert_eq!(some(&mut client), b"");
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_held() {
        let (mut server, mut client) = answered(64 << 10).await;
        server.write_all(&[1; MOST]).await.unwrap();
        assert!(client.read_u8().now_or_never().is_none());
        server.write_all(&[2]).await.unwrap();
        assert_eq!(some(&mut client).len(), MOST + 1);
    }

    #[tokio::test]
    async fn the_rest_of_a_flight_that_does_not_go_out_at_once_is_no_ticket() {
        let (mut client, io) = duplex(8);
        let mut server = LateTickets::new(io);
        server.hold();
        assert_eq!(server.write(b"long flight").await.unwrap(), 8);
        client.write_all(b"early").await.unwrap();
        assert_eq!(some(&mut server), b"early");
        assert_eq!(some(&mut client), b"long fli");
        server.write_all(b"ght").await.unwrap();
        assert_eq!(some(&mut client), b"ght");
    }

    #[tokio::test]
    async fn nothing_is_held_unless_it_is_asked_for() {
        let (mut client, io) = duplex(64);
        let mut server = LateTickets::new(io);
        client.write_all(b"hello").await.unwrap();
        assert_eq!(some(&mut server), b"hello");
        server.write_all(b"flight").await.unwrap();
        assert_eq!(some(&mut client), b"flight");
    }
}
