//! Trust anchors and intermediates, and the paths that lead to them.

mod build;
mod pool;
mod walk;

use std::cell::RefCell;

use bytes::Bytes;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, VerifiedPath};

use super::fault::{Seen, explain, weakness};
use super::{Certificate, CertificateFault, Issued, IssuerKey, Revocation, Wanted, link};
use crate::reason::Reason;
use crate::settings::Reader;
use pool::pool;
use walk::Walked;

/// Whose certificates are verified: the label of metrics and logs. Both need client authentication as usage, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Certificates of clients.
    Client,
    /// Certificates of connection points.
    ConnectionPoint,
}

impl Usage {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ConnectionPoint => "connection-point",
        }
    }
}

/// How many anchors and intermediates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Trust anchors.
    pub anchors: usize,
    /// Intermediates.
    pub intermediates: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            anchors: 2,       // what the original takes
            intermediates: 4, // what the original takes
        }
    }
}

impl Limits {
    /// The most that a setting allows: above it, a set of CAs is a mistake rather than a company.
    pub const MAX: Self = Self {
        anchors: 16,
        intermediates: 64,
    };

    /// Reads `max-anchors` and `max-intermediates`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let read = |key, default: usize, max: usize| {
            let value = reader.integer(key, default as u64, 1..=max as u64);
            usize::try_from(value).unwrap_or(default)
        };
        Self {
            anchors: read("max-anchors", default.anchors, Self::MAX.anchors),
            intermediates: read(
                "max-intermediates",
                default.intermediates,
                Self::MAX.intermediates,
            ),
        }
    }
}

/// Which CA names a server tells its clients, so that they choose a certificate that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hints {
    /// None: the client chooses by itself.
    None,
    /// Every anchor and intermediate.
    All,
    /// Those anchors and intermediates with these subjects (RFC 4514 text, as messages print it).
    List(Vec<String>),
}

/// A CA certificate of the configuration with its facts.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pub(super) facts: Certificate,
}

/// A set of trust anchors and intermediates. Immutable. The default is empty, by which nothing verifies.
#[derive(Clone, Debug, Default)]
pub struct Anchors {
    anchors: Vec<Authority>,
    /// The anchors in the form that the path builder takes, in the same order.
    trusted: Vec<TrustAnchor<'static>>,
    intermediates: Vec<Authority>,
}

/// A verified path.
#[derive(Clone, Debug)]
pub struct Path {
    /// The leaf and its issuers, up to the one below the anchor.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The facts of the leaf.
    pub leaf: Certificate,
    /// The earliest end of validity in the path, its anchor among it.
    pub not_after: UnixTime,
    /// The fingerprint of the anchor.
    pub anchor: String,
    /// Its certificates with their issuers, for the look at CRLs.
    pub issued: Vec<Issued>,
    /// When it must be judged anew even if nothing else changes: its CRLs, or a grace, end. None if they do not.
    pub until: Option<UnixTime>,
}

/// How many certificates a peer may present: a path is at most 8 long, and the rest of an honest list is a root.
const MAX_PRESENTED: usize = 16;

