//! The byte stream under a tunnel, with its pulse: when the last byte came, and how many passed; and the connection of
//! HTTP/2 on it, which writes in large pieces.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use prometheus_client::metrics::counter::Counter;

use super::frames::Frames;

/// When the last byte came. Clones look at the same stream.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    since: Instant,
    last: Arc<AtomicU64>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            last: Arc::default(),
        }
    }

    fn beat(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long no byte has come, in whole milliseconds.
    pub(super) fn silence(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(self.elapsed().saturating_sub(last))
    }

    /// This moment, for [`Pulse::heard_since`].
    pub(super) fn mark(&self) -> u64 {
        self.elapsed()
    }

    /// Whether a byte came at or after the mark.
    pub(super) fn heard_since(&self, mark: u64) -> bool {
        self.last.load(Ordering::Relaxed) >= mark
    }
}

/// Where the bytes of a stream are counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    /// Bytes received.
    pub received: Counter,
    /// Bytes sent.
    pub sent: Counter,
}

pin_project! {
    /// A byte stream that keeps its pulse.
    #[derive(Debug)]
    pub(super) struct Watched<IO> {
        #[pin]
        io: IO,
        pulse: Pulse,
        traffic: Traffic,
        // At the gateway's end.
        frames: Option<Frames>,
    }
}

impl<IO> Watched<IO> {
    pub(super) fn new(io: IO, traffic: Traffic) -> (Self, Pulse) {
        let pulse = Pulse::new();
        let watched = Self {
            io,
            pulse: pulse.clone(),
            traffic,
            frames: None,
        };
        (watched, pulse)
    }

    /// Holds the peer to a budget of frames; a read fails once it is spent.
    pub(super) fn counting(mut self, frames: Frames) -> Self {
        self.frames = Some(frames);
        self
    }
}

impl<IO: AsyncRead> AsyncRead for Watched<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        let polled = this.io.poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            this.pulse.beat();
            this.traffic.received.inc_by(read as u64);
            if let Some(frames) = this.frames {
                frames.received(&buf.filled()[before..])?;
            }
        }
        polled
    }
}

fn count(
    traffic: &Traffic,
    frames: Option<&mut Frames>,
    polled: &Poll<io::Result<usize>>,
    bufs: &[io::IoSlice<'_>],
) {
    let Poll::Ready(Ok(mut written)) = *polled else {
        return;
    };
    traffic.sent.inc_by(written as u64);
    if let Some(frames) = frames {
        for buf in bufs {
            let passed = written.min(buf.len());
            frames.sent(&buf[..passed]);
            written -= passed;
        }
    }
}

impl<IO: AsyncWrite> AsyncWrite for Watched<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let polled = this.io.poll_write(cx, buf);
        let bufs = [io::IoSlice::new(buf)];
        count(this.traffic, this.frames.as_mut(), &polled, &bufs);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let polled = this.io.poll_write_vectored(cx, bufs);
        count(this.traffic, this.frames.as_mut(), &polled, bufs);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
