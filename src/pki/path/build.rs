//! Building a set of anchors and intermediates, with everything that is wrong with it.

use rustls_pki_types::CertificateDer;

use super::{Anchors, Authority, Limits};
use crate::pki::Certificate;

impl Anchors {
    /// Builds a set from certificates. One that is given twice counts once.
    ///
    /// # Errors
    /// Every problem: more than the limits allow, a root among the intermediates, an intermediate among the anchors,
    /// a certificate that is not a CA's, no anchor at all.
    pub fn build(
        anchors: &[CertificateDer<'_>],
        intermediates: &[CertificateDer<'_>],
        limits: Limits,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let anchors = authorities(anchors, "trust anchor", &mut problems);
        let intermediates = authorities(intermediates, "intermediate", &mut problems);
        if anchors.is_empty() && problems.is_empty() {
            problems.push("no trust anchor is given (at least one root is needed)".to_owned());
        }
        check_count(
            anchors.len(),
            limits.anchors,
            Limits::MAX.anchors,
            "trust anchors",
            "max-anchors",
            &mut problems,
        );
        check_count(
            intermediates.len(),
            limits.intermediates,
            Limits::MAX.intermediates,
            "intermediates",
            "max-intermediates",
            &mut problems,
        );
        for anchor in anchors
            .iter()
            .filter(|anchor| !anchor.facts.is_self_issued())
        {
            problems.push(format!(
                "the trust anchor {} is no root but issued by \"{}\" (list it as an intermediate, and its root as a trust anchor)",
                anchor.facts.title(),
                anchor.facts.issuer
            ));
        }
        for root in intermediates.iter().filter(|ca| ca.facts.is_self_issued()) {
            let title = root.facts.title();
            problems.push(format!(
                "the intermediate {title} is a root (list it as a trust anchor)"
            ));
        }
        let mut trusted = Vec::new();
        for anchor in &anchors {
            match webpki::anchor_from_trusted_cert(&anchor.der) {
                Ok(anchor) => trusted.push(anchor.to_owned()),
                Err(error) => {
                    problems.push(format!(
                        "the trust anchor {} cannot be used: {error}",
                        anchor.facts.title()
                    ));
                }
            }
        }
        if problems.is_empty() {
            Ok(Self {
                anchors,
                trusted,
                intermediates,
            })
        } else {
            Err(problems)
        }
    }
}

fn authorities(
    certificates: &[CertificateDer<'_>],
    what: &str,
    problems: &mut Vec<String>,
) -> Vec<Authority> {
    let mut found: Vec<Authority> = Vec::new();
    for der in certificates {
        match Certificate::parse(der) {
            Ok(_) if found.iter().any(|ca| ca.der == *der) => {}
            Ok(facts) if !facts.is_ca => {
                let title = facts.title();
                problems.push(format!("the {what} {title} is not a CA certificate"));
            }
            Ok(facts) => found.push(Authority {
                der: der.clone().into_owned(),
                facts,
            }),
            Err(error) => problems.push(format!(
                "a certificate given as {what} cannot be used: {error}"
            )),
        }
    }
    found
}

fn check_count(
    count: usize,
    limit: usize,
    max: usize,
    what: &str,
    key: &str,
    problems: &mut Vec<String>,
) {
    if count > max {
        problems.push(format!(
            "{count} {what} are given (at most {max} are allowed)"
        ));
    } else if count > limit {
        problems.push(format!(
            "{count} {what} are given ({limit} are allowed; {key} raises this up to {max})"
        ));
    }
}
