//! Who may connect: guards over the limits. Dropping a guard is the only way to give its place back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::Settings;
use crate::units::network_of;

/// The counts behind the limits.
#[derive(Debug)]
pub(super) struct Limits {
    handshakes: Places,
    connections: Places,
    per_address: usize,
    addresses: DashMap<IpAddr, usize>,
}

/// A number of places.
#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    all: usize,
}

/// One place of a number of places.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    of: fn(&Limits) -> &Places,
}

/// One connection of an address that has not proven who it is.
#[derive(Debug)]
pub struct AddressPlace {
    limits: Arc<Limits>,
    address: IpAddr,
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        let places = |all| Places {
            taken: AtomicUsize::new(0),
            all,
        };
        Arc::new(Self {
            handshakes: places(settings.handshakes),
            connections: places(settings.connections),
            per_address: settings.connections_per_address,
            addresses: DashMap::new(),
        })
    }

    /// A place among the handshakes, if one is free.
    pub(super) fn handshake(self: &Arc<Self>) -> Option<Place> {
        self.place(|limits| &limits.handshakes)
    }

    /// A place among the client connections, if one is free.
    pub(super) fn connection(self: &Arc<Self>) -> Option<Place> {
        self.place(|limits| &limits.connections)
    }

    /// A place for an address, if it has one left. The map is bounded by the other limits.
    pub(super) fn address(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let address = network_of(address);
        let mut taken = self.addresses.entry(address).or_insert(0);
        if *taken >= self.per_address {
            return None;
        }
        *taken += 1;
        Some(AddressPlace {
            limits: Arc::clone(self),
            address,
        })
    }

    fn place(self: &Arc<Self>, of: fn(&Self) -> &Places) -> Option<Place> {
        let places = of(self);
        let taken = places.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            limits: Arc::clone(self),
            of,
        };
        // The place is given back by its drop when it is one too many.
        (taken < places.all).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.of)(&self.limits)
            .taken
            .fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        self.limits
            .addresses
            .remove_if_mut(&self.address, |_, taken| {
                *taken -= 1;
                *taken == 0
            });
    }
}

#[cfg(test)]
mod tests {
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
        let first = limits.handshake();
        assert!(first.is_some());
        assert!(limits.handshake().is_none());
        assert!(limits.handshake().is_none());
        let connections = [limits.connection(), limits.connection()];
        assert!(connections.iter().all(Option::is_some));
        assert!(limits.connection().is_none());
        drop(first);
        assert!(limits.handshake().is_some());
    }

    #[test]
    fn each_address_has_places_of_its_own_and_none_is_remembered_without_one() {
        let limits = limits();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let taken = [limits.address(address), limits.address(address)];
        assert!(taken.iter().all(Option::is_some));
        assert!(
            limits
                .address("::ffff:192.0.2.1".parse().unwrap())
                .is_none()
        );
        assert!(limits.address("192.0.2.2".parse().unwrap()).is_some());
        drop(taken);
        assert!(limits.addresses.is_empty());
    }
}
