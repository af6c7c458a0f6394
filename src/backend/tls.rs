//! TLS towards a backend, by the platform's library.
//!
//! IIS and Apache ask for a client certificate after they have read the path, by renegotiation (TLS 1.2). rustls
//! answers none, so this leg uses OpenSSL, or SChannel on Windows. The library verifies the chain; the name is
//! checked here, since the libraries disagree on the common name.

use std::net::IpAddr;
use std::path::Path;

use native_tls::Protocol;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_native_tls::TlsStream;

use super::settings::{BackendSettings, NameCheck, Password, is_pfx};
use super::{Failure, pkcs8};
use crate::pki::issue::{certificates_to_pem, key_to_pem};
use crate::pki::{self, Certificate, KeyPair};
use crate::reason::Reason;

/// How TLS is made with one backend.
pub(super) struct Tls {
    connector: tokio_native_tls::TlsConnector,
    server_name: String,
    certificate_name: String,
    name_check: NameCheck,
    has_certificate: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .field("certificate_name", &self.certificate_name)
            .field("name_check", &self.name_check)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the certificates that the settings point to.
    ///
    /// # Errors
    /// Every fault, each with its key and file.
    pub(super) fn build(settings: &BackendSettings) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut builder = native_tls::TlsConnector::builder();
        // What this leg speaks is served by every Windows since Server 2012.
        builder.min_protocol_version(Some(Protocol::Tlsv12));
        // The name is checked against the certificate below.
        builder.danger_accept_invalid_hostnames(true);
        let pinned = matches!(settings.name_check, NameCheck::Pinned(_));
        builder.danger_accept_invalid_certs(pinned);
        for certificate in roots(&settings.ca, &mut faults) {
            builder.add_root_certificate(certificate);
        }
        builder.disable_built_in_roots(!settings.ca.is_empty());
        match identity(settings) {
            Ok(None) => {}
            Ok(Some(identity)) => {
                builder.identity(identity);
                // TLS 1.3 knows no renegotiation, and its post-handshake authentication is not spoken by http.sys.
                builder.max_protocol_version(Some(Protocol::Tlsv12));
            }
            Err(fault) => faults.push(fault),
        }
        let url = &settings.url;
        let connector = builder.build();
        match connector {
            Ok(connector) if faults.is_empty() => Ok(Self {
                connector: connector.into(),
                server_name: or_host(&settings.server_name, url.host()),
                certificate_name: or_host(&settings.certificate_name, url.host()),
                name_check: settings.name_check.clone(),
                has_certificate: settings.certificate.is_some(),
            }),
            Ok(_) => Err(faults),
            Err(error) => {
                faults.push(format!("TLS cannot be set up: {error}"));
                Err(faults)
            }
        }
    }

    /// Whether a client certificate is shown when the server asks for one.
    pub(super) fn has_certificate(&self) -> bool {
        self.has_certificate
    }

    /// Makes TLS on a TCP connection and checks who the server is.
    ///
    /// # Errors
    /// [`Reason::BackendCertificate`] if the chain does not verify or the name or fingerprint is another,
    /// [`Reason::BackendUnreachable`] if the handshake fails otherwise.
    pub(super) async fn connect(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let stream = self
            .connector
            .connect(&self.server_name, tcp)
            .await
            .map_err(|error| handshake_failure(&error))?;
        let refused = |detail| Failure::new(Reason::BackendCertificate, detail);
        let leaf = stream.get_ref().peer_certificate();
        let leaf = leaf.ok().flatten().and_then(|leaf| leaf.to_der().ok());
        let Some(leaf) = leaf else {
            return Err(refused("the server sent no certificate".to_owned()));
        };
        self.check_leaf(&CertificateDer::from(leaf))
            .map_err(refused)?;
        Ok(stream)
    }

    fn check_leaf(&self, der: &CertificateDer<'_>) -> Result<(), String> {
        let leaf = Certificate::parse(der).map_err(|error| error.to_string())?;
        let by_common_name = match &self.name_check {
            NameCheck::Pinned(pin) => return check_pin(&leaf, pin),
            NameCheck::San => false,
            NameCheck::SanOrCommonName => leaf.dns_names.is_empty(),
        };
        let wanted = self.certificate_name.as_str();
        if let Ok(address) = wanted.parse::<IpAddr>() {
            if has_address(der, address) {
                return Ok(());
            }
        } else if leaf.dns_names.iter().any(|name| matches(name, wanted)) {
            return Ok(());
        }
        let common_name = leaf.common_name.as_deref().unwrap_or_default();
        if by_common_name && matches(common_name, wanted) {
            return Ok(());
        }
        Err(name_fault(&leaf, wanted, by_common_name))
    }
}

fn name_fault(leaf: &Certificate, wanted: &str, by_common_name: bool) -> String {
    let names = if leaf.dns_names.is_empty() {
        "it has no subject alternative name".to_owned()
    } else {
        format!("it is for {}", leaf.dns_names.join(", "))
    };
    let common_name = leaf.common_name.as_deref().unwrap_or_default();
    let would_match = !by_common_name && leaf.dns_names.is_empty() && matches(common_name, wanted);
    let advice = if would_match {
        "; its common name fits: name-check = \"san-or-cn\" would take it"
    } else {
        ""
    };
    format!(
        "the certificate {} is not for {wanted}: {names}{advice}",
        leaf.title()
    )
}

fn check_pin(leaf: &Certificate, pin: &[u8; 32]) -> Result<(), String> {
    let wanted: String = pin.iter().map(|byte| format!("{byte:02x}")).collect();
    if leaf.fingerprint == wanted {
        return Ok(());
    }
    Err(format!(
        "the certificate {} has the fingerprint {}, another one is pinned",
        leaf.title(),
        leaf.fingerprint
    ))
}

