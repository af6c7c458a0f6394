//! The metronome of an open loop: a thread of its own, since a runtime's timer counts in whole milliseconds.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Lets something through at a rate. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Pace {
    /// The time between two beats.
    pub(super) interval: Duration,
    permits: Arc<Semaphore>,
    beats: mpsc::Sender<Beat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    start: Instant,
    end: Instant,
}

impl Pace {
    /// Starts the thread; nothing is let through yet.
    pub(super) fn start(rate: f64) -> io::Result<Self> {
        let interval = Duration::from_secs_f64(rate.recip());
        let permits = Arc::new(Semaphore::new(0));
        let (sender, beats) = mpsc::channel();
        let given = Arc::clone(&permits);
        thread::Builder::new()
            .name("pace".to_owned())
            .spawn(move || beat(interval, &given, &beats))?;
        Ok(Self {
            interval,
            permits,
            beats: sender,
        })
    }

    /// Lets one through at `start`, one after each interval, and all that wait from `end` on. To be called once.
    pub(super) fn begin(&self, start: Instant, end: Instant) {
        // The thread waits for this.
        let _ = self.beats.send(Beat { start, end });
    }

    /// Waits to be let through.
    pub(super) async fn take(&self) {
        // Closed means that all are let through.
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }

    /// How long after the start a beat is.
    pub(super) fn after(&self, number: u64) -> Duration {
        times(self.interval, number)
    }
}

fn beat(interval: Duration, permits: &Semaphore, beats: &mpsc::Receiver<Beat>) {
    let Ok(Beat { start, end }) = beats.recv() else {
        return;
    };
    for number in 0.. {
        let due = (start + times(interval, number)).min(end);
        let left = due.saturating_duration_since(Instant::now());
        // A wait that nothing but the end of the load cuts short.
        if !left.is_zero() && beats.recv_timeout(left) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        if due == end {
            return permits.close();
        }
        permits.add_permits(1);
    }
}

/// The interval so many times over, exactly.
fn times(interval: Duration, number: u64) -> Duration {
    let nanoseconds = interval.as_nanos().saturating_mul(u128::from(number));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
