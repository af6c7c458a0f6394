//! Trust in force, and the index of the connections that live under it.
//!
//! A connection registers *first* and compares its generation with the current one *afterwards*; a change puts the new
//! generation in force *first* and walks the index *afterwards*. So either the walk meets the connection verified, or
//! the connection meets the new generation: none slips through between the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::generation::{Found, Generation, Verified};
use super::live::{Entry, Live};
use super::{ClientCertificate, Identity};
use crate::metrics::{ByReason, ByVerification, Metrics, Verification};
use crate::pki::{Anchors, CertificateDer, CertificateFault, UnixTime, Usage};
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
            remembered_chains: 10_000, // some 8 KiB each
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
    connections: DashMap<u64, Arc<Entry>>,
    next_id: AtomicU64,
    /// The earliest end of any chain in the index, in seconds since 1970, or earlier.
    next_end: AtomicU64,
}

impl Trust {
    /// Starts with a first generation and default settings.
    pub fn new(anchors: Anchors, usage: Usage, metrics: Metrics) -> Self {
        Self::with_settings(anchors, usage, metrics, Settings::default())
    }

    /// Starts with a first generation.
    pub fn with_settings(
        anchors: Anchors,
        usage: Usage,
        metrics: Metrics,
        settings: Settings,
    ) -> Self {
        let first = Generation::new(1, anchors, usage, settings.remembered_chains);
        let index = Index {
            usage,
            settings,
            metrics,
            current: ArcSwap::from_pointee(first),
            changing: Mutex::default(),
            connections: DashMap::new(),
            next_id: AtomicU64::new(0),
            next_end: AtomicU64::new(u64::MAX),
        };
        index.show_generation(1);
        Self {
            index: Arc::new(index),
        }
    }

    /// Puts a new generation in force, re-verifies every live connection and closes those that fail.
    ///
    /// Connections whose path is still whole are not verified again. Returns the number of the generation.
    /// With many connections this takes time in proportion; call it from a blocking task.
    pub fn replace(&self, anchors: Anchors) -> u64 {
        let index = &self.index;
        let _changing = index
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let number = index.current.load().number + 1;
        let capacity = index.settings.remembered_chains;
        let next = Arc::new(Generation::new(number, anchors, index.usage, capacity));
        index.current.store(Arc::clone(&next));
        index.show_generation(number);
        let now = UnixTime::now();
        for (entry, verified) in index.verified() {
            index.recheck(&next, &entry, &verified, now);
        }
        number
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
    pub fn admit(&self, presented: Vec<CertificateDer<'static>>) -> Live {
        let index = &self.index;
        if presented.is_empty() {
            index.count_outcome(Verification::Missing);
            return Live::fixed(ClientCertificate::Missing);
        }
        let id = index.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::pending());
        index.connections.insert(id, Arc::clone(&entry));
        let live = Live::indexed(Arc::clone(index), id, Arc::clone(&entry));
        loop {
            let generation = index.current.load_full();
            let found = generation.verify(&presented, UnixTime::now());
            index.count(&found);
            match found {
                Ok((verified, _)) => index.note(&entry, verified),
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

    /// Re-verifies the connections whose chain has ended before `now` and closes those that fail. Cheap when none has;
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
        for (entry, verified) in index.verified() {
            if now > verified.not_after {
                index.recheck(&generation, &entry, &verified, now);
            } else {
                index
                    .next_end
                    .fetch_min(verified.not_after.as_secs(), Ordering::SeqCst);
            }
        }
    }
}

impl Index {
    pub(super) fn remove(&self, id: u64) {
        self.connections.remove(&id);
    }

    /// The verified connections, taken out of the map first, so that none of its shards is held while certificates are
    /// verified.
    fn verified(&self) -> Vec<(Arc<Entry>, Arc<Verified>)> {
        let entry = |entry: dashmap::mapref::multiple::RefMulti<'_, u64, Arc<Entry>>| {
            let verified = entry.verified()?;
            Some((Arc::clone(&entry), verified))
        };
        self.connections.iter().filter_map(entry).collect()
    }

    /// Writes down what was verified, and only then when it ends: a walk that resets `next_end` in between meets the
    /// connection.
    fn note(&self, entry: &Entry, verified: Arc<Verified>) {
        let end = verified.not_after.as_secs();
        entry.note(verified);
        self.next_end.fetch_min(end, Ordering::SeqCst);
    }

    /// Judges a connection that an earlier generation, or an earlier time, verified.
    fn recheck(
        &self,
        generation: &Generation,
        entry: &Entry,
        verified: &Arc<Verified>,
        now: UnixTime,
    ) {
        let fault = match generation.verify_again(verified, now) {
            Ok(verified) => return self.note(entry, verified),
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
