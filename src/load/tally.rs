//! What was counted: one tally per thread, merged in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::connection::Answer;
use super::fault::Fault;

// In nanoseconds: an hour, at three digits.
const LONGEST: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

#[derive(Debug)]
pub(super) struct Tally {
    /// Requests counted that are over, well or not.
    pub(super) requests: u64,
    /// Requests over before anything was counted.
    pub(super) warm_up: u64,
    pub(super) failures: BTreeMap<Fault, u64>,
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Bytes of the answers' bodies.
    pub(super) received: u64,
    /// Bytes of the requests' bodies, of those that were answered.
    pub(super) sent: u64,
    /// In nanoseconds, of the requests that were answered well.
    pub(super) latency: Histogram<u64>,
    /// Connections that came up, at any time.
    pub(super) connected: u64,
    /// Those of them whose handshake was resumed.
    pub(super) resumed: u64,
    /// When the last counted request was over.
    pub(super) last: Option<Instant>,
}

impl Tally {
    pub(super) fn new() -> Result<Self, String> {
        let latency = Histogram::new_with_bounds(1, LONGEST, DIGITS);
        Ok(Self {
            requests: 0,
            warm_up: 0,
            failures: BTreeMap::new(),
            statuses: BTreeMap::new(),
            received: 0,
            sent: 0,
            latency: latency.map_err(|error| error.to_string())?,
            connected: 0,
            resumed: 0,
            last: None,
        })
    }

    /// Counts a request that is over.
    pub(super) fn request(
        &mut self,
        result: Result<Answer, Fault>,
        sent: u64,
        from: Instant,
        now: Instant,
    ) {
        self.requests += 1;
        self.last = Some(now);
        let answer = match result {
            Ok(answer) => answer,
            Err(fault) => return self.fail(fault, 1),
        };
        *self.statuses.entry(answer.status).or_default() += 1;
        self.received += answer.received;
        self.sent += sent;
        if answer.status >= 400 {
            return self.fail(Fault::Status, 1);
        }
        let nanoseconds = now.saturating_duration_since(from).as_nanos();
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(LONGEST);
        self.latency.saturating_record(nanoseconds);
    }

    pub(super) fn fail(&mut self, fault: Fault, times: u64) {
        if times > 0 {
            *self.failures.entry(fault).or_default() += times;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.warm_up += other.warm_up;
        for (fault, times) in &other.failures {
            self.fail(*fault, *times);
        }
        for (status, times) in &other.statuses {
            *self.statuses.entry(*status).or_default() += times;
        }
        self.received += other.received;
        self.sent += other.sent;
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.connected += other.connected;
        self.resumed += other.resumed;
        self.last = self.last.max(other.last);
    }

    /// The time between the beginning and the last request.
    pub(super) fn time_since(&self, from: Instant) -> Duration {
        self.last
            .map_or(Duration::ZERO, |last| last.saturating_duration_since(from))
    }
}
