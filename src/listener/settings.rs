//! Limits and time-outs of accepting connections.

use std::net::IpAddr;
use std::time::Duration;

use crate::settings::Reader;

const SECOND: Duration = Duration::from_secs(1);

/// A network in CIDR notation; a single address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: u128,
    mask: u128,
}

impl Network {
    /// Parses `192.0.2.0/24`, `2001:db8::/32` or a single address; no bit may be set beyond the prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (address, before): (_, u32) = match address.parse().ok()? {
            IpAddr::V4(address) => (IpAddr::V6(address.to_ipv6_mapped()), 96),
            IpAddr::V6(address) => (IpAddr::V6(address), 0),
        };
        let length = length.unwrap_or(128 - before);
        let host = 128_u32.checked_sub(before + length)?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        let address = number_of(address);
        (address & !mask == 0).then_some(Self { address, mask })
    }

    /// Whether an address lies in the network; an IPv4-mapped address is its IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        number_of(address) & self.mask == self.address
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// Limits and time-outs of accepting connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most client connections at once, counted after their handshake, so that clients never keep tunnels out.
    pub connections: usize,
    /// The most connections at once that have not finished their handshake.
    pub handshakes: usize,
    /// The most connections at once from one address that are in their handshake or have no verified certificate.
    pub connections_per_address: usize,
    /// The time from accepting a connection to the end of its handshake, a PROXY header included.
    pub handshake_timeout: Duration,
    /// Sources whose connections begin with a PROXY protocol v2 header; others' never do.
    pub proxy_protocol_from: Vec<Network>,
    /// How long connections are still accepted when the drain has begun.
    pub accept_while_draining: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 20_000,          // twice what the original's largest machine serves
            handshakes: 2_000, // some seconds' worth of full handshakes on a small machine
            connections_per_address: 200, // an office behind one address; PKI clients do not count
            handshake_timeout: 10 * SECOND, // a mobile link with losses
            proxy_protocol_from: Vec::new(),
            // A load balancer needs time to see the health check fail; without one, nobody comes.
            accept_while_draining: Duration::ZERO,
        }
    }
}

impl Settings {
    /// Reads the keys of gateway.toml's `[listener]` table.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let count = |key, default: usize, max| {
            let value = reader.integer(key, default as u64, 1..=max);
            usize::try_from(value).unwrap_or(default)
        };
        Self {
            connections: count("connections", default.connections, 1_000_000),
            handshakes: count("handshakes", default.handshakes, 100_000),
            connections_per_address: count(
                "connections-per-address",
                default.connections_per_address,
                1_000_000,
            ),
            handshake_timeout: reader.duration(
                "handshake-timeout",
                default.handshake_timeout,
                SECOND..=120 * SECOND,
            ),
            proxy_protocol_from: reader.parsed_list(
                "proxy-protocol-from",
                "an address or a network such as \"10.0.0.0/8\"",
                Network::parse,
            ),
            accept_while_draining: reader.duration(
                "accept-while-draining",
                default.accept_while_draining,
                Duration::ZERO..=600 * SECOND,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let contains = |network: &str, address: &str| {
            let network = Network::parse(network).unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("2001:db8::/32", "2001:db8:1::1"));
        assert!(contains("0.0.0.0/0", "192.0.2.1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "2001:db8::1"));
        for wrong in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::/129",
            "a/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
