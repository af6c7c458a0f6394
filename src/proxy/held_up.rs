//! An answer that waits until the connection has sent some of what it holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

/// Whether an answer waits, and who wakes it. The connection that sends and the answer that waits are polled by one task:
/// nothing is sent between a look at what is left and the wait.
#[derive(Debug, Default)]
pub(super) struct HeldUp {
    waits: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl HeldUp {
    /// Wakes `cx` when something was sent.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *waker = Some(cx.waker().clone());
        self.waits.store(true, Ordering::Relaxed);
    }

    /// Notes that something was sent.
    pub(super) fn go_on(&self) {
        // Mostly nobody waits.
        if !self.waits.load(Ordering::Relaxed) {
            return;
        }
        self.waits.store(false, Ordering::Relaxed);
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }
}
