//! One link of a chain: was this certificate signed with the key of that one?

use rustls_pki_types::CertificateDer;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert};

use super::certificate::parse_x509;
use super::{Certificate, IssuerKey};

/// Whether a CA is one of `known`, by name and key, or was issued by one of them.
pub fn leads_to(ca: &CertificateDer<'_>, known: &[CertificateDer<'_>]) -> bool {
    let Ok(facts) = Certificate::parse(ca) else {
        return false;
    };
    known.iter().any(|der| {
        Certificate::parse(der).is_ok_and(|own| {
            IssuerKey::of(&own) == IssuerKey::of(&facts)
                || (own.subject_der == facts.issuer_der && is_signed_by(ca, der))
        })
    })
}

/// Whether the signature of `child` verifies with the public key of `issuer`. Names and dates are not looked at.
pub(super) fn is_signed_by(child: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok(parsed), Ok(issuer)) = (parse_x509(child), EndEntityCert::try_from(issuer)) else {
        return false;
    };
    let message = parsed.tbs_certificate.as_ref();
    let signature = parsed.signature_value.data.as_ref();
    // An algorithm that does not fit the key or the signature fails, so that trying each is enough.
    ALL_VERIFICATION_ALGS.iter().any(|algorithm| {
        issuer
            .verify_signature(*algorithm, message, signature)
            .is_ok()
    })
}
