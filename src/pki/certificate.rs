//! The facts of one certificate, and reading certificates from files.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::algorithm::signature_name;
use super::name::{hex, print_name, unix_time, value_text};
use super::{PkiError, Serial};

/// The kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, with its length in bits.
    Rsa(usize),
    /// ECDSA, with the length of its field in bits.
    Ecdsa(usize),
    /// Ed25519.
    Ed25519,
    /// Anything else, RSA for RSASSA-PSS only among it.
    Other,
}

/// The parsed facts of one certificate. Nothing of it is verified.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The subject, as text of RFC 4514; empty if the certificate has none.
    pub subject: String,
    /// The issuer, as text of RFC 4514.
    pub issuer: String,
    /// The subject as DER, as CA name hints need it.
    pub subject_der: Vec<u8>,
    /// The issuer as DER.
    pub issuer_der: Vec<u8>,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// The DNS names of the subjectAltName extension, in its order, as written there.
    pub dns_names: Vec<String>,
    /// The last common name of the subject.
    pub common_name: Option<String>,
    /// The first instant at which it is valid.
    pub not_before: UnixTime,
    /// The last instant at which it is valid.
    pub not_after: UnixTime,
    /// Whether its basic constraints say that it is a CA.
    pub is_ca: bool,
    /// How many CA certificates may stand between it and a leaf.
    pub path_length: Option<u32>,
    /// Whether it may be used for client authentication: its extended key usage says so or is absent.
    pub client_auth: bool,
    /// Whether it may be used for server authentication: its extended key usage says so or is absent.
    pub server_auth: bool,
    /// Whether it may sign certificates: its key usage says so or is absent.
    pub signs_certificates: bool,
    /// Whether it may sign CRLs: its key usage says so or is absent.
    pub signs_crls: bool,
    /// Its serial number as CRLs list it; none if it is longer than a CA may make it.
    pub number: Option<Serial>,
    /// Where its CRL is found: the URLs of its distribution points, of any scheme, but for those of some reasons or of
    /// other issuers.
    pub crl_points: Vec<String>,
    /// What it is signed with, such as `SHA-256 with RSA`; the object identifier of an algorithm without a name.
    pub signature: String,
    /// The kind of its public key.
    pub key: KeyKind,
    /// Its public key, as DER of SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// The key identifier of its subject, if it has the extension.
    pub key_id: Option<Vec<u8>>,
    /// The key identifier of its issuer, if it has the extension.
    pub issuer_key_id: Option<Vec<u8>>,
    /// Where the certificate of its issuer is found: the URLs of its authority information access (RFC 5280 §4.2.2.1).
    pub issuer_urls: Vec<String>,
    /// The SHA-256 fingerprint, lower-case hexadecimal.
    pub fingerprint: String,
}

impl Certificate {
    /// Parses one DER certificate.
    ///
    /// # Errors
    /// [`PkiError::Malformed`] if it is not one certificate of X.509, or bytes follow it.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, PkiError> {
        let parsed = parse_x509(der)?;
        let (is_ca, path_length) = match parsed.basic_constraints() {
            Ok(Some(constraints)) => (constraints.value.ca, constraints.value.path_len_constraint),
            Ok(None) | Err(_) => (false, None),
        };
        let usages = parsed.extended_key_usage().ok().flatten();
        let usages = usages.map(|extension| extension.value);
        let key_usage = parsed.key_usage().ok().flatten();
        let ids = key_ids(&parsed);
        Ok(Self {
            subject: print_name(parsed.subject()),
            issuer: print_name(parsed.issuer()),
            subject_der: parsed.subject().as_raw().to_vec(),
            issuer_der: parsed.issuer().as_raw().to_vec(),
            serial: hex(parsed.raw_serial()),
            dns_names: dns_names(&parsed),
            common_name: parsed
                .subject()
                .iter_common_name()
                .last()
                .and_then(value_text),
            not_before: unix_time(parsed.validity().not_before.timestamp()),
            not_after: unix_time(parsed.validity().not_after.timestamp()),
            is_ca,
            path_length,
            client_auth: usages.is_none_or(|usages| usages.client_auth),
            server_auth: usages.is_none_or(|usages| usages.server_auth),
            signs_certificates: key_usage
                .as_ref()
                .is_none_or(|usage| usage.value.key_cert_sign()),
            signs_crls: key_usage.is_none_or(|usage| usage.value.crl_sign()),
            number: Serial::new(parsed.raw_serial()),
            crl_points: crl_points(&parsed),
            signature: signature_name(&parsed.signature_algorithm),
            key: key_kind(&parsed),
            public_key: parsed.public_key().raw.to_vec(),
            key_id: ids.0,
            issuer_key_id: ids.1,
            issuer_urls: issuer_urls(&parsed),
            fingerprint: hex(&Sha256::digest(der)),
        })
    }

    /// Whether subject and issuer are one: a root, or a certificate signed by its own key.
    pub fn is_self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// What to call it in a message: the subject, else its DNS names, else its fingerprint.
    pub fn title(&self) -> String {
        if !self.subject.is_empty() {
            return format!("\"{}\"", self.subject);
        }
        match self.dns_names.first() {
            Some(name) => format!("\"{name}\""),
            None => format!("of fingerprint {}", self.fingerprint),
        }
    }
}

