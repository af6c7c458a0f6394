//! TLS of the load generator: one key exchange and one cipher suite, so that every server measured does the same work.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::{ClientConfig, RootCertStore};

use super::suites;
use crate::pki::{CertificateDer, KeyPair};

// A connection takes one ticket and brings new ones; one lane is one connection at a time.
const TICKETS: usize = 4;

/// The key exchange that a load offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519 alone.
    X25519,
    /// X25519 with ML-KEM-768, the post-quantum hybrid.
    X25519MlKem768,
}

/// Whether a load takes up the session of an earlier connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// Each handshake is a full one.
    None,
    /// A handshake takes up the last session of the same configuration.
    Kept,
}

/// What a load does TLS with.
#[derive(Clone, Debug)]
pub struct LoadClientSettings {
    /// The CA certificates that the server's certificate must chain to.
    pub ca: Vec<CertificateDer<'static>>,
    /// The client certificate and its key.
    pub key_pair: Option<KeyPair>,
    /// The key exchange offered.
    pub key_exchange: KeyExchange,
    /// The name of the cipher suite offered; its version is the only one offered.
    pub suite: String,
    /// The ALPN name offered.
    pub alpn: &'static [u8],
    /// Whether sessions are taken up.
    pub sessions: Sessions,
}

/// A load's TLS.
#[derive(Clone, Debug)]
pub struct LoadClient {
    config: Arc<ClientConfig>,
    sessions: Sessions,
}

impl LoadClient {
    /// Builds it.
    ///
    /// # Errors
    /// What is wrong with a CA certificate, the key pair or the name of the suite.
    pub fn build(settings: &LoadClientSettings) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &settings.ca {
            roots
                .add(certificate.clone())
                .map_err(|error| format!("a CA certificate cannot be used: {error}"))?;
        }
        // rustls names suites of TLS 1.3 in a way of its own, which its users know.
        let suite = settings.suite.replacen("TLS13_", "TLS_", 1);
        let provider = suites::provider_with(&[suite]).map_err(|faults| faults.join("; "))?;
        let mut provider = Arc::unwrap_or_clone(provider);
        provider.kx_groups = vec![match settings.key_exchange {
            KeyExchange::X25519 => kx_group::X25519,
            KeyExchange::X25519MlKem768 => kx_group::X25519MLKEM768,
        }];
        let versions: Vec<_> = rustls::ALL_VERSIONS
            .iter()
            .copied()
            .filter(|version| {
                let mut suites = provider.cipher_suites.iter();
                suites.any(|suite| suite.version() == *version)
            })
            .collect();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &settings.key_pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(pair.chain.clone(), pair.key.clone_key())
                .map_err(|error| format!("the client certificate cannot be used: {error}"))?,
        };
        config.alpn_protocols = vec![settings.alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            sessions: settings.sessions,
        })
    }

    /// A configuration; where sessions are kept, those of its own, so that no other connection takes them.
    pub fn configuration(&self) -> Arc<ClientConfig> {
        match self.sessions {
            Sessions::None => Arc::clone(&self.config),
            Sessions::Kept => {
                let mut config = ClientConfig::clone(&self.config);
                config.resumption = Resumption::in_memory_sessions(TICKETS);
                Arc::new(config)
            }
        }
    }
}
