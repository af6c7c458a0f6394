//! Whether a backend can be reached: told by real connections, healed by a probe.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::role::Health;

/// So many attempts in a row must fail before the backend counts as unhealthy: one may be a hiccup.
const FAILURES: u32 = 3;

/// The first pause between two probes; it doubles up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A backend that comes back is noticed within this time.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is known of a backend's reachability.
#[derive(Debug)]
pub(super) struct Reachability {
    failures: AtomicU32,
    probing: AtomicBool,
    state: watch::Sender<Health>,
}

impl Reachability {
    /// A backend of which nothing bad is known.
    pub(super) fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            probing: AtomicBool::new(false),
            state: watch::Sender::new(Health::Healthy),
        }
    }

    /// Watches it.
    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.state.subscribe()
    }

    /// Notes a connection that was made.
    pub(super) fn connected(&self) {
        if self.failures.swap(0, Ordering::Relaxed) >= FAILURES {
            self.set(Health::Healthy);
        }
    }

    /// Notes an attempt that failed; true if a probe should begin now.
    pub(super) fn failed(&self) -> bool {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if failures < FAILURES {
            return false;
        }
        self.set(Health::Unhealthy);
        !self.probing.swap(true, Ordering::AcqRel)
    }

    /// Notes that the probe has ended.
    pub(super) fn probed(&self) {
        self.probing.store(false, Ordering::Release);
    }

    fn set(&self, health: Health) {
        self.state.send_if_modified(|now| {
            let changed = *now != health;
            *now = health;
            changed
        });
    }
}
