//! Certificates and the configurations of TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Fault;

/// The name that tunnels ask for; names that begin with `rsa.` get the certificate with an RSA key.
pub(crate) const HOST: &str = "bench.opencmg.test";

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

/// For clients, with one ticket and rustls' own memory of sessions for those who resume; or for tunnels, of which nothing is resumed.
pub(crate) fn server(folder: &Path, resumed: bool) -> Result<ServerConfig, Fault> {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots(folder)?));
    let certificates = Certificates {
        ec: certified(folder, "ec-server")?,
        rsa: certified(folder, "rsa-server")?,
    };
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        .with_cert_resolver(Arc::new(certificates));
    config.send_tls13_tickets = usize::from(resumed);
    if !resumed {
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(config)
}

/// For the one who dials.
pub(crate) fn dialler(folder: &Path) -> Result<ClientConfig, Fault> {
    let own = certified(folder, "ec-point")?;
    let roots = ClientConfig::builder().with_root_certificates(roots(folder)?);
    Ok(roots.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))))
}

fn roots(folder: &Path) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(folder.join("roots.pem"))? {
        roots.add(root?)?;
    }
    Ok(roots)
}

fn certified(folder: &Path, name: &str) -> Result<Arc<CertifiedKey>, Fault> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    let key = sign::any_supported_type(&key)?;
    Ok(Arc::new(CertifiedKey::new(
        chain.collect::<Result<_, _>>()?,
        key,
    )))
}
