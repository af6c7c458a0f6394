//! Certificate requests: a connection point's key is made where it lives, and only the request travels.

use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, DnsName};

use super::{Authority, Key, Leaf, Validity, files, unfit};
use crate::pki::PkiError;

/// A certificate request that was made, or read and found to be signed by the key it names.
#[derive(Debug)]
pub struct Request {
    name: String,
    params: CertificateSigningRequestParams,
}

/// Makes the request of a connection point of that DNS name, as PEM.
///
/// # Errors
/// [`PkiError::Unfit`] if the name is not a DNS name.
pub fn request(name: &str, key: &Key) -> Result<String, PkiError> {
    check_name(name)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(unfit)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let made = params.serialize_request(&key.0).map_err(unfit)?;
    Ok(files::pem("CERTIFICATE REQUEST", made.der()))
}

impl Request {
    /// Reads a request, PEM or DER, and verifies that it is signed by the key it holds.
    ///
    /// # Errors
    /// [`PkiError::Malformed`] if it is no request or its signature is wrong; [`PkiError::Unfit`] if it holds no DNS
    /// name to call the connection point by.
    pub fn read(bytes: &[u8]) -> Result<Self, PkiError> {
        const DER_SEQUENCE: u8 = 0x30;
        let malformed = |detail: String| PkiError::malformed("the certificate request", detail);
        let der = if bytes.first() == Some(&DER_SEQUENCE) {
            CertificateSigningRequestDer::from(bytes.to_vec())
        } else {
            CertificateSigningRequestDer::from_pem_slice(bytes)
                .map_err(|error| malformed(error.to_string()))?
        };
        let params = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| malformed(error.to_string()))?;
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "a foreign enum of name types; one of them is a DNS name"
        )]
        let dns = |name: &SanType| match name {
            SanType::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        };
        let name = params.params.subject_alt_names.iter().find_map(dns);
        let name = name.ok_or_else(|| {
            PkiError::Unfit(
                "the certificate request holds no DNS name (one in subjectAltName is needed)"
                    .to_owned(),
            )
        })?;
        check_name(&name)?;
        Ok(Self { name, params })
    }

    /// The name of the connection point: the first DNS name of the request, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Authority {
    /// Signs the request of a connection point: its name and its key are taken, whatever else it asks for is not.
    ///
    /// Returns the certificate and what goes behind it, without the root.
    ///
    /// # Errors
    /// If the validity cannot be encoded.
    pub fn sign_request(
        &self,
        request: &Request,
        validity: Validity,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let leaf = Leaf::connection_point(request.name(), validity);
        self.certify(&leaf, &request.params.public_key)
    }
}

fn check_name(name: &str) -> Result<(), PkiError> {
    if name.contains('*') || DnsName::try_from(name).is_err() {
        return Err(PkiError::Unfit(format!(
            "\"{name}\" cannot name a connection point (a DNS name without wildcard is allowed)"
        )));
    }
    Ok(())
}
