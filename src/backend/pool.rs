//! The idle connections of one backend, and those that belong to one client connection each.
//!
//! The one given back last is taken first, so that the rest can age and go. A task sweeps while there is
//! something to sweep, and only then: nobody else drives them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::lease::Lease;
use crate::message::body::BodyError;
use crate::tasks::Tasks;

/// How long the server's end of an idle connection goes unnoticed at most.
const LOOK: Duration = Duration::from_secs(1);

/// How many client connections can have a backend connection of their own.
const PINNED_LIMIT: usize = 4_096;

/// A place for the one connection that belongs to a client connection.
type Slot<B> = Arc<tokio::sync::Mutex<Option<Lease<B>>>>;

/// Where a connection goes when its request is over.
#[derive(Debug)]
pub(super) enum Home<B> {
    /// Among the idle ones.
    Pool(Arc<Pool<B>>),
    /// To the client connection that it belongs to.
    Pinned(OwnedMutexGuard<Option<Lease<B>>>),
    /// Nowhere: it is closed.
    None,
}

/// The connections of one backend that carry no request.
#[derive(Debug)]
pub(super) struct Pool<B> {
    state: Mutex<State<B>>,
    limit: usize,
    timeout: Duration,
    tasks: Tasks,
    idle: Gauge,
    // Its drop tells the sweeping task that there is nothing left to sweep.
    alive: watch::Sender<()>,
}

#[derive(Debug)]
struct State<B> {
    idle: VecDeque<(Lease<B>, Instant)>,
    pinned: HashMap<Box<str>, (Slot<B>, Instant)>,
    sweeping: bool,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// An empty pool of at most `limit` idle connections, each kept for `timeout`.
    pub(super) fn new(limit: usize, timeout: Duration, tasks: Tasks, idle: Gauge) -> Self {
        Self {
            state: Mutex::new(State {
                idle: VecDeque::new(),
                pinned: HashMap::new(),
                sweeping: false,
            }),
            limit,
            timeout,
            tasks,
            idle,
            alive: watch::Sender::new(()),
        }
    }

    /// Takes the connection that was given back last and still stands.
    pub(super) async fn take(&self) -> Option<Lease<B>> {
        loop {
            let mut lease = self.pop()?;
            if !lease.is_closed() && lease.is_usable().await {
                return Some(lease);
            }
        }
    }

    /// Gives a connection back; the oldest goes when there are too many.
    pub(super) fn give(self: &Arc<Self>, lease: Lease<B>) {
        if lease.is_closed() {
            return;
        }
        let surplus = {
            let mut state = self.lock();
            state.idle.push_back((lease, Instant::now()));
            self.idle.inc();
            let over = state.idle.len() > self.limit;
            let surplus = if over { state.idle.pop_front() } else { None };
            self.sweep(&mut state);
            surplus
        };
        if let Some((lease, _)) = surplus {
            self.idle.dec();
            lease.retire();
        }
    }

