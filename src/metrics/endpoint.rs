//! The handles of one endpoint: what the request path touches, without a map or a lock of ours.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{ByEndpoint, ByFailure, ByStatus, Counters, Families};
use crate::reason::Reason;

// From a refusal that costs nothing to a download that takes minutes; long polls end beyond the last.
const DURATION_BUCKETS_S: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0,
];

/// The class of a response's status, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatusClass {
    /// 1xx that ended an exchange.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirection,
    /// 4xx.
    ClientError,
    /// 5xx and beyond.
    ServerError,
    /// The exchange ended before a response head was sent.
    Unanswered,
}

impl StatusClass {
    /// Every class, in the order of their indices.
    pub const ALL: [Self; 6] = [
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
        Self::Unanswered,
    ];

    /// The class of a status code; `None` means that no response head was sent.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::Unanswered,
            Some(..200) => Self::Informational,
            Some(200..300) => Self::Success,
            Some(300..400) => Self::Redirection,
            Some(400..500) => Self::ClientError,
            Some(500..) => Self::ServerError,
        }
    }

    /// The label: `2xx`, or `none` for [`StatusClass::Unanswered`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Unanswered => "none",
        }
    }
}

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The status that was sent; `None` if no response head was.
    pub status: Option<u16>,
    /// Why it was refused or failed, if it was.
    pub reason: Option<Reason>,
    /// From the request's head to the end of the response.
    pub duration: Duration,
}

/// The handles of one endpoint, for the request path.
///
/// Bytes are counted while they pass; [`EndpointMetrics::begin`] and [`EndpointMetrics::finish`] come in pairs, the second
/// from the drop of a guard.
#[derive(Debug)]
pub struct EndpointMetrics {
    requests: [Counter; StatusClass::ALL.len()],
    failures: Vec<OnceLock<Counter>>,
    labels: ByEndpoint,
    failure_family: Counters<ByFailure>,
    /// Bytes of request bodies taken from clients.
    pub bytes_in: Counter,
    /// Bytes of response bodies passed to clients.
    pub bytes_out: Counter,
    /// Requests under way.
    pub in_flight: Gauge,
    /// Durations in seconds.
    pub duration: Histogram,
}

impl EndpointMetrics {
    pub(super) fn new(families: &Families, labels: &ByEndpoint) -> Self {
        let requests = StatusClass::ALL.map(|status| {
            families.requests.get_or_create_owned(&ByStatus {
                role: labels.role.clone(),
                endpoint: labels.endpoint.clone(),
                status,
            })
        });
        Self {
            requests,
            // A series per reason appears with its first failure: fifty of zero per endpoint would be noise.
            failures: Reason::ALL.iter().map(|_| OnceLock::new()).collect(),
            labels: labels.clone(),
            failure_family: families.failures.clone(),
            bytes_in: families.received_bytes.get_or_create_owned(labels),
            bytes_out: families.sent_bytes.get_or_create_owned(labels),
            in_flight: families.in_flight.get_or_create_owned(labels),
            duration: families.duration.get_or_create_owned(labels),
        }
    }

    /// Counts a request as under way.
    pub fn begin(&self) {
        self.in_flight.inc();
    }

    /// Counts a request that [`EndpointMetrics::begin`] counted as ended.
    pub fn finish(&self, finished: Finished) {
        self.in_flight.dec();
        self.requests(StatusClass::of(finished.status)).inc();
        if let Some(reason) = finished.reason {
            self.failures(reason).inc();
        }
        self.duration.observe(finished.duration.as_secs_f64());
    }

    /// The counter of requests that ended with a status of the class.
    pub fn requests(&self, class: StatusClass) -> &Counter {
        &self.requests[class as usize]
    }

    /// The counter of requests that failed for the reason.
    pub fn failures(&self, reason: Reason) -> &Counter {
        self.failures[reason as usize].get_or_init(|| {
            self.failure_family.get_or_create_owned(&ByFailure {
                role: self.labels.role.clone(),
                endpoint: self.labels.endpoint.clone(),
                reason,
            })
        })
    }
}

/// An empty histogram of durations.
pub(super) fn duration_histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS_S)
}
