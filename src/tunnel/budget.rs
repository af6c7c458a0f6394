//! The budget of bytes that one process has received and not yet passed on.
//!
//! HTTP/2 holds those that came through tunnels, up to one stream window per stream; a gateway's client connections hold
//! what they have for their clients, and of uploads for tunnels; and both read and write in pieces. They are counted by
//! looking. The more bodies are to be expected, the smaller are the windows, so that many that come at once find room;
//! windows are small, too, while more than half of the budget is used, and until it is a quarter. Above the whole, the
//! streams that were longest without progress lose their bodies, and the connections their lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::BudgetSettings;
use crate::allowance::Allowance;
use crate::metrics::Metrics;
use crate::pieces;

/// How often the bytes are counted while they could be many.
const LOOK: Duration = Duration::from_millis(20);
/// How often it is asked whether they could be many.
const REST: Duration = Duration::from_secs(1);

/// The part of the budget that the windows of all expected bodies may add up to: as much again waits for each on its way
/// out, and there is room for what comes before the peer has heard of a smaller window.
const PART: u64 = 8;
/// How often a window is halved at most: one of 256 KiB is 4 KiB then.
const MOST_HALVINGS: u32 = 6;
/// How often it is halved while memory is scarce.
const SCARCE: u32 = 3;

/// How small windows are for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    halvings: u32,
    /// Whether much of the budget is used, however many bodies there are.
    scarce: bool,
}

impl Pressure {
    /// What is left of a window.
    pub(super) fn of(self, full: u32) -> u32 {
        full >> self.halvings
    }
}

/// What holds bytes that count.
pub trait Holder: Send + Sync + std::fmt::Debug {
    /// The bytes that it holds, and since when none of them went on.
    fn held(&self) -> (usize, Instant);

    /// Takes them away, since memory is short, if none of them went on since then.
    fn take_away(&self, since: Instant);
}

/// The budget of one process: whoever composes a role makes one and gives it to every registry and supervisor.
/// Clones count together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: AtomicU64,
    upload_overhead: usize,
    stalled_after: Duration,
    holders: DashMap<u64, Weak<dyn Holder>, RandomState>,
    /// The full windows of all bodies that are expected or there.
    expected: AtomicU64,
    /// What else that is counted could hold at most.
    most: AtomicU64,
    /// The full windows of all that were granted for longer than a body.
    granted: AtomicU64,
    next: AtomicU64,
    looked: AtomicU64,
    began: Instant,
    pressure: watch::Sender<Pressure>,
    /// The same as in `pressure`, for who asks at every request.
    allowance: Allowance,
    /// Called when they have become so many that they are to be counted.
    many: Notify,
    /// What the process holds besides what is counted by its holders.
    besides: fn() -> u64,
    /// Tells those who borrow it whether memory is scarce.
    tell: fn(bool),
    metrics: Metrics,
}

/// A holder's place in the count, given back when dropped.
#[derive(Debug)]
pub struct Counted {
    id: u64,
    most: u64,
    budget: Arc<Inner>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.holders.remove(&self.id);
        self.budget.most.fetch_sub(self.most, Ordering::Relaxed);
    }
}

/// A body that may come, until dropped.
#[derive(Debug)]
pub(super) struct Expected {
    window: u64,
    budget: Arc<Inner>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let expected = &self.budget.expected;
        expected.fetch_sub(self.window, Ordering::Relaxed);
    }
}

/// A window that stays as it is while its connection lives. Its drop makes room for others.
#[derive(Debug)]
pub struct Granted {
    full: u64,
    bytes: u32,
    budget: Arc<Inner>,
}

impl Granted {
    /// How large it is.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        self.budget.granted.fetch_sub(self.full, Ordering::Relaxed);
    }
}

impl Budget {
    /// Makes a budget that nothing counts against yet.
    pub fn new(settings: BudgetSettings, metrics: Metrics) -> Self {
        Self::beside(|| 0, |_| (), settings, metrics)
    }

    /// Makes the budget of a whole process, against which the pieces count that its streams have borrowed.
    pub fn of_process(settings: BudgetSettings, metrics: Metrics) -> Self {
        Self::beside(pieces::lent, pieces::set_scarce, settings, metrics)
    }

