//! A load under way: its threads, what they share, its end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Barrier, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::clock::{Turns, Window};
use super::connection::Dialer;
use super::lane::{Lane, Slot};
use super::pace::Pace;
use super::plan::{Mode, Plan, Wire};
use super::report::Report;
use super::tally::Tally;
use crate::tasks::Tasks;

// First connections are made so many at once: more would only wait in the server's queue, or fall out of it.
const DIALLING: usize = 64;

/// A load under way. Dropping it ends it.
#[derive(Debug)]
pub struct Run {
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// Cancelled when every thread has ended.
    ended: CancellationToken,
}

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) wire: Wire,
    pub(super) turns: Turns,
    /// First connections that may be made at once.
    pub(super) dialling: Semaphore,
    /// The pace of first connections, if they have one.
    pub(super) dials: Option<Pace>,
    /// Opens when every lane is up, or has failed to come up.
    pub(super) gate: Barrier,
    /// Lanes that hold something.
    pub(super) up: AtomicUsize,
    holding: watch::Sender<Option<usize>>,
    window: OnceLock<Window>,
    tallies: Vec<Mutex<Tally>>,
}

impl Run {
    /// Starts a load on threads of its own.
    ///
    /// # Errors
    /// What is wrong with the plan, or the system's refusal of a thread.
    pub fn start(plan: Plan) -> Result<Self, String> {
        let lanes = plan.lanes();
        if lanes == 0 || plan.threads == 0 {
            return Err("a load has at least one connection, stream and thread".to_owned());
        }
        let threads = plan.threads.min(plan.connections);
        let text = |error: std::io::Error| format!("no thread can be started: {error}");
        let dials = plan.dial_rate.map(Pace::start).transpose().map_err(text)?;
        if let Some(dials) = &dials {
            let start = Instant::now();
            dials.begin(start, start + dials.after(lanes as u64));
        }
        let tallies = (0..threads).map(|_| Tally::new().map(Mutex::new));
        let shared = Arc::new(Shared {
            wire: plan.wire()?,
            turns: Turns::new(&plan).map_err(text)?,
            dialling: Semaphore::new(DIALLING),
            dials,
            gate: Barrier::new(lanes),
            up: AtomicUsize::new(0),
            holding: watch::Sender::new(None),
            window: OnceLock::new(),
            tallies: tallies.collect::<Result<_, _>>()?,
            plan,
        });
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let last = Arc::new(ended.clone().drop_guard());
        for thread in 0..threads {
            let (shared, stop, last) = (Arc::clone(&shared), stop.clone(), Arc::clone(&last));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            thread::Builder::new()
                .name(format!("load-{thread}"))
                .spawn(move || {
                    runtime.block_on(shared.work(thread, &stop));
                    drop(last);
                })
                .map_err(text)?;
        }
        Ok(Self {
            shared,
            stop,
            ended,
        })
    }

    /// Returns once all connections of a load that holds them are up, and says how many there are.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn holding(&self) -> usize {
        let mut holding = self.shared.holding.subscribe();
        let held = holding.wait_for(Option::is_some).await;
        held.ok().and_then(|held| *held).unwrap_or(0)
    }

    /// Requests counted so far, and the fraction of the time that is over.
    pub fn so_far(&self) -> (u64, f64) {
        let requests = self.shared.tallies.iter().map(|tally| {
            let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.requests
        });
        let passed = self.shared.window.get().map_or(0.0, |window| {
            let whole = window.end - window.start;
            window.start.elapsed().as_secs_f64() / whole.as_secs_f64().max(1e-9)
        });
        (requests.sum(), passed.min(1.0))
    }

    /// Ends the load before its time; requests under way are given up and not counted.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the load is over.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What was measured so far; all of it once the load has [ended](Run::ended).
    ///
    /// # Errors
    /// If the figures of the threads cannot be merged.
    pub fn report(&self) -> Result<Report, String> {
        let mut all = Tally::new()?;
        for tally in &self.shared.tallies {
            all.add(&tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let now = Instant::now();
        let seconds = self.shared.window.get().map_or(Duration::ZERO, |window| {
            let not_sent = self.shared.turns.not_sent(window, now);
            all.fail(super::Fault::NotSent, not_sent);
            if self.shared.plan.mode.holds() {
                now.min(window.end).saturating_duration_since(window.from)
            } else {
                all.time_since(window.from)
            }
        });
        Ok(Report::new(&self.shared.plan, &all, seconds))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    /// Counts something of a thread.
    pub(super) fn tally(&self, thread: usize, count: impl FnOnce(&mut Tally)) {
        if let Some(tally) = self.tallies.get(thread) {
            count(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The times of the load, which begin with the first call.
    pub(super) fn begin(&self) -> Window {
        *self.window.get_or_init(|| {
            let window = Window::from_now(&self.plan);
            self.turns.begin(&window);
            self.holding
                .send_replace(Some(self.up.load(Ordering::Relaxed)));
            window
        })
    }

    /// One thread: its lanes, until they end, are told to, or the time of holding is over.
    async fn work(self: &Arc<Self>, thread: usize, stop: &CancellationToken) {
        let (tasks, drivers) = (Tasks::new(), Tasks::new());
        let threads = self.tallies.len();
        for _ in (thread..self.plan.connections).step_by(threads) {
            let slot = Slot::default();
            for _ in 0..self.plan.streams {
                let lane = Lane {
                    shared: Arc::clone(self),
                    thread,
                    dialer: self.dialer(&drivers),
                    slot: slot.clone(),
                    connection: None,
                    generation: 0,
                };
                tasks.spawn(lane.run());
            }
        }
        tokio::select! {
            () = tasks.join() => {}
            () = stop.cancelled() => {}
            () = self.held() => {}
        }
        tasks.abort();
        tasks.join().await;
        drivers.abort();
        drivers.join().await;
    }

    fn dialer(&self, drivers: &Tasks) -> Dialer {
        Dialer {
            address: self.plan.target.address,
            name: self.plan.target.name.clone(),
            tls: self.plan.tls.configuration(),
            protocol: self.plan.protocol,
            patience: self.plan.patience,
            drivers: drivers.clone(),
        }
    }

    /// Returns when the time of holding is over; never for a load that does not hold.
    async fn held(&self) {
        if !matches!(self.plan.mode, Mode::Idle | Mode::Poll) {
            return std::future::pending().await;
        }
        let mut holding = self.holding.subscribe();
        // The sender is this.
        let _ = holding.wait_for(Option::is_some).await;
        if let Some(window) = self.window.get() {
            sleep_until(window.end).await;
        }
    }
}
