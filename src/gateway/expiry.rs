//! What expires at a gateway, and when it is looked at.

use std::sync::Arc;

use super::{Core, Definition};
use crate::alerts::{self, Expiring, Use};
use crate::pki::{CertificateDer, Crl, UnixTime};

/// Everything of a definition that expires, and the CRLs in force beside it.
pub fn expiring<'a>(
    definition: &Definition,
    crls: impl IntoIterator<Item = &'a Arc<Crl>>,
) -> Vec<Expiring> {
    let pairs = definition.tls.names.iter().flat_map(|name| &name.key_pairs);
    let mut all = Vec::new();
    let mut add = |r#use, certificates: &[CertificateDer<'static>]| {
        all.extend(Expiring::certificates(r#use, certificates));
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
        let looking = alerts::watch(|| self.look_at_expiry(&self.definition()));
        tokio::select! {
            biased;
            () = forced.forced() => {}
            () = looking => {}
        }
    }
}
