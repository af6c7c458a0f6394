//! Pick: which tunnel a request takes. Snapshots are immutable and made anew when a tunnel or its roles change.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::link::{Lease, Link, Published};
use super::random::mix;
use super::{Need, Policy, Random};
use crate::reason::Reason;
use crate::role::{ByRoleId, Health};

/// The capacity of a connection point that does not speak of roles.
const UNSAID_CAPACITY: u64 = 1_000;

/// What one tunnel offers for one role.
#[derive(Clone, Debug)]
struct Candidate {
    link: Arc<Link>,
    capacity: u64,
}

/// Every tunnel that serves a role, those of one connection point side by side.
#[derive(Clone, Debug, Default)]
struct Candidates {
    all: Vec<Candidate>,
    points: Vec<(u64, Range<usize>)>,
}

/// What can be picked, at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    roles: ByRoleId<Candidates>,
    /// When the last connection point ceases to be fresh.
    fresh_until: Option<Instant>,
    /// Whether that time has come, so that no pick has to look at the clock.
    aged: AtomicBool,
    ramp: Duration,
}

impl Snapshot {
    /// Whether any tunnel takes requests.
    pub(super) fn is_ready(&self) -> bool {
        self.roles.values().any(|of_role| !of_role.all.is_empty())
    }

    /// Takes the snapshot of the tunnels under a policy.
    pub(super) fn new(links: &[Arc<Link>], policy: &Policy, ramp: Duration) -> Self {
        let mut offers: ByRoleId<Vec<(Candidate, Health)>> = ByRoleId::default();
        let mut fresh_until = None;
        for link in links.iter().filter(|link| !link.is_draining()) {
            let Some(allowed) = policy.connection_points.get(&*link.name) else {
                continue;
            };
            fresh_until = fresh_until.max(Some(link.fresh_since + ramp));
            let offer = |capacity| Candidate {
                link: Arc::clone(link),
                capacity,
            };
            match link.published() {
                Published::Nothing => (),
                Published::Assigned => {
                    for id in allowed {
                        let of_role = offers.entry(*id).or_default();
                        of_role.push((offer(UNSAID_CAPACITY), Health::Healthy));
                    }
                }
                Published::Roles(roles) => {
                    let may = |id| allowed.contains(id);
                    for role in roles.iter().filter(|r| r.capacity > 0 && may(&r.id)) {
                        let of_role = offers.entry(role.id).or_default();
                        of_role.push((offer(u64::from(role.capacity)), role.health));
                    }
                }
            }
        }
        let roles = offers.into_iter().map(|(id, o)| (id, Candidates::new(o)));
        Self {
            roles: roles.collect(),
            fresh_until,
            aged: AtomicBool::new(fresh_until.is_none()),
            ramp,
        }
    }

    /// The time, while a connection point is fresh.
    fn ramping(&self) -> Option<Instant> {
        if self.aged.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let fresh = self.fresh_until.is_some_and(|until| now < until);
        if !fresh {
            self.aged.store(true, Ordering::Relaxed);
        }
        fresh.then_some(now)
    }

    /// Picks a tunnel, other than those of `tried`, and takes a place in it.
    ///
    /// # Errors
    /// `no-tunnel` if none serves the role, `tunnels-full` if all that do are full.
    pub(super) fn pick(
        &self,
        need: &Need,
        tried: &[Arc<Link>],
        random: &Random,
    ) -> Result<Lease, Reason> {
        let of_role = self.roles.get(&need.role).ok_or(Reason::NoTunnel)?;
        let choice = Choice {
            now: self.ramping(),
            ramp: self.ramp,
            long_poll: need.long_poll,
            random,
        };
        let usable = |c: &&Candidate| {
            !c.link.is_draining() && !tried.iter().any(|other| other.id == c.link.id)
        };
        if tried.is_empty() {
            let range = need.sticky.and_then(|key| of_role.sticky(key));
            let all = &of_role.all[range.unwrap_or(0..of_role.all.len())];
            if let Some(found) = choice.of_two(all) {
                return Ok(Lease::take(&found.link, need.long_poll));
            }
            let mut open = all.iter().filter(usable).peekable();
            if need.sticky.is_some() && open.peek().is_some() {
                return Err(Reason::TunnelsFull);
            }
        }
        let mut open = of_role.all.iter().filter(usable).collect::<Vec<_>>();
        if open.is_empty() {
            return Err(Reason::NoTunnel);
        }
        let strange = |c: &&&Candidate| !tried.iter().any(|other| other.name == c.link.name);
        if open.iter().any(|c| strange(&c)) {
            // A connection point that lost one tunnel is about to lose the others.
            open = open.iter().filter(strange).copied().collect();
        }
        let best = open
            .into_iter()
            .filter(|c| !c.link.is_full())
            .reduce(|a, b| if choice.is_better(b, a) { b } else { a });
        best.map(|c| Lease::take(&c.link, need.long_poll))
            .ok_or(Reason::TunnelsFull)
    }
}

