//! What a server name is served with.

use crate::pki::KeyPair;

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Asked, and served without one where the endpoint allows it.
    Request,
    /// Asked, and not served without one.
    Require,
    /// Not asked: some Windows programs fail when they are.
    Never,
}

/// What happens to a client whose certificate is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadClientCertificate {
    /// The handshake succeeds and the request is refused, readable in the client's log.
    Refuse,
    /// The handshake fails with the alert that fits. Sessions of such a name are not resumed.
    Alert,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// How one server name is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSettings {
    /// The name, exact or as wildcard `*.a`; without it, every DNS name of the certificates.
    pub server_name: Option<String>,
    /// The key pairs, one per kind of key; an ECDSA one is chosen before an RSA one where the client takes both.
    pub key_pairs: Vec<KeyPair>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// What happens to a client whose certificate is not accepted.
    pub on_bad_client_certificate: OnBadClientCertificate,
    /// The CA names that clients are told, as DER.
    pub hints: Vec<Vec<u8>>,
    /// The lowest version taken.
    pub min_version: Version,
    /// The highest version taken.
    pub max_version: Version,
    /// The cipher suites taken, by their IANA names, best first; empty for all.
    pub cipher_suites: Vec<String>,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
    /// How many sessions of TLS 1.3 are remembered, and how many of TLS 1.2. One of TLS 1.3 for which there is no room is
    /// sealed into its ticket.
    pub sessions: usize,
    /// How many tickets a client gets after a handshake; 0 switches resumption off.
    pub tickets: usize,
}

impl Default for NameSettings {
    fn default() -> Self {
        Self {
            server_name: None,
            key_pairs: Vec::new(),
            client_certificates: ClientCertificates::Request,
            on_bad_client_certificate: OnBadClientCertificate::Refuse,
            hints: Vec::new(),
            min_version: Version::Tls12, // Windows clients before Windows 11 and Server 2022 have no TLS 1.3
            max_version: Version::Tls13,
            cipher_suites: Vec::new(),
            http2: true,
            sessions: 10_000, // 1 to 4 KiB each, most of it the client's chain
            tickets: 1, // each takes the room of a session, and a client that comes again gets another
        }
    }
}

/// How the listeners of a gateway do TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The names served; the first serves unknown names too, unless `strict_sni`.
    pub names: Vec<NameSettings>,
    /// Whether a client that names no server, or an unknown one, is refused.
    pub strict_sni: bool,
    /// The server name whose connections are tunnels: `tunnel.<service name>`.
    pub tunnel_server_name: String,
}
