//! Files of administrators: configuration, the service definition, certificates, keys.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use opencmg::pki::{self, Certificate, UnixTime};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

fn written(name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = FOLDER.path().join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// 2026-01-01.
fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600))
}

/// `gateway.toml` and `connection-point.toml`: every fault is named, with its file.
pub fn configuration(bytes: &[u8]) {
    let path = written("file.toml", bytes);
    let faults = [
        opencmg::config::load_gateway(&path).err(),
        opencmg::config::load_connection_point(&path, now()).err(),
    ];
    for fault in faults.into_iter().flatten().flatten() {
        assert!(!fault.what.is_empty() && !fault.to_string().is_empty());
    }
}

/// `service.toml`.
pub fn service(bytes: &[u8]) {
    let path = written(opencmg::service::FILE, bytes);
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    if let Err(faults) = opencmg::service::load(folder, now()) {
        assert!(!faults.is_empty());
    }
}

/// Certificates and keys, PEM or DER.
pub fn certificates(bytes: &[u8]) {
    if let Ok(all) = pki::read_certificates(bytes) {
        for der in &all {
            if let Ok(certificate) = Certificate::parse(der) {
                let _ = certificate.title();
                let _ = pki::covers(der, &certificate, "gw.test");
            }
        }
        let _ = pki::Anchors::build(&all, &all, pki::Limits::default());
    }
    if let Ok(pair) = pki::load_pem(bytes, bytes) {
        let _ = pki::check_server_certificate(&pair, Some("gw.test"), now());
    }
}

/// PFX files; the password is the one of the corpus.
pub fn pfx(bytes: &[u8]) {
    let _ = pki::load_pfx(bytes, "secret");
}

/// The certificate that signed the lists of the corpus.
const ISSUER: &[u8] = include_bytes!("issuer.der");

/// Certificate revocation lists, PEM or DER.
pub fn crl(bytes: &[u8]) {
    let issuers = [pki::CertificateDer::from(ISSUER)];
    for der in pki::read_crl_file(bytes).unwrap_or_default() {
        if let Ok(crl) = pki::Crl::read(&der, &issuers) {
            assert!(!crl.title().is_empty());
            assert!(crl.entries() > 0, "the list of the corpus has an entry");
        }
    }
}
