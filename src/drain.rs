//! The words of a drain: stop taking new work, finish the old, deadline, then force.
//!
//! One [`Drain`] per role is held by its composition; everything below watches a [`Draining`].
//! Rank 0: imports nothing of this crate.

use tokio::sync::watch;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Work is taken.
    Open,
    /// No new work is taken, the old is finished.
    Draining,
    /// The deadline has passed: what is left is ended.
    Forced,
}

/// The trigger, held by the composition of a role.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// The watcher, held by whatever takes work.
#[derive(Clone, Debug)]
pub struct Draining(watch::Receiver<Phase>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Open))
    }
}

impl Drain {
    /// Makes a trigger that is open.
    pub fn new() -> Self {
        Self::default()
    }

    /// A watcher of this trigger.
    pub fn watch(&self) -> Draining {
        Draining(self.0.subscribe())
    }

    /// Starts the drain; later calls change nothing.
    pub fn start(&self) {
        self.advance(Phase::Draining);
    }

    /// Ends what the drain has left; also starts one that had not begun.
    pub fn force(&self) {
        self.advance(Phase::Forced);
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }
}

impl Draining {
    /// Where the drain stands; a trigger that is gone counts as forced.
    pub fn phase(&self) -> Phase {
        if self.0.has_changed().is_err() {
            Phase::Forced
        } else {
            *self.0.borrow()
        }
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Returns once the drain has begun.
    ///
    /// # Cancel safety
    /// Safe: the phase is level-triggered.
    pub async fn draining(&mut self) {
        // An error means that the trigger is gone, which is the end of the drain.
        let _ = self.0.wait_for(|phase| *phase >= Phase::Draining).await;
    }

    /// Returns once the deadline has passed.
    ///
    /// # Cancel safety
    /// Safe: the phase is level-triggered.
    pub async fn forced(&mut self) {
        let _ = self.0.wait_for(|phase| *phase >= Phase::Forced).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_goes_forward_only_and_a_lost_trigger_forces() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        assert_eq!(watch.phase(), Phase::Open);
        drain.force();
        drain.start();
        assert_eq!(watch.phase(), Phase::Forced);
        watch.draining().await;

        let drain = Drain::new();
        let mut watch = drain.watch();
        drop(drain);
        watch.forced().await;
        assert!(watch.is_draining());
    }
}
