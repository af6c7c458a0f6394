//! Standing conditions that an administrator should see before they hurt: so far what expires.
//!
//! [`Expiring`] is one thing that expires, with what breaks then. [`Expiry`] is told of all of them from time to time; it
//! logs each once per threshold, and shows those past one as metric and in the status until they are renewed. Reads no
//! date and no file. Rank 4.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::metrics::{ByCertificate, Metrics};
use crate::pki::{Certificate, CertificateDer, Crl, UnixTime, print_time};

const DAY: u64 = 86_400;

/// The nearest threshold is a day.
const LOOK: Duration = Duration::from_secs(3600);

/// Looks at what expires, now and every hour. Never returns.
pub async fn watch(look: impl Fn()) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look();
    }
}

/// What something that expires is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The certificate that a gateway shows, or one of its chain.
    Server,
    /// A trust anchor of the clients.
    TrustAnchor,
    /// An intermediate of the clients.
    Intermediate,
    /// A CA that connection points chain to.
    ConnectionPointCa,
    /// The certificate that a connection point shows to gateways, or one of its chain.
    ConnectionPoint,
    /// A CA that a connection point verifies gateways by.
    GatewayCa,
    /// The certificate that a connection point shows to a backend, or one of its chain.
    BackendClient,
    /// A CA that a connection point verifies a backend by.
    BackendCa,
    /// A list of revoked certificates.
    Crl,
}

impl Use {
    /// The label in metrics and in the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::TrustAnchor => "trust-anchor",
            Self::Intermediate => "intermediate",
            Self::ConnectionPointCa => "connection-point-ca",
            Self::ConnectionPoint => "connection-point",
            Self::GatewayCa => "gateway-ca",
            Self::BackendClient => "backend-client",
            Self::BackendCa => "backend-ca",
            Self::Crl => "crl",
        }
    }

    /// What breaks when it ends.
    pub fn breaks(self) -> &'static str {
        match self {
            Self::Server => "clients and connection points refuse the gateway",
            Self::TrustAnchor => "every client below it is refused",
            Self::Intermediate => "clients that send no other path are refused",
            Self::ConnectionPointCa => "connection points below it lose their tunnels",
            Self::ConnectionPoint => "gateways refuse this connection point",
            Self::GatewayCa => "gateways below it are refused",
            Self::BackendClient => "the backend refuses this connection point",
            Self::BackendCa => "backends below it are refused",
            Self::Crl => "it is stale: the revocation policy decides over the clients of its CA",
        }
    }

    /// Days before the end at which it is told, falling; 0 is the end itself. A CRL is renewed in its last days as a rule, so
    /// that only its end is of note.
    fn thresholds(self) -> &'static [u64] {
        match self {
            Self::Crl => &[0],
            Self::Server
            | Self::TrustAnchor
            | Self::Intermediate
            | Self::ConnectionPointCa
            | Self::ConnectionPoint
            | Self::GatewayCa
            | Self::BackendClient
            | Self::BackendCa => &[30, 14, 7, 1, 0],
        }
    }
}

/// One thing that expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// What it is for.
    pub r#use: Use,
    /// What to call it: a subject or an issuer, with its quotes; of a list, with its key.
    pub name: String,
    /// The last instant at which it is good.
    pub ends: UnixTime,
}

impl Expiring {
    /// Certificates of one use; those that cannot be parsed are left out.
    pub fn certificates(r#use: Use, ders: &[CertificateDer<'_>]) -> impl Iterator<Item = Self> {
        let facts = ders.iter().filter_map(|der| Certificate::parse(der).ok());
        facts.map(move |facts| Self {
            r#use,
            name: facts.title(),
            ends: facts.not_after,
        })
    }

    /// A list of revoked certificates. Its name has the key that signed it, since a CA that was renewed with a new key has
    /// two lists, of which each ends for itself.
    pub fn crl(crl: &Crl) -> Self {
        Self {
            r#use: Use::Crl,
            name: format!("\"{}\" (key {})", crl.issuer(), crl.issuer_key().short()),
            ends: crl.next_update(),
        }
    }

