//! The budget of bytes that one process has received and not yet passed on.
//!
//! HTTP/2 holds those that came through tunnels, up to one stream window per stream; a gateway's client connections hold
//! what they have for their clients; and both read and write in pieces. They are counted by looking. Above half of the
//! budget windows shrink, and grow again below a quarter; above the whole, the streams that were longest without
//! progress lose their bodies, and the connections their lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::BudgetSettings;
use crate::metrics::Metrics;
use crate::pieces;

/// How often the bytes are counted while they could be many.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is asked whether they could be many.
const REST: Duration = Duration::from_secs(1);

/// How scarce memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Windows are as configured.
    Relaxed,
    /// Windows are small.
    Tight,
}

/// What holds bytes that count.
pub trait Holder: Send + Sync + std::fmt::Debug {
    /// The bytes that it holds, and since when none of them went on.
    fn held(&self) -> (usize, Instant);

    /// Takes them away, since memory is short.
    fn take_away(&self);
}

/// The budget of one process: whoever composes a role makes one and gives it to every registry and supervisor.
/// Clones count together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: AtomicU64,
    stalled_after: Duration,
    holders: DashMap<u64, Weak<dyn Holder>, RandomState>,
    /// What all bodies that are counted could hold at most.
    most: AtomicU64,
    next: AtomicU64,
    looked: AtomicU64,
    began: Instant,
    pressure: watch::Sender<Pressure>,
    /// Called when they have become so many that they are to be counted.
    many: Notify,
    /// What the process holds besides what is counted by its holders.
    besides: fn() -> u64,
    metrics: Metrics,
}

/// A holder's place in the count, given back when dropped.
#[derive(Debug)]
pub struct Counted {
    id: u64,
    window: u64,
    budget: Arc<Inner>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.holders.remove(&self.id);
        self.budget.most.fetch_sub(self.window, Ordering::Relaxed);
    }
}

impl Budget {
    /// Makes a budget that nothing counts against yet.
    pub fn new(settings: BudgetSettings, metrics: Metrics) -> Self {
        Self::beside(|| 0, settings, metrics)
    }

    /// Makes the budget of a whole process, against which the pieces count that its streams have borrowed.
    pub fn of_process(settings: BudgetSettings, metrics: Metrics) -> Self {
        Self::beside(pieces::lent, settings, metrics)
    }

    fn beside(besides: fn() -> u64, settings: BudgetSettings, metrics: Metrics) -> Self {
        let budget = Self(Arc::new(Inner {
            limit: AtomicU64::new(0),
            stalled_after: settings.stalled_after,
            holders: DashMap::default(),
            most: AtomicU64::new(0),
            next: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            began: Instant::now(),
            pressure: watch::Sender::new(Pressure::Relaxed),
            many: Notify::new(),
            besides,
            metrics,
        }));
        budget.resize(settings.bytes);
        budget
    }

    /// Puts another size in force, in bytes; it holds from the next count on.
    pub fn resize(&self, bytes: u64) {
        self.0.limit.store(bytes, Ordering::Relaxed);
        let shown = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.0.metrics.buffer_budget_bytes.set(shown);
    }

    /// Counts what holds at most about `most` bytes until the result is dropped.
    pub fn count<H: Holder + 'static>(&self, holder: &Arc<H>, most: u32) -> Counted {
        let window = u64::from(most);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let holder: Weak<H> = Arc::downgrade(holder);
        self.0.holders.insert(id, holder);
        let before = self.0.most.fetch_add(window, Ordering::Relaxed);
        let few = self.limit() / 4;
        if before <= few && before + window > few {
            self.0.many.notify_one();
        }
        Counted {
            id,
            window,
            budget: Arc::clone(&self.0),
        }
    }

    /// How scarce memory is, as it changes.
    pub(super) fn pressure(&self) -> watch::Receiver<Pressure> {
        self.0.pressure.subscribe()
    }

    /// Looks after the budget for ever. Every tunnel runs this; whoever comes first looks.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn watch(&self) {
        loop {
            let most = self.0.most.load(Ordering::Relaxed) + (self.0.besides)();
            let relaxed = *self.0.pressure.borrow() == Pressure::Relaxed;
            let few = most <= self.limit() / 4 && relaxed;
            // What was counted last must not stand when nothing is left to count.
            let shown = self.0.metrics.buffered_bytes.get() != 0;
            if (shown || !few) && self.is_my_turn() {
                self.look();
            }
            let rest = if few { REST } else { LOOK };
            // Many may come at once, and bring all that they can before a rest is over.
            let _ = timeout(rest, self.0.many.notified()).await;
        }
    }

    fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::Relaxed)
    }

    fn is_my_turn(&self) -> bool {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.0.looked.load(Ordering::Relaxed);
        let due = looked + u64::try_from(LOOK.as_millis()).unwrap_or(0) <= now;
        let swap = |to| {
            let order = Ordering::Relaxed;
            self.0.looked.compare_exchange(looked, to, order, order)
        };
        due && swap(now).is_ok()
    }

    /// Counts, sets the pressure, and takes from the stalled what is too much.
    fn look(&self) {
        let holders: Vec<Arc<dyn Holder>> = self
            .0
            .holders
            .iter()
            .filter_map(|entry| entry.value().upgrade())
            .collect();
        let mut waiting: Vec<(Instant, usize, Arc<dyn Holder>)> = Vec::new();
        let mut total = (self.0.besides)();
        for holder in holders {
            let (bytes, since) = holder.held();
            if bytes > 0 {
                total += bytes as u64;
                waiting.push((since, bytes, holder));
            }
        }
        if total > self.limit() {
            total = self.take_away(waiting, total);
        }
        self.set_pressure(total);
        let bytes = i64::try_from(total).unwrap_or(i64::MAX);
        self.0.metrics.buffered_bytes.set(bytes);
    }

    fn take_away(
        &self,
        mut waiting: Vec<(Instant, usize, Arc<dyn Holder>)>,
        mut total: u64,
    ) -> u64 {
        waiting.sort_by_key(|(since, ..)| *since);
        let enough = self.limit() / 10 * 9;
        for (since, bytes, holder) in waiting {
            if total <= enough || since.elapsed() < self.0.stalled_after {
                break;
            }
            holder.take_away();
            total = total.saturating_sub(bytes as u64);
        }
        total
    }

    fn set_pressure(&self, total: u64) {
        let limit = self.limit();
        self.0.pressure.send_if_modified(|pressure| {
            let next = match *pressure {
                Pressure::Relaxed if total > limit / 2 => Pressure::Tight,
                Pressure::Tight if total < limit / 4 => Pressure::Relaxed,
                same @ (Pressure::Relaxed | Pressure::Tight) => same,
            };
            std::mem::replace(pressure, next) != next
        });
    }
}
