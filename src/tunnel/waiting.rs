//! What of a request's body waits at the gateway until its tunnel takes more, as the budget sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tokio::time::Instant;

use super::budget::{Budget, Counted, Holder};

/// An upload that waits. Its drop ends the wait.
#[derive(Debug)]
pub(super) struct Waiting {
    shared: Arc<Shared>,
    _counted: Counted,
}

#[derive(Debug)]
struct Shared {
    bytes: usize,
    since: Instant,
    turn: Mutex<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    taken: bool,
    waker: Option<Waker>,
}

impl Waiting {
    /// Counts so many bytes, and what comes with them, that wait from now on.
    pub(super) fn new(bytes: usize, budget: &Budget) -> Self {
        let bytes = bytes + budget.upload_overhead();
        let shared = Arc::new(Shared {
            bytes,
            since: Instant::now(),
            turn: Mutex::default(),
        });
        let counted = budget.count(&shared, u32::try_from(bytes).unwrap_or(u32::MAX));
        Self {
            shared,
            _counted: counted,
        }
    }

    /// Whether memory became so short that the upload has to end; wakes `cx` when it does.
    pub(super) fn is_over(&self, cx: &Context<'_>) -> bool {
        let mut turn = self.shared.turn();
        if !turn.taken {
            turn.waker = Some(cx.waker().clone());
        }
        turn.taken
    }
}

impl Shared {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Shared {
    fn held(&self) -> (usize, Instant) {
        (self.bytes, self.since)
    }

    fn take_away(&self, _since: Instant) {
        let mut turn = self.turn();
        turn.taken = true;
        if let Some(waker) = turn.waker.take() {
            waker.wake();
        }
    }
}
