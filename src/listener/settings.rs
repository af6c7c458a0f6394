//! Limits and time-outs of accepting connections.

use std::time::Duration;

use crate::settings::Reader;
use crate::units::Network;

const SECOND: Duration = Duration::from_secs(1);

/// Limits and time-outs of accepting connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most client connections at once, counted after their handshake, so that clients never keep tunnels out.
    pub connections: usize,
    /// The most connections at once that have not finished their handshake; more wait in the kernel's queue.
    pub handshakes: usize,
    /// The most connections at once from one address that have no verified certificate, and the most that are in their
    /// handshake; more of those wait.
    pub connections_per_address: usize,
    /// The time of a handshake, and the time of what comes before it: a PROXY header and its turn.
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
