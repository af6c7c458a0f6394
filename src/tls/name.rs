//! The configurations of one server name.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage};
use rustls::version::TLS13;
use rustls::{DistinguishedName, ServerConfig, SupportedProtocolVersion};

use super::client::TUNNEL_ALPN;
use super::keys::Keys;
use super::server::VerifyFn;
use super::sessions::{RememberingTicketer, SessionsById};
use super::settings::{ClientCertificates, NameSettings, OnBadClientCertificate};
use super::suites;
use super::verifier::{Found, Verifier};
use crate::pki::covers;

/// What ALPN a configuration selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpn {
    /// The protocols of clients.
    Client,
    /// The names of tunnels, and `h2`.
    Tunnel,
    /// None, whatever is offered.
    Any,
}

/// One server name, or several that are served alike.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) settings: NameSettings,
    /// What it serves, in lower case: exact names and wildcards.
    pub(super) server_names: Vec<String>,
    keys: Arc<Keys>,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    hints: Arc<[DistinguishedName]>,
    /// The configurations of clients, with their own sessions and ticket keys; none if clients are judged within the
    /// handshake, which takes a verifier of each handshake's own.
    shared: Option<Shared>,
}

/// The configurations that all clients of a name share, by what they speak: they differ in what a ticket is.
#[derive(Debug)]
struct Shared {
    tls13: Arc<ServerConfig>,
    tls12: Arc<ServerConfig>,
}

impl Name {
    pub(super) fn build(settings: &NameSettings) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let provider = suites::provider_with(&settings.cipher_suites).unwrap_or_else(|found| {
            problems.extend(found);
            Arc::new(suites::provider())
        });
        let versions = suites::versions(settings.min_version, settings.max_version, &provider)
            .unwrap_or_else(|found| {
                problems.extend(found);
                Vec::new()
            });
        let (keys, leaves) = match Keys::build(&settings.key_pairs, &provider) {
            Ok(built) => built,
            Err(found) => {
                problems.extend(found);
                return Err(problems);
            }
        };
        let server_names = match &settings.server_name {
            Some(name) => vec![normal(name)],
            None => leaves
                .first()
                .map(|leaf| leaf.dns_names.iter().map(|name| normal(name)).collect())
                .unwrap_or_default(),
        };
        if server_names.is_empty() {
            problems.push("the certificate holds no DNS name (server-name is needed)".to_owned());
        }
        for (pair, leaf) in settings.key_pairs.iter().zip(&leaves) {
            for name in server_names
                .iter()
                .filter(|name| !covers(&pair.chain[0], leaf, name))
            {
                problems.push(format!(
                    "the certificate {} does not cover \"{name}\"",
                    leaf.title()
                ));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut name = Self {
            settings: settings.clone(),
            server_names,
            keys: Arc::new(keys),
            provider,
            versions,
            hints: settings
                .hints
                .iter()
                .map(|hint| DistinguishedName::from(hint.clone()))
                .collect(),
            shared: None,
        };
        name.shared = name
            .build_shared()
            .map_err(|error| vec![error.to_string()])?;
        Ok(name)
    }

    /// The configuration for one client.
    pub(super) fn for_client(
        &self,
        hello: &ClientHello<'_>,
        verify: &VerifyFn,
        found: &Found,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        if let Some(shared) = &self.shared {
            let config = if self.speaks_tls13(hello) {
                &shared.tls13
            } else {
                &shared.tls12
            };
            return Ok(Arc::clone(config));
        }
        let mandatory = match self.settings.client_certificates {
            ClientCertificates::Require => true,
            ClientCertificates::Request | ClientCertificates::Never => false,
        };
        self.judging(Alpn::Client, &self.hints, mandatory, verify, found)
    }

    /// The configuration for one tunnel: a certificate is needed and judged, and nothing is resumed.
    pub(super) fn for_tunnel(
        &self,
        alpn: Alpn,
        verify: &VerifyFn,
        found: &Found,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        // A connection point has one certificate, so that no hint is needed.
        self.judging(alpn, &Arc::from([]), true, verify, found)
    }

    fn judging(
        &self,
        alpn: Alpn,
        hints: &Arc<[DistinguishedName]>,
        mandatory: bool,
        verify: &VerifyFn,
        found: &Found,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let (verify, found) = (Arc::clone(verify), found.clone());
        let verifier =
            Verifier::judging(Arc::clone(hints), &self.provider, mandatory, verify, found);
        let mut config = self.config(Some(verifier), alpn)?;
        // A session would outlive the judgement, and a resumed handshake cannot fail with an alert that fits.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Whether the connection is going to be one of TLS 1.3, for all that rustls tells of a ClientHello. Whoever names a suite
    /// of it, but not the version, is a client of TLS 1.2 whose tickets may be good for one connection only.
    fn speaks_tls13(&self, hello: &ClientHello<'_>) -> bool {
        let suites = self.provider.cipher_suites.iter();
        let mut suites = suites.filter(|suite| suite.version() == &TLS13);
        self.versions.contains(&&TLS13)
            && suites.any(|suite| hello.cipher_suites().contains(&suite.suite()))
    }

    fn build_shared(&self) -> Result<Option<Shared>, rustls::Error> {
        let asked = match self.settings.client_certificates {
            ClientCertificates::Request | ClientCertificates::Require => true,
            ClientCertificates::Never => false,
        };
        let judged = match self.settings.on_bad_client_certificate {
            OnBadClientCertificate::Alert => asked,
            OnBadClientCertificate::Refuse => false,
        };
        if judged {
            return Ok(None);
        }
        let verifier = asked.then(|| Verifier::possession(Arc::clone(&self.hints), &self.provider));
        let mut tls12 = self.config(verifier, Alpn::Client)?;
        let NameSettings {
            sessions, tickets, ..
        } = self.settings;
        tls12.send_tls13_tickets = tickets;
        if tickets == 0 {
            tls12.session_storage = Arc::new(NoServerSessionStorage {});
        } else {
            tls12.session_storage = Arc::new(SessionsById::new(sessions));
            tls12.ticketer = Ticketer::new()?;
        }
        let mut tls13 = tls12.clone();
        if tickets > 0 {
            let (sealing, random) = (Arc::clone(&tls12.ticketer), self.provider.secure_random);
            tls13.ticketer = Arc::new(RememberingTicketer::new(sessions, sealing, random));
        }
        let [tls13, tls12] = [tls13, tls12].map(Arc::new);
        Ok(Some(Shared { tls13, tls12 }))
    }

    fn config(
        &self,
        verifier: Option<Verifier>,
        alpn: Alpn,
    ) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.keys) as _);
        // Whoever writes suites down means their order.
        config.ignore_client_order = !self.settings.cipher_suites.is_empty();
        config.alpn_protocols = match alpn {
            Alpn::Client if self.settings.http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Alpn::Client => vec![b"http/1.1".to_vec()],
            Alpn::Tunnel => TUNNEL_ALPN
                .iter()
                .copied()
                .chain([&b"h2"[..]])
                .map(<[u8]>::to_vec)
                .collect(),
            Alpn::Any => Vec::new(),
        };
        Ok(config)
    }
}

/// A server name in lower case and without trailing dot.
pub(super) fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
