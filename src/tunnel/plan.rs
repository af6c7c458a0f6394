//! Which tunnels a connection point needs now: every live instance, N times, through the addresses it was given.
//!
//! Pure: facts and the time go in, decisions come out. Where instances share one address, only dialling tells
//! which one answers; a tunnel that meets one with enough tunnels is a surplus.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::seat::{Address, Seat};
use super::wire::{Hello, Instance, Refused};
use super::{Random, SupervisorSettings};

/// The longest wait that a gateway can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// After this many surplus tunnels in a row, an address is dialled at the slow pace.
const PATIENT_MISSES: u32 = 40;

/// How often it is looked whether a draining instance has a successor.
const SCOUT_PAUSE: Duration = Duration::from_secs(2);

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

/// What an address needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Nothing,
    Tunnel,
    /// A look for the successor of an instance that drains.
    Scout,
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
        let address = |_: &String| Address::new(now);
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
            let want = self.want(index, now);
            if want == Want::Nothing {
                continue;
            }
            let at = self.addresses[index].not_before.max(self.rate_allows(now));
            if at <= now {
                self.turn = index + 1;
                return Next::Dial(index, self.seat(index, want, now));
            }
            sooner(at);
        }
        Next::Wait(wake)
    }

    fn seat(&mut self, address: usize, want: Want, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.dials.push_back(now);
        let scout = want == Want::Scout;
        if scout {
            self.addresses[address].not_before = now + SCOUT_PAUSE;
        }
        self.seats.insert(id, Seat::new(address, scout));
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
    fn want(&self, index: usize, now: Instant) -> Want {
        let pending = self.strangers(index, now).count();
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
        // The slow pace is that of single dials, and so is that of scouts.
        let slow = self.addresses[index].misses > PATIENT_MISSES;
        match wanted {
            0 if pending == 0 && self.awaits_successor(index) => Want::Scout,
            1.. if wanted > pending && (!slow || pending == 0) => Want::Tunnel,
            _ => Want::Nothing,
        }
    }

    /// The tunnels through an address in which nobody has said hello.
    fn strangers(&self, index: usize, now: Instant) -> impl Iterator<Item = &Seat> {
        let all = self.seats.values();
        all.filter(move |seat| seat.address == index && seat.is_strange(now))
    }

    /// Whether an instance drains that an address leads to, and its next run is not met. That one may be there long
    /// before the old one has gone.
    fn awaits_successor(&self, index: usize) -> bool {
        let succeeds = |old: &Instance, seat: &Seat| {
            let next = |met: &Instance| met.index == old.index && met.run != old.run;
            seat.met.as_ref().is_some_and(next) && !seat.instance_leaves
        };
        let alone = |old: &&Instance| !self.seats.values().any(|seat| succeeds(old, seat));
        let met = &self.addresses[index].met;
        met.iter().filter(alone).any(|old| self.drains(old))
    }

    fn drains(&self, instance: &Instance) -> bool {
        let drains = |seat: &Seat| seat.instance_leaves && seat.met.as_ref() == Some(instance);
        self.seats.values().any(drains)
    }

    fn lacking(&self, instance: &Instance, now: Instant) -> usize {
        if self.drains(instance) {
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
        let met: BTreeSet<&Instance> = self
            .seats
            .values()
            .filter_map(|seat| seat.met.as_ref())
            .collect();
        let live = self.live();
        live.into_iter()
            .filter(|instance| !met.contains(instance))
            .collect()
    }

    /// What tunnels said is live; an instance that was met replaces another run of its index.
    fn live(&self) -> BTreeSet<Instance> {
        let met: Vec<&Instance> = self
            .seats
            .values()
            .filter_map(|seat| seat.met.as_ref())
            .collect();
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
        let replaceable = |seat: &Seat| match &seat.met {
            Some(instance) => self.lacking(instance, now) == 0,
            // Of a gateway that never says hello, tunnels are told apart by their address alone.
            None => {
                self.want(seat.address, now) != Want::Tunnel
                    && self.strangers(seat.address, now).all(|s| s.up.is_some())
            }
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
        let first = seat.met.is_none();
        seat.met = Some(hello.instance.clone());
        seat.live = hello.live;
        seat.instance_leaves = hello.draining;
        let address = &mut self.addresses[seat.address];
        address.met.insert(hello.instance);
        let surplus = first && enough;
        if surplus {
            seat.leaving = true;
            address.misses += u32::from(!seat.scout);
            if address.misses > PATIENT_MISSES {
                address.not_before = now + self.settings.reconnect_max;
            }
        } else if first {
            address.misses = 0;
            if seat.scout {
                address.not_before = now;
            }
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
        if seat.scout && seat.met.is_none() {
            // It has its own pace, and that nobody answers is expected.
            return Duration::ZERO;
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
            .filter_map(|seat| seat.met.as_ref())
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
        self.seats.get(&id)?.met.as_ref()
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
