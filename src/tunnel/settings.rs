//! Settings of both ends of a tunnel, with their defaults and ranges.

use std::time::Duration;

use crate::settings::Reader;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// What both ends have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// After this long without a received byte, a PING is sent.
    pub silence: Duration,
    /// After this long without an answer to it, the tunnel is dead.
    pub answer: Duration,
    /// The window of one stream, bytes.
    pub stream_window: u32,
    /// How many streams the peer may have open at once.
    pub streams: u32,
    /// The largest header list that is taken, bytes as HTTP/2 counts them (RFC 9113 §6.5.2).
    pub header_list: u32,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            silence: 5 * SECOND, // a dead path is found in 10 s, well within a client's patience
            answer: 5 * SECOND,  // a round trip never takes so long
            stream_window: 256 << 10, // 20 Mbit/s per stream at 100 ms
            streams: 16_384,     // every client holds a long poll open
            header_list: 64 << 10, // the client leg takes 16 KiB, certificate fields come on top
        }
    }
}

impl Wire {
    /// Reads the keys of a `[tunnel]` table.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        Self {
            silence: reader.duration("silence", default.silence, SECOND..=60 * SECOND),
            answer: reader.duration("ping-answer", default.answer, SECOND..=60 * SECOND),
            ..default
        }
    }
}

/// Settings of the budget of bytes that one process has received through tunnels and not yet passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// How many bytes may wait for slow clients or backends, over all tunnels.
    pub bytes: u64,
    /// A stream without progress for this long may be reset when memory is short.
    pub stalled_after: Duration,
    /// What a request body that waits takes besides its bytes on either side of a tunnel: records in TLS, the buffers of
    /// HTTP, and what they leave unused.
    pub upload_overhead: usize,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,          // the composition passes a quarter of the RAM
            stalled_after: 2 * SECOND, // who moves is never cut off
            upload_overhead: 64 << 10, // as measured with 2,000
        }
    }
}

impl BudgetSettings {
    /// Reads `buffered-bytes`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        Self {
            bytes: reader.size("buffered-bytes", default.bytes, (1 << 20)..=(1 << 40)),
            ..default
        }
    }
}

/// Settings of a gateway instance's registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySettings {
    /// What both ends have in common.
    pub wire: Wire,
    /// How many tunnels an instance takes from one connection point.
    pub tunnels_per_connection_point: usize,
    /// How long a fresh connection point takes less than its share.
    pub slow_start: Duration,
    /// How long a body announced with `Expect: 100-continue` waits for the backend's 100.
    pub continue_wait: Duration,
    /// What a refused connection point is told to wait when the instance drains.
    pub retry_after: Duration,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            wire: Wire::default(),
            tunnels_per_connection_point: 8, // 2, twice that while they are replaced, and dead ones not yet found out
            slow_start: 10 * SECOND,         // caches and pools of a restarted process fill
            continue_wait: SECOND,           // RFC 9110 §10.1.1: a client must not wait without end
            retry_after: 2 * SECOND, // the next run of the instance may be there as soon as this
        }
    }
}

impl RegistrySettings {
    /// Reads the keys of gateway.toml's `[tunnel]` table.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        Self {
            wire: Wire::read(reader),
            tunnels_per_connection_point: usize::try_from(reader.integer(
                "tunnels-per-connection-point",
                default.tunnels_per_connection_point as u64,
                2..=256,
            ))
            .unwrap_or(default.tunnels_per_connection_point),
            slow_start: reader.duration(
                "slow-start",
                default.slow_start,
                Duration::ZERO..=600 * SECOND,
            ),
            ..default
        }
    }
}

/// Settings of a connection point's tunnels to one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorSettings {
    /// The gateway's name in logs and metrics.
    pub gateway: String,
    /// Where to dial, each as `host:port`; handed to the dialling closure as they are.
    pub addresses: Vec<String>,
    /// What both ends have in common.
    pub wire: Wire,
    /// How many tunnels are kept to every live instance.
    pub tunnels: usize,
    /// How many dials a second at most.
    pub dials_per_second: u32,
    /// How long one dial with its handshakes may take.
    pub dial_timeout: Duration,
    /// The first pause before a reconnect; each pause is random between zero and a bound that doubles.
    pub reconnect_min: Duration,
    /// The largest bound of a pause.
    pub reconnect_max: Duration,
    /// The bound of a pause after a permanent refusal.
    pub refused_pause: Duration,
    /// A tunnel that lived this long resets the pause.
    pub stable_after: Duration,
    /// After this age, shortened by up to a tenth at random, a tunnel is replaced.
    pub max_age: Duration,
}

impl Default for SupervisorSettings {
    fn default() -> Self {
        Self {
            gateway: String::new(),
            addresses: Vec::new(),
            wire: Wire::default(),
            tunnels: 2, // one HTTP/2 connection is one mutex; two survive the loss of one
            dials_per_second: 4, // a herd of connection points stays harmless
            dial_timeout: 10 * SECOND, // TCP, proxy and TLS over a slow line
            reconnect_min: Duration::from_millis(200), // a cut is mended before a client notices
            reconnect_max: 30 * SECOND, // an instance that comes back is found within half a minute
            refused_pause: 300 * SECOND, // only an administrator can mend it
            stable_after: 60 * SECOND, // longer than any start that then fails
            max_age: 24 * HOUR, // keys and middleboxes are renewed daily
        }
    }
}

impl SupervisorSettings {
    /// Reads the keys of connection-point.toml's `[tunnel]` table; gateway and addresses are the caller's.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        Self {
            wire: Wire::read(reader),
            tunnels: usize::try_from(reader.integer("tunnels", default.tunnels as u64, 1..=16))
                .unwrap_or(default.tunnels),
            dial_timeout: reader.duration(
                "dial-timeout",
                default.dial_timeout,
                SECOND..=60 * SECOND,
            ),
            reconnect_max: reader.duration(
                "reconnect-max",
                default.reconnect_max,
                SECOND..=600 * SECOND,
            ),
            max_age: reader.duration("max-age", default.max_age, 60 * SECOND..=24 * 30 * HOUR),
            ..default
        }
    }
}
