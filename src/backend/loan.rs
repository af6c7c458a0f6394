//! A request body that is lent to an HTTP/1.1 connection and can be taken back while nobody has touched it.
//!
//! hyper owns what it sends. A request that broke on a reused connection before its body was looked at can go
//! out again on a fresh one only if the body is still ours: so it stays here, and the connection gets a handle that
//! becomes void with the next [`Loan::lend`]. The same place holds the body back until the server has said
//! `100 Continue`, and tells whether, and when last, the body made progress.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::outflow::Outflow;
use crate::message::body::BodyError;
use crate::reason::Reason;

/// The owner's side of a request body.
#[derive(Debug)]
pub(super) struct Loan<B>(Arc<Mutex<Held<B>>>);

/// The connection's side: a body for hyper.
#[derive(Debug)]
pub(super) enum RequestBody<B> {
    /// A request without a body.
    Empty,
    /// A body that is lent, for one turn.
    Lent(Lent<B>),
}

/// A handle on a body that is lent.
#[derive(Debug)]
pub(super) struct Lent<B> {
    held: Arc<Mutex<Held<B>>>,
    turn: u32,
    outflow: Arc<Outflow>,
}

#[derive(Debug)]
struct Held<B> {
    body: B,
    turn: u32,
    open: bool,
    touched: bool,
    ended: bool,
    // Bytes to come, where the length is known: hyper looks no further once it has sent them.
    left: Option<u64>,
    fault: Option<BodyError>,
    progress: Instant,
    waker: Option<Waker>,
}

impl<B: Body<Data = Bytes> + Unpin> Loan<B> {
    /// Takes a body into care; `length` is what its `Content-Length` says.
    pub(super) fn new(body: B, length: Option<u64>) -> Self {
        Self(Arc::new(Mutex::new(Held {
            body,
            turn: 0,
            open: true,
            touched: false,
            ended: false,
            left: length,
            fault: None,
            progress: Instant::now(),
            waker: None,
        })))
    }

    /// Lends the body to a connection with an `outflow`; an earlier handle becomes void. With `open` false nothing is
    /// handed out before [`Loan::open`].
    pub(super) fn lend(&self, open: bool, outflow: &Arc<Outflow>) -> RequestBody<B> {
        let mut held = lock(&self.0);
        held.turn = held.turn.wrapping_add(1);
        held.open = open;
        held.waker = None;
        RequestBody::Lent(Lent {
            held: Arc::clone(&self.0),
            turn: held.turn,
            outflow: Arc::clone(outflow),
        })
    }

    /// Lets the connection have the body.
    pub(super) fn open(&self) {
        open(&self.0);
    }

    /// A closure that does the same, for the server's interim answer.
    pub(super) fn opener(&self) -> impl Fn() + Send + Sync + 'static
    where
        B: Send + 'static,
    {
        let held = Arc::clone(&self.0);
        move || open(&held)
    }

    /// Whether the connection has looked at the body.
    pub(super) fn is_touched(&self) -> bool {
        lock(&self.0).touched
    }

    /// Whether the connection has had all of it.
    pub(super) fn is_ended(&self) -> bool {
        lock(&self.0).ended
    }

    /// When the body last made progress.
    pub(super) fn progress(&self) -> Instant {
        lock(&self.0).progress
    }

    /// Why the body itself failed, if it did.
    pub(super) fn fault(&self) -> Option<BodyError> {
        lock(&self.0).fault.clone()
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let lent = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Lent(lent) => lent,
        };
        let mut held = lock(&lent.held);
        if held.turn != lent.turn {
            let detail = "the body was taken back";
            return Poll::Ready(Some(Err(BodyError::new(Reason::InternalError, detail))));
        }
        if !held.open {
            held.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        held.touched = true;
        ready!(lent.outflow.poll_room(cx));
        let polled = held.poll(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            lent.outflow.give(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Lent(lent) => {
                let held = lock(&lent.held);
                held.ended || held.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Lent(lent) => lock(&lent.held).body.size_hint(),
        }
    }
}

impl<B> Held<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return Poll::Pending;
        };
        self.progress = Instant::now();
        Poll::Ready(match frame {
            None => {
                self.ended = true;
                None
            }
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.left = self.left.map(|left| left.saturating_sub(data));
                self.ended = self.left == Some(0) || self.body.is_end_stream();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let error: BodyError = error.into();
                self.fault = Some(error.clone());
                Some(Err(error))
            }
        })
    }
}

fn open<B>(held: &Mutex<Held<B>>) {
    let waker = {
        let mut held = lock(held);
        held.open = true;
        held.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn lock<B>(held: &Mutex<Held<B>>) -> MutexGuard<'_, Held<B>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