    /// Gives a connection back over which a request with a body went: an answer may come before the server has read all
    /// of it. One that does not become ready in a moment is closed.
    pub(super) fn give_once_ready(self: &Arc<Self>, mut lease: Lease<B>) {
        if lease.is_ready() {
            return self.give(lease);
        }
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            if lease.is_usable().await {
                pool.give(lease);
            }
        });
    }

    /// The place of a client connection, once its earlier request is over; `None` when there are too many places in use.
    pub(super) async fn pinned(
        self: &Arc<Self>,
        client: &str,
    ) -> Option<OwnedMutexGuard<Option<Lease<B>>>> {
        let slot = {
            let mut state = self.lock();
            if state.pinned.len() >= PINNED_LIMIT && !state.pinned.contains_key(client) {
                state.release_oldest()?;
            }
            let place = state
                .pinned
                .entry(client.into())
                .or_insert_with(|| (Slot::default(), Instant::now()));
            place.1 = Instant::now();
            let slot = Arc::clone(&place.0);
            self.sweep(&mut state);
            slot
        };
        Some(slot.lock_owned().await)
    }

    fn pop(&self) -> Option<Lease<B>> {
        let (lease, _) = self.lock().idle.pop_back()?;
        self.idle.dec();
        Some(lease)
    }

    fn sweep(self: &Arc<Self>, state: &mut State<B>) {
        if !std::mem::replace(&mut state.sweeping, true) {
            let alive = self.alive.subscribe();
            let sweep = sweep(Arc::downgrade(self), alive, self.timeout);
            self.tasks.spawn(sweep);
        }
    }

    /// Closes what has aged, lets go what the server has closed, and says when to look again; `None` when nothing is left.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let (gone, next) = {
            let mut state = self.lock();
            let before = state.idle.len();
            state.idle.retain_mut(|(lease, _)| lease.look());
            let old = |since: Instant| now.duration_since(since) >= self.timeout;
            let mut gone = Vec::new();
            while state.idle.front().is_some_and(|(_, since)| old(*since)) {
                gone.extend(state.idle.pop_front().map(|(lease, _)| lease));
            }
            let left = before - state.idle.len();
            self.idle.dec_by(i64::try_from(left).unwrap_or(i64::MAX));
            state.pinned.retain(|_, (slot, since)| {
                // Whoever holds the place looks after its connection.
                let Ok(mut place) = slot.try_lock() else {
                    return true;
                };
                if place.as_mut().is_some_and(|lease| !lease.look()) {
                    *place = None;
                }
                let stays = Arc::strong_count(slot) > 1 || !old(*since);
                if !stays {
                    gone.extend(place.take());
                }
                stays
            });
            let ages = state.pinned.values().map(|(_, since)| *since);
            let first = ages
                .chain(state.idle.front().map(|(_, since)| *since))
                .min();
            state.sweeping = first.is_some();
            (gone, first)
        };
        gone.into_iter().for_each(Lease::retire);
        // One that is in use although its age has come is looked at again a little later.
        next.map(|since| {
            (since + self.timeout)
                .max(now + self.timeout / 10)
                .min(now + LOOK)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.idle
            .dec_by(i64::try_from(state.idle.len()).unwrap_or(i64::MAX));
        if Handle::try_current().is_err() {
            // What ends with its runtime has no time for an orderly close.
            return;
        }
        let idle = state.idle.drain(..).map(|(lease, _)| lease);
        let pinned = state.pinned.drain();
        idle.chain(pinned.filter_map(|(_, (slot, _))| slot.try_lock().ok()?.take()))
            .for_each(Lease::retire);
    }
}

impl<B> State<B> {
    /// Gives up the place that was unused for longest.
    fn release_oldest(&mut self) -> Option<()> {
        let unused = self
            .pinned
            .iter()
            .filter(|(_, (slot, _))| Arc::strong_count(slot) == 1);
        let oldest = unused.min_by_key(|(_, (_, since))| *since)?.0.clone();
        let (slot, _) = self.pinned.remove(&oldest)?;
        // Nobody else has the place, so that nobody holds it.
        if let Ok(mut place) = slot.try_lock()
            && let Some(lease) = place.take()
        {
            lease.retire();
        }
        Some(())
    }
}

async fn sweep<B>(pool: Weak<Pool<B>>, mut alive: watch::Receiver<()>, timeout: Duration)
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    let mut next = Instant::now() + timeout.min(LOOK);
    loop {
        tokio::select! {
            biased;
            // Nothing is ever sent: this ends when the pool does.
            _ = alive.changed() => return,
            () = tokio::time::sleep_until(next) => (),
        }
        let Some(pool) = pool.upgrade() else { return };
        // A look beyond what a task may do in one turn would find every connection standing.
        match unconstrained(async { pool.expire(Instant::now()) }).await {
            Some(at) => next = at,
            None => return,
        }
    }
}
