//! A certificate chain with its private key, and putting chains in order.

use std::fmt;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{Certificate, read_certificates};
use super::{PkiError, link};

/// A certificate chain, leaf first and without the root, and the private key of the leaf.
pub struct KeyPair {
    /// The chain: the leaf, then each certificate's issuer.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for KeyPair {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl PartialEq for KeyPair {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.secret_der() == other.key.secret_der()
    }
}

impl Eq for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = self.leaf().map(|leaf| leaf.subject).unwrap_or_default();
        f.debug_struct("KeyPair")
            .field("subject", &subject)
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl KeyPair {
    /// Finds the certificate that belongs to the key and puts its issuers behind it, whatever the order given.
    ///
    /// Certificates that lead nowhere are left out, and so is a root: a peer that does not hold it already would not
    /// believe it.
    ///
    /// # Errors
    /// [`PkiError::KeyMismatch`] if no certificate belongs to the key, [`PkiError::NoCertificate`] if there is none,
    /// [`PkiError::UnusableKey`] if the key is of a kind that TLS has no use for.
    pub fn new(
        certificates: &[CertificateDer<'_>],
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, PkiError> {
        let public_key = public_key_of(&key)?;
        let parsed = certificates
            .iter()
            .map(|der| Certificate::parse(der).map(|facts| (facts, der)))
            .collect::<Result<Vec<_>, _>>()?;
        let Some((first, _)) = parsed.first() else {
            return Err(PkiError::NoCertificate);
        };
        let leaf = parsed
            .iter()
            .find(|(facts, _)| facts.public_key == public_key);
        let Some((mut last, leaf)) = leaf.map(|(facts, der)| (facts, *der)) else {
            return Err(PkiError::KeyMismatch(first.title()));
        };
        let mut chain = vec![leaf.clone().into_owned()];
        while !last.is_self_issued() && chain.len() < parsed.len() {
            let child = &chain[chain.len() - 1];
            let named = || {
                parsed
                    .iter()
                    .filter(|(facts, _)| facts.subject_der == last.issuer_der)
            };
            // One that has the name and did not sign is kept too, so that the check of the chain can tell of it.
            let issuer = named()
                .find(|(_, der)| link::is_signed_by(child, der))
                .or_else(|| named().next());
            match issuer {
                Some((facts, der)) if !facts.is_self_issued() && !chain.contains(der) => {
                    chain.push((*der).clone().into_owned());
                    last = facts;
                }
                Some(_) | None => break,
            }
        }
        Ok(Self { chain, key })
    }

    /// The facts of the leaf.
    ///
    /// # Errors
    /// [`PkiError::NoCertificate`] if the chain is empty, [`PkiError::Malformed`] if it cannot be parsed; neither
    /// happens to a pair that [`KeyPair::new`] made.
    pub fn leaf(&self) -> Result<Certificate, PkiError> {
        Certificate::parse(self.chain.first().ok_or(PkiError::NoCertificate)?)
    }

    /// Whether the key belongs to the leaf.
    pub fn key_matches(&self) -> bool {
        let leaf = self.leaf().map(|leaf| leaf.public_key);
        let key = public_key_of(&self.key);
        matches!((leaf, key), (Ok(leaf), Ok(key)) if leaf == key)
    }
}

/// The public half of a private key, as DER of SubjectPublicKeyInfo.
fn public_key_of(key: &PrivateKeyDer<'_>) -> Result<Vec<u8>, PkiError> {
    let unusable = |error: rustls::Error| PkiError::UnusableKey(error.to_string());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key).map_err(unusable)?;
    let public = key.public_key().map(|public| public.to_vec());
    public.ok_or_else(|| PkiError::UnusableKey("it has no public half".to_owned()))
}

/// Reads a chain (PEM, or one certificate as DER) and its key (PEM of PKCS#8, PKCS#1 or SEC 1, not encrypted).
/// Both may be the same file.
///
/// # Errors
/// What is wrong with either, or with both together ([`KeyPair::new`]).
pub fn load_pem(certificates: &[u8], key: &[u8]) -> Result<KeyPair, PkiError> {
    KeyPair::new(&read_certificates(certificates)?, read_key(key)?)
}

pub(super) fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PkiError> {
    let keys = PrivateKeyDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PkiError::malformed("the PEM file", error))?;
    let encrypted = |marker: &str| String::from_utf8_lossy(pem).contains(marker);
    // PKCS#8 has a section of its own for encrypted keys, the older forms say so in a header within the section.
    if encrypted("ENCRYPTED PRIVATE KEY") || encrypted("Proc-Type: 4,ENCRYPTED") {
        return Err(PkiError::EncryptedKey);
    }
    let count = keys.len();
    let mut keys = keys.into_iter();
    match (keys.next(), count) {
        (None, _) => Err(PkiError::NoKey),
        (Some(key), 1) => Ok(key),
        (Some(_), count) => Err(PkiError::SeveralKeys(count)),
    }
}
