//! What an HTTP/2 connection holds of its client's request bodies, as the budget sees it.
//!
//! HTTP/2 keeps what its windows let in until a request draws it, and tells nobody how much that is. The frames tell what
//! came, the bodies what was drawn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::activity::{Activity, MOST, MUCH};
use crate::message::body::Meter;
use crate::reason::Reason;
use crate::tunnel::{Budget, Counted, Granted, Holder};

/// The bodies of one connection, counted in the budget while they are much.
#[derive(Debug)]
pub(super) struct Uploads {
    held: Arc<Held>,
    budget: Budget,
    counted: Option<Counted>,
    _window: Granted,
}

#[derive(Debug)]
struct Held {
    arrived: AtomicU64,
    drawn: Meter,
    /// The window of the connection. Padding and what a reset throws away is never drawn: no more than this is there.
    most: u64,
    /// What was drawn when it last was found to be more, and when that was.
    moved: Mutex<(u64, Instant)>,
    activity: Arc<Activity>,
}

impl Uploads {
    /// Of a connection whose streams have a `window` and which takes `most` bytes for all of them; its requests tell in
    /// `drawn` what they take.
    pub(super) fn new(
        window: Granted,
        most: u32,
        drawn: Meter,
        budget: Budget,
        activity: Arc<Activity>,
    ) -> Self {
        let held = Held {
            arrived: AtomicU64::new(0),
            drawn,
            most: most.into(),
            moved: Mutex::new((0, Instant::now())),
            activity,
        };
        Self {
            held: Arc::new(held),
            budget,
            counted: None,
            _window: window,
        }
    }

    /// Notes bytes of bodies that came from the client, and how many streams are `open` then.
    pub(super) fn arrived(&mut self, bytes: usize, open: usize) {
        let held = &self.held;
        if open == 0 {
            held.arrived.store(held.drawn.bytes(), Ordering::Relaxed);
            self.counted = None;
        } else if bytes > 0 {
            held.arrived.fetch_add(bytes as u64, Ordering::Relaxed);
            let much = self.budget.allowance().reduced(MUCH);
            if self.counted.is_none() && held.bytes() > much.unwrap_or(MUCH as usize) as u64 {
                self.counted = Some(self.budget.count(held, MOST));
            }
        }
    }
}

impl Held {
    fn bytes(&self) -> u64 {
        let arrived = self.arrived.load(Ordering::Relaxed);
        self.most.min(arrived.saturating_sub(self.drawn.bytes()))
    }
}

impl Holder for Held {
    fn held(&self) -> (usize, Instant) {
        let drawn = self.drawn.bytes();
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if moved.0 != drawn {
            *moved = (drawn, Instant::now());
        }
        (usize::try_from(self.bytes()).unwrap_or(usize::MAX), moved.1)
    }

    /// The connection ends: nothing less frees what it holds.
    fn take_away(&self) {
        self.activity.set_ended(Reason::Overloaded);
        self.activity.hang_up();
    }
}
