//! Which certificate of a chain failed, and why.

use std::fmt;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use super::name::print_time;
use super::path::Authority;
use super::{Certificate, IssuerKey, link};
use crate::reason::Reason;

/// Why a chain was not accepted: which of its certificates is at fault, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFault {
    /// The stable code: one of the `certificate-…` reasons, `revocation-unknown` or `crl-stale`.
    pub reason: Reason,
    /// The subject of the certificate at fault.
    pub which: String,
    /// What is wrong with it, in words for the log.
    pub detail: String,
    /// The CA whose CRL could turn the verdict, if that is all that is missing.
    pub crl_of: Option<IssuerKey>,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: certificate \"{}\" {}",
            self.reason, self.which, self.detail
        )
    }
}

impl std::error::Error for CertificateFault {}

/// What is wrong with a leaf whose key is too weak, or too long, for anything to be verified with it.
///
/// Says nothing of a certificate that cannot be parsed.
pub fn weakness(der: &CertificateDer<'_>) -> Option<CertificateFault> {
    let facts = Certificate::parse(der).ok()?;
    let detail = facts.weakness()?;
    Some(fault(Reason::CertificateInvalid, &facts, detail))
}

/// What was looked at when a path was not found.
pub(super) struct Seen<'s> {
    pub(super) leaf: (&'s CertificateDer<'s>, &'s Certificate),
    pub(super) pool: &'s [Authority],
    pub(super) anchors: &'s [Authority],
    pub(super) now: UnixTime,
}

/// The chain as far as it leads, by names and signatures.
pub(super) struct Chain<'s> {
    /// The leaf, its issuers, and the anchor if one was reached.
    pub(super) links: Vec<(&'s CertificateDer<'s>, &'s Certificate)>,
    pub(super) anchored: bool,
}

/// Says which certificate made the path builder fail. It tells only what is wrong; where follows from the chain.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum that may grow; the rest is told in its own words"
)]
pub(super) fn explain(error: &webpki::Error, seen: &Seen<'_>) -> CertificateFault {
    use webpki::Error;
    let chain = Chain::follow(seen);
    let leaf = seen.leaf.1;
    let now = seen.now;
    match error {
        Error::CertExpired { not_after, .. } => {
            let which = chain
                .first(|_, facts| facts.not_after < now)
                .unwrap_or(leaf);
            let (end, now) = (print_time(*not_after), print_time(now));
            fault(
                Reason::CertificateExpired,
                which,
                format!("expired at {end}; it is {now}"),
            )
        }
        Error::CertNotValidYet { not_before, .. } => {
            let which = chain
                .first(|_, facts| facts.not_before > now)
                .unwrap_or(leaf);
            let (start, now) = (print_time(*not_before), print_time(now));
            fault(
                Reason::CertificateNotYetValid,
                which,
                format!("is valid from {start} on; it is {now}"),
            )
        }
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => {
            let which = chain.first(|_, facts| !facts.client_auth).unwrap_or(leaf);
            let detail =
                "is not meant for client authentication: its extended key usage does not name it";
            fault(Reason::CertificateWrongUsage, which, detail.to_owned())
        }
        Error::CaUsedAsEndEntity => {
            let detail = "is a CA certificate, and a peer needs one that is not";
            fault(Reason::CertificateInvalid, leaf, detail.to_owned())
        }
        Error::EndEntityUsedAsCa => {
            let may_not = |index, facts: &Certificate| {
                index > 0 && !(facts.is_ca && facts.signs_certificates)
            };
            let which = chain.first(may_not).unwrap_or(leaf);
            let detail = "signed another certificate and is not a CA's";
            fault(Reason::CertificateInvalid, which, detail.to_owned())
        }
        Error::PathLenConstraintViolated => {
            let too_short = |index: usize, facts: &Certificate| {
                let below = u32::try_from(index.saturating_sub(1)).unwrap_or(u32::MAX);
                facts.path_length.is_some_and(|allowed| allowed < below)
            };
            let which = chain.first(too_short).unwrap_or(leaf);
            let allowed = which.path_length.unwrap_or_default();
            let detail =
                format!("allows {allowed} CA certificates below it, and the chain has more");
            fault(Reason::CertificateInvalid, which, detail)
        }
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => chain.unknown_issuer(seen),
        Error::UnsupportedSignatureAlgorithmContext(_) => unsupported(chain.top()),
        Error::NameConstraintViolation => misnamed(leaf),
        other => {
            let broken = |_, der: &CertificateDer<'_>| EndEntityCert::try_from(der).is_err();
            let which = chain.first_der(broken).unwrap_or(leaf);
            fault(
                Reason::CertificateInvalid,
                which,
                format!("breaks a rule of X.509: {other}"),
            )
        }
    }
}