    /// Whole days until its end, rounded down; negative after it.
    pub fn days_left(&self, now: UnixTime) -> i64 {
        let whole = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
        match self.ends.as_secs().checked_sub(now.as_secs()) {
            Some(left) => whole(left),
            None => -1 - whole(now.as_secs() - self.ends.as_secs()),
        }
    }

    /// The last threshold that has been reached, in days; 0 after the end.
    pub fn reached(&self, now: UnixTime) -> Option<u64> {
        let has_ended = now > self.ends;
        let left = self.ends.as_secs().saturating_sub(now.as_secs());
        let is_reached = |days: &&u64| match **days {
            0 => has_ended,
            days => left <= days * DAY,
        };
        let mut thresholds = self.r#use.thresholds().iter();
        thresholds.rfind(is_reached).copied()
    }
}

/// Something that is past a threshold.
#[derive(Clone, Debug)]
struct Standing {
    ends: UnixTime,
    reached: u64,
    since: UnixTime,
}

type Key = (Use, String);

/// The alerts of what expires.
#[derive(Debug)]
pub struct Expiry {
    metrics: Metrics,
    standing: Mutex<BTreeMap<Key, Standing>>,
}

impl Expiry {
    /// Without any alert yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            standing: Mutex::default(),
        }
    }

    /// Looks at everything that expires, as it is now: logs what has reached a threshold and was not told of before, and what
    /// is well again; sets the metrics. Of several things of one use and name the one that ends first counts.
    pub fn look(&self, all: &[Expiring], now: UnixTime) {
        let mut first: BTreeMap<Key, &Expiring> = BTreeMap::new();
        for one in all {
            let known = first.entry((one.r#use, one.name.clone())).or_insert(one);
            if one.ends < known.ends {
                *known = one;
            }
        }
        let mut standing = self.lock();
        let gone = |key: &Key| first.get(key).is_none_or(|one| one.reached(now).is_none());
        standing.retain(|key, _| {
            let gone = gone(key);
            if gone {
                info!(
                    r#use = key.0.as_str(),
                    name = key.1,
                    "expires no time soon any more"
                );
            }
            !gone
        });
        self.metrics.certificate_expiry.clear();
        self.metrics.expiry_alert.clear();
        for (key, one) in first {
            let labels = ByCertificate {
                r#use: key.0.as_str().to_owned(),
                name: key.1.clone(),
            };
            if one.r#use != Use::Crl {
                let end = i64::try_from(one.ends.as_secs()).unwrap_or(i64::MAX);
                self.metrics
                    .certificate_expiry
                    .get_or_create(&labels)
                    .set(end);
            }
            let Some(reached) = one.reached(now) else {
                continue;
            };
            let value = i64::try_from(reached).unwrap_or(i64::MAX);
            self.metrics.expiry_alert.get_or_create(&labels).set(value);
            let before = standing.get(&key);
            let since = before.map_or(now, |before| before.since);
            if before.is_none_or(|before| before.reached != reached || before.ends != one.ends) {
                tell(one, reached, now);
            }
            let ends = one.ends;
            standing.insert(
                key,
                Standing {
                    ends,
                    reached,
                    since,
                },
            );
        }
    }

    /// What is past a threshold, for the status.
    pub fn view(&self) -> Value {
        let standing = self.lock();
        let view = |(key, one): (&Key, &Standing)| {
            json!({
                "alert": "expiring",
                "use": key.0.as_str(),
                "name": key.1,
                "ends": one.ends.as_secs(),
                "threshold_days": one.reached,
                "since": one.since.as_secs(),
                "breaks": key.0.breaks(),
            })
        };
        standing.iter().map(view).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Standing>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(one: &Expiring, reached: u64, now: UnixTime) {
    let (r#use, name, ends) = (one.r#use.as_str(), &one.name, print_time(one.ends));
    let (days, breaks) = (one.days_left(now), one.r#use.breaks());
    match reached {
        0 => error!(r#use, name, ends, breaks, "has expired"),
        1 => error!(r#use, name, ends, days, breaks, "expires within a day"),
        _ => warn!(r#use, name, ends, days, breaks, "expires soon"),
    }
}

#[cfg(test)]
mod tests;
