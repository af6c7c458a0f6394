//! Reading PFX (PKCS#12) files, as Windows, OpenSSL and Java make them.

use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{KeyPair, PkiError};

/// Reads the one key pair of a PFX file, with legacy (RC2, 3DES) or modern (AES) ciphers.
///
/// # Errors
/// [`PkiError::WrongPassword`], [`PkiError::NoKey`], [`PkiError::SeveralKeys`], [`PkiError::Malformed`], and what is
/// wrong with certificates and key together ([`KeyPair::new`]).
pub fn load_pfx(bytes: &[u8], password: &str) -> Result<KeyPair, PkiError> {
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(describe)?;
    let [key] = archive.keys.as_slice() else {
        return Err(match archive.keys.len() {
            0 => PkiError::NoKey,
            count => PkiError::SeveralKeys(count),
        });
    };
    let key = PrivatePkcs8KeyDer::from(key.key.as_der().to_vec());
    let certificates: Vec<_> = archive
        .certs
        .iter()
        .map(|bag| CertificateDer::from(bag.cert.as_der()))
        .collect();
    KeyPair::new(&certificates, PrivateKeyDer::from(key))
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum; what else is wrong is told in its own words"
)]
fn describe(error: Error) -> PkiError {
    match error {
        // A file without a MAC shows a wrong password only by what its decryption yields.
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => PkiError::WrongPassword,
        other => PkiError::malformed("the PFX file", other),
    }
}
