//! One generation of trust: anchors, intermediates and CRLs, and the chains that were verified by them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Identity;
use crate::pki::{
    Anchors, CertificateDer, CertificateFault, Issued, IssuerKey, Path, Revocation, UnixTime, Usage,
};

/// A chain that verified. Every connection that presented it shares this.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) identity: Arc<Identity>,
    /// The last instant at which this holds by itself: a certificate of the chain ends then, or what is known of its status.
    pub(super) until: UnixTime,
    chain: Arc<Chain>,
}

/// What was verified.
#[derive(Debug)]
struct Chain {
    not_after: UnixTime,
    presented: Vec<Bytes>,
    /// The fingerprint of the path's anchor.
    anchor: String,
    issued: Vec<Issued>,
}

impl Chain {
    /// Whether just this was presented.
    fn is_of(&self, presented: &[CertificateDer<'_>]) -> bool {
        let same = |(own, other): (&Bytes, &CertificateDer<'_>)| **own == **other;
        self.presented.len() == presented.len() && self.presented.iter().zip(presented).all(same)
    }
}

impl Verified {
    fn new(presented: &[CertificateDer<'_>], path: Path) -> Self {
        let presented: Vec<_> = presented
            .iter()
            .map(|der| Bytes::copy_from_slice(der))
            .collect();
        let shared = |der: &CertificateDer<'_>| {
            let sent = presented.iter().find(|sent| ***sent == **der);
            sent.cloned().unwrap_or_else(|| Bytes::copy_from_slice(der))
        };
        let chain = path.certificates.iter().map(shared).collect();
        Self {
            identity: Arc::new(Identity::of(&path.leaf, chain)),
            until: path
                .until
                .map_or(path.not_after, |until| until.min(path.not_after)),
            chain: Arc::new(Chain {
                not_after: path.not_after,
                anchor: path.anchor,
                issued: path.issued,
                presented,
            }),
        }
    }

    /// The keys that signed the chain.
    pub(super) fn issuers(&self) -> impl Iterator<Item = IssuerKey> {
        self.chain.issued.iter().map(|issued| issued.issuer_key)
    }

    /// The same with another status.
    fn judged(&self, until: Option<UnixTime>) -> Self {
        let not_after = self.chain.not_after;
        Self {
            identity: Arc::clone(&self.identity),
            until: until.map_or(not_after, |until| until.min(not_after)),
            chain: Arc::clone(&self.chain),
        }
    }
}

/// What chains are verified by, and what was. Immutable, but for what is remembered.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) anchors: Anchors,
    pub(super) revocation: Revocation,
    usage: Usage,
    remembered: Mutex<Remembered>,
}

/// How a chain came to be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Remembered,
    Computed,
}

impl Generation {
    pub(super) fn new(
        number: u64,
        anchors: Anchors,
        revocation: Revocation,
        usage: Usage,
        capacity: usize,
    ) -> Self {
        Self {
            number,
            anchors,
            revocation,
            usage,
            remembered: Mutex::new(Remembered::new(capacity)),
        }
    }

    /// The next generation, in which only the CRLs of these issuers differ: chains of others stay remembered.
    pub(super) fn with_crls(&self, revocation: Revocation, changed: &BTreeSet<IssuerKey>) -> Self {
        Self {
            number: self.number + 1,
            anchors: self.anchors.clone(),
            revocation,
            usage: self.usage,
            remembered: Mutex::new(self.remembered().without(changed)),
        }
    }

    /// Verifies a chain, or remembers that it was. Failures are not remembered: they may mend by themselves when the
    /// time comes, and a peer could fill the memory with them.
    pub(super) fn verify(
        &self,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(Arc<Verified>, Found), CertificateFault> {
        let key = key_of(presented);
        let remembered = self.remembered().get(&key);
        let holds = |of: &Arc<Verified>| of.chain.is_of(presented) && now <= of.until;
        if let Some(verified) = remembered.filter(holds) {
            return Ok((verified, Found::Remembered));
        }
        let verified = self.verify_path(presented, now)?;
        Ok((verified, Found::Computed))
    }

    /// Verifies a chain whatever is remembered of it.
    fn verify_path(
        &self,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Verified>, CertificateFault> {
        let (usage, revocation) = (self.usage, &self.revocation);
        let path = self.anchors.verify(presented, usage, now, revocation)?;
        let verified = Arc::new(Verified::new(presented, path));
        let key = key_of(presented);
        self.remembered().put(key, Arc::clone(&verified));
        Ok(verified)
    }

    /// Verifies a chain that an earlier generation, or an earlier time, verified; in short if its path is whole here and
    /// its certificates are not revoked.
    pub(super) fn verify_again(
        &self,
        verified: &Arc<Verified>,
        now: UnixTime,
    ) -> Result<Arc<Verified>, CertificateFault> {
        let chain = &verified.chain;
        let presented: Vec<_> = chain
            .presented
            .iter()
            .map(|der| CertificateDer::from(&der[..]))
            .collect();
        let path = &verified.identity.chain;
        let holds = self
            .anchors
            .still_holds(&chain.anchor, path, &chain.presented);
        if holds
            && now <= chain.not_after
            && let Ok(until) = self.revocation.judge(&chain.issued, now).verdict
        {
            let verified = Arc::new(verified.judged(until));
            self.remembered()
                .put(key_of(&presented), Arc::clone(&verified));
            return Ok(verified);
        }
        self.verify_path(&presented, now)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

type Key = [u8; 32];

/// The end of the leaf, which is of the issuer's signature. It only finds: what was presented is to be compared. Of the chains
/// of one leaf, the last that verified is remembered.
fn key_of(presented: &[CertificateDer<'_>]) -> Key {
    let leaf = presented.first().and_then(|leaf| leaf.last_chunk());
    leaf.copied().unwrap_or_default()
}

/// A bounded memory in two halves: when the young one is full it becomes the old one, and what is used moves back.
#[derive(Debug)]
struct Remembered {
    capacity: usize,
    young: HashMap<Key, Arc<Verified>>,
    old: HashMap<Key, Arc<Verified>>,
}

impl Remembered {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// What is remembered, but for chains that one of these issuers signed.
    fn without(&self, issuers: &BTreeSet<IssuerKey>) -> Self {
        let kept = |half: &HashMap<Key, Arc<Verified>>| -> HashMap<_, _> {
            let stays = |verified: &Verified| !verified.issuers().any(|key| issuers.contains(&key));
            let kept = half.iter().filter(|(_, verified)| stays(verified));
            kept.map(|(key, verified)| (*key, Arc::clone(verified)))
                .collect()
        };
        Self {
            capacity: self.capacity,
            young: kept(&self.young),
            old: kept(&self.old),
        }
    }

    fn get(&mut self, key: &Key) -> Option<Arc<Verified>> {
        if let Some(found) = self.young.get(key) {
            return Some(Arc::clone(found));
        }
        let found = self.old.remove(key)?;
        self.put(*key, Arc::clone(&found));
        Some(found)
    }

    fn put(&mut self, key: Key, verified: Arc<Verified>) {
        if self.young.len() >= (self.capacity / 2).max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

#[cfg(test)]
mod tests;
