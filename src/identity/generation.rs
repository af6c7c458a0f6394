//! One generation of trust: a set of anchors, and the chains that were verified by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Identity;
use crate::pki::{Anchors, CertificateDer, CertificateFault, Path, UnixTime, Usage};

/// A chain that verified. Every connection that presented it shares this.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) identity: Arc<Identity>,
    pub(super) not_after: UnixTime,
    presented: Vec<Bytes>,
    /// The fingerprint of the path's anchor.
    anchor: String,
}

impl Verified {
    fn new(presented: &[CertificateDer<'_>], path: &Path) -> Self {
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
            not_after: path.not_after,
            anchor: path.anchor.clone(),
            presented,
        }
    }
}

/// Anchors and what they verified. Immutable, but for what is remembered.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) anchors: Anchors,
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
    pub(super) fn new(number: u64, anchors: Anchors, usage: Usage, capacity: usize) -> Self {
        Self {
            number,
            anchors,
            usage,
            remembered: Mutex::new(Remembered::new(capacity)),
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
        if let Some(verified) = remembered.filter(|verified| now <= verified.not_after) {
            return Ok((verified, Found::Remembered));
        }
        let path = self.anchors.verify(presented, self.usage, now)?;
        let verified = Arc::new(Verified::new(presented, &path));
        self.remembered().put(key, Arc::clone(&verified));
        Ok((verified, Found::Computed))
    }

    /// Verifies a chain that an earlier generation, or an earlier time, verified; in short if its path is whole here.
    pub(super) fn verify_again(
        &self,
        verified: &Arc<Verified>,
        now: UnixTime,
    ) -> Result<Arc<Verified>, CertificateFault> {
        let presented: Vec<_> = verified
            .presented
            .iter()
            .map(|der| CertificateDer::from(&der[..]))
            .collect();
        let chain = &verified.identity.chain;
        let whole = self
            .anchors
            .still_holds(&verified.anchor, chain, &verified.presented);
        if whole && now <= verified.not_after {
            self.remembered()
                .put(key_of(&presented), Arc::clone(verified));
            return Ok(Arc::clone(verified));
        }
        self.verify(&presented, now).map(|(verified, _)| verified)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

type Key = [u8; 32];

/// A hash over everything presented, each certificate with its length.
fn key_of(presented: &[CertificateDer<'_>]) -> Key {
    let mut hash = Sha256::new();
    for certificate in presented {
        hash.update(certificate.len().to_be_bytes());
        hash.update(certificate);
    }
    hash.finalize().into()
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
