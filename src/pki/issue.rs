//! Making certificates: the throw-away PKI of `quickstart` and the tests, and connection points' keys and certificates.
//!
//! An [`Authority`] is a CA certificate with its key. What it makes is renewed by making it again with the same key
//! ([`Key::of`]). Nothing here reads a clock or a file: validity and bytes are arguments.

mod crl;
mod files;
mod request;

pub use crl::{RevocationList, crl_to_pem};
pub use files::{certificates_to_pem, key_to_pem, to_pfx};
pub use request::{Request, request};

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use super::key_pair::read_key;
use super::{Certificate, KeyPair, PkiError, read_certificates};

/// From when to when a certificate is valid. Both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first instant.
    pub not_before: UnixTime,
    /// The last instant.
    pub not_after: UnixTime,
}

impl Validity {
    /// Valid for some days from `now`, and since an hour before it, for peers whose clocks are late.
    pub fn days(now: UnixTime, days: u64) -> Self {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        Self {
            not_before: at(now.as_secs().saturating_sub(3600)),
            not_after: at(now.as_secs().saturating_add(days.saturating_mul(86_400))),
        }
    }
}

/// The kinds of keys that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256: the default, fast on both sides.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// RSA of 2048 bits, for peers that know nothing else.
    Rsa2048,
}

/// A private key to make certificates for or with.
#[derive(Debug)]
pub struct Key(rcgen::KeyPair);

impl Key {
    /// Makes a new key.
    ///
    /// # Errors
    /// If the system yields no randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, PkiError> {
        let algorithm = match algorithm {
            KeyAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        };
        Ok(Self(
            rcgen::KeyPair::generate_for(algorithm).map_err(unfit)?,
        ))
    }

    /// Takes a key that exists, to renew what it certifies.
    ///
    /// # Errors
    /// [`PkiError::UnusableKey`] if it cannot sign.
    pub fn of(key: &PrivateKeyDer<'_>) -> Result<Self, PkiError> {
        let key = rcgen::KeyPair::try_from(key.secret_der());
        Ok(Self(key.map_err(|error| {
            PkiError::UnusableKey(error.to_string())
        })?))
    }

    /// The key as DER of PKCS#8.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }

    /// The key as PEM of PKCS#8.
    pub fn to_pem(&self) -> String {
        key_to_pem(&self.to_der())
    }
}

/// What a leaf certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Server authentication.
    Server,
    /// Client authentication.
    Client,
    /// No extended key usage: anything.
    Any,
}

/// What a leaf certificate says.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The common name; none is written if it is empty.
    pub common_name: String,
    /// The DNS names and IP addresses of its subjectAltName extension.
    pub names: Vec<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// From when to when it is valid.
    pub validity: Validity,
}

impl Leaf {
    /// A server certificate for names, wildcards (`*.a`) among them; the first is the common name too.
    pub fn server(names: &[&str], validity: Validity) -> Self {
        Self {
            common_name: names.first().copied().unwrap_or_default().to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            purpose: Purpose::Server,
            validity,
        }
    }

    /// A client certificate for a computer of that DNS name.
    pub fn client(name: &str, validity: Validity) -> Self {
        Self {
            common_name: name.to_owned(),
            names: vec![name.to_owned()],
            purpose: Purpose::Client,
            validity,
        }
    }

    /// A connection point's certificate: it is a TLS client, named by its first DNS name.
    pub fn connection_point(name: &str, validity: Validity) -> Self {
        Self::client(name, validity)
    }
}

/// A certification authority: its certificate, its key, and the certificates between it and its root.
#[derive(Debug)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, rcgen::KeyPair>,
    /// What goes behind a leaf of this authority: itself and what is above it, without the root.
    chain: Vec<CertificateDer<'static>>,
    /// Where the certificates that it makes say that its CRL is found.
    crl_points: Vec<String>,
}