pub(super) fn parse_x509<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    let (rest, parsed) = X509Certificate::from_der(der)
        .map_err(|error| PkiError::malformed("a certificate", error))?;
    if rest.is_empty() {
        Ok(parsed)
    } else {
        let detail = format!("{} bytes follow it", rest.len());
        Err(PkiError::malformed("a certificate", detail))
    }
}

fn dns_names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "a foreign enum of name types; one of them is a DNS name"
    )]
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.filter_map(dns).collect()
}

fn crl_points(parsed: &X509Certificate<'_>) -> Vec<String> {
    let mut urls = Vec::new();
    for extension in parsed.extensions() {
        let ParsedExtension::CRLDistributionPoints(points) = extension.parsed_extension() else {
            continue;
        };
        for point in points.iter() {
            let whole = point.reasons.is_none() && point.crl_issuer.is_none();
            if let (true, Some(DistributionPointName::FullName(names))) =
                (whole, &point.distribution_point)
            {
                urls.extend(names.iter().filter_map(url));
            }
        }
    }
    urls
}

/// id-ad-caIssuers (RFC 5280 §4.2.2.1).
const CA_ISSUERS: &str = "1.3.6.1.5.5.7.48.2";

fn issuer_urls(parsed: &X509Certificate<'_>) -> Vec<String> {
    let mut urls = Vec::new();
    for extension in parsed.extensions() {
        if let ParsedExtension::AuthorityInfoAccess(access) = extension.parsed_extension() {
            let issuers = access
                .accessdescs
                .iter()
                .filter(|access| access.access_method.to_id_string() == CA_ISSUERS);
            urls.extend(issuers.filter_map(|access| url(&access.access_location)));
        }
    }
    urls
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum of name types; one of them is a URL"
)]
fn url(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(url) => Some((*url).to_owned()),
        _ => None,
    }
}

fn key_ids(parsed: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let mut ids = (None, None);
    for extension in parsed.extensions() {
        let parsed = extension.parsed_extension();
        if let ParsedExtension::SubjectKeyIdentifier(id) = parsed {
            ids.0 = Some(id.0.to_vec());
        } else if let ParsedExtension::AuthorityKeyIdentifier(id) = parsed {
            ids.1 = id.key_identifier.as_ref().map(|id| id.0.to_vec());
        }
    }
    ids
}

/// id-Ed25519 (RFC 8410 §3).
const ED25519: &str = "1.3.101.112";

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum of key kinds; the rest is Other"
)]
fn key_kind(parsed: &X509Certificate<'_>) -> KeyKind {
    let algorithm = parsed.public_key().algorithm.algorithm.to_id_string();
    match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => KeyKind::Rsa(key.key_size()),
        Ok(PublicKey::EC(key)) => KeyKind::Ecdsa(key.key_size()),
        Ok(PublicKey::Unknown(_)) if algorithm == ED25519 => KeyKind::Ed25519,
        _ => KeyKind::Other,
    }
}

/// Reads the certificates of a file: PEM with any number of them (other sections are passed over), or DER with one.
///
/// # Errors
/// [`PkiError::NoCertificate`] if there is none, [`PkiError::Malformed`] if one cannot be parsed.
pub fn read_certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    const DER_SEQUENCE: u8 = 0x30;
    let certificates = if bytes.first() == Some(&DER_SEQUENCE) {
        vec![CertificateDer::from(bytes.to_vec())]
    } else {
        CertificateDer::pem_slice_iter(bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| PkiError::malformed("the PEM file", error))?
    };
    if certificates.is_empty() {
        return Err(PkiError::NoCertificate);
    }
    for certificate in &certificates {
        parse_x509(certificate)?;
    }
    Ok(certificates)
}
