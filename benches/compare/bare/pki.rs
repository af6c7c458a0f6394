//! Certificates and the configurations of TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{Ticketer, sign};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Fault;

/// The name that tunnels ask for; names that begin with `rsa.` get the certificate with an RSA key.
pub(crate) const HOST: &str = "bench.opencmg.test";
const SESSIONS: usize = 10_000;

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

#[derive(Debug)]
struct Certificates {
    ec: Arc<CertifiedKey>,
    rsa: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let rsa = hello
            .server_name()
            .is_some_and(|name| name.starts_with("rsa."));
        Some(Arc::clone(if rsa { &self.rsa } else { &self.ec }))
    }
}

/// For clients: one ticket, and sessions for those who resume.
pub(crate) fn clients(folder: &Path) -> Result<ServerConfig, Fault> {
    let mut config = server(folder)?;
    config.send_tls13_tickets = 1;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.ticketer = Ticketer::new()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// For tunnels: nothing is resumed.
pub(crate) fn tunnels(folder: &Path) -> Result<ServerConfig, Fault> {
    let mut config = server(folder)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// For the one who dials.
pub(crate) fn dialler(folder: &Path) -> Result<ClientConfig, Fault> {
    let (chain, key) = chain(folder, "ec-point")?;
    Ok(ClientConfig::builder()
        .with_root_certificates(roots(folder)?)
        .with_client_auth_cert(chain, key)?)
}

fn server(folder: &Path) -> Result<ServerConfig, Fault> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(folder)?))
        .allow_unauthenticated()
        .build()?;
    let certificates = Certificates {
        ec: certified(folder, "ec-server")?,
        rsa: certified(folder, "rsa-server")?,
    };
    Ok(ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates)))
}

fn roots(folder: &Path) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(folder.join("roots.pem"))? {
        roots.add(root?)?;
    }
    Ok(roots)
}

fn chain(folder: &Path, name: &str) -> Result<Chain, Fault> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    Ok((chain.collect::<Result<_, _>>()?, key))
}

fn certified(folder: &Path, name: &str) -> Result<Arc<CertifiedKey>, Fault> {
    let (chain, key) = chain(folder, name)?;
    Ok(Arc::new(CertifiedKey::new(
        chain,
        sign::any_supported_type(&key)?,
    )))
}
