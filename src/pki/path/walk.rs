//! What is looked at in a path that the path builder found: the dates of its anchor, whether its CAs may sign, revocation.

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::VerifiedPath;

use super::Anchors;
use crate::pki::{Certificate, CertificateFault, Issued, Revocation};

/// The last path that was walked, and the first that only its revocation status stopped.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The fingerprint of its anchor.
    pub(super) anchor: String,
    /// The earliest end of validity in it, its anchor among it.
    pub(super) not_after: Option<UnixTime>,
    pub(super) issued: Vec<Issued>,
    pub(super) until: Option<UnixTime>,
    pub(super) fault: Option<CertificateFault>,
}

impl Walked {
    /// Judges a path. On an error the path builder looks for another one.
    pub(super) fn walk(
        &mut self,
        anchors: &Anchors,
        path: &VerifiedPath<'_>,
        revocation: &Revocation,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let anchor = anchors.anchor_of(path);
        let anchor = anchor.ok_or(webpki::Error::UnknownIssuer)?;
        check_dates(&anchor.facts, now)?;
        let intermediates: Vec<_> = path
            .intermediate_certificates()
            .map(|ca| ca.der())
            .collect();
        let mut chain = Vec::with_capacity(2 + intermediates.len());
        for der in std::iter::once(path.end_entity().der()).chain(intermediates.iter().cloned()) {
            chain.push(Certificate::parse(&der).map_err(|_| webpki::Error::BadDer)?);
        }
        if !chain.iter().skip(1).all(|ca| ca.signs_certificates) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
        chain.push(anchor.facts.clone());
        let issued: Vec<_> = chain
            .windows(2)
            .map(|pair| Issued::new(&pair[0], &pair[1]))
            .collect();
        let judgement = revocation.judge(&issued, now);
        if !judgement.uncertain.is_empty() {
            let anchor = std::iter::once(anchor.der.clone());
            let issuers: Vec<CertificateDer<'_>> =
                intermediates.into_iter().chain(anchor).collect();
            revocation.tell(&judgement, &issued, &issuers);
        }
        match judgement.verdict {
            Ok(until) => {
                (self.issued, self.until) = (issued, until);
                self.anchor.clone_from(&anchor.facts.fingerprint);
                self.not_after = chain.iter().map(|facts| facts.not_after).min();
                Ok(())
            }
            Err(fault) => {
                self.fault.get_or_insert(fault);
                Err(webpki::Error::CertRevoked)
            }
        }
    }
}

fn check_dates(anchor: &Certificate, now: UnixTime) -> Result<(), webpki::Error> {
    let (not_before, not_after) = (anchor.not_before, anchor.not_after);
    if now > not_after {
        return Err(webpki::Error::CertExpired {
            time: now,
            not_after,
        });
    }
    if now < not_before {
        return Err(webpki::Error::CertNotValidYet {
            time: now,
            not_before,
        });
    }
    Ok(())
}
