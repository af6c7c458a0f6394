//! Trust in force, and the index of the connections that live under it.
//!
//! A connection registers *first* and compares its generation with the current one *afterwards*; a change puts the new
//! generation in force *first* and walks the index *afterwards*. So either the walk meets the connection verified, or
//! the connection meets the new generation: none slips through between the two.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::connections::{Concerned, Connections};
use super::generation::{Found, Generation, Verified};
use super::live::{Entry, Live};
use super::{ClientCertificate, Identity};
use crate::metrics::{ByReason, ByVerification, Metrics, Verification};
use crate::pki::{Anchors, CertificateDer, CertificateFault, CrlSet, Revocation, UnixTime, Usage};
use crate::reason::Reason;
use crate::settings::Reader;

/// What verifying may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many verified chains are remembered per generation.
    pub remembered_chains: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            remembered_chains: 10_000, // some 10 KiB each
        }
    }
}

impl Settings {
    /// Reads `remembered-chains`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default().remembered_chains;
        let chains = reader.integer("remembered-chains", default as u64, 2..=1_000_000);
        Self {
            remembered_chains: usize::try_from(chains).unwrap_or(default),
        }
    }
}

/// The trust of one use (clients, or connection points). Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Trust {
    index: Arc<Index>,
}

/// The current generation and the connections that were admitted.
#[derive(Debug)]
pub(super) struct Index {
    usage: Usage,
    settings: Settings,
    metrics: Metrics,
    current: ArcSwap<Generation>,
    /// Held while generations are changed, so that they follow each other.
    changing: Mutex<()>,
    connections: Connections,
    next_id: AtomicU64,
    /// The earliest end of any verdict in the index, in seconds since 1970, or earlier.
    next_end: AtomicU64,
}

impl Trust {
    /// Starts with a first generation without CRLs, and default settings.
    pub fn new(anchors: Anchors, usage: Usage, metrics: Metrics) -> Self {
        Self::with_settings(
            anchors,
            Revocation::off(),
            usage,
            metrics,
            Settings::default(),
        )
    }

    /// Starts with a first generation.
    pub fn with_settings(
        anchors: Anchors,
        revocation: Revocation,
        usage: Usage,
        metrics: Metrics,
        settings: Settings,
    ) -> Self {
        let capacity = settings.remembered_chains;
        let first = Generation::new(1, anchors, revocation, usage, capacity);
        let index = Index {
            usage,
            settings,
            metrics,
            current: ArcSwap::from_pointee(first),
            changing: Mutex::default(),
            connections: Connections::default(),
            next_id: AtomicU64::new(0),
            next_end: AtomicU64::new(u64::MAX),
        };
        index.show_generation(1);
        Self {
            index: Arc::new(index),
        }
    }

    /// Puts other anchors in force and keeps the CRLs; see [`Trust::replace_all`].
    pub fn replace(&self, anchors: Anchors) -> u64 {
        let revocation = self.index.current.load().revocation.clone();
        self.replace_all(anchors, revocation)
    }

    /// Puts a new generation in force, re-verifies every live connection and closes those that fail.
    ///
    /// Where a path is still whole, only its CRLs are looked at. Returns the number of the generation.
    /// With many connections this takes time in proportion; call it from a blocking task.
    pub fn replace_all(&self, anchors: Anchors, revocation: Revocation) -> u64 {
        let index = &self.index;
        let _changing = index
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = index.current.load().number + 1;
        let (usage, capacity) = (index.usage, index.settings.remembered_chains);
        let next = Generation::new(number, anchors, revocation, usage, capacity);
        let next = index.put_in_force(next);
        index.recheck_all(&next, index.connections.verified());
        number
    }

    /// Puts other CRLs in force, re-verifies the live connections whose issuers' CRLs differ and closes those that fail.
    ///
    /// Returns the number of the generation; the old one if nothing differs. Takes time in proportion to the connections
    /// concerned; call it from a blocking task.
    pub fn replace_crls(&self, crls: Arc<CrlSet>) -> u64 {
        let index = &self.index;
        let _changing = index
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let current = index.current.load_full();
        let before = current.revocation.crls();
        let changed = before.difference(&crls);
        if changed.is_empty() && before.pending() == crls.pending() {
            return current.number;
        }
        let revocation = current.revocation.with_crls(crls);
        let next = index.put_in_force(current.with_crls(revocation, &changed));
        let mut seen = HashSet::new();
        for issuer in changed {
            let mut concerned = index.connections.of_issuer(&issuer);
            concerned.retain(|(id, ..)| seen.insert(*id));
            index.recheck_all(&next, concerned);
        }
        next.number
    }

