//! What the verifier makes of a chain, check by check, for people.
//!
//! The verdict is that of [`Anchors::verify`] and nothing else; the checks beside it say what each certificate adds, so
//! that everything that is wrong is seen at once and not only what the verifier met first.

use rustls_pki_types::{CertificateDer, UnixTime};

use super::fault::{Chain, Seen};
use super::name::print_time;
use super::{Anchors, Certificate, CertificateFault, Crl, Issued, Listed, Path, Revocation, Usage};

/// Where a certificate of a chain came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The peer presented it.
    Presented,
    /// It is a configured intermediate.
    Configured,
    /// It is a trust anchor.
    Anchor,
}

/// One certificate of the chain.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its facts.
    pub facts: Certificate,
    /// Where it came from.
    pub origin: Origin,
}

/// One check over the whole chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is checked, in one word or two.
    pub what: &'static str,
    /// What was found; begins with the certificate where something is wrong.
    pub found: String,
    /// Whether it passed.
    pub ok: bool,
}

/// What the verifier makes of a chain.
#[derive(Debug)]
pub struct Explanation {
    /// The chain as far as it leads, leaf first and with the anchor if one was reached.
    pub links: Vec<Link>,
    /// Every check, in the order in which they are told.
    pub checks: Vec<Check>,
    /// Where the certificate that is missing above the last link may be had, as that link says.
    pub missing_at: Vec<String>,
    /// What the verifier says.
    pub verdict: Result<Path, CertificateFault>,
}

impl Anchors {
    /// Explains what [`Anchors::verify`] says of a chain, leaf first.
    ///
    /// # Errors
    /// The fault, if there is no leaf that can be parsed.
    pub fn explain(
        &self,
        presented: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
        revocation: &Revocation,
    ) -> Result<Explanation, CertificateFault> {
        let verdict = self.verify(presented, usage, now, revocation);
        let links = match &verdict {
            Ok(path) => self.links_of(path, presented),
            Err(fault) => self
                .links_found(presented, now)
                .ok_or_else(|| fault.clone())?,
        };
        let anchored = links.last().is_some_and(|top| top.origin == Origin::Anchor);
        let mut checks = vec![
            reaches(&links, anchored),
            dates(&links, now),
            usages(&links),
            issuers(&links),
            lengths(&links),
            strength(&links),
        ];
        if anchored {
            checks.push(status(&links, now, revocation));
        }
        // What only the verifier looks at is told where nothing else was wrong.
        if checks.iter().all(|check| check.ok) {
            checks.push(others(verdict.as_ref().err()));
        }
        let top = links.last().filter(|_| !anchored);
        Ok(Explanation {
            missing_at: top
                .map(|top| top.facts.issuer_urls.clone())
                .unwrap_or_default(),
            links,
            checks,
            verdict,
        })
    }

    fn links_of(&self, path: &Path, presented: &[CertificateDer<'_>]) -> Vec<Link> {
        let link = |der: &CertificateDer<'_>| {
            let origin = match presented.contains(der) {
                true => Origin::Presented,
                false => Origin::Configured,
            };
            let facts = Certificate::parse(der).ok()?;
            Some(Link { facts, origin })
        };
        let anchor = self
            .certificates()
            .find(|(_, facts)| facts.fingerprint == path.anchor);
        let anchor = anchor.map(|(_, facts)| Link {
            facts: facts.clone(),
            origin: Origin::Anchor,
        });
        path.certificates
            .iter()
            .filter_map(link)
            .chain(anchor)
            .collect()
    }

