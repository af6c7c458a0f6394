//! The live connections, by number and by the keys that signed their chains.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;

use super::generation::Verified;
use super::live::Entry;
use crate::pki::IssuerKey;

/// A verified connection: its number, itself, and the chain as it was last verified.
pub(super) type Concerned = (u64, Arc<Entry>, Arc<Verified>);

/// The live connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: DashMap<u64, Arc<Entry>>,
    by_issuer: DashMap<IssuerKey, HashMap<u64, Arc<Entry>>>,
}

impl Connections {
    /// Takes a connection in, of which no chain is verified yet.
    pub(super) fn insert(&self, id: u64, entry: &Arc<Entry>) {
        self.all.insert(id, Arc::clone(entry));
    }

    /// Puts a connection where its chain belongs, and takes it from where the chain before did.
    pub(super) fn put(
        &self,
        id: u64,
        entry: &Arc<Entry>,
        before: Option<&Verified>,
        verified: &Verified,
    ) {
        let leaves = |of: &Verified, to: &Verified| {
            for issuer in of.issuers() {
                if to.issuers().all(|key| key != issuer) {
                    self.take_out(id, issuer);
                }
            }
        };
        for issuer in verified.issuers() {
            let mut of_issuer = self.by_issuer.entry(issuer).or_default();
            of_issuer.insert(id, Arc::clone(entry));
        }
        if let Some(before) = before {
            leaves(before, verified);
        }
        // Another chain may have been noted meanwhile, or the connection may have ended before it was here.
        if let Some(current) = entry.last_verified() {
            leaves(verified, &current);
        }
        if !self.all.contains_key(&id) {
            self.remove(id, Some(verified));
        }
    }

    /// Takes a connection out.
    pub(super) fn remove(&self, id: u64, verified: Option<&Verified>) {
        self.all.remove(&id);
        for issuer in verified.into_iter().flat_map(Verified::issuers) {
            self.take_out(id, issuer);
        }
    }

    fn take_out(&self, id: u64, issuer: IssuerKey) {
        let is_last = self.by_issuer.get_mut(&issuer).is_some_and(|mut left| {
            left.remove(&id);
            left.is_empty()
        });
        if is_last {
            self.by_issuer.remove_if(&issuer, |_, left| left.is_empty());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_issuer.is_empty()
    }

    /// The verified connections, taken out of the map first, so that none of its shards is held while certificates are
    /// verified.
    pub(super) fn verified(&self) -> Vec<Concerned> {
        let entry = |entry: dashmap::mapref::multiple::RefMulti<'_, u64, Arc<Entry>>| {
            let verified = entry.verified()?;
            Some((*entry.key(), Arc::clone(&entry), verified))
        };
        self.all.iter().filter_map(entry).collect()
    }

    /// The verified connections of whose chain this key signed a part.
    pub(super) fn of_issuer(&self, issuer: &IssuerKey) -> Vec<Concerned> {
        let Some(of_issuer) = self.by_issuer.get(issuer) else {
            return Vec::new();
        };
        let entry =
            |(id, entry): (&u64, &Arc<Entry>)| Some((*id, Arc::clone(entry), entry.verified()?));
        of_issuer.iter().filter_map(entry).collect()
    }
}
