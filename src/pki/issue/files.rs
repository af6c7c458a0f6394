//! Writing certificates and keys as PEM and PFX.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::pki::{KeyPair, PkiError};

/// Writes certificates as PEM, one after the other.
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|certificate| pem("CERTIFICATE", certificate))
        .collect()
}

/// Writes a private key as PEM, in the form that it has.
pub fn key_to_pem(key: &PrivateKeyDer<'_>) -> String {
    let label = if let PrivateKeyDer::Pkcs1(_) = key {
        "RSA PRIVATE KEY"
    } else if let PrivateKeyDer::Sec1(_) = key {
        "EC PRIVATE KEY"
    } else {
        "PRIVATE KEY"
    };
    pem(label, key.secret_der())
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64; // RFC 7468 §2
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Writes a key pair as a PFX file, with AES-256 and HMAC-SHA-256, which Windows reads since Server 2016.
///
/// # Errors
/// [`PkiError::UnusableKey`] if the key is not in the form of PKCS#8.
pub fn to_pfx(pair: &KeyPair, name: &str, password: &str) -> Result<Vec<u8>, PkiError> {
    let unusable = |error: p12_keystore::error::Error| PkiError::UnusableKey(error.to_string());
    let key = PrivateKey::from_der(pair.key.secret_der()).map_err(unusable)?;
    let certificates = pair
        .chain
        .iter()
        .map(|der| p12_keystore::Certificate::from_der(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PkiError::malformed("a certificate", error))?;
    let leaf = pair.chain.first().ok_or(PkiError::NoCertificate)?;
    let id = Sha256::digest(leaf).to_vec();
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new(id, key, certificates);
    store.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
    let written = store.writer(password).write();
    written.map_err(|error| PkiError::Unfit(format!("the PFX file cannot be made: {error}")))
}
