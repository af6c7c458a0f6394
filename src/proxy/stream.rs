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
use crate::reason::Reason;

/// How long what a client still sends is thrown away after its last answer.
const LINGER: Duration = Duration::from_secs(30);

/// How long of that it may be silent.
const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// A stream whose peer is given up when it takes nothing for too long.
///
/// It is closed as RFC 9112 §9.6 has it: a client that was answered while it was sending a body is read on until it
/// closes, since to close on unread bytes is a reset, and a reset takes the answer away that is on its way.
#[derive(Debug)]
pub(super) struct Stream<IO> {
    inner: IO,
    activity: Arc<Activity>,
    send_timeout: Duration,
    waiting: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// Until when what the client sends is thrown away, once the other direction is closed.
    linger: Option<Instant>,
}

impl<IO> Stream<IO> {
    pub(super) fn new(inner: IO, activity: Arc<Activity>, send_timeout: Duration) -> Self {
        Self {
            inner,
            activity,
            send_timeout,
            waiting: false,
            timer: None,
            linger: None,
        }
    }

    /// Passes on what a write came to; turns a wait without end into an error.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            if std::mem::take(&mut self.waiting) {
                self.activity.release();
            }
            return result;
        }
        let limit = self.send_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.waiting, true) {
            self.activity.press();
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        self.activity.set_ended(Reason::StalledClient);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> Stream<IO> {
    /// Reads and forgets, until the client closes, is silent or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(LINGER_SILENCE)));
        let mut forgotten = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut forgotten);
            let read = Pin::new(&mut self.inner).poll_read(cx, &mut buffer);
            let now = Instant::now();
            match read {
                Poll::Pending => return timer.as_mut().poll(cx),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && now < until => {
                    timer.as_mut().reset(until.min(now + LINGER_SILENCE));
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
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

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
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
        ready!(self.judge(cx, result))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let until = match this.linger {
            Some(until) => until,
            None => {
                let result = Pin::new(&mut this.inner).poll_shutdown(cx);
                ready!(this.judge(cx, result))?;
                if !this.activity.is_unread() {
                    return Poll::Ready(Ok(()));
                }
                this.timer = None;
                *this.linger.insert(Instant::now() + LINGER)
            }
        };
        this.poll_linger(cx, until).map(Ok)
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
        assert_eq!(activity.ended(), Some(Reason::StalledClient));
    }

    /// How long a close takes while the client sends a byte at every interval, and closes after the given number.
    async fn closing(unread: bool, every: Duration, bytes: u32) -> Duration {
        let (ours, mut theirs) = tokio::io::duplex(256);
        let activity = Arc::new(Activity::new());
        activity.leave_unread(unread);
        let mut stream = Stream::new(ours, activity, Duration::from_secs(300));
        let started = Instant::now();
        let sending = async {
            for _ in 0..bytes {
                sleep(every).await;
                let _ = theirs.write_all(b"x").await;
            }
            drop(theirs);
        };
        let shut = async {
            stream.shutdown().await.unwrap();
            started.elapsed()
        };
        tokio::join!(shut, sending).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_is_read_until_it_closes_is_silent_or_has_had_its_time() {
        let second = Duration::from_secs(1);
        assert_eq!(closing(false, second, 9).await, Duration::ZERO);
        assert_eq!(closing(true, second, 9).await, 9 * second);
        let silent = closing(true, 7 * second, 3).await;
        assert!(
            (LINGER_SILENCE..=7 * second).contains(&silent),
            "{silent:?}"
        );
        let endless = closing(true, second, 100).await;
        assert!((LINGER..=LINGER + second).contains(&endless), "{endless:?}");
    }
}
