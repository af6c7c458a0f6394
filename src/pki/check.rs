//! Whether a server certificate is fit to be served, before a client finds out that it is not.

use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use super::name::print_time;
use super::{Certificate, KeyPair, link};

/// Checks a server certificate as a client would: dates, usage, name, key, and that the chain holds together.
///
/// Returns every problem, each a sentence for an administrator that names the certificate; nothing if all is well.
/// `name` is the host name that clients use, which may be a wildcard that stands for its hosts; without it the names
/// are not checked.
pub fn check_server_certificate(pair: &KeyPair, name: Option<&str>, now: UnixTime) -> Vec<String> {
    let mut problems = Vec::new();
    let parsed: Result<Vec<_>, _> = pair
        .chain
        .iter()
        .map(|der| Certificate::parse(der))
        .collect();
    let chain = match parsed {
        Ok(chain) => chain,
        Err(error) => return vec![error.to_string()],
    };
    let Some(leaf) = chain.first() else {
        return vec!["no certificate is given".to_owned()];
    };
    if !pair.key_matches() {
        problems.push(format!(
            "the private key does not belong to the certificate {}",
            leaf.title()
        ));
    }
    for facts in &chain {
        problems.extend(check_dates(facts, now));
    }
    problems.extend(check_leaf(leaf));
    if let Some(name) = name {
        problems.extend(check_name(&pair.chain[0], leaf, name));
    }
    for (index, pairs) in chain.windows(2).enumerate() {
        problems.extend(check_link(
            (&pairs[0], &pair.chain[index]),
            (&pairs[1], &pair.chain[index + 1]),
        ));
    }
    problems
}

/// Checks the certificate that a connection point shows to gateways: dates, usage, name, and that it is no CA's.
///
/// Returns every problem, each a sentence for an administrator that names the certificate; nothing if all is well.
pub fn check_connection_point_certificate(pair: &KeyPair, now: UnixTime) -> Vec<String> {
    let leaf = match pair.leaf() {
        Ok(leaf) => leaf,
        Err(error) => return vec![error.to_string()],
    };
    let title = leaf.title();
    let mut problems: Vec<_> = check_dates(&leaf, now).into_iter().collect();
    if leaf.is_ca {
        problems.push(format!(
            "the certificate {title} is a CA certificate, not a connection point's"
        ));
    }
    if !leaf.client_auth {
        problems.push(format!(
            "the certificate {title} is not meant for client authentication (its extended key usage must name clientAuth or be absent)"
        ));
    }
    if leaf.dns_names.is_empty() && leaf.common_name.is_none() {
        problems.push(format!(
            "the certificate {title} has no name to call the connection point by"
        ));
    }
    problems
}

fn check_dates(facts: &Certificate, now: UnixTime) -> Option<String> {
    let (title, [from, to, now_text]) = (
        facts.title(),
        [facts.not_before, facts.not_after, now].map(print_time),
    );
    if now > facts.not_after {
        Some(format!(
            "the certificate {title} expired at {to} (it is {now_text})"
        ))
    } else if now < facts.not_before {
        Some(format!(
            "the certificate {title} is not valid before {from} (it is {now_text})"
        ))
    } else {
        None
    }
}

fn check_leaf(leaf: &Certificate) -> Vec<String> {
    let title = leaf.title();
    let mut problems = Vec::new();
    if leaf.is_ca {
        problems.push(format!(
            "the certificate {title} is a CA certificate, not a server's"
        ));
    }
    if !leaf.server_auth {
        problems.push(format!(
            "the certificate {title} is not meant for server authentication (its extended key usage must name serverAuth or be absent)"
        ));
    }
    if let Some(weakness) = leaf.weakness() {
        problems.push(format!("the certificate {title} {weakness}"));
    }
    problems
}

fn check_name(der: &CertificateDer<'_>, leaf: &Certificate, name: &str) -> Option<String> {
    if covers(der, leaf, name) {
        return None;
    }
    let names = if leaf.dns_names.is_empty() {
        "no DNS name".to_owned()
    } else {
        leaf.dns_names.join(", ")
    };
    Some(format!(
        "the certificate {} does not cover \"{name}\" (it names {names})",
        leaf.title()
    ))
}

/// Whether a certificate, of which `leaf` is the facts, is valid for a name; a wildcard name must stand in it as it is.
pub fn covers(der: &CertificateDer<'_>, leaf: &Certificate, name: &str) -> bool {
    if name.starts_with("*.") {
        return leaf
            .dns_names
            .iter()
            .any(|own| own.eq_ignore_ascii_case(name));
    }
    let (Ok(name), Ok(certificate)) = (ServerName::try_from(name), EndEntityCert::try_from(der))
    else {
        return false;
    };
    certificate.verify_is_valid_for_subject_name(&name).is_ok()
}

fn check_link(
    child: (&Certificate, &CertificateDer<'_>),
    issuer: (&Certificate, &CertificateDer<'_>),
) -> Option<String> {
    let (title, above) = (child.0.title(), issuer.0.title());
    if child.0.issuer_der != issuer.0.subject_der {
        return Some(format!(
            "the certificate {title} is issued by \"{}\", but {above} follows it in the chain",
            child.0.issuer
        ));
    }
    if !(issuer.0.is_ca && issuer.0.signs_certificates) {
        return Some(format!(
            "the certificate {above} in the chain is not a CA certificate"
        ));
    }
    if !link::is_signed_by(child.1, issuer.1) {
        return Some(format!(
            "the certificate {title} was not signed with the key of {above}"
        ));
    }
    None
}

#[cfg(test)]
mod tests;
