//! What a gateway is built from: the settings of its process, and the definition that may change while it runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identity;
use crate::instances;
use crate::listener;
use crate::logging::AccessLog;
use crate::pki::{self, CertificateDer, Crl};
use crate::proxy;
use crate::revocation;
use crate::routing::RoleSettings;
use crate::settings::Reader;
use crate::tls;
use crate::tunnel::{BudgetSettings, RegistrySettings};

/// The settings of one gateway process, from gateway.toml. None of them changes while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which instance of the service this is.
    pub instance: instances::Settings,
    /// Where clients come in, and tunnels by ALPN or server name.
    pub listen: Vec<SocketAddr>,
    /// Where tunnels alone come in, with any ALPN or none.
    pub tunnel_listen: Vec<SocketAddr>,
    /// Where `/healthz` and `/readyz` are answered over plain HTTP.
    pub health: Option<SocketAddr>,
    /// Where metrics and status are answered over plain HTTP; a loopback address.
    pub admin: Option<SocketAddr>,
    /// Accepting connections.
    pub listener: listener::Settings,
    /// What verifying clients may cost.
    pub trust: identity::Settings,
    /// Where fetched CRLs are kept, and the way out to them.
    pub revocation: revocation::Local,
    /// Serving requests.
    pub proxy: proxy::Settings,
    /// Tunnels.
    pub tunnel: RegistrySettings,
    /// What may wait for slow clients.
    pub budget: BudgetSettings,
    /// How long a drain waits for what is under way.
    pub drain_deadline: Duration,
    /// Where requests are written down; the caller opens it.
    pub access: AccessLog,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance: instances::Settings::default(),
            listen: vec![SocketAddr::from(([0_u16; 8], 443))],
            tunnel_listen: Vec::new(),
            health: Some(SocketAddr::from(([0_u16; 8], 8080))),
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9440))),
            listener: listener::Settings::default(),
            trust: identity::Settings::default(),
            revocation: revocation::Local::default(),
            proxy: proxy::Settings::default(),
            tunnel: RegistrySettings::default(),
            budget: BudgetSettings::default(),
            drain_deadline: Duration::from_secs(60), // service managers kill after 90 s
            access: AccessLog::off(),
        }
    }
}

impl Settings {
    /// Reads gateway.toml: the given `[gateway]` table, and `[listener]`, `[trust]`, `[proxy]` and `[tunnel]` of its
    /// root.
    ///
    /// The caller reads what else `[gateway]` holds (the store).
    pub fn read(root: &Reader<'_>, gateway: &Reader<'_>) -> Self {
        let default = Self::default();
        let addresses = |key, default: Vec<SocketAddr>| {
            let read = gateway.parsed_list(key, ADDRESS, |text| text.parse().ok());
            if gateway.has(key) { read } else { default }
        };
        let address = |key, default: Option<SocketAddr>| match gateway.has(key) {
            true => gateway.parsed(key, ADDRESS, |text| text.parse().ok()),
            false => gateway.optional_text(key).map_or(default, |_| None),
        };
        let admin = address("admin", default.admin);
        if admin.is_some_and(|address: SocketAddr| !address.ip().is_loopback()) {
            gateway.fault(
                "admin",
                "is not a loopback address (the port has no authentication)",
            );
        }
        let tunnel = root.table("tunnel");
        let trust = root.table("trust");
        Self {
            instance: instances::Settings::read(gateway),
            listen: addresses("listen", default.listen),
            tunnel_listen: addresses("tunnel-listen", default.tunnel_listen),
            health: address("health", default.health),
            admin,
            listener: listener::Settings::read(&root.table("listener")),
            trust: identity::Settings::read(&trust),
            revocation: revocation::Local::read(&trust),
            proxy: proxy::Settings::read(&root.table("proxy")),
            tunnel: RegistrySettings::read(&tunnel),
            budget: BudgetSettings::read(&tunnel),
            drain_deadline: gateway.duration(
                "drain-deadline",
                default.drain_deadline,
                Duration::from_millis(100)..=Duration::from_secs(3600),
            ),
            access: default.access,
        }
    }
}

const ADDRESS: &str = "an address with a port such as \"[::]:443\"";

/// What all instances of a service share: validated by `service`, applied whole or not at all.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The service's name.
    pub name: String,
    /// Names, certificates and versions on the client port.
    pub tls: tls::ServerSettings,
    /// The trust anchors of clients.
    pub anchors: Vec<CertificateDer<'static>>,
    /// The intermediates of clients.
    pub intermediates: Vec<CertificateDer<'static>>,
    /// How many of both are taken.
    pub limits: pki::Limits,
    /// What is asked of the revocation status of clients.
    pub revocation: pki::Policy,
    /// What is fetched of CRLs.
    pub fetching: revocation::Settings,
    /// The CRLs that files brought.
    pub crls: Vec<Arc<Crl>>,
    /// What an administrator should know, though nothing is wrong: sentences.
    pub notes: Vec<String>,
    /// The CA certificates of connection points.
    pub connection_point_ca: Vec<CertificateDer<'static>>,
    /// The names of the connection points that may come.
    pub connection_points: Vec<String>,
    /// What is published.
    pub roles: Vec<RoleSettings>,
}