impl Candidates {
    /// The healthy ones; all, where none is healthy: an answer from an ailing backend's connection point says
    /// more than no answer, and shows when the backend is back.
    fn new(offers: Vec<(Candidate, Health)>) -> Self {
        let any_healthy = offers.iter().any(|(_, health)| *health == Health::Healthy);
        let mut all: Vec<Candidate> = offers
            .into_iter()
            .filter(|(_, health)| !any_healthy || *health == Health::Healthy)
            .map(|(candidate, _)| candidate)
            .collect();
        all.sort_by(|a, b| (&a.link.name, a.link.id).cmp(&(&b.link.name, b.link.id)));
        let mut points: Vec<(u64, Range<usize>)> = Vec::new();
        for (at, candidate) in all.iter().enumerate() {
            let same = at > 0 && all[at - 1].link.name == candidate.link.name;
            match points.last_mut() {
                Some((_, range)) if same => range.end = at + 1,
                Some(_) | None => points.push((hash_of(&candidate.link.name), at..at + 1)),
            }
        }
        Self { all, points }
    }

    /// The tunnels of the connection point that a client's number belongs to: rendezvous hashing, which every
    /// instance computes alike without a table.
    fn sticky(&self, key: u64) -> Option<Range<usize>> {
        self.points
            .iter()
            .max_by_key(|(name, _)| mix(*name ^ mix(key)))
            .map(|(_, range)| range.clone())
    }
}

/// FNV-1a: the same on every instance and in every version.
fn hash_of(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The rule between tunnels.
struct Choice<'r> {
    /// Now, if any connection point is fresh.
    now: Option<Instant>,
    ramp: Duration,
    long_poll: bool,
    random: &'r Random,
}

impl Choice<'_> {
    /// The better of two at random; `None` if they will not do and all must be looked at.
    fn of_two<'c>(&self, all: &'c [Candidate]) -> Option<&'c Candidate> {
        let usable = |c: &Candidate| !c.link.is_draining() && !c.link.is_full();
        let (a, b) = match all {
            [] => return None,
            [one] => return Some(one).filter(|c| usable(c)),
            [_, _, ..] => {
                let a = self.random.below(all.len());
                let b = (a + 1 + self.random.below(all.len() - 1)) % all.len();
                (&all[a], &all[b])
            }
        };
        match (usable(a), usable(b)) {
            (true, true) => Some(if self.is_better(b, a) { b } else { a }),
            (true, false) => Some(a),
            (false, true) => Some(b),
            (false, false) => None,
        }
    }

    /// Whether `a` would be less loaded than `b`, each with one request more, for its capacity and share.
    fn is_better(&self, a: &Candidate, b: &Candidate) -> bool {
        let cost = |c: &Candidate, other: &Candidate| {
            u128::from(self.load(c)) * u128::from(self.weight(other))
        };
        cost(a, b) < cost(b, a)
    }

    fn load(&self, candidate: &Candidate) -> u64 {
        let requests = if self.long_poll {
            candidate.link.long_polls()
        } else {
            candidate.link.in_flight()
        };
        requests as u64 + 1
    }

    fn weight(&self, candidate: &Candidate) -> u64 {
        let share = |now| candidate.link.share(now, self.ramp);
        candidate.capacity * self.now.map_or(100, share)
    }
}