    fn links_found(&self, presented: &[CertificateDer<'_>], now: UnixTime) -> Option<Vec<Link>> {
        let leaf_der = presented.first()?;
        let leaf = Certificate::parse(leaf_der).ok()?;
        let pool = self.helpers(&leaf, presented);
        let seen = Seen {
            leaf: (leaf_der, &leaf),
            pool: &pool,
            anchors: self.authorities(),
            now,
        };
        let chain = Chain::follow(&seen);
        let last = chain.links.len() - 1;
        let link = |(index, (der, facts)): (usize, &(&CertificateDer<'_>, &Certificate))| Link {
            facts: (*facts).clone(),
            origin: if chain.anchored && index == last {
                Origin::Anchor
            } else if presented.contains(der) {
                Origin::Presented
            } else {
                Origin::Configured
            },
        };
        Some(chain.links.iter().enumerate().map(link).collect())
    }
}

impl Check {
    fn new(what: &'static str, faults: &[String], good: impl Into<String>) -> Self {
        let ok = faults.is_empty();
        let found = if ok { good.into() } else { faults.join("; ") };
        Self { what, found, ok }
    }
}

fn reaches(links: &[Link], anchored: bool) -> Check {
    let Some(top) = links.last() else {
        return Check::new("path", &["there is no certificate".to_owned()], "");
    };
    let title = top.facts.title();
    if anchored {
        let good = format!(
            "leads to the trust anchor {title}, each certificate signed with the key of the next"
        );
        return Check::new("path", &[], good);
    }
    let fault = if top.facts.is_self_issued() {
        format!("{title} is signed by its own key and is no trust anchor here")
    } else {
        format!(
            "{title} is issued by \"{}\", which is not known here with the key that signed",
            top.facts.issuer
        )
    };
    Check::new("path", &[fault], "")
}

fn dates(links: &[Link], now: UnixTime) -> Check {
    let fault = |link: &Link| {
        let title = link.facts.title();
        if now > link.facts.not_after {
            Some(format!(
                "{title} expired at {}",
                print_time(link.facts.not_after)
            ))
        } else if now < link.facts.not_before {
            Some(format!(
                "{title} is not valid before {}",
                print_time(link.facts.not_before)
            ))
        } else {
            None
        }
    };
    let faults: Vec<_> = links.iter().filter_map(fault).collect();
    let end = links.iter().map(|link| link.facts.not_after).min();
    let end = end.map(print_time).unwrap_or_default();
    Check::new(
        "dates",
        &faults,
        format!("valid now, all of them until {end}"),
    )
}

fn usages(links: &[Link]) -> Check {
    let below_anchor = links.iter().filter(|link| link.origin != Origin::Anchor);
    let unfit = below_anchor.filter(|link| !link.facts.client_auth);
    let faults: Vec<_> = unfit
        .map(|link| {
            format!(
                "the extended key usage of {} does not name client authentication",
                link.facts.title()
            )
        })
        .collect();
    Check::new(
        "usage",
        &faults,
        "for client authentication, or for anything",
    )
}

fn issuers(links: &[Link]) -> Check {
    let mut faults = Vec::new();
    if let Some(leaf) = links.first().filter(|leaf| leaf.facts.is_ca) {
        faults.push(format!(
            "{} is a CA certificate, and a peer needs one that is not",
            leaf.facts.title()
        ));
    }
    for link in links.iter().skip(1) {
        let title = link.facts.title();
        if !link.facts.is_ca {
            faults.push(format!(
                "{title} signed another certificate and is not a CA's"
            ));
        } else if !link.facts.signs_certificates {
            faults.push(format!(
                "{title} signed another certificate, and its key usage does not allow that"
            ));
        }
    }
    Check::new(
        "issuers",
        &faults,
        "every issuer is a CA that may sign certificates",
    )
}

fn lengths(links: &[Link]) -> Check {
    let fault = |(index, link): (usize, &Link)| {
        let below = index.saturating_sub(1);
        let allowed = usize::try_from(link.facts.path_length?).unwrap_or(usize::MAX);
        let title = link.facts.title();
        (allowed < below)
            .then(|| format!("{title} allows {allowed} CA certificates below it and has {below}"))
    };
    let faults: Vec<_> = links.iter().enumerate().filter_map(fault).collect();
    Check::new(
        "path length",
        &faults,
        "no CA has more CAs below it than it allows",
    )
}

fn strength(links: &[Link]) -> Check {
    let mut faults = Vec::new();
    for link in links {
        let title = link.facts.title();
        // Nobody verifies the signature of an anchor on itself.
        if link.origin != Origin::Anchor && !link.facts.is_verifiable() {
            faults.push(format!(
                "{title} is signed with {}, which is not accepted",
                link.facts.signature
            ));
        }
        faults.extend(
            link.facts
                .weakness()
                .map(|weakness| format!("{title} {weakness}")),
        );
    }
    Check::new(
        "algorithms",
        &faults,
        "every key and signature is of a kind and strength that is accepted",
    )
}

/// What the CRLs say of each certificate that is looked up.
fn status(links: &[Link], now: UnixTime, revocation: &Revocation) -> Check {
    let what = "revocation";
    if !revocation.policy().check {
        return Check::new(what, &[], "not checked: revocation.check is off");
    }
    let pairs = links.windows(2);
    let issued: Vec<_> = pairs
        .map(|pair| Issued::new(&pair[0].facts, &pair[1].facts))
        .collect();
    let judgement = revocation.judge(&issued, now);
    if let Err(fault) = judgement.verdict {
        return Check::new(what, &[format!("\"{}\" {}", fault.which, fault.detail)], "");
    }
    let told = issued
        .iter()
        .zip(&judgement.listed)
        .map(|(issued, listed)| {
            let said = match listed {
                Listed::Good(crl) => format!("is not on {}", dated(crl)),
                Listed::Stale(crl) => format!("is not on {}, which is stale", dated(crl)),
                Listed::Revoked(crl) => format!("is on {}", dated(crl)),
                Listed::Unknown => "is on no list that is at hand".to_owned(),
            };
            format!("\"{}\" {said}", issued.title)
        });
    Check::new(what, &[], told.collect::<Vec<_>>().join("; "))
}

fn dated(crl: &Crl) -> String {
    let (made, next) = (print_time(crl.this_update()), print_time(crl.next_update()));
    format!("{} (of {made}, the next by {next})", crl.title())
}

fn others(fault: Option<&CertificateFault>) -> Check {
    let faults: Vec<_> = fault
        .map(|fault| format!("\"{}\" {}", fault.which, fault.detail))
        .into_iter()
        .collect();
    Check::new(
        "other rules",
        &faults,
        "name constraints and all else of RFC 5280 hold",
    )
}

/// Puts the leaf first: the first certificate that issued no other one of the list. What follows keeps its order.
pub fn leaf_first(mut certificates: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    let facts: Vec<_> = certificates
        .iter()
        .map(|der| Certificate::parse(der).ok())
        .collect();
    let issued_another = |subject: &[u8]| {
        let others = facts.iter().flatten();
        others
            .filter(|other| !other.is_self_issued())
            .any(|other| other.issuer_der == subject)
    };
    let leaf = facts.iter().position(|facts| {
        let facts = facts.as_ref();
        facts.is_some_and(|facts| !issued_another(&facts.subject_der) && !facts.is_self_issued())
    });
    if let Some(leaf) = leaf {
        let leaf = certificates.remove(leaf);
        certificates.insert(0, leaf);
    }
    certificates
}
