//! One live tunnel in the registry, and a request's place in it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::reason::Reason;
use crate::role::{PublishedRole, RoleId};

/// How many streams a tunnel carries in its life; HTTP/2 has 2^30 numbers for them.
const STREAMS_IN_A_LIFE: usize = (1 << 30) - (1 << 20);

/// What a connection point publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// Nothing yet.
    Nothing,
    /// It does not speak of roles: it serves what the policy assigns to its name.
    Assigned,
    /// These.
    Roles(Vec<PublishedRole>),
}

/// One live tunnel.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) remote: SocketAddr,
    pub(super) since: Instant,
    /// When the connection point came back after it had no tunnel.
    pub(super) fresh_since: Instant,
    pub(super) sender: SendRequest<Bytes>,
    pub(super) published: Mutex<Published>,
    draining: AtomicBool,
    in_flight: AtomicUsize,
    long_polls: AtomicUsize,
    opened: AtomicUsize,
    limit: AtomicUsize,
    /// Why the tunnel must close.
    pub(super) close: watch::Sender<Option<Reason>>,
    streams: Gauge,
}

impl Link {
    pub(super) fn new(
        id: u64,
        name: Arc<str>,
        remote: SocketAddr,
        fresh_since: Instant,
        sender: SendRequest<Bytes>,
        streams: Gauge,
    ) -> Self {
        Self {
            id,
            name,
            remote,
            since: Instant::now(),
            fresh_since,
            limit: AtomicUsize::new(sender.current_max_send_streams()),
            sender,
            published: Mutex::new(Published::Nothing),
            draining: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            long_polls: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            close: watch::Sender::new(None),
            streams,
        }
    }

    /// Takes the tunnel out of pick for good.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the tunnel takes no more requests.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) || self.opened() >= STREAMS_IN_A_LIFE
    }

    /// Requests that were given a place so far.
    pub(super) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether all streams that a tunnel can carry in its life are used up.
    pub(super) fn is_worn_out(&self) -> bool {
        self.opened() >= STREAMS_IN_A_LIFE
    }

    /// Learns how many streams the peer allows now.
    pub(super) fn learn_limit(&self) {
        let limit = self.sender.current_max_send_streams();
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Ordinary requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Long polls in flight.
    pub(super) fn long_polls(&self) -> usize {
        self.long_polls.load(Ordering::Relaxed)
    }

    /// Whether the peer allows no more streams. Two are kept for hello and roles.
    pub(super) fn is_full(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed).saturating_sub(2).max(1);
        self.in_flight() + self.long_polls() >= limit
    }

    pub(super) fn published(&self) -> Published {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn publish(&self, published: Published) {
        *self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = published;
    }

    /// The roles that are published, for status; `assigned` are those of the policy.
    pub(super) fn roles(&self, assigned: &[RoleId]) -> Vec<RoleId> {
        match self.published() {
            Published::Nothing => Vec::new(),
            Published::Assigned => assigned.to_vec(),
            Published::Roles(roles) => {
                let published = roles.iter().map(|role| role.id);
                published.filter(|id| assigned.contains(id)).collect()
            }
        }
    }

    /// How much of its share a fresh connection point takes, in percent: 10 at first, 100 after `ramp`.
    pub(super) fn share(&self, now: Instant, ramp: Duration) -> u64 {
        let age = now.saturating_duration_since(self.fresh_since);
        if age >= ramp {
            return 100;
        }
        let percent = age.as_millis() * 90 / ramp.as_millis().max(1);
        10 + u64::try_from(percent).unwrap_or(90)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A request's place in a tunnel, given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) link: Arc<Link>,
    long_poll: bool,
}

impl Lease {
    /// Takes a place.
    pub(super) fn take(link: &Arc<Link>, long_poll: bool) -> Self {
        let lease = Self {
            link: Arc::clone(link),
            long_poll,
        };
        lease.counter().fetch_add(1, Ordering::Relaxed);
        link.opened.fetch_add(1, Ordering::Relaxed);
        link.streams.inc();
        lease
    }

    fn counter(&self) -> &AtomicUsize {
        if self.long_poll {
            &self.link.long_polls
        } else {
            &self.link.in_flight
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::Relaxed);
        self.link.streams.dec();
    }
}
