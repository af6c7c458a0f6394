//! Whether a request may go to its endpoint: one asynchronous step, whatever the scheme needs to find out.

use std::future::{Future, ready};

use crate::identity::ClientCertificate;
use crate::message::refusal::Refusal;
use crate::reason::Reason;
use crate::role::Scheme;
use crate::routing::Way;

/// What a request can show.
#[derive(Debug)]
pub(super) struct Credentials<'a> {
    /// What the connection's certificate is worth.
    pub(super) certificate: &'a ClientCertificate,
    /// Whether the server name is not served without a verified one.
    pub(super) required: bool,
}

/// Decides whether a request may go on.
///
/// # Errors
/// Which credential is missing or why it is not accepted.
pub(super) fn authorise(
    credentials: &Credentials<'_>,
    scheme: Scheme,
    way: Way,
) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
    ready(judge(credentials, scheme, way))
}

fn judge(credentials: &Credentials<'_>, scheme: Scheme, way: Way) -> Result<(), Refusal> {
    let verified = verified(credentials.certificate);
    if credentials.required {
        verified.clone()?;
    }
    match (way, scheme) {
        // Clients of a root publication know no token: there a certificate stands for one.
        (Way::Mutual, _)
        | (Way::Root, Scheme::Token)
        | (Way::Server | Way::Root, Scheme::Certificate) => verified,
        (Way::Server, Scheme::Token) => Err(Refusal::new(Reason::InvalidToken)),
        (Way::Server | Way::Root, Scheme::Backend | Scheme::Public) => Ok(()),
    }
}

/// Whether there is a verified certificate.
///
/// # Errors
/// Why not, with the certificate at fault.
pub(super) fn verified(certificate: &ClientCertificate) -> Result<(), Refusal> {
    match certificate {
        ClientCertificate::Verified(_) => Ok(()),
        ClientCertificate::Missing => Err(Refusal::new(Reason::CertificateMissing)),
        ClientCertificate::Refused(fault) => {
            let detail = format!("{}: {}", fault.which, fault.detail);
            Err(Refusal::new(fault.reason).detail(detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::identity::Identity;
    use crate::message::headers::ClientCertFields;
    use crate::pki::CertificateFault;

    fn verdict(certificate: &ClientCertificate, scheme: Scheme, way: Way) -> Result<(), Reason> {
        let credentials = Credentials {
            certificate,
            required: false,
        };
        judge(&credentials, scheme, way).map_err(|refusal| refusal.reason)
    }

    fn certificates() -> [ClientCertificate; 3] {
        let identity = Identity {
            name: "pc-1".to_owned(),
            subject: "CN=pc-1".to_owned(),
            issuer: "CN=ca".to_owned(),
            serial: "01".to_owned(),
            fingerprint: "00".to_owned(),
            leaf: bytes::Bytes::new(),
            chain: Vec::new(),
            fields: ClientCertFields::new("CN=pc-1".to_owned(), Vec::new()),
        };
        let fault = CertificateFault {
            reason: Reason::CertificateExpired,
            which: "CN=pc-1".to_owned(),
            detail: "ended".to_owned(),
            crl_of: None,
        };
        [
            ClientCertificate::Verified(Arc::new(identity)),
            ClientCertificate::Refused(fault),
            ClientCertificate::Missing,
        ]
    }

    #[test]
    fn every_way_and_scheme_asks_for_what_it_needs() {
        let expired = Err(Reason::CertificateExpired);
        let missing = Err(Reason::CertificateMissing);
        let token = Err(Reason::InvalidToken);
        let needs_certificate = [Ok(()), expired, missing];
        for (way, scheme, expected) in [
            (Way::Mutual, Scheme::Token, needs_certificate),
            (Way::Mutual, Scheme::Backend, needs_certificate),
            (Way::Mutual, Scheme::Public, needs_certificate),
            (Way::Server, Scheme::Certificate, needs_certificate),
            (Way::Server, Scheme::Token, [token, token, token]),
            (Way::Server, Scheme::Backend, [Ok(()), Ok(()), Ok(())]),
            (Way::Server, Scheme::Public, [Ok(()), Ok(()), Ok(())]),
            (Way::Root, Scheme::Certificate, needs_certificate),
            (Way::Root, Scheme::Token, needs_certificate),
            (Way::Root, Scheme::Backend, [Ok(()), Ok(()), Ok(())]),
        ] {
            let found = certificates().map(|certificate| verdict(&certificate, scheme, way));
            assert_eq!(found, expected, "{way:?} {scheme:?}");
        }
    }

    #[test]
    fn a_name_that_requires_certificates_serves_nobody_without_one() {
        let verdicts = certificates().map(|certificate| {
            let credentials = Credentials {
                certificate: &certificate,
                required: true,
            };
            judge(&credentials, Scheme::Public, Way::Server).map_err(|refusal| refusal.reason)
        });
        assert_eq!(
            verdicts,
            [
                Ok(()),
                Err(Reason::CertificateExpired),
                Err(Reason::CertificateMissing)
            ]
        );
    }
}
