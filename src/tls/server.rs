//! The configurations of all names, and the choice among them.

use std::sync::Arc;

use super::settings::ServerSettings;
use crate::pki::{CertificateDer, CertificateFault};

/// Judges the chain that a peer presented, leaf first.
pub type VerifyFn =
    Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<(), CertificateFault> + Send + Sync>;

/// TLS for the listeners of a gateway. Immutable: a change makes a new one, and a listener swaps it whole.
#[derive(Clone, Debug)]
pub struct ServerTls {}

impl ServerTls {
    /// Builds the configurations of every name.
    ///
    /// # Errors
    /// Every problem: names that are served twice, certificates that do not cover their name, keys that do not match,
    /// unknown cipher suites, versions without a suite.
    pub fn build(
        settings: &ServerSettings,
        verify_client: VerifyFn,
        verify_tunnel: VerifyFn,
    ) -> Result<Self, Vec<String>> {
        let _ = (settings, verify_client, verify_tunnel);
        unimplemented!("ServerTls::build")
    }
}
