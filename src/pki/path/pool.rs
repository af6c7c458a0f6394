//! Which certificates may help to build a path.
//!
//! The path builder tries every order of certificates of fitting names before it looks at a signature, so that a peer
//! could keep it busy with a handful of certificates of one name. It is given only those that a chain of links reaches
//! from the leaf; where several have the name of an issuer, only those that made the signature.

use rustls_pki_types::CertificateDer;

use super::Authority;
use crate::pki::{Certificate, link};

/// How many signatures are verified to tell certificates of one name apart; beyond it none is added.
const MAX_SIGNATURES: usize = 32;

/// The certificates, presented or configured, that a chain of links reaches from the leaf; each once.
pub(super) fn pool(
    leaf: &Certificate,
    presented: &[CertificateDer<'_>],
    configured: &[Authority],
) -> Vec<Authority> {
    let candidates = candidates(presented, configured);
    let mut budget = MAX_SIGNATURES;
    let mut reached: Vec<usize> = Vec::new();
    let mut next = 0;
    let mut child = (leaf.issuer_der.clone(), presented[0].clone().into_owned());
    loop {
        let named: Vec<_> = (0..candidates.len())
            .filter(|index| candidates[*index].facts.subject_der == child.0)
            .collect();
        let alone = named.len() == 1;
        for index in named
            .into_iter()
            .filter(|index| !reached.contains(index))
            .collect::<Vec<_>>()
        {
            if !alone {
                budget = budget.saturating_sub(1);
            }
            if alone || (budget > 0 && link::is_signed_by(&child.1, &candidates[index].der)) {
                reached.push(index);
            }
        }
        let Some(issuer) = reached.get(next).map(|index| &candidates[*index]) else {
            break;
        };
        child = (issuer.facts.issuer_der.clone(), issuer.der.clone());
        next += 1;
    }
    reached
        .into_iter()
        .map(|index| candidates[index].clone())
        .collect()
}

/// What was presented behind the leaf, then what is configured. What cannot be parsed cannot help and is left out.
fn candidates(presented: &[CertificateDer<'_>], configured: &[Authority]) -> Vec<Authority> {
    let mut candidates: Vec<Authority> = Vec::new();
    for der in presented.iter().skip(1) {
        let known = candidates.iter().any(|ca| ca.der == *der) || *der == presented[0];
        if let (false, Ok(facts)) = (known, Certificate::parse(der)) {
            candidates.push(Authority {
                der: der.clone().into_owned(),
                facts,
            });
        }
    }
    for ca in configured {
        if !candidates.iter().any(|known| known.der == ca.der) {
            candidates.push(ca.clone());
        }
    }
    candidates
}
