//! Generations of trust and the connections that live under them.

use std::sync::Arc;

use crate::identity::{ClientCertificate, Identity};
use crate::metrics::Metrics;
use crate::pki::{Anchors, CertificateDer, CertificateFault, UnixTime, Usage};

/// The trust of one use (clients, or connection points). Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Trust {}

impl Trust {
    /// Starts with a first generation.
    pub fn new(anchors: Anchors, usage: Usage, metrics: Metrics) -> Self {
        let _ = (anchors, usage, metrics);
        unimplemented!("Trust::new")
    }

    /// Puts a new generation in force, re-verifies every live connection and closes those that fail.
    ///
    /// Connections whose path is still whole are not verified again. Returns the number of the generation.
    /// With many connections this takes time in proportion; call it from a blocking task.
    pub fn replace(&self, anchors: Anchors) -> u64 {
        let _ = anchors;
        unimplemented!("Trust::replace")
    }

    /// Verifies what a peer presented, leaf first, by the current generation. Successes are remembered.
    ///
    /// # Errors
    /// The certificate at fault and the reason.
    pub fn verify(
        &self,
        presented: &[CertificateDer<'_>],
    ) -> Result<Arc<Identity>, CertificateFault> {
        let _ = presented;
        unimplemented!("Trust::verify")
    }

    /// Verifies what a peer presented and watches over it as long as the returned [`Live`] is held.
    ///
    /// A connection whose chain does not verify is admitted too, as one without identity; only verified ones are ever
    /// closed.
    pub fn admit(&self, presented: Vec<CertificateDer<'static>>) -> Live {
        let _ = presented;
        unimplemented!("Trust::admit")
    }

    /// The number of verified live connections.
    pub fn live(&self) -> usize {
        unimplemented!("Trust::live")
    }

    /// The number of the generation in force, from 1.
    pub fn generation(&self) -> u64 {
        unimplemented!("Trust::generation")
    }

    /// Re-verifies the connections whose chain has ended before `now` and closes those that fail. Cheap when none has;
    /// to be called every few seconds.
    pub fn recheck_expired(&self, now: UnixTime) {
        let _ = now;
        unimplemented!("Trust::recheck_expired")
    }
}

/// One live connection. Dropping it ends the watch.
#[derive(Debug)]
pub struct Live {}

impl Live {
    /// What the connection's certificate is worth at this moment: `Refused` once it must be closed.
    pub fn certificate(&self) -> ClientCertificate {
        unimplemented!("Live::certificate")
    }

    /// Returns once this connection must be closed, and says why; pending for ever otherwise.
    ///
    /// # Cancel safety
    /// Safe, and may be called again: it then returns the same fault.
    #[allow(clippy::unused_async, reason = "filled in with the index")]
    pub async fn closed(&mut self) -> CertificateFault {
        unimplemented!("Live::closed")
    }
}
