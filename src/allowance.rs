//! How much one body may hold while memory is scarce, and how it waits until it holds less. Rank 0: imports nothing of this
//! crate.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

/// What is left of what one body may hold, for whoever passes bodies on. Clones see the same; one that nobody reduces stays
/// whole.
#[derive(Clone, Debug, Default)]
pub struct Allowance(Arc<AtomicU32>);

impl Allowance {
    /// What is left of `full` bytes; `None` while that is all of it.
    pub fn reduced(&self, full: u32) -> Option<usize> {
        match self.halvings() {
            0 => None,
            halvings => usize::try_from(full.checked_shr(halvings).unwrap_or(0)).ok(),
        }
    }

    /// How often it is halved.
    pub fn halvings(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Halves it so often, for everyone.
    pub fn halve(&self, halvings: u32) {
        self.0.store(halvings, Ordering::Relaxed);
    }
}

/// Whether a body waits until the connection that sends it holds less, and who wakes it. Both are polled by one task:
/// nothing is sent between a look at what is left and the wait.
#[derive(Debug, Default)]
pub struct HeldUp {
    waits: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl HeldUp {
    /// Wakes `cx` when something was sent.
    pub fn wait(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        *waker = Some(cx.waker().clone());
        self.waits.store(true, Ordering::Relaxed);
    }

    /// Notes that something was sent.
    pub fn go_on(&self) {
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
