//! The metric families, their handles and their text form.
//!
//! One [`Metrics`] per process is made by the composition and handed down. Handles that the request path touches are
//! made once per endpoint ([`EndpointMetrics`]); everything else is a public family or gauge of [`Families`]. A family
//! is declared once, in the list below, with its name and its help; the README's table is checked against it. Nothing here waits or does
//! I/O, but for the figures of our own process, which are read when the text is made.

mod endpoint;
mod labels;
mod own;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use endpoint::{EndpointMetrics, Finished, StatusClass};
pub use labels::{
    ByCertificate, ByDial, ByEndpoint, ByFailure, ByFetch, ByHandshake, ByIssuer, ByPeer, ByReason,
    ByReload, ByRole, ByStatus, ByVerification, Dial, Fetch, Handshake, Reload, Verification,
};
pub use own::LIST as PROCESS_LIST;

/// A family of counters.
pub type Counters<L> = Family<L, Counter>;
/// A family of gauges.
pub type Gauges<L> = Family<L, Gauge>;
/// A family of durations in seconds.
pub type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The start of every metric's name.
pub const PREFIX: &str = "opencmg";

macro_rules! families {
    ($($field:ident: $type:ty = $name:literal, $make:expr, $help:literal;)+) => {
        /// Every family of the process.
        #[derive(Debug)]
        pub struct Families {
            registry: Registry,
            endpoints: Mutex<HashMap<ByEndpoint, Arc<EndpointMetrics>>>,
            $(#[doc = $help] pub $field: $type,)+
        }

        impl Families {
            /// Name without prefix and suffix, and help, of every declared family.
            pub const LIST: &'static [(&'static str, &'static str)] = &[$(($name, $help),)+];

            fn new() -> Self {
                let mut registry = Registry::with_prefix(PREFIX);
                $(
                    let $field: $type = $make;
                    // The encoder ends the help with a full stop of its own.
                    registry.register($name, $help.trim_end_matches('.'), $field.clone());
                )+
                own::register(&mut registry);
                Self { registry, endpoints: Mutex::default(), $($field,)+ }
            }
        }
    };
}

families! {
    requests: Counters<ByStatus> = "requests", Family::default(), "Requests that ended, by endpoint and status class.";
    failures: Counters<ByFailure> = "request_failures", Family::default(), "Requests that were refused or failed, by endpoint and reason.";
    received_bytes: Counters<ByEndpoint> = "received_bytes", Family::default(), "Bytes of request bodies taken from clients, by endpoint.";
    sent_bytes: Counters<ByEndpoint> = "sent_bytes", Family::default(), "Bytes of response bodies passed to clients, by endpoint.";
    in_flight: Gauges<ByEndpoint> = "requests_in_flight", Family::default(), "Requests under way, by endpoint.";
    duration: Durations<ByEndpoint> = "request_duration_seconds", Family::new_with_constructor(endpoint::duration_histogram), "Time from a request's head to the end of its response, by endpoint.";
    retries: Counters<ByRole> = "request_retries", Family::default(), "Requests that were sent again on another tunnel, by role.";

    connections_open: Gauge = "connections_open", Gauge::default(), "Client connections open.";
    connections_accepted: Counter = "connections_accepted", Counter::default(), "Client connections accepted.";
    connections_refused: Counters<ByReason> = "connections_refused", Family::default(), "Client connections refused or closed by us, by reason.";
    handshakes: Counters<ByHandshake> = "handshakes", Family::default(), "TLS handshakes on all ports, by outcome.";
    handshake_failures: Counters<ByReason> = "handshake_failures", Family::default(), "TLS handshakes that failed, by reason.";

    verifications: Counters<ByVerification> = "certificate_verifications", Family::default(), "Client certificates looked at, by outcome.";
    verification_failures: Counters<ByReason> = "certificate_refusals", Family::default(), "Client certificates refused, by reason.";
    trust_generation: Gauge = "trust_generation", Gauge::default(), "The trust generation in force; it rises with every change of anchors, intermediates or CRLs.";
    trust_closed: Counters<ByReason> = "trust_closed_connections", Family::default(), "Live connections and tunnels closed since their chain stopped verifying, by reason.";
    trust_rechecked: Counter = "trust_rechecked_connections", Counter::default(), "Live connections and tunnels that were verified again, since what their chain rests on changed or its time came.";
    revocation_checked: Gauge = "revocation_checked", Gauge::default(), "Whether client certificates are checked against CRLs; 0 means that none is.";
    crl_made: Gauges<ByIssuer> = "crl_this_update_seconds", Family::default(), "When a CRL in force was made, in seconds since 1970-01-01 UTC, by issuer and key.";
    crl_due: Gauges<ByIssuer> = "crl_next_update_seconds", Family::default(), "When a CRL in force goes stale, in seconds since 1970-01-01 UTC, by issuer and key.";
    crl_entries: Gauges<ByIssuer> = "crl_entries", Family::default(), "How many certificates a CRL in force revokes, by issuer and key.";
    crl_fetches: Counters<ByFetch> = "crl_fetches", Family::default(), "Attempts to fetch a CRL, by outcome.";
    crl_fetches_failing: Family<ByIssuer, Gauge> = "crl_fetches_failing", Family::default(), "Places of CRLs of which the last attempt failed, by issuer and key; without a label where no list ever told.";
    certificate_expiry: Gauges<ByCertificate> = "certificate_expiry_seconds", Family::default(), "When a configured certificate ends, in seconds since 1970-01-01 UTC, by use and name.";
    expiry_alert: Gauges<ByCertificate> = "expiry_alert_days", Family::default(), "The last of 30, 14, 7 and 1 days before its end that a configured certificate has reached, by use and name; 0 once it, or a CRL, has ended. Absent before.";
    reloads: Counters<ByReload> = "reloads", Family::default(), "Reloads of the service definition or a configuration, by outcome.";

    tunnels: Gauges<ByPeer> = "tunnels", Family::default(), "Live tunnels, by the peer at the other end.";
    tunnel_streams: Gauges<ByPeer> = "tunnel_streams", Family::default(), "Streams open in tunnels, by the peer at the other end.";
    tunnel_received_bytes: Counters<ByPeer> = "tunnel_received_bytes", Family::default(), "Bytes received from tunnels, by the peer at the other end.";
    tunnel_sent_bytes: Counters<ByPeer> = "tunnel_sent_bytes", Family::default(), "Bytes sent to tunnels, by the peer at the other end.";
    tunnel_refusals: Counters<ByReason> = "tunnel_refusals", Family::default(), "Tunnels and published roles refused, by reason.";
    tunnel_ends: Counters<ByReason> = "tunnel_ends", Family::default(), "Tunnels that ended, by reason.";
    tunnel_dials: Counters<ByDial> = "tunnel_dials", Family::default(), "Attempts of a connection point to open a tunnel, by outcome.";

    backend_connections: Gauges<ByRole> = "backend_connections", Family::default(), "Connections open to a backend, by role.";
    backend_idle: Gauges<ByRole> = "backend_connections_idle", Family::default(), "Connections kept idle to a backend, by role.";
    backend_dials: Counters<ByRole> = "backend_dials", Family::default(), "Connections made to a backend, by role.";
    backend_failures: Counters<ByReason> = "backend_failures", Family::default(), "Requests that a backend or the way to it failed, by reason.";

    buffered_bytes: Gauge = "buffered_bytes", Gauge::default(), "Bytes of bodies received and not yet passed on.";
    buffer_budget_bytes: Gauge = "buffer_budget_bytes", Gauge::default(), "The budget for bytes received and not yet passed on.";
    access_log_lines: Counter = "access_log_lines", Counter::default(), "Lines written to the access log.";
    access_log_dropped: Counter = "access_log_dropped", Counter::default(), "Lines of the access log dropped since its queue was full or its file failed.";
    draining: Gauge = "draining", Gauge::default(), "Whether the role is draining.";
}

/// The metrics of one process. Clones are handles on the same families.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Families::new()))
    }
}

impl Metrics {
    /// Makes every family, empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// The OpenMetrics text of everything; its media type is [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 << 10);
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            // Writing to a string never fails; what a family itself reports as an error is no reason to show half a page.
            Err(_) => "# EOF\n".to_owned(),
        }
    }

    /// The handles of one endpoint, made at the first call; for the building of routes, not for the request path.
    ///
    /// `role` is the role's id. The set is bounded by the service definition, since nothing else names endpoints.
    pub fn endpoint(&self, role: impl ToString, endpoint: &str) -> Arc<EndpointMetrics> {
        let labels = ByEndpoint {
            role: role.to_string(),
            endpoint: endpoint.to_owned(),
        };
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let made = endpoints
            .entry(labels)
            .or_insert_with_key(|labels| Arc::new(EndpointMetrics::new(&self.0, labels)));
        Arc::clone(made)
    }

    /// The handles of requests that reached no endpoint: role and endpoint are `none`.
    pub fn unrouted(&self) -> Arc<EndpointMetrics> {
        self.endpoint("none", "none")
    }
}

impl Deref for Metrics {
    type Target = Families;
    fn deref(&self) -> &Families {
        &self.0
    }
}

#[cfg(test)]
mod tests;
