//! Runs the streams of one HTTP/2 connection inside the connection's own task.
//!
//! hyper wants an executor for them. A task for each request would have no owner and cross threads; here they end with
//! their connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream as _};
use hyper::rt::Executor;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes the futures that hyper hands out while its connection is polled.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<Mutex<Vec<Task>>>);

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Inbox {
    fn execute(&self, task: F) {
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.push(Box::pin(task));
    }
}

/// The futures of one connection, polled after it.
#[derive(Debug)]
pub(super) struct Streams {
    inbox: Inbox,
    running: FuturesUnordered<Task>,
}

impl Streams {
    pub(super) fn new(inbox: Inbox) -> Self {
        Self {
            inbox,
            running: FuturesUnordered::new(),
        }
    }

    /// Takes over what was handed out and polls what was woken. What a stream then has to send wakes the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            let mut inbox = self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.running.extend(inbox.drain(..));
            drop(inbox);
            match Pin::new(&mut self.running).poll_next(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }
}
