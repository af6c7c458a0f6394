//! Which tunnels a connection point needs now: every live instance, N times, through the addresses it was given.
//!
//! Pure: facts and the time go in, decisions come out. Where instances share one address, only dialling tells
//! which one answers; a tunnel that meets one with enough tunnels is a surplus.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Hello, Instance, Refused};
use super::{Random, SupervisorSettings};

/// The longest wait that a gateway can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// After this many surplus tunnels in a row, an address is dialled at the slow pace.
const PATIENT_MISSES: u32 = 40;

/// The last part of the maximum age over which tunnels are replaced, so that not all are at once.
const AGE_SPREAD: u32 = 10;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Dial an address; the tunnel has this number.
    Dial(usize, u64),
    /// Drain a tunnel: it is a surplus, or its replacement is up.
    Drain(u64),
    /// Nothing until then, or until something happens.
    Wait(Option<Instant>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Met {
    /// Nobody yet: dialling, or the gateway has not spoken.
    Nobody,
    /// This instance.
    Instance(Instance),
}

#[derive(Debug)]
struct Seat {
    address: usize,
    met: Met,
    up: Option<Instant>,
    expires: Option<Instant>,
    /// It was told to drain, or the decision is taken.
    leaving: bool,
    /// The instance drains: the tunnel stays, but counts for nothing.
    instance_leaves: bool,
    live: Vec<Instance>,
}

impl Seat {
    fn counts_for(&self, instance: &Instance, now: Instant) -> bool {
        let young = self.expires.is_none_or(|expires| now < expires);
        let met = matches!(&self.met, Met::Instance(met) if met == instance);
        met && young && !self.leaving && !self.instance_leaves
    }
}

#[derive(Debug)]
struct Address {
    not_before: Instant,
    failures: u32,
    misses: u32,
    met: BTreeSet<Instance>,
}

/// The tunnels of one supervisor, and what is known of the gateway's instances.
#[derive(Debug)]
pub(super) struct Plan {
    settings: SupervisorSettings,
    random: Random,
    addresses: Vec<Address>,
    seats: BTreeMap<u64, Seat>,
    dials: VecDeque<Instant>,
    next_id: u64,
    turn: usize,
}

impl Plan {
    pub(super) fn new(settings: SupervisorSettings, random: Random, now: Instant) -> Self {
        let address = |_: &String| Address {
            not_before: now,
            failures: 0,
            misses: 0,
            met: BTreeSet::new(),
        };
        Self {
            addresses: settings.addresses.iter().map(address).collect(),
            settings,
            random,
            seats: BTreeMap::new(),
            dials: VecDeque::new(),
            next_id: 0,
            turn: 0,
        }
    }

    /// What to do next.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if let Some(id) = self.replaced(now) {
            self.leave(id);
            return Next::Drain(id);
        }
        let mut wake = self
            .seats
            .values()
            .filter_map(|seat| seat.expires)
            .filter(|at| *at > now)
            .min();
        let mut sooner = |at| wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
        let count = self.addresses.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if !self.wants(index, now) {
                continue;
            }
            let at = self.addresses[index].not_before.max(self.rate_allows(now));
            if at <= now {
                self.turn = index + 1;
                return Next::Dial(index, self.seat(index, now));
            }
            sooner(at);
        }
        Next::Wait(wake)
    }

    fn seat(&mut self, address: usize, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.dials.push_back(now);
        let seat = Seat {
            address,
            met: Met::Nobody,
            up: None,
            expires: None,
            leaving: false,
            instance_leaves: false,
            live: Vec::new(),
        };
        self.seats.insert(id, seat);
        id
    }

    /// When the next dial is within the rate.
    fn rate_allows(&mut self, now: Instant) -> Instant {
        let second = Duration::from_secs(1);
        let rate = self.settings.dials_per_second.max(1) as usize;
        while self
            .dials
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= second)
        {
            self.dials.pop_front();
        }
        match self.dials.front() {
            Some(first) if self.dials.len() >= rate => *first + second,
            Some(_) | None => now,
        }
    }

    /// Whether an address needs one more dial.
    fn wants(&self, index: usize, now: Instant) -> bool {
        let through = self
            .seats
            .values()
            .filter(|seat| seat.address == index && !seat.leaving);
        let pending = through.filter(|seat| seat.met == Met::Nobody).count();
        let wanted: usize = if self.addresses[index].met.is_empty() {
            self.settings.tunnels
        } else {
            let strangers = self.unmet();
            let known = self.addresses[index].met.iter();
            let all: BTreeSet<&Instance> = known.chain(strangers.iter()).collect();
            all.into_iter()
                .map(|instance| self.lacking(instance, now))
                .sum()
        };
        if self.addresses[index].misses > PATIENT_MISSES {
            // The slow pace is that of single dials.
            return wanted > 0 && pending == 0;
        }
        wanted > pending
    }

    fn lacking(&self, instance: &Instance, now: Instant) -> usize {
        let leaves =
            |seat: &Seat| seat.instance_leaves && seat.met == Met::Instance(instance.clone());
        if self.seats.values().any(leaves) {
            return 0;
        }
        let counted = self
            .seats
            .values()
            .filter(|seat| seat.counts_for(instance, now));
        self.settings.tunnels.saturating_sub(counted.count())
    }

    /// The instances that are said to be live and that no address was seen to lead to.
    fn unmet(&self) -> BTreeSet<Instance> {
        let met: BTreeSet<&Instance> = self.addresses.iter().flat_map(|a| &a.met).collect();
        let live = self.live();
        live.into_iter()
            .filter(|instance| !met.contains(instance))
            .collect()
    }

    /// The instances that are said to be live and that no tunnel leads to.
    pub(super) fn absent(&self) -> BTreeSet<Instance> {
        let met: BTreeSet<&Instance> = self.seats.values().filter_map(Seat::instance).collect();
        let live = self.live();
        live.into_iter()
            .filter(|instance| !met.contains(instance))
            .collect()
    }

    /// What tunnels said is live; an instance that was met replaces another run of its index.
    fn live(&self) -> BTreeSet<Instance> {
        let met: Vec<&Instance> = self.seats.values().filter_map(Seat::instance).collect();
        let said = self.seats.values().flat_map(|seat| &seat.live);
        let superseded = |instance: &Instance| {
            met.iter()
                .any(|met| met.index == instance.index && met.run != instance.run)
        };
        said.filter(|instance| !superseded(instance) || met.contains(instance))
            .cloned()
            .collect()
    }

    /// A tunnel that is too old and whose replacement is up.
    fn replaced(&self, now: Instant) -> Option<u64> {
        let old = |seat: &Seat| !seat.leaving && seat.expires.is_some_and(|expires| expires <= now);
        let replaceable = |seat: &Seat| {
            seat.instance()
                .is_some_and(|instance| self.lacking(instance, now) == 0)
        };
        let mut ids = self
            .seats
            .iter()
            .filter(|(_, seat)| old(seat) && replaceable(seat));
        ids.next().map(|(id, _)| *id)
    }

    /// A tunnel's connection is up.
    pub(super) fn up(&mut self, id: u64, now: Instant) {
        let max = self.settings.max_age;
        let expires = now + max - self.random.upto(max / AGE_SPREAD);
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.up = Some(now);
            seat.expires = Some(expires);
        }
    }

    /// The gateway said who it is. Returns whether the tunnel is a surplus, which is then to be drained.
    pub(super) fn hello(&mut self, id: u64, hello: Hello, now: Instant) -> bool {
        let want = self.settings.tunnels;
        let enough = {
            let others = self.seats.iter().filter(|(other, _)| **other != id);
            let counted = others.filter(|(_, seat)| seat.counts_for(&hello.instance, now));
            counted.count() >= want
        };
        let Some(seat) = self.seats.get_mut(&id) else {
            return false;
        };
        let first = seat.met == Met::Nobody;
        seat.met = Met::Instance(hello.instance.clone());
        seat.live = hello.live;
        seat.instance_leaves = hello.draining;
        let address = &mut self.addresses[seat.address];
        address.met.insert(hello.instance);
        let surplus = first && enough;
        if surplus {
            seat.leaving = true;
            address.misses += 1;
            if address.misses > PATIENT_MISSES {
                address.not_before = now + self.settings.reconnect_max;
            }
        } else if first {
            address.misses = 0;
        }
        self.forget();
        surplus
    }

    /// A tunnel is over, or its dial did not succeed. Returns the pause before its address is dialled again.
    pub(super) fn ended(&mut self, id: u64, refused: Option<&Refused>, now: Instant) -> Duration {
        let Some(seat) = self.seats.remove(&id) else {
            return Duration::ZERO;
        };
        self.forget();
        if seat.leaving {
            return Duration::ZERO;
        }
        let pause = self.pause_after(&seat, refused, now);
        let address = &mut self.addresses[seat.address];
        address.not_before = address.not_before.max(now + pause);
        pause
    }

    fn pause_after(&mut self, seat: &Seat, refused: Option<&Refused>, now: Instant) -> Duration {
        let settings = &self.settings;
        if let Some(refused) = refused {
            let asked = refused.retry_after_s.map(Duration::from_secs);
            if refused.permanent {
                let least = settings
                    .refused_pause
                    .max(asked.unwrap_or_default().min(LONGEST_WAIT));
                return least + self.random.upto(settings.refused_pause / 2);
            }
            if let Some(asked) = asked {
                let asked = asked.min(LONGEST_WAIT);
                return asked + self.random.upto(asked / 2);
            }
        }
        let address = &mut self.addresses[seat.address];
        let stable = |up: Instant| now.saturating_duration_since(up) >= settings.stable_after;
        if seat.up.is_some_and(stable) {
            address.failures = 0;
        }
        let doublings = address.failures.min(16);
        // The tunnels of one address fail together; together they are one failure.
        if address.not_before <= now {
            address.failures += 1;
        }
        let bound = settings.reconnect_min.saturating_mul(1 << doublings);
        self.random.upto(bound.min(settings.reconnect_max))
    }

    /// The supervisor has told a tunnel to drain.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.leaving = true;
        }
    }

    /// Forgets instances that have no tunnel and that nobody says are live.
    fn forget(&mut self) {
        let live = self.live();
        let met: BTreeSet<Instance> = self
            .seats
            .values()
            .filter_map(Seat::instance)
            .cloned()
            .collect();
        for address in &mut self.addresses {
            address
                .met
                .retain(|instance| met.contains(instance) || live.contains(instance));
        }
    }

    /// The instance at the other end of a tunnel, once known.
    pub(super) fn instance(&self, id: u64) -> Option<&Instance> {
        self.seats.get(&id).and_then(Seat::instance)
    }

    /// Which address a tunnel was dialled at.
    pub(super) fn address(&self, id: u64) -> Option<&str> {
        let seat = self.seats.get(&id)?;
        self.settings
            .addresses
            .get(seat.address)
            .map(String::as_str)
    }

    /// Whether a tunnel takes no more requests.
    pub(super) fn is_leaving(&self, id: u64) -> bool {
        self.seats.get(&id).is_none_or(|seat| seat.leaving)
    }
}

impl Seat {
    fn instance(&self) -> Option<&Instance> {
        match &self.met {
            Met::Instance(instance) => Some(instance),
            Met::Nobody => None,
        }
    }
}
