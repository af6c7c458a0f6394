//! The stream between TLS and HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{PIECE, Piece};

/// What is at least so long and finds nothing before it is written at once.
const LONG: usize = PIECE / 4;

/// The side that HTTP/2 writes to. Flushing it does nothing: that is for [`Push`].
#[derive(Debug)]
pub struct Gather<IO>(Arc<Mutex<Inner<IO>>>);

/// The side of whoever drives the connection. Both sides belong to one task, so that nobody waits for the lock.
#[derive(Debug)]
pub struct Push<IO>(Arc<Mutex<Inner<IO>>>);

#[derive(Debug)]
struct Inner<IO> {
    io: IO,
    gathered: Option<Piece>,
    /// Whether something was written that the stream may still hold.
    unflushed: bool,
    /// What a write failed with. A read says it once nothing is left to be read: what the peer sent before it went
    /// away, such as a goodbye, is worth more. Until then what is written is forgotten.
    broken: Option<io::Error>,
}

/// Gathers what is written to a stream until it is pushed.
pub fn gather<IO>(io: IO) -> (Gather<IO>, Push<IO>) {
    let inner = Arc::new(Mutex::new(Inner {
        io,
        gathered: None,
        unflushed: false,
        broken: None,
    }));
    (Gather(Arc::clone(&inner)), Push(inner))
}

impl<IO: AsyncWrite + Unpin> Push<IO> {
    /// Writes what was gathered, as far as the stream takes it, and wakes `cx` when it takes more. If it fails, the
    /// connection hears it with a read that finds nothing more, for which `cx` is woken as well.
    pub fn push(&self, cx: &mut Context<'_>) {
        let mut inner = lock(&self.0);
        if let Poll::Ready(Err(error)) = inner.poll_push(cx) {
            inner.fail(error, cx);
        }
    }
}

impl<IO> Inner<IO> {
    fn fail(&mut self, error: io::Error, cx: &Context<'_>) {
        self.gathered = None;
        self.unflushed = false;
        self.broken = Some(error);
        cx.waker().wake_by_ref();
    }

    /// The error itself for whoever asks first, its kind for all others.
    fn error(&mut self) -> Option<io::Error> {
        let error = self.broken.as_mut()?;
        let kind = error.kind();
        Some(std::mem::replace(error, kind.into()))
    }
}

impl<IO: AsyncWrite + Unpin> Inner<IO> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(piece) = &mut self.gathered {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, piece.full()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            piece.start += written;
            if piece.is_empty() {
                self.gathered = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.broken.is_none() {
            match ready!(self.poll_take(cx, buffers, len)) {
                Ok(taken) => return Poll::Ready(Ok(taken)),
                Err(error) => self.fail(error, cx),
            }
        }
        Poll::Ready(Ok(len))
    }

    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
        len: usize,
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        if self.gathered.is_none() && len >= LONG {
            return Pin::new(&mut self.io).poll_write_vectored(cx, buffers);
        }
        if let Some(piece) = &mut self.gathered
            && piece.room().is_empty()
        {
            ready!(self.poll_drain(cx))?;
        }
        let piece = self.gathered.get_or_insert_with(Piece::lend);
        let mut taken = 0;
        for buffer in buffers {
            taken += piece.put(buffer);
        }
        Poll::Ready(Ok(taken))
    }
}

fn lock<IO>(inner: &Mutex<Inner<IO>>) -> MutexGuard<'_, Inner<IO>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        let read = Pin::new(&mut inner.io).poll_read(cx, buffer);
        if read.is_pending()
            && let Some(error) = inner.error()
        {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_push(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pushed<IO: AsyncWrite + Unpin>(push: &Push<IO>) {
        poll_fn(|cx| {
            push.push(cx);
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn little_waits_to_be_pushed_and_everything_comes_in_order() {
        let (mut theirs, ours) = tokio::io::duplex(1 << 20);
        let (mut stream, push) = gather(ours);
        stream.write_all(b"little").await.unwrap();
        stream.flush().await.unwrap();
        let mut some = [0; 6];
        let early = poll_fn(|cx| {
            let mut room = ReadBuf::new(&mut some);
            Poll::Ready(Pin::new(&mut theirs).poll_read(cx, &mut room).is_ready())
        });
        assert!(!early.await);
        pushed(&push).await;
        theirs.read_exact(&mut some).await.unwrap();
        assert_eq!(&some, b"little");

        let sent: Vec<u8> = (0..3 * PIECE).map(|at| at.to_le_bytes()[0]).collect();
        for (at, len) in [(0, 10), (10, LONG), (10 + LONG, PIECE)] {
            stream.write_all(&sent[at..at + len]).await.unwrap();
        }
        stream.write_all(&sent[10 + LONG + PIECE..]).await.unwrap();
        stream.shutdown().await.unwrap();
        drop((stream, push));
        let mut found = Vec::new();
        theirs.read_to_end(&mut found).await.unwrap();
        assert!(found == sent, "{} of {} bytes", found.len(), sent.len());
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_holds_the_writer_up() {
        let (theirs, ours) = tokio::io::duplex(16);
        let (mut stream, push) = gather(ours);
        for _ in 0..PIECE / 1_024 {
            stream.write_all(&[7; 1_024]).await.unwrap();
        }
        let full = poll_fn(|cx| {
            push.push(cx);
            Poll::Ready(Pin::new(&mut stream).poll_write(cx, b"more").is_pending())
        });
        assert!(full.await);
        drop(theirs);
        pushed(&push).await;
        stream.write_all(b"forgotten").await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the end is an end");
    }

    /// A stream that has something to read and fails when it is written to.
    #[derive(Debug)]
    struct Failing(&'static [u8]);

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let (now, rest) = self.0.split_at(self.0.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.0 = rest;
            match now.is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(Ok(())),
            }
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "as told")))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_came_before_a_write_failed_is_read_and_then_the_error_itself_is_said() {
        for length in [10, LONG] {
            let (mut stream, push) = gather(Failing(b"goodbye"));
            stream.write_all(&vec![7; length]).await.unwrap();
            pushed(&push).await;
            stream.write_all(b"forgotten").await.unwrap();
            pushed(&push).await;
            let mut some = [0; 7];
            stream.read_exact(&mut some).await.unwrap();
            assert_eq!(&some, b"goodbye");
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.to_string(), "as told");
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