    /// Verifies what a peer presented, leaf first, by the current generation. Successes are remembered.
    ///
    /// # Errors
    /// The certificate at fault and the reason.
    pub fn verify(
        &self,
        presented: &[CertificateDer<'_>],
    ) -> Result<Arc<Identity>, CertificateFault> {
        let found = self.index.current.load().verify(presented, UnixTime::now());
        self.index.count(&found);
        found.map(|(verified, _)| Arc::clone(&verified.identity))
    }

    /// Verifies what a peer presented and watches over it as long as the returned [`Live`] is held.
    ///
    /// A connection whose chain does not verify is admitted too, as one without identity; only verified ones are ever
    /// closed.
    pub fn admit(&self, presented: &[CertificateDer<'_>]) -> Live {
        let index = &self.index;
        if presented.is_empty() {
            index.count_outcome(Verification::Missing);
            return Live::fixed(ClientCertificate::Missing);
        }
        let id = index.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::pending());
        index.connections.insert(id, &entry);
        let live = Live::indexed(Arc::clone(index), id, Arc::clone(&entry));
        loop {
            let generation = index.current.load_full();
            let found = generation.verify(presented, UnixTime::now());
            index.count(&found);
            match found {
                Ok((verified, _)) => index.note(id, &entry, verified),
                // Dropping the watch takes it out of the index again.
                Err(fault) => return Live::fixed(ClientCertificate::Refused(fault)),
            }
            if index.current.load().number == generation.number {
                return live;
            }
        }
    }

    /// The number of verified live connections.
    pub fn live(&self) -> usize {
        self.index.connections.len()
    }

    /// The number of the generation in force, from 1.
    pub fn generation(&self) -> u64 {
        self.index.current.load().number
    }

    /// The anchors in force.
    pub fn anchors(&self) -> Anchors {
        self.index.current.load().anchors.clone()
    }

    /// The CRLs and the policy in force.
    pub fn revocation(&self) -> Revocation {
        self.index.current.load().revocation.clone()
    }

    /// Re-verifies the connections whose verdict has ended before `now`, since a certificate, a CRL or a grace has, and
    /// closes those that fail. Cheap when none has;
    /// to be called every few seconds.
    pub fn recheck_expired(&self, now: UnixTime) {
        let index = &self.index;
        if now.as_secs() <= index.next_end.load(Ordering::SeqCst) {
            return;
        }
        // While a change is walking the index, this waits for its next turn.
        let Ok(_changing) = index.changing.try_lock() else {
            return;
        };
        index.next_end.store(u64::MAX, Ordering::SeqCst);
        let generation = index.current.load_full();
        for (id, entry, verified) in index.connections.verified() {
            if now > verified.until {
                index.recheck(&generation, id, &entry, &verified, now);
            } else {
                index
                    .next_end
                    .fetch_min(verified.until.as_secs(), Ordering::SeqCst);
            }
        }
    }
}

impl Index {
    /// Ends the watch over a connection.
    pub(super) fn remove(&self, id: u64, entry: &Entry) {
        self.connections
            .remove(id, entry.last_verified().as_deref());
    }

    /// Writes down what was verified, and only then who signed it and when it ends: a walk in between meets the
    /// connection, or the connection meets the new generation.
    fn note(&self, id: u64, entry: &Arc<Entry>, verified: Arc<Verified>) {
        let end = verified.until.as_secs();
        let Some(before) = entry.note(&verified) else {
            return;
        };
        self.connections
            .put(id, entry, before.as_deref(), &verified);
        self.next_end.fetch_min(end, Ordering::SeqCst);
    }

    fn put_in_force(&self, next: Generation) -> Arc<Generation> {
        let next = Arc::new(next);
        self.current.store(Arc::clone(&next));
        self.show_generation(next.number);
        next
    }

    fn recheck_all(&self, generation: &Generation, concerned: Vec<Concerned>) {
        let now = UnixTime::now();
        for (id, entry, verified) in concerned {
            self.recheck(generation, id, &entry, &verified, now);
        }
    }

    /// Judges a connection that an earlier generation, or an earlier time, verified.
    fn recheck(
        &self,
        generation: &Generation,
        id: u64,
        entry: &Arc<Entry>,
        verified: &Arc<Verified>,
        now: UnixTime,
    ) {
        self.metrics.trust_rechecked.inc();
        let fault = match generation.verify_again(verified, now) {
            Ok(verified) => return self.note(id, entry, verified),
            Err(fault) => fault,
        };
        tracing::info!(
            peer = verified.identity.name,
            r#use = self.usage.as_str(),
            generation = generation.number,
            %fault,
            "closing a connection whose chain stopped verifying"
        );
        let reason = ByReason::new(fault.reason);
        if entry.close(fault) {
            self.metrics.trust_closed.get_or_create(&reason).inc();
        }
    }

    fn count(&self, found: &Result<(Arc<Verified>, Found), CertificateFault>) {
        match found {
            Ok((_, Found::Computed)) => self.count_outcome(Verification::Verified),
            Ok((_, Found::Remembered)) => self.count_outcome(Verification::Remembered),
            Err(fault) if fault.reason == Reason::CertificateMissing => {
                self.count_outcome(Verification::Missing);
            }
            Err(fault) => {
                self.count_outcome(Verification::Refused);
                let reason = ByReason::new(fault.reason);
                self.metrics
                    .verification_failures
                    .get_or_create(&reason)
                    .inc();
            }
        }
    }

    fn count_outcome(&self, outcome: Verification) {
        self.metrics
            .verifications
            .get_or_create(&ByVerification { outcome })
            .inc();
    }

    fn show_generation(&self, number: u64) {
        match self.usage {
            Usage::Client => {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                self.metrics.trust_generation.set(number);
            }
            // The gauge is of the clients' trust; a change of the connection points' CA shows in their tunnels.
            Usage::ConnectionPoint => {}
        }
    }
}

#[cfg(test)]
mod tests;
