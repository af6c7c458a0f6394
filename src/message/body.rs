//! Bodies on their way through: counted, limited, and timed by progress.
//!
//! A body is never collected here; every wrapper hands on what it was given, frame by frame, with its trailers.

use std::fmt;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::headers::strip_trailers;
use crate::reason::Reason;
use crate::timer::Timer;

/// Why a body ended before its end.
#[derive(Clone, Debug)]
pub struct BodyError {
    /// The stable reason.
    pub reason: Reason,
    /// What happened, for the log.
    pub detail: String,
}

impl BodyError {
    /// An error with its reason and detail.
    // Cold: what leads here is kept out of the way of bodies that pass.
    #[cold]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    /// What an error of hyper means when it comes out of a body that a client sends.
    pub fn of_client(error: &hyper::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut reason = Reason::ClientGone;
        let mut detail = error.to_string();
        while let Some(next) = cause.and_then(std::error::Error::source) {
            cause = Some(next);
            detail = format!("{detail}: {next}");
            if let Some(io) = next.downcast_ref::<std::io::Error>()
                && matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::InvalidInput)
            {
                reason = Reason::BadRequest;
            }
            // h2 itself resets a stream whose data does not add up to its Content-Length.
            if let Some(h2) = next.downcast_ref::<h2::Error>()
                && h2.is_library()
                && h2.reason() == Some(h2::Reason::PROTOCOL_ERROR)
            {
                reason = Reason::LengthMismatch;
            }
        }
        Self::new(reason, detail)
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for BodyError {}

/// For bodies that cannot fail.
impl From<std::convert::Infallible> for BodyError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// A body whose type is erased, where several kinds meet.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// How slowly a peer may send before it is given up.
///
/// Only time spent waiting for the peer counts; while nobody takes the body (back-pressure) the clock stands. A
/// peer has `grace` to begin with, earns time with every byte and never holds more than `grace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The longest wait without progress.
    pub grace: Duration,
    /// The least average rate, in bytes a second.
    pub least_rate: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30), // a mobile link that changes cells
            least_rate: 240,                // what Windows' own web servers ask for
        }
    }
}

/// What is known of a body from outside while it flows. Clones look at the same body.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Measured>);

#[derive(Debug, Default)]
struct Measured {
    bytes: AtomicU64,
    ended: AtomicBool,
    fault: OnceLock<Reason>,
}

impl Meter {
    /// The data bytes that passed so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether the body was read to its end.
    pub fn is_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Why the body failed, if it did.
    pub fn fault(&self) -> Option<Reason> {
        self.0.fault.get().copied()
    }
}

/// A body that is counted, cut above a limit, and given up when its sender is too slow.
#[derive(Debug)]
pub struct Guarded<B> {
    inner: B,
    limit: u64,
    patience: Patience,
    meter: Meter,
}

impl<B> Guarded<B> {
    /// Wraps a body of at most `limit` data bytes that comes at a `pace`.
    pub fn new(inner: B, limit: u64, pace: Pace) -> Self {
        Self {
            inner,
            limit,
            patience: Patience::new(pace),
            meter: Meter::default(),
        }
    }

    /// The view from outside.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    fn fail(&self, error: BodyError) -> BodyError {
        // The first fault is the cause of the later ones.
        let _ = self.meter.0.fault.set(error.reason);
        error
    }

    fn count(&self, data: usize) -> Result<(), BodyError> {
        let data = data as u64;
        let total = self.meter.0.bytes.fetch_add(data, Ordering::Relaxed) + data;
        if total <= self.limit {
            return Ok(());
        }
        let detail = format!("the body passed the limit of {} bytes", self.limit);
        Err(self.fail(BodyError::new(Reason::BodyTooLarge, detail)))
    }
}

impl<B> HttpBody for Guarded<B>
where
    B: HttpBody<Data = Bytes, Error = hyper::Error> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(this.patience.poll_exhausted(cx));
            let error =
                BodyError::new(Reason::ClientTooSlow, "no progress within the time allowed");
            return Poll::Ready(Some(Err(this.fail(error))));
        };
        let frame = match frame {
            None => {
                this.meter.0.ended.store(true, Ordering::Relaxed);
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                return Poll::Ready(Some(Err(this.fail(BodyError::of_client(&error)))));
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                frame
            }
        };
        if this.inner.is_end_stream() {
            // Who knows the length does not ask again.
            this.meter.0.ended.store(true, Ordering::Relaxed);
        }
        let data = frame.data_ref().map_or(0, Bytes::len);
        this.patience.progress(data);
        Poll::Ready(Some(this.count(data).map(|()| frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The waiting time that a peer has left.
#[derive(Debug)]
pub struct Patience {
    pace: Pace,
    left: Duration,
    waiting_since: Option<Instant>,
    timer: Timer,
}

impl Patience {
    /// A peer that has all its grace.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            left: pace.grace,
            waiting_since: None,
            timer: Timer::default(),
        }
    }

    /// Notes that the peer made progress by so many bytes.
    pub fn progress(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let earned = match self.pace.least_rate {
            0 => self.pace.grace,
            rate => Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate),
        };
        self.left = self.pace.grace.min(self.left.saturating_add(earned));
    }

    /// Ready once the peer has been waited for too long; to be called when the peer has nothing to offer.
    pub fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.left;
        self.timer.poll_until(deadline, cx)
    }
}
