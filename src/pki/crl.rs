//! Certificate revocation lists (RFC 5280 §5): read, checked once, and kept as one sorted array of serial numbers.
//!
//! [`Crl::read`] takes a list as DER and the certificates of the CAs that may have signed it; what it returns was signed by one
//! of them. Lists that do not speak of every certificate of their scope (delta, indirect, by reason) are told apart by
//! [`CrlError::is_skipped`]: they are passed over, not choked on.

mod error;
mod file;
mod parse;
mod set;

use std::fmt;

use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use webpki::ALL_VERIFICATION_ALGS;

use super::der::{BIT_STRING, Der, SEQUENCE};
use super::name::{hex, print_time};
use super::{Certificate, Serial};
use parse::Parsed;

pub use error::CrlError;
pub use file::read_crl_file;
pub use set::{CrlSet, Listed};

/// Which CA signs: a hash over its name and its public key, since a CA that is renewed with a new key keeps its name, and
/// has two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IssuerKey([u8; 32]);

impl IssuerKey {
    /// The key of a CA.
    pub fn of(issuer: &Certificate) -> Self {
        let mut hash = Sha256::new();
        hash.update(issuer.subject_der.len().to_be_bytes());
        hash.update(&issuer.subject_der);
        hash.update(&issuer.public_key);
        Self(hash.finalize().into())
    }

    /// The first eight bytes in hexadecimal: enough to tell the keys of one name apart.
    pub fn short(&self) -> String {
        hex(&self.0[..8])
    }
}

impl fmt::Display for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Which certificates of its issuer a list speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// Whether it speaks of certificates that are no CA's.
    pub(super) leaves: bool,
    /// Whether it speaks of CA certificates.
    pub(super) authorities: bool,
    /// If not empty: only of certificates that name one of these distribution points.
    pub(super) points: Vec<String>,
}

impl Scope {
    /// Whether a certificate is in it.
    fn covers(&self, is_ca: bool, points: &[String]) -> bool {
        let kind = if is_ca { self.authorities } else { self.leaves };
        kind && (self.points.is_empty() || points.iter().any(|point| self.points.contains(point)))
    }
}

/// A list whose signature was verified. Immutable; 20 bytes an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crl {
    issuer: String,
    issuer_key: IssuerKey,
    scope: Scope,
    number: Option<Serial>,
    this_update: UnixTime,
    next_update: UnixTime,
    next_publish: Option<UnixTime>,
    fingerprint: [u8; 32],
    /// Sorted, each once.
    serials: Box<[Serial]>,
}

impl Crl {
    /// Reads a list as DER and verifies its signature with the key of one of the certificates, of which those of other
    /// names are passed over.
    ///
    /// Dates are not judged here: a list that is stale, or whose time has not come, is one for the policy.
    ///
    /// # Errors
    /// Why it is no list, whose it is instead, or why it is passed over.
    pub fn read(der: &[u8], issuers: &[CertificateDer<'_>]) -> Result<Self, CrlError> {
        let parsed = Parsed::parse(der)?;
        let issuer = parsed.signer(issuers)?;
        let mut serials = Vec::with_capacity(parsed.entries);
        parsed.each_serial(|serial| serials.push(serial))?;
        serials.sort_unstable();
        serials.dedup();
        Ok(Self {
            issuer: issuer.subject.clone(),
            issuer_key: IssuerKey::of(&issuer),
            scope: parsed.scope,
            number: parsed.number,
            this_update: parsed.this_update,
            next_update: parsed.next_update,
            next_publish: parsed.next_publish,
            fingerprint: Sha256::digest(der).into(),
            serials: serials.into_boxed_slice(),
        })
    }

    /// The issuer, as text of RFC 4514.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key that signed it.
    pub fn issuer_key(&self) -> IssuerKey {
        self.issuer_key
    }

    /// Its number in hexadecimal, if it has one.
    pub fn number(&self) -> Option<String> {
        self.number.map(|number| number.to_string())
    }

    /// When it was made.
    pub fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// When the next one is there at the latest: from then on it is stale.
    pub fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// When the next one is published, where the CA says so (Windows does).
    pub fn next_publish(&self) -> Option<UnixTime> {
        self.next_publish
    }

    /// How many certificates it revokes.
    pub fn entries(&self) -> usize {
        self.serials.len()
    }

    /// Whether it revokes a certificate of its issuer.
    pub fn revokes(&self, serial: &Serial) -> bool {
        self.serials.binary_search(serial).is_ok()
    }

    /// Whether it takes the place of another of the same issuer and scope.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.number, self.this_update) > (other.number, other.this_update)
    }

    /// Whether its time has come; it may be dated by a clock that goes up to five minutes before ours.
    pub fn has_come(&self, now: UnixTime) -> bool {
        const CLOCKS_DIFFER_S: u64 = 300;
        self.this_update.as_secs() <= now.as_secs().saturating_add(CLOCKS_DIFFER_S)
    }

    /// Whether both speak of the same certificates of the same issuer.
    pub fn is_of_scope(&self, other: &Self) -> bool {
        self.issuer_key == other.issuer_key && self.scope == other.scope
    }

    /// What to call it in a message.
    pub fn title(&self) -> String {
        let number = self.number.map(|number| format!(" number {number}"));
        format!(
            "the CRL{} of \"{}\" from {}",
            number.unwrap_or_default(),
            self.issuer,
            print_time(self.this_update)
        )
    }
}

impl Parsed<'_> {
    /// The CA that signed it.
    fn signer(&self, issuers: &[CertificateDer<'_>]) -> Result<Certificate, CrlError> {
        let facts = issuers
            .iter()
            .filter_map(|der| Certificate::parse(der).ok());
        let named: Vec<_> = facts
            .filter(|facts| facts.subject_der == self.issuer_der)
            .collect();
        if named.is_empty() {
            return Err(CrlError::UnknownIssuer(self.issuer.clone()));
        }
        if !ALL_VERIFICATION_ALGS
            .iter()
            .any(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm)
        {
            return Err(CrlError::Algorithm(self.issuer.clone()));
        }
        let Some(signer) = named.into_iter().find(|facts| self.is_signed_by(facts)) else {
            return Err(CrlError::Signature(self.issuer.clone()));
        };
        if !signer.signs_crls {
            return Err(CrlError::MayNotSign(self.issuer.clone()));
        }
        Ok(signer)
    }

    fn is_signed_by(&self, issuer: &Certificate) -> bool {
        let Some((algorithm, key)) = key_of(&issuer.public_key) else {
            return false;
        };
        // Those of another kind are passed over before they hash what may be fifty megabytes.
        let fitting = ALL_VERIFICATION_ALGS.iter().filter(|candidate| {
            candidate.signature_alg_id().as_ref() == self.algorithm
                && candidate.public_key_alg_id().as_ref() == algorithm
        });
        fitting.into_iter().any(|candidate| {
            candidate
                .verify_signature(key, self.signed, self.signature)
                .is_ok()
        })
    }
}

/// The algorithm and the key of a SubjectPublicKeyInfo.
fn key_of(public_key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut info = Der::new(public_key).inside(SEQUENCE).ok()?;
    let algorithm = info.take(SEQUENCE).ok()?.content;
    let (unused, key) = info.take(BIT_STRING).ok()?.content.split_first()?;
    (*unused == 0).then_some((algorithm, key))
}

#[cfg(test)]
mod tests;
