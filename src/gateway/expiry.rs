//! What expires at a gateway, and when it is looked at.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{Core, Definition};
use crate::alerts::{Expiring, Use};
use crate::pki::{CertificateDer, Crl, UnixTime};

/// The nearest threshold is a day.
const LOOK: Duration = Duration::from_secs(3600);

/// Everything of a definition that expires, and the CRLs in force beside it.
pub fn expiring<'a>(
    definition: &Definition,
    crls: impl IntoIterator<Item = &'a Arc<Crl>>,
) -> Vec<Expiring> {
    let pairs = definition.tls.names.iter().flat_map(|name| &name.key_pairs);
    let mut all = Vec::new();
    let mut add = |r#use, certificates: &[CertificateDer<'static>]| {
        let known = certificates
            .iter()
            .filter_map(|der| Expiring::certificate(r#use, der));
        all.extend(known);
    };
    for pair in pairs {
        add(Use::Server, &pair.chain);
    }
    add(Use::TrustAnchor, &definition.anchors);
    add(Use::Intermediate, &definition.intermediates);
    add(Use::ConnectionPointCa, &definition.connection_point_ca);
    all.extend(crls.into_iter().map(|crl| Expiring::crl(crl)));
    all
}

impl Core {
    /// Looks at what expires, as it is now.
    pub(super) fn look_at_expiry(&self, definition: &Definition) {
        let revocation = self.clients.revocation();
        let all = expiring(definition, revocation.crls().iter());
        self.expiry.look(&all, UnixTime::now());
    }

    /// Looks at what expires, until the drain is over.
    pub(super) async fn watch_expiry(self: Arc<Self>) {
        let mut forced = self.drain.watch();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = forced.forced() => return,
                _ = ticks.tick() => self.look_at_expiry(&self.definition()),
            }
        }
    }
}