fn misnamed(leaf: &Certificate) -> CertificateFault {
    let detail = "holds a name that the name constraints of its CA do not allow";
    fault(Reason::CertificateInvalid, leaf, detail.to_owned())
}

fn unsupported(which: &Certificate) -> CertificateFault {
    let detail = format!(
        "is signed with {}, which is not accepted (SHA-256, SHA-384 and SHA-512 with RSA or ECDSA, and Ed25519 are)",
        which.signature
    );
    fault(Reason::CertificateInvalid, which, detail)
}

fn fault(reason: Reason, which: &Certificate, detail: String) -> CertificateFault {
    let which = if which.subject.is_empty() {
        which
            .dns_names
            .first()
            .unwrap_or(&which.fingerprint)
            .clone()
    } else {
        which.subject.clone()
    };
    CertificateFault {
        reason,
        which,
        detail,
        crl_of: None,
    }
}

impl<'s> Chain<'s> {
    pub(super) fn follow(seen: &Seen<'s>) -> Self {
        const LONGEST: usize = 10; // above what the path builder tries
        let mut links = vec![seen.leaf];
        loop {
            let (der, facts) = links[links.len() - 1];
            let issued = |ca: &&Authority| {
                ca.facts.subject_der == facts.issuer_der && link::is_signed_by(der, &ca.der)
            };
            if let Some(anchor) = seen.anchors.iter().find(issued) {
                links.push((&anchor.der, &anchor.facts));
                return Self {
                    links,
                    anchored: true,
                };
            }
            let fresh = |ca: &&Authority| !links.iter().any(|(known, _)| **known == ca.der);
            match seen.pool.iter().filter(fresh).find(issued) {
                Some(ca) if links.len() < LONGEST => links.push((&ca.der, &ca.facts)),
                Some(_) | None => {
                    return Self {
                        links,
                        anchored: false,
                    };
                }
            }
        }
    }

    fn first(&self, is_it: impl Fn(usize, &Certificate) -> bool) -> Option<&'s Certificate> {
        let mut links = self.links.iter().enumerate();
        links
            .find(|(index, (_, facts))| is_it(*index, facts))
            .map(|(_, (_, facts))| *facts)
    }

    fn first_der(
        &self,
        is_it: impl Fn(usize, &CertificateDer<'_>) -> bool,
    ) -> Option<&'s Certificate> {
        let mut links = self.links.iter().enumerate();
        links
            .find(|(index, (der, _))| is_it(*index, der))
            .map(|(_, (_, facts))| *facts)
    }

    /// The last certificate that signatures lead to.
    fn top(&self) -> &'s Certificate {
        self.links[self.links.len() - 1].1
    }

    /// Tells what is missing above the last certificate that the chain reaches.
    fn unknown_issuer(&self, seen: &Seen<'_>) -> CertificateFault {
        let top = self.top();
        if self.anchored {
            let detail = "breaks a rule of X.509: its signature cannot be verified".to_owned();
            return fault(Reason::CertificateInvalid, seen.leaf.1, detail);
        }
        if top.is_self_issued() {
            let detail = "is signed by its own key and is not a trust anchor here".to_owned();
            return fault(Reason::CertificateUnknownIssuer, top, detail);
        }
        let mut known = seen.anchors.iter().chain(seen.pool);
        let Some(namesake) = known.find(|ca| ca.facts.subject_der == top.issuer_der) else {
            let detail = format!(
                "is issued by \"{}\", which is no trust anchor or intermediate here and was not presented",
                top.issuer
            );
            return fault(Reason::CertificateUnknownIssuer, top, detail);
        };
        if let Some(weakness) = namesake.facts.weakness() {
            return fault(Reason::CertificateInvalid, &namesake.facts, weakness);
        }
        let ids = (&top.issuer_key_id, &namesake.facts.key_id);
        if matches!(ids, (Some(named), Some(own)) if named == own) {
            let detail = format!(
                "bears a signature that its issuer \"{}\" did not make",
                top.issuer
            );
            return fault(Reason::CertificateInvalid, top, detail);
        }
        let detail = format!(
            "is issued by \"{}\", which is known here with another key only",
            top.issuer
        );
        fault(Reason::CertificateUnknownIssuer, top, detail)
    }
}
