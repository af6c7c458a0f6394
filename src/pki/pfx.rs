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
    KeyPair::new(&certificates_of(&archive), PrivateKeyDer::from(key))
}

/// Reads the certificates of a PFX file, each once, whether there is a key or not.
///
/// # Errors
/// [`PkiError::WrongPassword`], [`PkiError::NoCertificate`], [`PkiError::Malformed`].
pub fn read_pfx_certificates(
    bytes: &[u8],
    password: &str,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(describe)?;
    let mut certificates: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in certificates_of(&archive) {
        if !certificates.contains(&certificate) {
            certificates.push(certificate.into_owned());
        }
    }
    if certificates.is_empty() {
        return Err(PkiError::NoCertificate);
    }
    Ok(certificates)
}

fn certificates_of(archive: &Pkcs12Archive) -> Vec<CertificateDer<'_>> {
    let bags = archive.certs.iter();
    bags.map(|bag| CertificateDer::from(bag.cert.as_der()))
        .collect()
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
