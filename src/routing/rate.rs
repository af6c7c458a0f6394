//! The rate per client address that fences endpoints which nobody authenticates.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::units::network_of;

/// How many seconds' worth of requests an address may send at once: a scan comes in a burst.
const BURST_SECONDS: u32 = 10;

/// The most addresses that are told apart; those above share one allowance.
const MAX_ADDRESSES: usize = 100_000;

/// A rate per address (per /64 for IPv6, which one household can fill).
#[derive(Debug)]
pub struct AddressRate {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
}

impl AddressRate {
    /// So many requests a second from each address; at least one.
    pub fn new(per_second: u32) -> Self {
        let rate = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        let burst = rate.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
        }
    }

    /// Takes one request from an address.
    ///
    /// # Errors
    /// The time to wait, if the address has used up its allowance.
    pub fn take(&self, address: IpAddr) -> Result<(), Duration> {
        if self.limiter.len() >= MAX_ADDRESSES {
            self.limiter.retain_recent();
        }
        let key = match self.limiter.len() >= MAX_ADDRESSES {
            true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            false => network_of(address),
        };
        self.limiter
            .check_key(&key)
            .map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_used_up_its_allowance_waits_and_others_do_not() {
        let rate = AddressRate::new(1);
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..BURST_SECONDS {
            assert_eq!(rate.take(address), Ok(()));
        }
        let wait = rate.take("::ffff:192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert_eq!(rate.take("192.0.2.2".parse().unwrap()), Ok(()));
    }

    #[test]
    fn addresses_of_one_64_network_share_an_allowance() {
        let rate = AddressRate::new(1);
        for host in 0..BURST_SECONDS {
            let address: IpAddr = format!("2001:db8::{host:x}").parse().unwrap();
            assert_eq!(rate.take(address), Ok(()));
        }
        assert!(rate.take("2001:db8::ffff".parse().unwrap()).is_err());
        assert!(rate.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }
}
