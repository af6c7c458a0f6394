//! The body of a backend's answer, which gives the connection back when it ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::lease::Lease;
use super::loan::Loan;
use super::pool::Home;
use crate::message::body::{BodyError, Pace, Patience};
use crate::reason::Reason;

/// The body of an answer. Dropping it before its end closes the connection that it comes from.
#[derive(Debug)]
pub struct AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    incoming: hyper::body::Incoming,
    patience: Option<Patience>,
    progress_timeout: Duration,
    /// Whether the answer may pause without end.
    long_poll: bool,
    // Boxed, since the answer is handed on from step to step.
    held: Option<Box<Held<B>>>,
}

/// What an exchange holds until its answer has been read.
#[derive(Debug)]
pub(super) struct Held<B> {
    pub(super) lease: Lease<B>,
    pub(super) home: Home<B>,
    pub(super) loan: Option<Loan<B>>,
    pub(super) permit: OwnedSemaphorePermit,
}

impl<B> AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// Wraps what hyper reads; `progress_timeout` is how long the server may pause. In the answer to a long poll that
    /// holds only until the request's body is out.
    pub(super) fn new(
        incoming: hyper::body::Incoming,
        progress_timeout: Duration,
        long_poll: bool,
        mut held: Box<Held<B>>,
    ) -> Self {
        let goes_out = |loan: &Loan<B>| !loan.is_ended() || held.lease.outflow().waits();
        if held.loan.as_ref().is_some_and(goes_out) {
            // The rest of the request goes on while the client takes nothing of the answer.
            held.lease.drive_apart();
        }
        // No rate is asked for: any byte earns the whole time again.
        let patience = Patience::new(Pace {
            grace: progress_timeout,
            least_rate: 0,
        });
        let mut body = Self {
            incoming,
            patience: Some(patience),
            progress_timeout,
            long_poll,
            held: Some(held),
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Wraps a 101: the connection has another owner now, and never goes home.
    pub(super) fn switched(incoming: hyper::body::Incoming, mut held: Box<Held<B>>) -> Self {
        held.lease.drive_apart();
        Self {
            incoming,
            patience: None,
            progress_timeout: Duration::MAX,
            long_poll: true,
            held: Some(held),
        }
    }

    /// The answer has been read: the connection goes home if the request was sent whole, too.
    fn finish(&mut self) {
        let Some(held) = self.held.take() else { return };
        let had_body = held.loan.is_some();
        let whole = held.loan.as_ref().is_none_or(Loan::is_ended);
        if !whole {
            return;
        }
        match held.home {
            Home::Pool(pool) if had_body => pool.give_once_ready(held.lease),
            Home::Pool(pool) => pool.give(held.lease),
            Home::Pinned(mut place) => *place = Some(held.lease),
            Home::None => held.lease.retire(),
        }
        drop(held.permit);
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        match &mut self.held {
            Some(held) => held
                .lease
                .poll_driven(cx, |cx| incoming.as_mut().poll_frame(cx)),
            None => incoming.poll_frame(cx),
        }
    }

    /// Ready once the server was waited for too long; to be called when it has nothing to offer.
    fn poll_exhausted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let loan = self.held.as_ref().and_then(|held| held.loan.as_ref());
        let upload = || loan.filter(|loan| !loan.is_ended());
        let Some(patience) = &mut self.patience else {
            return Poll::Pending;
        };
        if self.long_poll && upload().is_none() {
            return Poll::Pending;
        }
        loop {
            ready!(patience.poll_exhausted(cx));
            match upload() {
                Some(upload) if upload.progress().elapsed() < self.progress_timeout => {
                    patience.progress(0);
                }
                Some(_) | None => return Poll::Ready(()),
            }
        }
    }

    fn fail(&mut self, error: &hyper::Error) -> BodyError {
        self.held = None;
        BodyError::new(Reason::BackendBroken, super::exchange::chain(error))
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.poll_incoming(cx) else {
            ready!(this.poll_exhausted(cx));
            this.held = None;
            let detail = "neither the answer's body nor the request's made progress in time";
            return Poll::Ready(Some(Err(BodyError::new(Reason::BackendTimeout, detail))));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(patience) = &mut this.patience {
                    patience.progress(frame.data_ref().map_or(0, Bytes::len));
                }
                if this.incoming.is_end_stream() {
                    this.finish();
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(Err(this.fail(&error))),
            None => {
                this.finish();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
