//! The owner of spawned tasks, and the one place of `tokio::spawn`.
//!
//! Every component that spawns holds a [`Tasks`]; nothing it spawned outlives [`Tasks::join`] or
//! [`Tasks::abort`]. What stands beside something busier in one task is set [`Aside`]. Rank 0: imports nothing
//! of this crate.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream as _};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// A group of tasks with one owner. Clones are handles on the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    abort: Arc<Abort>,
}

/// Whether the tasks of a group are to end, and who is to be woken then.
#[derive(Debug, Default)]
struct Abort {
    is_called: AtomicBool,
    call: Notify,
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
        let abort = Arc::clone(&self.abort);
        // Boxed here, a large future is moved once and not by each wrapper that follows.
        let mut task = Box::pin(task);
        self.start(async move {
            let mut call = pin!(abort.call.notified());
            let mut listens = false;
            poll_fn(|cx| {
                // A task has one waker all its life: who listens once will be woken, and only looks from then on. All
                // else takes a lock that every task of the group shares.
                if !std::mem::replace(&mut listens, true) && call.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                match abort.is_called.load(Ordering::Acquire) {
                    true => Poll::Ready(()),
                    false => task.as_mut().poll(cx),
                }
            })
            .await;
        });
    }

    /// Spawns a task of this group that something else of the group wakes when it ends, as a tunnel wakes its requests: it
    /// looks whether the group was aborted whenever it is polled, and need not be in the list of those that are told.
    pub fn spawn_woken(&self, task: impl Future<Output = ()> + Send + 'static) {
        let abort = Arc::clone(&self.abort);
        let mut task = Box::pin(task);
        let task = poll_fn(move |cx| match abort.is_called.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => task.as_mut().poll(cx),
        });
        self.start(task);
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        #[allow(clippy::disallowed_methods, reason = "the one place of tokio::spawn")]
        tokio::spawn(self.tracker.track_future(task));
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

    /// Ends every task at its next await, and those of [`Tasks::spawn_woken`] as soon as they are woken.
    pub fn abort(&self) {
        self.abort.is_called.store(true, Ordering::Release);
        self.abort.call.notify_waiters();
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn an_abort_ends_tasks_however_often_they_were_polled_and_before_they_begin() {
        let tasks = Tasks::new();
        let (words, mut heard) = mpsc::channel(1);
        tasks.spawn(async move {
            while heard.recv().await.is_some() {}
            pending().await
        });
        for _ in 0..3 {
            words.send(()).await.unwrap();
            yield_now().await;
        }
        let begun = Arc::<AtomicBool>::default();
        let begins = || {
            let begun = Arc::clone(&begun);
            async move { begun.store(true, Ordering::Relaxed) }
        };
        tasks.spawn(begins());
        tasks.abort();
        tasks.spawn(begins());
        tasks.join().await;
        assert!(tasks.is_empty());
        assert!(!begun.load(Ordering::Relaxed), "it began after the abort");
    }

    #[tokio::test]
    async fn a_task_that_others_wake_goes_no_further_once_its_group_is_aborted() {
        let tasks = Tasks::new();
        let (words, mut heard) = mpsc::channel::<()>(1);
        let went_on = Arc::<AtomicBool>::default();
        let goes_on = Arc::clone(&went_on);
        tasks.spawn_woken(async move {
            heard.recv().await;
            goes_on.store(true, Ordering::Relaxed);
        });
        yield_now().await;
        tasks.abort();
        drop(words);
        tasks.join().await;
        assert!(!went_on.load(Ordering::Relaxed));
    }
}
