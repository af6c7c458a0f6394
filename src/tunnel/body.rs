//! The body that comes out of a tunnel.
//!
//! It lies in HTTP/2's buffers until it is read, and is counted there by the budget, which may take it away
//! from a reader that does not move. On the gateway it also carries what is left of the upload, and the request's
//! place in the tunnel's count.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::BodyError;
use super::budget::{Budget, Counted, Expected, Holder};
use super::link::Lease;
use super::window;
use crate::reason::Reason;

/// Where a received body lies. Shared with the budget, which looks at it and may empty it.
#[derive(Debug)]
pub(super) struct Slot {
    held: Mutex<Held>,
    /// What is held with it elsewhere while there is something.
    overhead: usize,
    lost: Notify,
}

#[derive(Debug)]
struct Held {
    stream: Option<RecvStream>,
    /// Since when there has been something of which nothing was read.
    progress: Instant,
    /// Whether a reader has asked for some.
    read: bool,
    taken: bool,
}

impl Slot {
    fn new(stream: RecvStream, overhead: usize) -> Self {
        let held = Held {
            stream: Some(stream),
            progress: Instant::now(),
            read: false,
            taken: false,
        };
        Self {
            held: Mutex::new(held),
            overhead,
            lost: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Slot {
    fn held(&self) -> (usize, Instant) {
        let mut held = self.lock();
        let bytes = held.stream.as_mut().map_or(0, |stream| {
            // Here, since a body is looked at again and again.
            window::open(stream);
            stream.flow_control().used_capacity()
        });
        // A request whose backend was not offered anything is not held up by it, and nothing is held elsewhere.
        let offered = held.read || self.overhead == 0;
        if bytes == 0 || !offered {
            held.progress = Instant::now();
            return (bytes, held.progress);
        }
        (bytes + self.overhead, held.progress)
    }

    fn take_away(&self, since: Instant) {
        let stream = {
            let mut held = self.lock();
            if held.progress != since {
                return;
            }
            held.taken = true;
            held.stream.take()
        };
        drop(stream);
        self.lost.notify_one();
    }
}

/// What is left of a request's body when its answer begins.
pub(super) trait Rest: Send {
    /// Goes on sending; ready when everything is sent or no more is wanted.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;

    /// Ends the sending, since the answer is complete.
    fn stop(&mut self);
}

/// A body received through a tunnel. Dropping it before its end resets the stream.
pub struct Body {
    slot: Option<Arc<Slot>>,
    counted: Option<(Counted, Expected)>,
    /// In a mutex that nobody locks, so that the body is `Sync` whatever the client's body is.
    rest: Option<Mutex<Box<dyn Rest>>>,
    lease: Option<Lease>,
    left: Option<u64>,
    data_ended: bool,
    carrier: Option<Arc<str>>,
}

impl Body {
    /// The body of an answer, as it was expected. `length` is its Content-Length, if it has one.
    pub(super) fn of_answer(
        stream: RecvStream,
        length: Option<u64>,
        budget: &Budget,
        expected: Expected,
    ) -> Self {
        Self::new(stream, 0, length, budget, expected)
    }

    /// The same of a request, of which the connection to the backend holds a part.
    pub(super) fn of_request(
        stream: RecvStream,
        length: Option<u64>,
        budget: &Budget,
        expected: Expected,
    ) -> Self {
        Self::new(stream, budget.upload_overhead(), length, budget, expected)
    }

    fn new(
        stream: RecvStream,
        overhead: usize,
        length: Option<u64>,
        budget: &Budget,
        expected: Expected,
    ) -> Self {
        if stream.is_end_stream() {
            return Self::empty();
        }
        let slot = Arc::new(Slot::new(stream, overhead));
        let counted = budget.count(&slot, 0);
        Self {
            slot: Some(slot),
            counted: Some((counted, expected)),
            rest: None,
            lease: None,
            left: length,
            data_ended: false,
            carrier: None,
        }
    }

    /// A body without a byte.
    pub fn empty() -> Self {
        Self {
            slot: None,
            counted: None,
            rest: None,
            lease: None,
            left: None,
            data_ended: true,
            carrier: None,
        }
    }

    /// Lets the body carry the request's place and what is left of its upload.
    pub(super) fn carry(mut self, lease: Lease, rest: Option<Box<dyn Rest>>) -> Self {
        self.carrier = Some(Arc::clone(&lease.link.name));
        // Without a body the exchange is over with the head.
        if self.slot.is_some() {
            self.lease = Some(lease);
            self.rest = rest.map(Mutex::new);
        } else if let Some(mut rest) = rest {
            rest.stop();
        }
        self
    }

    /// The connection point whose tunnel brought this body; `None` on the connection point itself.
    pub fn connection_point(&self) -> Option<&Arc<str>> {
        self.carrier.as_ref()
    }

    /// Returns once the body was taken away for want of memory: a reader that does not move would not see it.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let slot = self.slot.clone();
        async move {
            match slot {
                Some(slot) => slot.lost.notified().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Goes on with the request's body, for who has no room for more of the answer at the moment. Reading does so by
    /// itself.
    ///
    /// # Errors
    /// The request body's.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        self.poll_rest(cx)
    }

    fn finish(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .stop();
        }
        self.release();
    }

    fn release(&mut self) {
        self.rest = None;
        self.counted = None;
        self.slot = None;
        self.lease = None;
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.data_ended = true;
        self.release();
        Poll::Ready(Some(Err(error)))
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(rest) = &mut self.rest else {
            return Ok(());
        };
        let rest = rest.get_mut().unwrap_or_else(PoisonError::into_inner);
        match rest.poll_rest(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(done) => {
                self.rest = None;
                done
            }
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(slot) = &self.slot else {
            return Poll::Ready(None);
        };
        let mut held = slot.lock();
        if held.taken {
            // On the connection point it is the backend that takes nothing.
            let reason = match self.carrier {
                Some(_) => Reason::StalledClient,
                None => Reason::Overloaded,
            };
            let detail = "no byte was taken while memory was short";
            return Poll::Ready(Some(Err(BodyError::new(reason, detail))));
        }
        held.read = true;
        let Some(stream) = &mut held.stream else {
            return Poll::Ready(None);
        };
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Fails only for more than was received.
                let _ = stream.flow_control().release_capacity(data.len());
                held.progress = Instant::now();
                Poll::Ready(Some(Ok(data)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(broken(&error)))),
            None => Poll::Ready(None),
        }
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, BodyError>> {
        let Some(slot) = &self.slot else {
            return Poll::Ready(Ok(None));
        };
        let mut held = slot.lock();
        let Some(stream) = &mut held.stream else {
            return Poll::Ready(Ok(None));
        };
        stream.poll_trailers(cx).map_err(|error| broken(&error))
    }
}

/// What an error of HTTP/2 in the middle of a body means.
fn broken(error: &h2::Error) -> BodyError {
    let theirs = error.is_reset() && error.is_remote();
    let reason = match error.reason() {
        Some(h2::Reason::INTERNAL_ERROR) if theirs => Reason::BackendBroken,
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_reset() && !theirs => Reason::LengthMismatch,
        Some(h2::Reason::CANCEL | h2::Reason::NO_ERROR) if theirs => Reason::ClientGone,
        _ => Reason::TunnelLost,
    };
    BodyError::new(reason, error.to_string())
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.slot.is_none() {
            return Poll::Ready(None);
        }
        if let Err(error) = this.poll_rest(cx) {
            return this.fail(error);
        }
        while !this.data_ended {
            match ready!(this.poll_data(cx)) {
                // An empty frame carries an end, or nothing.
                Some(Ok(data)) if data.is_empty() => (),
                Some(Ok(data)) => {
                    let len = data.len() as u64;
                    this.left = this.left.map(|left| left.saturating_sub(len));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return this.fail(error),
                None => this.data_ended = true,
            }
        }
        match ready!(this.poll_trailers(cx)) {
            Ok(trailers) => {
                this.finish();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => this.fail(error),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.slot.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.slot.is_none() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("ended", &self.slot.is_none())
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
