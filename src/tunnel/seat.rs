//! What a connection point's plan knows of one tunnel, and of one address that is dialled.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::wire::Instance;

/// One tunnel, from its dial on.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) address: usize,
    /// The instance that said hello.
    pub(super) met: Option<Instance>,
    pub(super) up: Option<Instant>,
    pub(super) expires: Option<Instant>,
    /// It was dialled to see whether a draining instance has a successor.
    pub(super) scout: bool,
    /// It was told to drain, or the decision is taken.
    pub(super) leaving: bool,
    /// The instance drains: the tunnel stays, but counts for nothing.
    pub(super) instance_leaves: bool,
    pub(super) live: Vec<Instance>,
}

impl Seat {
    pub(super) fn new(address: usize, scout: bool) -> Self {
        Self {
            address,
            met: None,
            up: None,
            expires: None,
            scout,
            leaving: false,
            instance_leaves: false,
            live: Vec::new(),
        }
    }

    pub(super) fn is_young(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether nobody has said hello in it: it is dialled, or its gateway does not speak of itself.
    pub(super) fn is_strange(&self, now: Instant) -> bool {
        self.met.is_none() && self.is_young(now) && !self.leaving
    }

    pub(super) fn counts_for(&self, instance: &Instance, now: Instant) -> bool {
        let met = self.met.as_ref() == Some(instance);
        met && self.is_young(now) && !self.leaving && !self.instance_leaves
    }
}

/// One address, and what dialling it has shown.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) not_before: Instant,
    pub(super) failures: u32,
    /// Surplus tunnels in a row.
    pub(super) misses: u32,
    pub(super) met: BTreeSet<Instance>,
}

impl Address {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            not_before: now,
            failures: 0,
            misses: 0,
            met: BTreeSet::new(),
        }
    }
}
