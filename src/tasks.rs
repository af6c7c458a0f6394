//! The owner of spawned tasks, and the one place of `tokio::spawn`.
//!
//! Every component that spawns holds a [`Tasks`]; nothing it spawned outlives [`Tasks::join`] or
//! [`Tasks::abort`]. What stands beside something busier in one task is set [`Aside`]. Rank 0: imports nothing
//! of this crate.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks with one owner. Clones are handles on the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    abort: CancellationToken,
}

impl Tasks {
    /// Makes an empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that belongs to this group and ends early when the group is aborted.
    ///
    /// A task spawned after [`Tasks::abort`] ends before its first poll.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // What all tasks wait for has one lock, which none is to take whenever it is woken.
        let aborted = Aside::new(self.abort.clone().cancelled_owned());
        // Boxed here, a large future is moved once and not by each wrapper that follows.
        let mut task = Box::pin(task);
        let task = self.tracker.track_future(async move {
            tokio::select! {
                biased;
                () = aborted => (),
                () = &mut task => (),
            }
        });
        #[allow(clippy::disallowed_methods, reason = "the one place of tokio::spawn")]
        tokio::spawn(task);
    }

    /// The number of tasks that have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether every task has ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until every task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Ends every task at its next await.
    pub fn abort(&self) {
        self.abort.cancel();
    }
}

/// A future beside a busier one in the same task. It is polled only when it was woken itself.
#[derive(Debug)]
pub struct Aside<F>(FuturesUnordered<F>);

impl<F> Aside<F> {
    /// Sets a future aside.
    pub fn new(future: F) -> Self {
        let one = FuturesUnordered::new();
        one.push(future);
        Self(one)
    }
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match Pin::new(&mut self.0).poll_next(cx) {
            Poll::Ready(Some(output)) => Poll::Ready(output),
            // Nothing comes after the output.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