/// Whether a name of a certificate covers a host name: equal without regard to case, or `*.` for one first label
/// (RFC 9525 §6.3).
fn matches(name: &str, host: &str) -> bool {
    let (name, host) = (name.trim_end_matches('.'), host.trim_end_matches('.'));
    match name.strip_prefix("*.") {
        None => !name.is_empty() && name.eq_ignore_ascii_case(host),
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && parent.contains('.') && rest.eq_ignore_ascii_case(parent)
        }),
    }
}

fn has_address(der: &CertificateDer<'_>, address: IpAddr) -> bool {
    let name = ServerName::IpAddress(address.into());
    webpki::EndEntityCert::try_from(der)
        .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
}

/// What a failed handshake means. The libraries tell it in text only.
fn handshake_failure(error: &native_tls::Error) -> Failure {
    let text = error.to_string();
    let (reason, what) = if text.contains("certificate has expired") {
        (
            Reason::BackendCertificate,
            "the server's certificate has expired",
        )
    } else if text.contains("not yet valid") {
        (
            Reason::BackendCertificate,
            "the server's certificate is not valid yet",
        )
    } else if [
        "local issuer",
        "self-signed",
        "self signed",
        "first certificate",
    ]
    .iter()
    .any(|known| text.contains(known))
    {
        (
            Reason::BackendCertificate,
            "the server's certificate has an unknown issuer (set ca)",
        )
    } else if text.contains("certificate verify failed") || text.contains("certificate chain") {
        (
            Reason::BackendCertificate,
            "the server's certificate was not accepted",
        )
    } else {
        (Reason::BackendUnreachable, "the TLS handshake failed")
    };
    Failure::new(reason, format!("{what}: {text}"))
}

fn or_host(name: &Option<String>, host: &str) -> String {
    name.clone().unwrap_or_else(|| host.to_owned())
}

fn roots(files: &[std::path::PathBuf], faults: &mut Vec<String>) -> Vec<native_tls::Certificate> {
    let mut roots = Vec::new();
    for file in files {
        let read = read(file).and_then(|bytes| {
            pki::read_certificates(&bytes).map_err(|error| format!("{}: {error}", file.display()))
        });
        match read {
            Ok(certificates) => {
                let taken = certificates
                    .iter()
                    .filter_map(|der| native_tls::Certificate::from_der(der).ok());
                roots.extend(taken);
            }
            Err(fault) => faults.push(format!("ca: {fault}")),
        }
    }
    roots
}

fn identity(settings: &BackendSettings) -> Result<Option<native_tls::Identity>, String> {
    let Some(certificate) = &settings.certificate else {
        return Ok(None);
    };
    let pair = load_pair(certificate, settings.key.as_deref(), &settings.password)?;
    let chain = certificates_to_pem(&pair.chain);
    let key = match &pair.key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Pkcs1(key) => pkcs8::from_pkcs1(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => pkcs8::from_sec1(key.secret_sec1_der())
            .ok_or_else(|| "key: is on a curve that is not known".to_owned())?,
        _ => return Err("key: is of a form that is not known".to_owned()),
    };
    let key = PrivateKeyDer::Pkcs8(key.into());
    native_tls::Identity::from_pkcs8(chain.as_bytes(), key_to_pem(&key).as_bytes())
        .map(Some)
        .map_err(|error| format!("certificate: {}: {error}", certificate.display()))
}

/// The certificates that are shown to a backend, leaf first; none if there are none, or they cannot be read.
pub fn client_certificates(settings: &BackendSettings) -> Vec<CertificateDer<'static>> {
    let pair = settings.certificate.as_deref();
    let pair =
        pair.and_then(|file| load_pair(file, settings.key.as_deref(), &settings.password).ok());
    pair.map(|pair| pair.chain).unwrap_or_default()
}

/// Reads a certificate with its key: PFX by the file's name, else PEM.
///
/// # Errors
/// What is wrong, with its key and file.
pub(super) fn load_pair(
    certificate: &Path,
    key: Option<&Path>,
    password: &Option<Password>,
) -> Result<KeyPair, String> {
    let bytes = read(certificate).map_err(|fault| format!("certificate: {fault}"))?;
    let loaded = if is_pfx(certificate) {
        pki::load_pfx(&bytes, &read_password(password)?)
    } else {
        let key = key.unwrap_or(certificate);
        let key = read(key).map_err(|fault| format!("key: {fault}"))?;
        pki::load_pem(&bytes, &key)
    };
    loaded.map_err(|error| format!("certificate: {}: {error}", certificate.display()))
}

/// Reads a password from where it is; none is the empty one.
///
/// # Errors
/// What is wrong, with its key.
pub fn read_password(password: &Option<Password>) -> Result<String, String> {
    match password {
        None => Ok(String::new()),
        Some(Password::File(file)) => {
            let bytes = read(file).map_err(|fault| format!("password-file: {fault}"))?;
            let text = String::from_utf8(bytes)
                .map_err(|_| format!("password-file: {}: is not text", file.display()))?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        Some(Password::Environment(name)) => std::env::var(name)
            .map_err(|_| format!("password-env: the variable {name} is not set or not text")),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{}: cannot be read: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_below_a_domain() {
        assert!(matches("MP.corp.example", "mp.corp.example"));
        assert!(matches("*.corp.example", "mp.corp.example"));
        for (name, host) in [
            ("*.corp.example", "corp.example"),
            ("*.corp.example", "a.mp.corp.example"),
            ("*.corp.example", ".corp.example"),
            ("*.example", "corp.example"),
            ("mp*.corp.example", "mp1.corp.example"),
            ("*", "mp"),
            ("", ""),
        ] {
            assert!(!matches(name, host), "{name} {host}");
        }
    }
}
