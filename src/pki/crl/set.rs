//! All lists in force, by the key that signed them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rustls_pki_types::UnixTime;

use super::{Crl, IssuerKey};
use crate::pki::Serial;

/// All lists in force: per issuer key and scope the newest. Immutable.
#[derive(Clone, Debug, Default)]
pub struct CrlSet {
    by_issuer: HashMap<IssuerKey, Vec<Arc<Crl>>>,
    /// Lists whose time has not come, of no force before.
    pending: Vec<Arc<Crl>>,
}

/// What the lists say of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A list that is in force does not have it.
    Good(Arc<Crl>),
    /// A list has it.
    Revoked(Arc<Crl>),
    /// A list that has gone stale does not have it.
    Stale(Arc<Crl>),
    /// No list speaks of it.
    Unknown,
}

impl CrlSet {
    /// Puts lists together. Of those of one issuer key and scope the one with the highest number stays; a list from the future
    /// is in force only in a set that is made when its time has come ([`CrlSet::is_due`]).
    pub fn new(crls: impl IntoIterator<Item = Arc<Crl>>, now: UnixTime) -> Self {
        let (come, pending): (Vec<_>, _) = crls.into_iter().partition(|crl| crl.has_come(now));
        let mut by_issuer: HashMap<IssuerKey, Vec<Arc<Crl>>> = HashMap::new();
        for crl in come {
            let of_issuer = by_issuer.entry(crl.issuer_key).or_default();
            match of_issuer.iter_mut().find(|other| other.scope == crl.scope) {
                Some(other) if crl.is_newer_than(other) => *other = crl,
                Some(_) => {}
                None => of_issuer.push(crl),
            }
        }
        Self { by_issuer, pending }
    }

    /// Whether the time of a list has come that was in the future: the set is to be made anew.
    pub fn is_due(&self, now: UnixTime) -> bool {
        self.pending.iter().any(|crl| crl.has_come(now))
    }

    /// The lists whose time had not come.
    pub fn pending(&self) -> &[Arc<Crl>] {
        &self.pending
    }

    /// What the lists of an issuer say of a certificate: `points` are the URLs of its distribution points.
    pub fn look_up(
        &self,
        issuer: IssuerKey,
        serial: &Serial,
        is_ca: bool,
        points: &[String],
        now: UnixTime,
    ) -> Listed {
        let of_issuer = self.by_issuer.get(&issuer).into_iter().flatten();
        let covering = of_issuer.filter(|crl| crl.scope.covers(is_ca, points));
        let mut best: Option<&Arc<Crl>> = None;
        for crl in covering {
            if crl.revokes(serial) {
                return Listed::Revoked(Arc::clone(crl));
            }
            if best.is_none_or(|best| best.next_update < crl.next_update) {
                best = Some(crl);
            }
        }
        match best {
            None => Listed::Unknown,
            Some(crl) if now <= crl.next_update => Listed::Good(Arc::clone(crl)),
            Some(crl) => Listed::Stale(Arc::clone(crl)),
        }
    }

    /// Whether an issuer has any list.
    pub fn has(&self, issuer: &IssuerKey) -> bool {
        self.by_issuer.contains_key(issuer)
    }

    /// The lists, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Crl>> {
        self.by_issuer.values().flatten()
    }

    /// The issuers whose lists are not the same in both sets.
    pub fn difference(&self, other: &Self) -> BTreeSet<IssuerKey> {
        let issuers = self.by_issuer.keys().chain(other.by_issuer.keys());
        let differs = |issuer: &&IssuerKey| self.prints(issuer) != other.prints(issuer);
        issuers.filter(differs).copied().collect()
    }

    fn prints(&self, issuer: &IssuerKey) -> BTreeSet<[u8; 32]> {
        let crls = self.by_issuer.get(issuer).into_iter().flatten();
        crls.map(|crl| crl.fingerprint).collect()
    }
}
