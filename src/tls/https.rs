//! TLS of a plain HTTPS client, as `quickstart --once` needs it.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::pki::{CertificateDer, KeyPair};

/// Builds the configuration of an HTTP/1.1 client that believes these CA certificates and presents this certificate.
///
/// # Errors
/// What is wrong with a CA certificate or with the key pair.
pub fn https_client(
    ca: &[CertificateDer<'static>],
    key_pair: Option<&KeyPair>,
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots
            .add(certificate.clone())
            .map_err(|error| format!("a CA certificate cannot be used: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match key_pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(pair.chain.clone(), pair.key.clone_key())
            .map_err(|error| format!("the client certificate cannot be used: {error}"))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
