//! Making certificate revocation lists.

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope,
    KeyIdMethod, RevokedCertParams, SerialNumber,
};

use super::files::pem;
use super::{Authority, Validity, date, unfit};
use crate::pki::PkiError;

/// What a list says.
#[derive(Clone, Debug)]
pub struct RevocationList {
    /// Its number: the next one has a higher one.
    pub number: u64,
    /// From when it is, and when the next one comes.
    pub validity: Validity,
    /// The serial numbers of the certificates that are revoked, as [`Certificate::serial`](crate::pki::Certificate) prints them.
    pub revoked: Vec<String>,
    /// If not empty: that it speaks only of certificates that are no CA's and name one of these distribution points.
    pub points: Vec<String>,
}

impl RevocationList {
    /// A list of everything that its CA made, with nothing on it.
    pub fn empty(number: u64, validity: Validity) -> Self {
        Self {
            number,
            validity,
            revoked: Vec::new(),
            points: Vec::new(),
        }
    }
}

impl Authority {
    /// Makes a list of revoked certificates, as DER.
    ///
    /// # Errors
    /// If a serial number is not hexadecimal or the validity cannot be encoded.
    pub fn revoke(&self, list: &RevocationList) -> Result<Vec<u8>, PkiError> {
        let this_update = date(list.validity.not_before)?;
        let revoked = list.revoked.iter().map(|serial| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(bytes(serial)?),
                revocation_time: this_update,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let scope = CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint {
                uris: list.points.clone(),
            },
            scope: Some(CrlScope::UserCertsOnly),
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: date(list.validity.not_after)?,
            crl_number: SerialNumber::from(list.number),
            issuing_distribution_point: (!list.points.is_empty()).then_some(scope),
            revoked_certs: revoked.collect::<Result<_, PkiError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let made = params.signed_by(&self.issuer).map_err(unfit)?;
        Ok(made.der().to_vec())
    }
}

/// Writes a list as PEM.
pub fn crl_to_pem(der: &[u8]) -> String {
    pem("X509 CRL", der)
}

fn bytes(serial: &str) -> Result<Vec<u8>, PkiError> {
    let digits = serial.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    });
    let digits: Option<_> = digits.collect();
    digits.ok_or_else(|| PkiError::Unfit(format!("\"{serial}\" is no serial number")))
}
