//! What a load has measured, as JSON and as text.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::{Mode, Plan, Protocol};
use super::tally::Tally;

/// The figures of a load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How connections and requests related.
    pub mode: &'static str,
    /// The version of HTTP.
    pub protocol: &'static str,
    /// Where requests went.
    pub url: String,
    /// Connections at once.
    pub connections: usize,
    /// Requests at once per connection.
    pub streams: usize,
    /// From the end of the warm-up to the end of the last request, or how long connections were held.
    pub seconds: f64,
    /// Requests counted that are over, well or not.
    pub requests: u64,
    /// Requests of the warm-up, which count nowhere else.
    pub warm_up_requests: u64,
    /// What failed, by kind.
    pub failures: BTreeMap<&'static str, u64>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests per second that were answered well.
    pub requests_per_second: f64,
    /// Bytes of the answers' bodies.
    pub received_bytes: u64,
    /// Bytes of the bodies of the requests that were answered.
    pub sent_bytes: u64,
    /// How long the requests took that were answered well.
    pub latency_us: Latency,
    /// Connections made, those of the warm-up included.
    pub connected: u64,
    /// How many of them had a resumed handshake.
    pub resumed: u64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// The shortest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// What 90 of 100 stayed within.
    pub p90: f64,
    /// What 99 of 100 stayed within.
    pub p99: f64,
    /// What 999 of 1000 stayed within.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

impl Report {
    pub(super) fn new(plan: &Plan, tally: &Tally, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let good = tally.latency.len();
        let rate = good as f64 / seconds;
        Self {
            mode: plan.mode.as_str(),
            protocol: match plan.protocol {
                Protocol::Http1 => "HTTP/1.1",
                Protocol::Http2 => "HTTP/2",
            },
            url: plan.target.uri.to_string(),
            connections: plan.connections,
            streams: plan.streams,
            seconds,
            requests: tally.requests,
            warm_up_requests: tally.warm_up,
            failures: tally
                .failures
                .iter()
                .map(|(fault, times)| (fault.as_str(), *times))
                .collect(),
            statuses: tally.statuses.clone(),
            requests_per_second: if rate.is_finite() { rate } else { 0.0 },
            received_bytes: tally.received,
            sent_bytes: tally.sent,
            latency_us: Latency::of(&tally.latency),
            connected: tally.connected,
            resumed: tally.resumed,
        }
    }

    /// How many requests were answered well.
    pub fn answered_well(&self) -> u64 {
        let answered: u64 = self.statuses.values().sum();
        answered - self.failures.get("status").copied().unwrap_or(0)
    }
}

impl Mode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Handshake => "handshake",
            Self::Resumed => "resumed",
            Self::Idle => "idle",
            Self::Poll => "poll",
        }
    }
}

impl Latency {
    fn of(latency: &Histogram<u64>) -> Self {
        let us = |nanoseconds: f64| (nanoseconds / 100.0).round() / 10.0;
        let at = |percentile: f64| us(latency.value_at_percentile(percentile) as f64);
        Self {
            min: us(latency.min() as f64),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p99_9: at(99.9),
            max: us(latency.max() as f64),
            mean: us(latency.mean()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = match self.streams {
            1 => String::new(),
            streams => format!(" of {streams} streams"),
        };
        writeln!(
            f,
            "{} over {}: {} connections{streams}, {:.2} s\n{}",
            self.mode, self.protocol, self.connections, self.seconds, self.url
        )?;
        writeln!(
            f,
            "requests     {} counted, {:.1} answered well per second",
            self.requests, self.requests_per_second
        )?;
        writeln!(f, "failures     {}", list(&self.failures))?;
        writeln!(f, "statuses     {}", list(&self.statuses))?;
        writeln!(
            f,
            "bodies       {} B received, {} B sent",
            self.received_bytes, self.sent_bytes
        )?;
        writeln!(
            f,
            "connections  {} made, {} resumed",
            self.connected, self.resumed
        )?;
        let took = &self.latency_us;
        write!(
            f,
            "latency      min {} µs, p50 {}, p90 {}, p99 {}, p99.9 {}, max {}, mean {}",
            took.min, took.p50, took.p90, took.p99, took.p99_9, took.max, took.mean
        )
    }
}

fn list<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<_> = counts
        .iter()
        .map(|(key, times)| format!("{key}: {times}"))
        .collect();
    words.join(", ")
}
