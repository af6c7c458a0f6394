//! The settings of a connection point: `connection-point.toml` without its `[log]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::backend::{BaseUrl, Password};
use crate::forward::RoleSettings;
use crate::process;
use crate::settings::Reader;
use crate::tls::Way;
use crate::tunnel::{BudgetSettings, SupervisorSettings};

/// The outbound HTTP proxy that tunnels go through (`CONNECT`, RFC 9110 §9.3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundProxy {
    /// Where it is; http only.
    pub url: BaseUrl,
    /// The user of Basic authentication.
    pub user: Option<String>,
    /// Where that user's password is.
    pub password: Option<Password>,
}

/// One gateway that tunnels are kept to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The service name, which its certificate must have.
    pub name: String,
    /// The addresses of its instances, `host:port`.
    pub addresses: Vec<String>,
    /// CA certificates that its certificate is verified against.
    pub ca: Vec<PathBuf>,
    /// How the tunnel is told apart; `None` tries by ALPN first, then by server name, for firewalls that deny unknown
    /// ALPN names.
    pub way: Option<Way>,
}

/// Everything that a connection point is built from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificate that it authenticates with: PEM, leaf first.
    pub certificate: PathBuf,
    /// The PEM key of that certificate.
    pub key: PathBuf,
    /// The loopback address of metrics and status; none when off.
    pub admin: Option<SocketAddr>,
    /// The proxy that tunnels go through.
    pub outbound_proxy: Option<OutboundProxy>,
    /// The tunnels; gateway and addresses are filled in for each of the gateways.
    pub tunnel: SupervisorSettings,
    /// What may wait for slow backends, over the tunnels to all gateways.
    pub budget: BudgetSettings,
    /// How long a drain waits for requests under way.
    pub drain_deadline: Duration,
    /// The gateways.
    pub gateways: Vec<GatewaySettings>,
    /// The roles that it publishes.
    pub roles: Vec<RoleSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            admin: None,
            outbound_proxy: None,
            tunnel: SupervisorSettings::default(),
            budget: BudgetSettings::default(),
            // The longest answer that a rolling restart must not lose.
            drain_deadline: Duration::from_secs(60),
            gateways: Vec::new(),
            roles: Vec::new(),
        }
    }
}

impl Settings {
    /// Reads `[connection-point]`, `[[gateway]]` and `[[role]]` from the root of a file.
    ///
    /// Every fault is recorded in the file's `Source`; what is returned then only fills the gap.
    pub fn read(root: &Reader<'_>) -> Self {
        let default = Self::default();
        let own = root.table("connection-point");
        let settings = Self {
            certificate: own.path_of("certificate").unwrap_or_default(),
            key: own.path_of("key").unwrap_or_default(),
            admin: own.parsed("admin", "a loopback address with its port", loopback),
            outbound_proxy: read_proxy(&own),
            tunnel: SupervisorSettings::read(&own),
            budget: read_budget(&own),
            drain_deadline: own.duration(
                "drain-deadline",
                default.drain_deadline,
                Duration::ZERO..=Duration::from_secs(3_600),
            ),
            gateways: root.tables("gateway").iter().map(read_gateway).collect(),
            roles: root.tables("role").iter().map(RoleSettings::read).collect(),
        };
        settings.check_together(root);
        settings
    }

    fn check_together(&self, root: &Reader<'_>) {
        if self.gateways.is_empty() {
            root.fault("gateway", "is missing (at least one [[gateway]] is needed)");
        }
        if self.roles.is_empty() {
            root.fault("role", "is missing (at least one [[role]] is needed)");
        }
        let mut names = BTreeSet::new();
        for (index, gateway) in self.gateways.iter().enumerate() {
            if !names.insert(&gateway.name) {
                let what = format!("\"{}\" stands twice (each name once)", gateway.name);
                root.fault(&format!("gateway[{index}].name"), what);
            }
        }
        let mut ids = BTreeSet::new();
        for (index, role) in self.roles.iter().enumerate() {
            if !ids.insert(role.backend.id) {
                let what = format!("{} stands twice (each id once)", role.backend.id);
                root.fault(&format!("role[{index}].id"), what);
            }
        }
    }
}

fn read_budget(reader: &Reader<'_>) -> BudgetSettings {
    let settings = BudgetSettings::read(reader);
    if reader.has("buffered-bytes") {
        return settings;
    }
    BudgetSettings {
        bytes: process::default_buffer_budget(),
        ..settings
    }
}

fn read_gateway(reader: &Reader<'_>) -> GatewaySettings {
    let addresses = reader.parsed_list("addresses", "host:port", address);
    if addresses.is_empty() {
        reader.fault("addresses", "is missing (at least one host:port is needed)");
    }
    let words = [
        ("auto", None),
        ("alpn", Some(Way::Alpn)),
        ("server-name", Some(Way::ServerName)),
        ("port", Some(Way::Port)),
    ];
    let ca = reader.paths("ca");
    if ca.is_empty() {
        reader.fault(
            "ca",
            "is missing (a list of files of CA certificates is needed)",
        );
    }
    GatewaySettings {
        name: reader
            .text("name")
            .map(|name| name.to_ascii_lowercase())
            .unwrap_or_default(),
        addresses,
        ca,
        way: reader.choice("way", &words, None),
    }
}

fn read_proxy(reader: &Reader<'_>) -> Option<OutboundProxy> {
    let allowed = "http://host:port";
    let plain =
        |text: &str| BaseUrl::parse(text).filter(|url| !url.is_https() && url.prefix().is_empty());
    let url = reader.parsed("outbound-proxy", allowed, plain);
    let user = reader.optional_text("outbound-proxy-user");
    let file = reader.optional_path("outbound-proxy-password-file");
    let variable = reader.optional_text("outbound-proxy-password-env");
    let password = file
        .map(Password::File)
        .or_else(|| variable.map(Password::Environment));
    if user.is_some() != password.is_some() {
        let what = "stands alone (outbound-proxy-user and its password-file or -env go together)";
        reader.fault("outbound-proxy-user", what);
    }
    url.map(|url| OutboundProxy {
        url,
        user,
        password,
    })
}

fn address(text: &str) -> Option<String> {
    let (_, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let url = BaseUrl::parse(&format!("https://{text}"))?;
    (port != 0 && url.prefix().is_empty() && !text.contains('/')).then(|| text.to_owned())
}

fn loopback(text: &str) -> Option<SocketAddr> {
    text.parse::<SocketAddr>()
        .ok()
        .filter(|address| address.ip().is_loopback())
}
