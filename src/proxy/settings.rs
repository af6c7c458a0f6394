//! Limits and time-outs of serving requests.

use std::time::Duration;

use crate::message::body::Pace;
use crate::settings::Reader;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Limits and time-outs of serving requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The most requests under way at once in this process, long polls included.
    pub requests: usize,
    /// The largest request head, in bytes of names and values with four of framing for each field.
    pub head_size: usize,
    /// The most fields of a request head.
    pub head_fields: usize,
    /// The longest request target, in bytes of path and query.
    pub target_size: usize,
    /// How many requests a second one client may keep up, told by its certificate or else by its address; 0 is any number.
    pub client_rate: u32,
    /// The time from the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// How long a client connection may be without a request.
    pub idle_timeout: Duration,
    /// How slowly a client may send a body, and at what rate it must take an answer.
    pub body_pace: Pace,
    /// How long a client may take no byte of what it is sent.
    pub send_timeout: Duration,
    /// How long a WebSocket may be without a byte in either direction.
    pub websocket_idle: Duration,
    /// The age at which a client connection is wound up; each gets up to a tenth more, so that they do not come back
    /// all at once.
    pub max_age: Duration,
    /// The most streams at once on one HTTP/2 connection.
    pub streams: u32,
    /// How many bytes of one request body may wait in an HTTP/2 stream.
    pub stream_window: u32,
    /// How many bytes of request bodies may wait in one HTTP/2 connection.
    pub connection_window: u32,
    /// How long an idle HTTP/1.1 connection is kept when the drain has begun, since a request may be on its way.
    pub drain_idle: Duration,
    /// The mean of what a long poll is told to wait when the instance drains.
    pub drain_retry_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            requests: 50_000,           // a long poll of each client, and as many again
            head_size: 16 << 10,        // what http.sys takes
            head_fields: 90, // below the 100 at which the parser gives up with a bare answer
            target_size: 8 << 10, // RFC 9110 §4.1 asks for 8000 at least
            client_rate: 1_000, // an office without certificates behind one address; a scan in bursts of ten seconds' worth
            head_timeout: 30 * SECOND, // a mobile link with losses
            idle_timeout: 120 * SECOND, // IIS' own
            body_pace: Pace::default(),
            send_timeout: 5 * MINUTE, // a laptop that slept comes back on another address anyway
            websocket_idle: 10 * MINUTE, // several of the pings that servers send
            max_age: 24 * HOUR, // so that changes of addresses and certificates reach everyone within a day
            streams: 200,       // hyper's own; clients open a handful
            stream_window: 256 << 10, // 20 Mbit/s at 100 ms
            connection_window: 1 << 20, // the most that one connection can make us hold
            drain_idle: SECOND, // a client that is busy sends its next request within this time
            drain_retry_after: 5 * SECOND, // spread over ten seconds
        }
    }
}

impl Settings {
    /// Reads the keys of gateway.toml's `[proxy]` table.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        Self {
            requests: count(reader, "requests", default.requests, 1_000_000),
            head_size: size(
                reader,
                "head-size",
                default.head_size as u64,
                4 << 10..=64 << 10,
            ) as usize,
            head_fields: count(reader, "head-fields", default.head_fields, 400),
            target_size: size(
                reader,
                "target-size",
                default.target_size as u64,
                1 << 10..=32 << 10,
            ) as usize,
            client_rate: whole(reader, "client-rate", default.client_rate, 0..=1_000_000),
            head_timeout: time(reader, "head-timeout", default.head_timeout, HOUR),
            idle_timeout: time(reader, "idle-timeout", default.idle_timeout, HOUR),
            body_pace: Pace {
                grace: time(reader, "body-grace", default.body_pace.grace, HOUR),
                least_rate: size(
                    reader,
                    "body-least-rate",
                    default.body_pace.least_rate,
                    0..=1 << 20,
                )
                .into(),
            },
            send_timeout: time(reader, "send-timeout", default.send_timeout, 24 * HOUR),
            websocket_idle: time(reader, "websocket-idle", default.websocket_idle, 24 * HOUR),
            max_age: time(reader, "max-age", default.max_age, 30 * 24 * HOUR),
            streams: whole(reader, "streams", default.streams, 1..=10_000),
            stream_window: size(
                reader,
                "stream-window",
                default.stream_window.into(),
                64 << 10..=16 << 20,
            ),
            connection_window: size(
                reader,
                "connection-window",
                default.connection_window.into(),
                64 << 10..=64 << 20,
            ),
            drain_idle: default.drain_idle,
            drain_retry_after: default.drain_retry_after,
        }
    }
}

fn count(reader: &Reader<'_>, key: &'static str, default: usize, max: u64) -> usize {
    let value = reader.integer(key, default as u64, 1..=max);
    usize::try_from(value).unwrap_or(default)
}

fn whole(
    reader: &Reader<'_>,
    key: &'static str,
    default: u32,
    range: std::ops::RangeInclusive<u64>,
) -> u32 {
    u32::try_from(reader.integer(key, default.into(), range)).unwrap_or(default)
}

fn size(
    reader: &Reader<'_>,
    key: &'static str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> u32 {
    let value = reader.size(key, default, range);
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn time(reader: &Reader<'_>, key: &'static str, default: Duration, max: Duration) -> Duration {
    reader.duration(key, default, Duration::from_millis(100)..=max)
}
