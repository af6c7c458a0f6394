//! How many requests a second one client may keep up: by its certificate, else by its address.
//!
//! A client's connections share one allowance, which outlives them until it is full again: to connect anew wins
//! nothing. A request takes from it without a lock.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::identity::ClientCertificate;
use crate::units::network_of;

/// How many seconds' worth of requests a client may send at once: clients work in bursts.
const BURST: Duration = Duration::from_secs(10);

/// How many clients have an allowance of their own; those above share one.
const CLIENTS: usize = 200_000;

#[derive(Debug, PartialEq, Eq, Hash)]
enum Client {
    /// The fingerprint of a verified certificate.
    Certificate(Box<str>),
    /// The network of who has none.
    Address(IpAddr),
    /// Everyone above the limit.
    Others,
}

/// The allowances of all clients.
#[derive(Debug)]
pub(super) struct Clients {
    known: DashMap<Client, Arc<Allowance>>,
    /// The time that a request takes from an allowance, in microseconds; 0 if there is no limit.
    cost: u64,
    began: Instant,
    swept: AtomicU64,
}

/// What a client may still send: when it will be able to send a whole burst again, in microseconds.
#[derive(Debug, Default)]
struct Allowance(AtomicU64);

/// A client's hold on its allowance.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    allowance: Arc<Allowance>,
    cost: u64,
    began: Instant,
}

impl Clients {
    /// Allowances of so many requests a second; none are kept for 0.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            known: DashMap::new(),
            cost: 1_000_000_u64
                .checked_div(u64::from(per_second))
                .unwrap_or_default(),
            began: Instant::now(),
            swept: AtomicU64::new(0),
        }
    }

    /// The allowance of a client, if there is a limit.
    pub(super) fn of(&self, certificate: &ClientCertificate, address: IpAddr) -> Option<Allowed> {
        if self.cost == 0 {
            return None;
        }
        self.sweep();
        let client = match certificate {
            _ if self.known.len() >= CLIENTS => Client::Others,
            ClientCertificate::Verified(identity) => {
                Client::Certificate(identity.fingerprint.as_str().into())
            }
            ClientCertificate::Missing | ClientCertificate::Refused(_) => {
                Client::Address(network_of(address))
            }
        };
        let allowance = Arc::clone(&self.known.entry(client).or_default());
        Some(Allowed {
            allowance,
            cost: self.cost,
            began: self.began,
        })
    }

    /// Forgets, once in a burst's time, who has gone and could send a whole burst again.
    fn sweep(&self) {
        let now = micros(self.began.elapsed());
        let swept = self.swept.load(Ordering::Relaxed);
        let order = Ordering::Relaxed;
        if now < swept + micros(BURST)
            || self
                .swept
                .compare_exchange(swept, now, order, order)
                .is_err()
        {
            return;
        }
        self.known.retain(|_, allowance| {
            Arc::strong_count(allowance) > 1 || allowance.0.load(Ordering::Relaxed) > now
        });
    }
}

impl Allowed {
    /// Takes one request, which began at `now`.
    ///
    /// # Errors
    /// The time to wait, if the allowance is used up.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let now = micros(now.duration_since(self.began));
        let order = Ordering::Relaxed;
        let taken = self.allowance.0.fetch_update(order, order, |whole| {
            let whole = whole.max(now) + self.cost;
            (whole <= now + micros(BURST)).then_some(whole)
        });
        taken.map(drop).map_err(|whole| {
            let over = (whole + self.cost).saturating_sub(now + micros(BURST));
            Duration::from_micros(over)
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: ClientCertificate = ClientCertificate::Missing;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_keeps_up_its_rate_and_no_more_whatever_it_connects() {
        let clients = Clients::new(10);
        let first = clients.of(&NONE, address("192.0.2.1")).unwrap();
        for _ in 0..100 {
            assert_eq!(first.take(Instant::now()), Ok(()));
        }
        let tenth = Duration::from_millis(100);
        assert_eq!(first.take(Instant::now()), Err(tenth));
        drop(first);
        let again = clients.of(&NONE, address("192.0.2.1")).unwrap();
        assert_eq!(again.take(Instant::now()), Err(tenth));
        let other = clients.of(&NONE, address("192.0.2.2")).unwrap();
        assert_eq!(other.take(Instant::now()), Ok(()));
        for _ in 0..20 {
            tokio::time::advance(tenth).await;
            assert_eq!(again.take(Instant::now()), Ok(()));
        }
        assert!(again.take(Instant::now()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_is_forgotten_once_nothing_is_owed() {
        let clients = Clients::new(10);
        let gone = clients.of(&NONE, address("192.0.2.1")).unwrap();
        let held = clients.of(&NONE, address("192.0.2.2")).unwrap();
        assert_eq!(gone.take(Instant::now()), Ok(()));
        drop(gone);
        tokio::time::advance(BURST).await;
        clients.sweep();
        assert_eq!(clients.known.len(), 1);
        drop(held);
        assert!(Clients::new(0).of(&NONE, address("192.0.2.1")).is_none());
    }
}
