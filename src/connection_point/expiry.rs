//! What expires at a connection point, and when it is looked at.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use super::{Settings, Shared};
use crate::alerts::{self, Expiring, Use};
use crate::backend;
use crate::pki::{CertificateDer, UnixTime, read_certificates};

/// Everything that expires of what the settings point to; what cannot be read is left out, since it is told elsewhere.
///
/// Reads files.
pub fn expiring(settings: &Settings) -> Vec<Expiring> {
    let mut all = Vec::new();
    let mut add = |r#use, certificates: &[CertificateDer<'static>]| {
        all.extend(Expiring::certificates(r#use, certificates));
    };
    add(
        Use::ConnectionPoint,
        &read(std::slice::from_ref(&settings.certificate)),
    );
    for gateway in &settings.gateways {
        add(Use::GatewayCa, &read(&gateway.ca));
    }
    for role in &settings.roles {
        add(
            Use::BackendClient,
            &backend::client_certificates(&role.backend),
        );
        add(Use::BackendCa, &read(&role.backend.ca));
    }
    all
}

fn read(files: &[PathBuf]) -> Vec<CertificateDer<'static>> {
    let bytes = files.iter().filter_map(|path| std::fs::read(path).ok());
    bytes
        .filter_map(|bytes| read_certificates(&bytes).ok())
        .flatten()
        .collect()
}

impl Shared {
    /// Takes what expires of other settings, and looks at it.
    pub(super) fn take_expiring(&self, settings: &Settings) {
        *self.expiring.lock().unwrap_or_else(PoisonError::into_inner) = expiring(settings);
        self.look_at_expiry();
    }

    fn look_at_expiry(&self) {
        let all = self.expiring.lock().unwrap_or_else(PoisonError::into_inner);
        self.expiry.look(&all, UnixTime::now());
    }

    /// Looks at what expires. Never returns.
    pub(super) async fn watch_expiry(self: Arc<Self>) {
        alerts::watch(|| self.look_at_expiry()).await;
    }
}
