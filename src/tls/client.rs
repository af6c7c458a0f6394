//! The connection point's side of a tunnel's handshake.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::ServerName;

use super::suites;
use crate::pki::{Certificate, CertificateDer, KeyPair, UnixTime};

/// The ALPN names of a tunnel: of draft-thomson-ptth-potato-02 §4.2, and of its earlier versions.
pub const TUNNEL_ALPN: &[&[u8]] = &[&[0xd5, 0x87, 0xc9, 0xa5], b"rh2"];

/// The label before the service name that makes a server name a tunnel's.
pub const TUNNEL_LABEL: &str = "tunnel";

/// How a gateway is told that a connection is a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the ALPN names of tunnels, on the client port.
    Alpn,
    /// By the server name `tunnel.<service name>` with plain `h2`, on the client port.
    ServerName,
    /// By the port.
    Port,
}

impl Way {
    /// The server name to ask for.
    pub fn server_name(self, service_name: &str) -> String {
        match self {
            Self::ServerName => format!("{TUNNEL_LABEL}.{service_name}"),
            Self::Alpn | Self::Port => service_name.to_owned(),
        }
    }
}

/// How a connection point does TLS towards a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelClientSettings {
    /// The connection point's certificate and key.
    pub key_pair: KeyPair,
    /// The CA certificates that the gateway's certificate must chain to.
    pub ca: Vec<CertificateDer<'static>>,
    /// The service name: what the gateway's certificate must cover, whatever server name is asked for.
    pub service_name: String,
    /// How the gateway is told that it is a tunnel.
    pub way: Way,
}

/// Builds the configuration for tunnels to one gateway: its certificate is verified for the service name, and sessions
/// are never resumed. Ask for [`Way::server_name`] when connecting.
///
/// # Errors
/// What is wrong with the key pair, the CA certificates or the service name.
pub fn tunnel_client(settings: &TunnelClientSettings) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(suites::provider());
    let service_name = ServerName::try_from(settings.service_name.clone()).map_err(|_| {
        format!(
            "the service name \"{}\" is not a DNS name",
            settings.service_name
        )
    })?;
    let mut roots = RootCertStore::empty();
    for der in &settings.ca {
        let added = roots.add(der.clone());
        added
            .map_err(|error| format!("a CA certificate of the gateway cannot be used: {error}"))?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| {
                format!("the CA certificates of the gateway cannot be used: {error}")
            })?;
    let verifier = GatewayVerifier {
        verifier,
        service_name,
    };
    let pair = settings.key_pair.clone();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(pair.chain, pair.key)
        .map_err(|error| {
            format!("the certificate of the connection point cannot be used: {error}")
        })?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match settings.way {
        Way::Alpn | Way::Port => TUNNEL_ALPN.iter().map(|name| name.to_vec()).collect(),
        Way::ServerName => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}

/// Verifies the gateway's certificate for the service name, whatever server name was asked for.
#[derive(Debug)]
struct GatewayVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    service_name: ServerName<'static>,
}

/// A gateway's certificate that was not accepted, with what it says of itself: whoever inspects TLS on the way shows
/// by its issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the gateway's certificate \"{subject}\", issued by \"{issuer}\", was not accepted for \"{service_name}\": {detail}"
)]
pub struct GatewayCertificateError {
    /// The subject of the certificate, RFC 4514 text.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// The name that it had to cover.
    pub service_name: String,
    /// What is wrong.
    pub detail: String,
    /// Whether it chains to no CA certificate that is configured.
    pub unknown_issuer: bool,
}

impl GatewayCertificateError {
    /// The error in what a dial returned, if the gateway's certificate was the fault.
    pub fn find(error: &io::Error) -> Option<&Self> {
        let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = tls {
            return other.0.downcast_ref();
        }
        None
    }
}

impl GatewayVerifier {
    fn explain(&self, end_entity: &CertificateDer<'_>, error: &rustls::Error) -> rustls::Error {
        let (subject, issuer) = Certificate::parse(end_entity)
            .map(|facts| (facts.subject, facts.issuer))
            .unwrap_or_default();
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let explained = GatewayCertificateError {
            subject,
            issuer,
            service_name: self.service_name.to_str().into_owned(),
            detail: error.to_string(),
            unknown_issuer: *error == unknown,
        };
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(explained))))
    }
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier
            .verify_server_cert(
                end_entity,
                intermediates,
                &self.service_name,
                ocsp_response,
                now,
            )
            .map_err(|error| self.explain(end_entity, &error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