    fn beside(
        besides: fn() -> u64,
        tell: fn(bool),
        settings: BudgetSettings,
        metrics: Metrics,
    ) -> Self {
        let budget = Self(Arc::new(Inner {
            limit: AtomicU64::new(0),
            upload_overhead: settings.upload_overhead,
            stalled_after: settings.stalled_after,
            holders: DashMap::default(),
            expected: AtomicU64::new(0),
            most: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            next: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            began: Instant::now(),
            pressure: watch::Sender::default(),
            allowance: Allowance::default(),
            many: Notify::new(),
            besides,
            tell,
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

    /// Expects a body that lies in a stream with a full `window` in bytes.
    pub(super) fn expect(&self, window: u32) -> Expected {
        let window = u64::from(window);
        let expected = self.0.expected.fetch_add(window, Ordering::Relaxed) + window;
        let halvings = self.0.allowance.halvings();
        if halvings < MOST_HALVINGS && expected >> halvings > self.limit() / PART {
            self.0.many.notify_one();
        }
        Expected {
            window,
            budget: Arc::clone(&self.0),
        }
    }

    /// Grants a window of `full` bytes, or less where there are many already, but not less than `least`.
    pub fn grant(&self, full: u32, least: u32) -> Granted {
        let window = u64::from(full);
        let all = self.0.granted.fetch_add(window, Ordering::Relaxed) + window;
        let halvings = halvings(all, self.limit() / PART);
        Granted {
            full: window,
            bytes: (full >> halvings).max(full.min(least)),
            budget: Arc::clone(&self.0),
        }
    }

    /// Counts what holds, besides a body that is expected, at most about `most` bytes, until the result is dropped.
    pub fn count<H: Holder + 'static>(&self, holder: &Arc<H>, most: u32) -> Counted {
        let most = u64::from(most);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let holder: Weak<H> = Arc::downgrade(holder);
        self.0.holders.insert(id, holder);
        self.0.most.fetch_add(most, Ordering::Relaxed);
        Counted {
            id,
            most,
            budget: Arc::clone(&self.0),
        }
    }

    /// What one body may hold outside of windows, which shrinks with them.
    pub fn allowance(&self) -> &Allowance {
        &self.0.allowance
    }

    /// How scarce memory is, as it changes.
    pub(super) fn pressure(&self) -> watch::Receiver<Pressure> {
        self.0.pressure.subscribe()
    }

    /// Looks after the budget for ever. Every tunnel runs this, and a process whose clients hold bytes when no tunnel is
    /// left; whoever comes first looks.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn watch(&self) {
        loop {
            self.fit();
            let most = self.expected() + self.0.most.load(Ordering::Relaxed) + (self.0.besides)();
            let pressure = *self.0.pressure.borrow();
            let few = most <= self.limit() / 4 && !pressure.scarce;
            let calm = few && pressure.halvings == 0;
            // What was counted last must not stand when nothing is left to count.
            let shown = self.0.metrics.buffered_bytes.get() != 0;
            if (shown || !calm) && self.is_my_turn() {
                self.look();
                self.fit();
            }
            let rest = if calm { REST } else { LOOK };
            // Many may come at once, and bring all that they can before a rest is over.
            let _ = timeout(rest, self.0.many.notified()).await;
        }
    }

    /// What a request body that waits takes besides its bytes.
    pub(super) fn upload_overhead(&self) -> usize {
        self.0.upload_overhead
    }

    /// The full windows of all bodies that are expected or there.
    pub(super) fn expected(&self) -> u64 {
        self.0.expected.load(Ordering::Relaxed)
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

    /// Counts, and takes from the stalled what is too much.
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
            holder.take_away(since);
            total = total.saturating_sub(bytes as u64);
        }
        total
    }

    /// Fits the pressure to the bodies that are expected and to the bytes that were counted last.
    fn fit(&self) {
        let (limit, expected) = (self.limit(), self.expected());
        let used = u64::try_from(self.0.metrics.buffered_bytes.get()).unwrap_or(0);
        self.0.pressure.send_if_modified(|pressure| {
            let scarce = used > limit / 2 || (pressure.scarce && used >= limit / 4);
            let floor = if scarce { SCARCE } else { 0 };
            let least = floor.max(halvings(expected, limit / PART));
            // Windows grow again when twice as many would fit, so that they do not change with every body.
            let enough = floor.max(halvings(2 * expected, limit / PART));
            let next = Pressure {
                halvings: pressure.halvings.clamp(least, enough),
                scarce,
            };
            self.0.allowance.halve(next.halvings);
            (self.0.tell)(next.halvings > 0);
            std::mem::replace(pressure, next) != next
        });
    }
}

/// How often windows of `full` bytes together are to be halved until they add up to no more than `room`.
fn halvings(full: u64, room: u64) -> u32 {
    let fits = |halvings: &u32| full >> halvings <= room;
    (0..MOST_HALVINGS).find(fits).unwrap_or(MOST_HALVINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(bytes: u64) -> Budget {
        let settings = BudgetSettings {
            bytes,
            ..BudgetSettings::default()
        };
        Budget::new(settings, Metrics::new())
    }

    #[test]
    fn the_more_bodies_are_expected_the_smaller_are_the_windows_and_they_grow_again() {
        const FULL: u32 = 256 << 10;
        let budget = budget(64 << 20);
        let window = || {
            budget.fit();
            budget.pressure().borrow().of(FULL)
        };
        let mut bodies = Vec::new();
        for (count, kib) in [
            (32, 256),
            (33, 128),
            (64, 128),
            (65, 64),
            (2_000, 4),
            (9_000, 4),
        ] {
            bodies.resize_with(count, || budget.expect(FULL));
            assert_eq!(window(), kib << 10, "{count} bodies");
        }
        for (count, kib) in [
            (1_024, 4),
            (600, 4),
            (512, 8),
            (33, 64),
            (32, 128),
            (16, 256),
        ] {
            bodies.truncate(count);
            assert_eq!(window() >> 10, kib, "{count} bodies are left");
        }
    }

    #[test]
    fn the_more_windows_are_granted_the_smaller_are_the_next_ones_but_not_below_the_least() {
        const FULL: u32 = 256 << 10;
        let budget = budget(64 << 20);
        let mut granted = Vec::new();
        for (count, kib) in [(32, 256), (64, 128), (128, 64), (2_000, 64)] {
            granted.resize_with(count, || budget.grant(FULL, 64 << 10));
            assert_eq!(granted[count - 1].bytes() >> 10, kib, "the {count}th");
        }
        assert_eq!(budget.grant(32 << 10, 64 << 10).bytes() >> 10, 32);
        granted.clear();
        assert_eq!(budget.grant(FULL, 64 << 10).bytes(), FULL);
    }

    #[test]
    fn windows_are_small_while_much_of_the_budget_is_used() {
        let budget = budget(64);
        for (used, window) in [(32, 256), (33, 32), (16, 32), (15, 256)] {
            budget.0.metrics.buffered_bytes.set(used);
            budget.fit();
            assert_eq!(budget.pressure().borrow().of(256), window, "{used} of 64");
        }
    }
}
