//! Who may connect: guards over the limits. Dropping a guard is the only way to give its place back.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Settings;
use crate::units::network_of;

/// How many connections may wait for others of their address, for each handshake that may be under way: a storm that
/// comes from one address, as through a load balancer, has to be absorbed, and who waits costs a descriptor.
const WAITING: usize = 4;

/// The counts behind the limits.
#[derive(Debug)]
pub(super) struct Limits {
    handshakes: Arc<Semaphore>,
    /// Those whose address has its share of handshakes under way.
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    per_address: usize,
    addresses: DashMap<IpAddr, Address>,
}

/// What one address has at once.
#[derive(Debug)]
struct Address {
    handshakes: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    /// Who holds one of these or waits for it.
    guests: usize,
}

/// One place of a number of places.
pub(super) type Place = OwnedSemaphorePermit;

/// A handshake of an address, which waits for its turn and has it.
#[derive(Debug)]
pub(super) struct Turn {
    guest: Guest,
    handshakes: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    has: Option<Place>,
}

/// One connection of an address that has not proven who it is.
#[derive(Debug)]
pub struct AddressPlace {
    _place: Place,
    _guest: Guest,
}

/// Keeps an address among those that are known.
#[derive(Debug)]
struct Guest {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            handshakes: places(settings.handshakes),
            waiting: places(settings.handshakes * WAITING),
            connections: places(settings.connections),
            per_address: settings.connections_per_address,
            addresses: DashMap::new(),
        })
    }

    /// A place among the handshakes, once one is free.
    ///
    /// # Cancel safety
    /// Whoever stops waiting loses its turn.
    pub(super) async fn handshake(&self) -> Option<Place> {
        Arc::clone(&self.handshakes).acquire_owned().await.ok()
    }

    /// A place among the client connections, if one is free.
    pub(super) fn connection(&self) -> Option<Place> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// The turn of a handshake of an address. The map is bounded by the other limits.
    pub(super) fn turn(self: &Arc<Self>, address: IpAddr) -> Turn {
        let address = network_of(address);
        let mut entry = self.addresses.entry(address).or_insert_with(|| Address {
            handshakes: places(self.per_address),
            unproven: places(self.per_address),
            guests: 0,
        });
        entry.guests += 1;
        Turn {
            handshakes: Arc::clone(&entry.handshakes),
            unproven: Arc::clone(&entry.unproven),
            guest: Guest {
                limits: Arc::clone(self),
                address,
            },
            has: None,
        }
    }
}

impl Turn {
    /// Waits until fewer handshakes of the address are under way than it may have at once. It gives up its place among
    /// the handshakes meanwhile, so that one address keeps nobody else out. `None` if too many wait.
    pub(super) async fn comes(&mut self, place: Option<Place>) -> Option<Option<Place>> {
        let handshakes = &self.handshakes;
        self.has = Arc::clone(handshakes).try_acquire_owned().ok();
        if self.has.is_some() {
            return Some(place);
        }
        drop(place);
        let limits = &self.guest.limits;
        let _waiting = Arc::clone(&limits.waiting).try_acquire_owned().ok()?;
        self.has = Arc::clone(handshakes).acquire_owned().await.ok();
        Some(limits.handshake().await)
    }

    /// The handshake is over: a place for an unproven connection, if the address has one left.
    pub(super) fn end(self) -> Option<AddressPlace> {
        let place = self.unproven.try_acquire_owned().ok()?;
        Some(AddressPlace {
            _place: place,
            _guest: self.guest,
        })
    }
}

fn places(number: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)))
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.limits
            .addresses
            .remove_if_mut(&self.address, |_, address| {
                address.guests -= 1;
                address.guests == 0
            });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn limits() -> Arc<Limits> {
        Limits::new(&Settings {
            handshakes: 1,
            connections: 2,
            connections_per_address: 2,
            ..Settings::default()
        })
    }

    #[test]
    fn a_place_comes_back_when_its_guard_is_dropped() {
        let limits = limits();
        let first = limits.handshake().now_or_never();
        assert!(first.is_some());
        let waiting = limits.handshake();
        assert!(waiting.now_or_never().is_none());
        let connections = [limits.connection(), limits.connection()];
        assert!(connections.iter().all(Option::is_some));
        assert!(limits.connection().is_none());
        drop(first);
        assert!(limits.handshake().now_or_never().is_some());
    }

    #[test]
    fn one_address_keeps_nobody_out_with_what_waits() {
        let limits = limits();
        let turns: Vec<_> = (0..2).map(|_| turn(&limits, "192.0.2.1")).collect();
        assert!(turns.iter().all(|(_, came)| *came));
        let mut waiting: Vec<_> = (0..=WAITING)
            .map(|_| limits.turn("192.0.2.1".parse().unwrap()))
            .collect();
        let mut last = waiting.pop().unwrap();
        let mut all: Vec<_> = waiting
            .iter_mut()
            .map(|turn| Box::pin(turn.comes(None)))
            .collect();
        for one in &mut all {
            assert!(one.as_mut().now_or_never().is_none(), "it waits");
        }
        assert!(last.comes(None).now_or_never().unwrap().is_none());
        assert!(turn(&limits, "192.0.2.2").1);
        drop(turns);
        let came = all[0].as_mut().now_or_never();
        assert!(came.flatten().flatten().is_some());
    }

    fn turn(limits: &Arc<Limits>, address: &str) -> (Turn, bool) {
        let mut turn = limits.turn(address.parse().unwrap());
        let came = turn.comes(None).now_or_never();
        (turn, came.is_some())
    }

    #[test]
    fn each_address_has_places_of_its_own_and_none_is_remembered_without_one() {
        let limits = limits();
        let (one, came) = turn(&limits, "192.0.2.1");
        assert!(came);
        let (two, came) = turn(&limits, "192.0.2.1");
        assert!(came);
        assert!(!turn(&limits, "::ffff:192.0.2.1").1, "it waits");
        assert!(turn(&limits, "192.0.2.2").1);
        let unproven = [one.end(), two.end()];
        assert!(unproven.iter().all(Option::is_some));
        // Those with a certificate still have their turn.
        let (three, came) = turn(&limits, "192.0.2.1");
        assert!(came);
        assert!(three.end().is_none());
        drop(unproven);
        assert!(limits.addresses.is_empty());
    }
}
