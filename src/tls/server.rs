//! The configurations of all names, and the choice among them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ClientHello;

use super::accept::{AcceptError, Port};
use super::client::{TUNNEL_ALPN, TUNNEL_LABEL};
use super::name::{Alpn, Name, normal};
use super::settings::{ClientCertificates, ServerSettings};
use super::verifier::Found;
use crate::pki::{CertificateDer, CertificateFault};
use crate::reason::Reason;

/// Judges the chain that a peer presented, leaf first.
pub type VerifyFn =
    Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<(), CertificateFault> + Send + Sync>;

/// TLS for the listeners of a gateway. Immutable: a change makes a new one, and a listener swaps it whole. Clones are
/// handles on the same one.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    names: Vec<Arc<Name>>,
    /// Which of `names` serves a server name; a wildcard by what follows its `*.`.
    exact: HashMap<String, usize>,
    wildcards: HashMap<String, usize>,
    strict_sni: bool,
    tunnel_server_name: String,
    verify_client: VerifyFn,
    verify_tunnel: VerifyFn,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// What was chosen for a ClientHello.
pub(super) struct Choice {
    pub(super) config: Arc<ServerConfig>,
    pub(super) tunnel: bool,
    pub(super) server_name: Option<String>,
    pub(super) client_certificates: ClientCertificates,
}

impl ServerTls {
    /// Builds the configurations of every name.
    ///
    /// # Errors
    /// Every problem: names that are served twice, certificates that do not cover their name, keys that do not match,
    /// unknown cipher suites, versions without a suite.
    pub fn build(
        settings: &ServerSettings,
        verify_client: VerifyFn,
        verify_tunnel: VerifyFn,
    ) -> Result<Self, Vec<String>> {
        Self::build_with(settings, verify_client, verify_tunnel, None)
    }

    /// Builds the configurations anew. Names whose settings are unchanged keep their sessions and ticket keys.
    ///
    /// # Errors
    /// Every problem, as for [`ServerTls::build`].
    pub fn rebuild(&self, settings: &ServerSettings) -> Result<Self, Vec<String>> {
        let [client, tunnel] = [&self.0.verify_client, &self.0.verify_tunnel].map(Arc::clone);
        Self::build_with(settings, client, tunnel, Some(self))
    }

    fn build_with(
        settings: &ServerSettings,
        verify_client: VerifyFn,
        verify_tunnel: VerifyFn,
        before: Option<&Self>,
    ) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut inner = Inner {
            names: Vec::new(),
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            strict_sni: settings.strict_sni,
            tunnel_server_name: normal(&settings.tunnel_server_name),
            verify_client,
            verify_tunnel,
        };
        if settings.names.is_empty() {
            problems.push("no server certificate is given (at least one is needed)".to_owned());
        }
        for name in &settings.names {
            let kept =
                before.and_then(|before| before.0.names.iter().find(|kept| kept.settings == *name));
            match kept
                .cloned()
                .map_or_else(|| Name::build(name).map(Arc::new), Ok)
            {
                Ok(name) => inner.add(name, &mut problems),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            Ok(Self(Arc::new(inner)))
        } else {
            Err(problems)
        }
    }

    /// Every server name that is served, wildcards among them.
    pub fn server_names(&self) -> impl Iterator<Item = &str> {
        self.0
            .names
            .iter()
            .flat_map(|name| &name.server_names)
            .map(String::as_str)
    }

    pub(super) fn choose(
        &self,
        hello: &ClientHello<'_>,
        port: Port,
        found: &Found,
    ) -> Result<Choice, AcceptError> {
        let inner = &self.0;
        let server_name = hello.server_name().map(normal);
        let asked = server_name.as_deref();
        let offered: Vec<_> = hello.alpn().into_iter().flatten().collect();
        let by_name = asked == Some(inner.tunnel_server_name.as_str());
        let by_port = match port {
            Port::Client => false,
            Port::Tunnel => true,
        };
        let by_alpn = !offered.is_empty() && offered.iter().all(|name| TUNNEL_ALPN.contains(name));
        let name = match asked.and_then(|asked| inner.find(asked)) {
            Some(name) => name,
            None if inner.strict_sni && !by_name && !by_port => return Err(unknown(asked)),
            None if by_name || by_port || by_alpn => inner.service(),
            None => &inner.names[0],
        };
        let tunnel = by_name || by_port || by_alpn;
        let config = if tunnel {
            let known = |name: &&[u8]| TUNNEL_ALPN.contains(name) || *name == b"h2";
            let alpn = if by_port && !offered.iter().any(known) {
                Alpn::Any
            } else {
                Alpn::Tunnel
            };
            name.for_tunnel(alpn, &inner.verify_tunnel, found)
        } else {
            name.for_client(hello, &inner.verify_client, found)
        };
        Ok(Choice {
            config: config.map_err(|error| AcceptError {
                reason: Reason::InternalError,
                detail: error.to_string(),
            })?,
            tunnel,
            server_name,
            client_certificates: name.settings.client_certificates,
        })
    }
}

impl Inner {
    fn add(&mut self, name: Arc<Name>, problems: &mut Vec<String>) {
        let index = self.names.len();
        for server_name in &name.server_names {
            let before = match server_name.strip_prefix("*.") {
                Some(rest) => self.wildcards.insert(rest.to_owned(), index),
                None => self.exact.insert(server_name.clone(), index),
            };
            if before.is_some() {
                problems.push(format!(
                    "the server name \"{server_name}\" is served twice (list its certificates together)"
                ));
            }
        }
        self.names.push(name);
    }

    /// The exact name, else the wildcard that covers its first label (RFC 6125 §6.4.3).
    fn find(&self, asked: &str) -> Option<&Name> {
        let wildcard = || {
            let (label, rest) = asked.split_once('.')?;
            if label.is_empty() {
                None
            } else {
                self.wildcards.get(rest)
            }
        };
        let index = self.exact.get(asked).or_else(wildcard)?;
        self.names.get(*index).map(Arc::as_ref)
    }

    /// The name that serves the service itself, whose certificate connection points expect.
    fn service(&self) -> &Name {
        let own = self.tunnel_server_name.strip_prefix(TUNNEL_LABEL);
        let own = own
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|service| self.find(service));
        own.unwrap_or(&self.names[0])
    }
}

fn unknown(asked: Option<&str>) -> AcceptError {
    AcceptError {
        reason: Reason::UnknownServerName,
        detail: asked.map_or_else(
            || "the client named no server".to_owned(),
            |name| format!("the client asked for \"{name}\""),
        ),
    }
}
