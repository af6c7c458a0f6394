//! The stream between TLS and HTTP: bytes are counted and progress is timed here.
//!
//! Frames of HTTP/2 pass here whole or in parts on their way to the parser: floods of them can be counted here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::activity::Activity;

/// A stream whose peer is given up when it takes nothing for too long.
#[derive(Debug)]
pub(super) struct Stream<IO> {
    inner: IO,
    activity: Arc<Activity>,
    send_timeout: Duration,
    waiting: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<IO> Stream<IO> {
    pub(super) fn new(inner: IO, activity: Arc<Activity>, send_timeout: Duration) -> Self {
        Self {
            inner,
            activity,
            send_timeout,
            waiting: false,
            timer: None,
        }
    }

    /// Passes on what a write came to; turns a wait without end into an error.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = false;
            return result;
        }
        let limit = self.send_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.activity.received(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        let written = ready!(self.judge(cx, result))?;
        self.activity.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, buffers);
        let written = ready!(self.judge(cx, result))?;
        self.activity.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_one_that_takes_a_little_is_not() {
        let limit = Duration::from_secs(10);
        let (ours, mut theirs) = tokio::io::duplex(4);
        let activity = Arc::new(Activity::new());
        let mut stream = Stream::new(ours, activity.clone(), limit);
        let send = stream.write_all(b"0123456789abcdef");
        let take = async {
            let mut some = [0; 4];
            for _ in 0..2 {
                tokio::time::advance(limit - Duration::from_secs(1)).await;
                theirs.read_exact(&mut some).await.unwrap();
            }
        };
        let started = Instant::now();
        let (sent, ()) = tokio::join!(send, take);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= 2 * (limit - Duration::from_secs(1)) + limit);
        assert_eq!(activity.bytes_sent(), 12);
    }
}