impl Authority {
    /// Makes a root: a CA certificate signed by its own key.
    ///
    /// # Errors
    /// If the name or the validity cannot be encoded.
    pub fn root(common_name: &str, key: Key, validity: Validity) -> Result<Self, PkiError> {
        let params = ca_params(common_name, validity)?;
        let certificate = params.self_signed(&key.0).map_err(unfit)?.der().clone();
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key.0),
            chain: Vec::new(),
            crl_points: Vec::new(),
        })
    }

    /// Makes an intermediate below this authority.
    ///
    /// # Errors
    /// If the name or the validity cannot be encoded.
    pub fn intermediate(
        &self,
        common_name: &str,
        key: Key,
        validity: Validity,
    ) -> Result<Self, PkiError> {
        let mut params = ca_params(common_name, validity)?;
        params.use_authority_key_identifier_extension = true;
        params.crl_distribution_points = self.crl_points();
        let certificate = self.sign(&params, &key.0)?;
        let mut chain = vec![certificate.clone()];
        chain.extend_from_slice(&self.chain);
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key.0),
            chain,
            crl_points: Vec::new(),
        })
    }

    /// Takes an authority from its certificate (PEM with the certificates above it behind it, or DER) and key (PEM).
    ///
    /// # Errors
    /// What is wrong with either; [`PkiError::Unfit`] if it is not a CA, or its name cannot be repeated exactly.
    pub fn load(certificates: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let certificates = read_certificates(certificates)?;
        let key = read_key(key)?;
        let pair = KeyPair::new(&certificates, key)?;
        let facts = pair.leaf()?;
        if !(facts.is_ca && facts.signs_certificates) {
            let title = facts.title();
            return Err(PkiError::Unfit(format!(
                "the certificate {title} is not a CA certificate"
            )));
        }
        let certificate = pair.chain.first().cloned().ok_or(PkiError::NoCertificate)?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, Key::of(&pair.key)?.0).map_err(unfit)?;
        let chain = if facts.is_self_issued() {
            Vec::new()
        } else {
            pair.chain
        };
        Ok(Self {
            certificate,
            issuer,
            chain,
            crl_points: Vec::new(),
        })
    }

    /// The same, and the certificates that it makes name these URLs as one distribution point of its CRL.
    pub fn with_crl_points(mut self, urls: &[&str]) -> Self {
        self.crl_points = urls.iter().map(|url| (*url).to_owned()).collect();
        self
    }

    /// The certificate of this authority.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate of this authority as PEM.
    pub fn to_pem(&self) -> String {
        certificates_to_pem(std::slice::from_ref(&self.certificate))
    }

    /// The key of this authority as PEM of PKCS#8.
    pub fn key_to_pem(&self) -> String {
        key_to_pem(&PrivateKeyDer::from(PrivatePkcs8KeyDer::from(
            self.issuer.key().serialize_der(),
        )))
    }

    /// Makes a leaf certificate; the pair holds its chain up to the certificate below the root.
    ///
    /// # Errors
    /// If a name or the validity cannot be encoded.
    pub fn issue(&self, leaf: &Leaf, key: &Key) -> Result<KeyPair, PkiError> {
        let chain = self.certify(leaf, &key.0)?;
        Ok(KeyPair {
            chain,
            key: key.to_der(),
        })
    }

    fn certify(
        &self,
        leaf: &Leaf,
        public_key: &impl rcgen::PublicKeyData,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let mut params = CertificateParams::new(leaf.names.clone()).map_err(unfit)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !leaf.common_name.is_empty() {
            params
                .distinguished_name
                .push(DnType::CommonName, leaf.common_name.as_str());
        }
        set_validity(&mut params, leaf.validity)?;
        params.use_authority_key_identifier_extension = true;
        params.crl_distribution_points = self.crl_points();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = match leaf.purpose {
            Purpose::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Purpose::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Any => Vec::new(),
        };
        let mut chain = vec![self.sign(&params, public_key)?];
        chain.extend_from_slice(&self.chain);
        Ok(chain)
    }

    fn crl_points(&self) -> Vec<CrlDistributionPoint> {
        let uris = self.crl_points.clone();
        let point = (!uris.is_empty()).then_some(CrlDistributionPoint { uris });
        point.into_iter().collect()
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &impl rcgen::PublicKeyData,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let made = params.signed_by(public_key, &self.issuer).map_err(unfit)?;
        let [issued, issuer] = [made.der(), &self.certificate].map(Certificate::parse);
        let (issued, issuer) = (issued?, issuer?);
        // A name with two attributes of one type (DC=contoso,DC=com) loses one of them on its way through rcgen.
        if issued.issuer_der != issuer.subject_der {
            let title = issuer.title();
            return Err(PkiError::Unfit(format!(
                "the name of the CA {title} cannot be repeated exactly (a CA whose name holds each attribute once is allowed)"
            )));
        }
        Ok(made.der().clone())
    }
}

fn ca_params(common_name: &str, validity: Validity) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, validity)?;
    Ok(params)
}

/// Sets the validity and, since no two certificates of an issuer may share one, a random serial number.
fn set_validity(params: &mut CertificateParams, validity: Validity) -> Result<(), PkiError> {
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x3f) | 0x40; // positive and of full length, so that it is encoded in one way
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn date(at: UnixTime) -> Result<time::OffsetDateTime, PkiError> {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| PkiError::Unfit("the validity ends after the year 9999".to_owned()))
}

fn unfit(error: rcgen::Error) -> PkiError {
    PkiError::Unfit(format!("the certificate cannot be made: {error}"))
}

#[cfg(test)]
mod tests;