impl Anchors {
    /// Verifies what a peer presented, leaf first, and builds its path with the help of the configured intermediates.
    ///
    /// Signatures, dates (those of the anchor too), basic constraints, path lengths, name constraints and usages are
    /// checked as RFC 5280 §6 has it; the order of what follows the leaf is of no account. Then the path's certificates are
    /// looked up in the CRLs; where one path fails on that, another is looked for.
    ///
    /// # Errors
    /// The certificate at fault and the reason; `certificate-missing` if nothing was presented.
    pub fn verify(
        &self,
        presented: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
        revocation: &Revocation,
    ) -> Result<Path, CertificateFault> {
        let key_usage = match usage {
            // RFC 5280 §4.2.1.12: a certificate without the extension may be used for anything.
            Usage::Client | Usage::ConnectionPoint => KeyUsage::client_auth(),
        };
        let leaf = check_presented(presented)?;
        let pool = pool(&leaf, presented, &self.intermediates);
        let certificates: Vec<_> = pool.iter().map(|ca| ca.der.clone()).collect();
        let seen = Seen {
            leaf: (&presented[0], &leaf),
            pool: &pool,
            anchors: &self.anchors,
            now,
        };
        let end_entity =
            EndEntityCert::try_from(&presented[0]).map_err(|error| explain(&error, &seen))?;
        let walked = RefCell::new(Walked::default());
        let found = end_entity.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &self.trusted,
            &certificates,
            now,
            key_usage,
            None,
            Some(&|path| walked.borrow_mut().walk(self, path, revocation, now)),
        );
        let walked = walked.into_inner();
        match (found, walked.fault.clone()) {
            (Ok(_), _) if let Some(weak) = weakness(&presented[0]) => Err(weak),
            (Ok(path), _) => Ok(Path::of(&path, leaf.clone(), walked)),
            (Err(_), Some(fault)) => Err(fault),
            (Err(error), None) => Err(explain(&error, &seen)),
        }
    }

    fn anchor_of(&self, path: &VerifiedPath<'_>) -> Option<&Authority> {
        // By its place and not by name and key, which a root that was renewed shares with the one before.
        let mut trusted = self.trusted.iter();
        let index = trusted.position(|anchor| std::ptr::eq(anchor, path.anchor()))?;
        self.anchors.get(index)
    }

    /// Whether a path that another set verified leads through this one as well, without verifying it again: its anchor
    /// (by fingerprint) is here, and each of its intermediates is here or was presented. Dates are not looked at.
    ///
    /// `chain` is the path from the leaf on. `false` does not say that another path could not be found.
    pub fn still_holds(&self, anchor: &str, chain: &[Bytes], presented: &[Bytes]) -> bool {
        let known = |der: &Bytes| {
            presented.contains(der) || self.intermediates.iter().any(|ca| *ca.der == **der)
        };
        let anchored = self.anchors.iter().any(|ca| ca.facts.fingerprint == anchor);
        anchored && chain.iter().skip(1).all(known)
    }

    /// The names to tell clients, as DER, each once.
    ///
    /// # Errors
    /// The names of the list that no anchor and no intermediate has.
    pub fn hints(&self, hints: &Hints) -> Result<Vec<Vec<u8>>, Vec<String>> {
        let all = || {
            self.anchors
                .iter()
                .chain(&self.intermediates)
                .map(|ca| &ca.facts)
        };
        let mut names: Vec<Vec<u8>> = match hints {
            Hints::None => Vec::new(),
            Hints::All => all().map(|facts| facts.subject_der.clone()).collect(),
            Hints::List(list) => {
                let unknown: Vec<_> = list
                    .iter()
                    .filter(|name| !all().any(|facts| facts.subject == **name))
                    .map(|name| {
                        let known: Vec<_> = all().map(|facts| format!("\"{}\"", facts.subject)).collect();
                        format!("no trust anchor and no intermediate has the name \"{name}\" (one of {} is allowed)", known.join(", "))
                    })
                    .collect();
                if !unknown.is_empty() {
                    return Err(unknown);
                }
                let listed = all().filter(|facts| list.contains(&facts.subject));
                listed.map(|facts| facts.subject_der.clone()).collect()
            }
        };
        let mut told = std::collections::HashSet::new();
        names.retain(|name| told.insert(name.clone()));
        Ok(names)
    }

    /// The certificates that may help to build the path of a leaf.
    pub(super) fn helpers(
        &self,
        leaf: &Certificate,
        presented: &[CertificateDer<'_>],
    ) -> Vec<Authority> {
        pool(leaf, presented, &self.intermediates)
    }

    /// The trust anchors.
    pub(super) fn authorities(&self) -> &[Authority] {
        &self.anchors
    }

    /// The CRLs that speak of the configured intermediates, as far as they name one and their issuer is configured.
    pub fn wanted(&self) -> Vec<Wanted> {
        let wanted = |child: &Authority| {
            let named = self.anchors.iter().chain(&self.intermediates);
            let mut signers = named.filter(|ca| {
                ca.facts.subject_der == child.facts.issuer_der
                    && link::is_signed_by(&child.der, &ca.der)
            });
            let issuer = signers.next()?;
            Some(Wanted {
                issuer_key: IssuerKey::of(&issuer.facts),
                issuer: issuer.der.clone(),
                urls: child.facts.crl_points.clone(),
            })
        };
        self.intermediates.iter().filter_map(wanted).collect()
    }

    /// The certificates of the set with the use they are put to (`trust-anchor` or `intermediate`), for lists of what
    /// expires.
    pub fn certificates(&self) -> impl Iterator<Item = (&'static str, &Certificate)> {
        let anchors = self.anchors.iter().map(|ca| ("trust-anchor", &ca.facts));
        let intermediates = self
            .intermediates
            .iter()
            .map(|ca| ("intermediate", &ca.facts));
        anchors.chain(intermediates)
    }
}

impl Path {
    fn of(path: &VerifiedPath<'_>, leaf: Certificate, walked: Walked) -> Self {
        let issuers = path.intermediate_certificates();
        let issuers = issuers.map(|ca| ca.der().into_owned());
        let leaf_der = std::iter::once(path.end_entity().der().into_owned());
        Self {
            certificates: leaf_der.chain(issuers).collect(),
            not_after: walked.not_after.unwrap_or(leaf.not_after),
            leaf,
            anchor: walked.anchor,
            issued: walked.issued,
            until: walked.until,
        }
    }
}

fn check_presented(presented: &[CertificateDer<'_>]) -> Result<Certificate, CertificateFault> {
    let fault = |reason, which: &str, detail: String| CertificateFault {
        reason,
        which: which.to_owned(),
        detail,
        crl_of: None,
    };
    let Some(leaf) = presented.first() else {
        let detail = "was not presented".to_owned();
        return Err(fault(Reason::CertificateMissing, "", detail));
    };
    let leaf = Certificate::parse(leaf)
        .map_err(|error| fault(Reason::CertificateInvalid, "", error.to_string()))?;
    if presented.len() > MAX_PRESENTED {
        let count = presented.len();
        let detail = format!("came with {count} certificates ({MAX_PRESENTED} are allowed)");
        return Err(fault(Reason::CertificateInvalid, &leaf.subject, detail));
    }
    Ok(leaf)
}

#[cfg(test)]
mod tests;
