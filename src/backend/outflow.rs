//! What of the bodies of requests waits in a connection until its backend takes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::allowance::{Allowance, HeldUp};

/// What hyper may hold of a body before it asks for no more of it, while there is memory enough.
pub(super) const FULL: usize = 128 << 10;

/// The same while memory is scarce, before that is halved with the windows.
const SCARCE: u32 = 32 << 10;

/// The bytes between the body and the socket of one connection.
#[derive(Debug)]
pub(super) struct Outflow {
    allowance: Allowance,
    /// Bytes of bodies that hyper was given, and bytes that went out, heads among them.
    given: AtomicU64,
    written: AtomicU64,
    /// Whether hyper was given some since it last had nothing left to be written.
    waits: AtomicBool,
    held_up: HeldUp,
}

impl Outflow {
    /// Nothing waits yet, and no more than the allowance should.
    pub(super) fn new(allowance: Allowance) -> Arc<Self> {
        Arc::new(Self {
            allowance,
            given: AtomicU64::new(0),
            written: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            held_up: HeldUp::default(),
        })
    }

    /// Ready when hyper may have more of a body: while memory is scarce it is to hold little.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        match self.allowance.reduced(SCARCE) {
            Some(most) if self.unsent() > most as u64 => {
                self.held_up.wait(cx);
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }

    /// Notes that hyper was given so much of a body.
    pub(super) fn give(&self, bytes: usize) {
        self.waits.store(true, Ordering::Relaxed);
        self.given.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether some of a body waits for its backend to take it.
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    fn unsent(&self) -> u64 {
        let given = self.given.load(Ordering::Relaxed);
        given.saturating_sub(self.written.load(Ordering::Relaxed))
    }

    fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.held_up.go_on();
    }

    /// hyper flushes a stream once nothing is left to be written: nothing waits then, whatever heads and the sizes of
    /// chunks have added to what was written.
    fn flushed(&self) {
        let written = self.written.load(Ordering::Relaxed);
        self.given.store(written, Ordering::Relaxed);
        self.waits.store(false, Ordering::Relaxed);
        self.held_up.go_on();
    }
}

/// A stream whose writes are counted.
#[derive(Debug)]
pub(super) struct Watched<IO> {
    pub(super) io: IO,
    pub(super) outflow: Arc<Outflow>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        written.map_ok(|written| {
            self.outflow.wrote(written);
            written
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, buffers);
        written.map_ok(|written| {
            self.outflow.wrote(written);
            written
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outflow.flushed();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
