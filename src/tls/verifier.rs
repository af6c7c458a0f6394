//! How client certificates are looked at within a handshake: for possession of the key only, or judged at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::server::VerifyFn;
use crate::pki::{CertificateDer, CertificateFault, UnixTime, weakness};
use crate::reason::Reason;

/// Where the judge of one handshake leaves what it found, since rustls carries the alert but not the words.
#[derive(Clone, Debug, Default)]
pub(super) struct Found(Arc<Mutex<Option<CertificateFault>>>);

impl Found {
    pub(super) fn take(&self) -> Option<CertificateFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, fault: CertificateFault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }
}

/// Asks for a certificate and takes any, if the client holds its key.
///
/// With `judge`, the chain is judged within the handshake, which fails with the alert that fits.
pub(super) struct Verifier {
    hints: Arc<[DistinguishedName]>,
    algorithms: WebPkiSupportedAlgorithms,
    mandatory: bool,
    judge: Option<(VerifyFn, Found)>,
}

impl Verifier {
    /// A verifier that looks for possession only; a client without a certificate is taken too.
    pub(super) fn possession(hints: Arc<[DistinguishedName]>, provider: &CryptoProvider) -> Self {
        Self {
            hints,
            algorithms: provider.signature_verification_algorithms,
            mandatory: false,
            judge: None,
        }
    }

    /// A verifier for one handshake, which fails unless the chain is judged good.
    pub(super) fn judging(
        hints: Arc<[DistinguishedName]>,
        provider: &CryptoProvider,
        mandatory: bool,
        verify: VerifyFn,
        found: Found,
    ) -> Self {
        Self {
            hints,
            algorithms: provider.signature_verification_algorithms,
            mandatory,
            judge: Some((verify, found)),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("mandatory", &self.mandatory)
            .field("judges", &self.judge.is_some())
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some((verify, found)) = &self.judge {
            let presented: Vec<_> = std::iter::once(end_entity)
                .chain(intermediates)
                .map(|der| CertificateDer::from(der.as_ref()))
                .collect();
            verify(&presented).map_err(|fault| {
                let error = alert_of(fault.reason);
                found.set(fault);
                Error::InvalidCertificate(error)
            })?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = verify_tls12_signature(message, cert, dss, &self.algorithms);
        verified.map_err(|error| explained(error, cert))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = verify_tls13_signature(message, cert, dss, &self.algorithms);
        verified.map_err(|error| explained(error, cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A signature that could not be verified since the key is too weak says so, and not that it is false.
fn explained(error: Error, certificate: &CertificateDer<'_>) -> Error {
    match weakness(certificate) {
        Some(fault) => {
            let fault = OtherError(Arc::new(fault));
            Error::InvalidCertificate(CertificateError::Other(fault))
        }
        None => error,
    }
}

/// The fault that [`explained`] put into an error.
pub(super) fn fault_of(error: &Error) -> Option<&CertificateFault> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref()
}

/// The error by which rustls sends the alert that fits (RFC 8446 §6.2).
fn alert_of(reason: Reason) -> CertificateError {
    const ALERTS: [(Reason, CertificateError); 6] = [
        (Reason::CertificateExpired, CertificateError::Expired),
        (
            Reason::CertificateNotYetValid,
            CertificateError::NotValidYet,
        ),
        (
            Reason::CertificateUnknownIssuer,
            CertificateError::UnknownIssuer,
        ),
        (
            Reason::CertificateWrongUsage,
            CertificateError::InvalidPurpose,
        ),
        (Reason::CertificateRevoked, CertificateError::Revoked),
        (
            Reason::RevocationUnknown,
            CertificateError::UnknownRevocationStatus,
        ),
    ];
    let alert = ALERTS.into_iter().find(|(known, _)| *known == reason);
    // Everything else is told as bad_certificate.
    alert.map_or(CertificateError::BadEncoding, |(_, alert)| alert)
}
