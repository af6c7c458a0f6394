//! When a load begins to count and when it ends, and whose turn it is.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use super::plan::Plan;

/// The times of a load, known once every lane is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// When the first request may be sent.
    pub(super) start: Instant,
    /// From when on requests are counted.
    pub(super) from: Instant,
    /// From when on none is sent.
    pub(super) end: Instant,
}

/// Leave to send one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// From when on its latency counts: when it is sent, or when it was due.
    pub(super) from: Instant,
    pub(super) is_counted: bool,
}

/// Gives turns to all lanes.
#[derive(Debug)]
pub(super) struct Turns {
    most: u64,
    counted: AtomicU64,
    /// Of an open loop; what it has let through and no lane has taken up is due.
    pace: Option<Pace>,
    next: AtomicU64,
}

impl Window {
    pub(super) fn from_now(plan: &Plan) -> Self {
        let start = Instant::now();
        let warm_up = if plan.mode.holds() {
            Duration::ZERO
        } else {
            plan.warm_up
        };
        let from = start + warm_up;
        Self {
            start,
            from,
            end: from + plan.duration,
        }
    }
}

impl Turns {
    pub(super) fn new(plan: &Plan) -> io::Result<Self> {
        Ok(Self {
            most: plan.requests.unwrap_or(u64::MAX),
            counted: AtomicU64::new(0),
            pace: plan.rate.map(Pace::start).transpose()?,
            next: AtomicU64::new(0),
        })
    }

    /// To be called once the times are known.
    pub(super) fn begin(&self, window: &Window) {
        if let Some(pace) = &self.pace {
            pace.begin(window.start, window.end);
        }
    }

    /// Waits for a turn; `None` when the load is over.
    pub(super) async fn next(&self, window: &Window) -> Option<Turn> {
        let from = match &self.pace {
            None => Instant::now(),
            Some(pace) => {
                pace.take().await;
                if Instant::now() >= window.end {
                    return None;
                }
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                window.start + pace.after(number)
            }
        };
        if from >= window.end {
            return None;
        }
        let is_counted = from >= window.from;
        if is_counted && self.counted.fetch_add(1, Ordering::Relaxed) >= self.most {
            return None;
        }
        Some(Turn { from, is_counted })
    }

    /// How many requests were due and to be counted until `now`, and that no lane took up.
    pub(super) fn not_sent(&self, window: &Window, now: Instant) -> u64 {
        let Some(pace) = &self.pace else {
            return 0;
        };
        let until = |time: Instant| {
            let since = time.saturating_duration_since(window.start).as_nanos();
            since.div_ceil(pace.interval.as_nanos().max(1)) as u64
        };
        let due = until(now.min(window.end)) - until(window.from.min(now));
        let counted = self.counted.load(Ordering::Relaxed);
        due.min(self.most).saturating_sub(counted)
    }
}
