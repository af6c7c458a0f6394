//! Everything that a quickstart runs: started in order, waited for, and drained.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::Instant;
use tracing::warn;

use super::client::Client;
use super::folder::Folder;
use super::once::{Clients, Known};
use super::{
    CONNECTION_POINT_NAME, GATEWAY_NAME, MANAGEMENT_POINT, Options, SOFTWARE_UPDATE_POINT,
};
use crate::cli::builtin::{self, BuiltIn};
use crate::cli::roles::{bind, of_file, tell_where, watch_definition};
use crate::cli::{Failure, files};
use crate::connection_point::{self, ConnectionPoint};
use crate::gateway::{self, Addresses, Gateway};
use crate::metrics::Metrics;
use crate::pki::{self, KeyPair, UnixTime};
use crate::service::{self, Files};
use crate::tasks::Tasks;
use crate::tunnel::Registry;
use crate::{config, tls};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

// Both roles are on this machine: what takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// A gateway, a connection point and their backends, all running.
pub(super) struct World {
    addresses: Addresses,
    gateway: gateway::Handle,
    connection_point: connection_point::Handle,
    connection_point_admin: Option<SocketAddr>,
    management_point: Backend,
    software_update_point: Backend,
    connection_point_tasks: Tasks,
    /// The gateway, and the connections of `--once`.
    tasks: Tasks,
    /// The watch over the service definition.
    background: Tasks,
}

enum Backend {
    BuiltIn(BuiltIn),
    Real(String),
}

impl World {
    /// Starts everything and returns once the connection point serves both roles.
    pub(super) async fn start(folder: &Folder, options: &Options) -> Result<Self, Failure> {
        let management_point = match &options.management_point {
            Some(url) => Backend::Real(url.clone()),
            None => {
                let started = BuiltIn::management_point(builtin::Options::default()).await;
                Backend::BuiltIn(started.context("the management point cannot be started")?)
            }
        };
        let software_update_point = match &options.software_update_point {
            Some(url) => Backend::Real(url.clone()),
            None => {
                let started = BuiltIn::software_update_point().await;
                Backend::BuiltIn(started.context("the software update point cannot be started")?)
            }
        };
        let tasks = Tasks::new();
        let metrics = Metrics::new();
        let (gateway, watched) = start_gateway(folder, options.port, &metrics).await?;
        let addresses = gateway.addresses().clone();
        let registry = gateway.registry().clone();
        let client = *addresses
            .client
            .first()
            .context("the gateway has no address")?;
        let gateway_handle = gateway.handle();
        tasks.spawn(gateway.run());
        let background = Tasks::new();
        let store = folder.absolute("service");
        let watch = watch_definition(store, gateway_handle.clone(), metrics, watched);
        background.spawn(watch);
        let path = folder.write_connection_point(
            client,
            ANY,
            &management_point.url(),
            &software_update_point.url(),
        )?;
        let connection_point = start_connection_point(path).await?;
        let world = Self {
            addresses,
            gateway: gateway_handle,
            connection_point: connection_point.handle(),
            connection_point_admin: connection_point.addresses().admin,
            management_point,
            software_update_point,
            connection_point_tasks: Tasks::new(),
            tasks,
            background,
        };
        world.connection_point_tasks.spawn(connection_point.run());
        wait_for_roles(&registry).await?;
        Ok(world)
    }

    /// Where clients reach the gateway.
    pub(super) fn address(&self) -> SocketAddr {
        self.addresses.client.first().copied().unwrap_or(ANY)
    }

    /// What runs where, for people.
    pub(super) fn places(&self) -> Vec<(&'static str, String)> {
        let port = self.address().port();
        let mut places = vec![(
            "gateway",
            format!("https://{GATEWAY_NAME}:{port} on {}", self.address()),
        )];
        let mut at = |what, address: Option<SocketAddr>, path: &str| {
            places.extend(address.map(|address| (what, format!("http://{address}{path}"))));
        };
        at("  health", self.addresses.health, "/healthz");
        at("  metrics", self.addresses.admin, "/metrics");
        at("  status", self.addresses.admin, "/status");
        places.push(("connection point", CONNECTION_POINT_NAME.to_owned()));
        let mut at = |what, address: Option<SocketAddr>, path: &str| {
            places.extend(address.map(|address| (what, format!("http://{address}{path}"))));
        };
        at("  metrics", self.connection_point_admin, "/metrics");
        places.push((
            "management point",
            self.management_point.place(MANAGEMENT_POINT),
        ));
        let place = self.software_update_point.place(SOFTWARE_UPDATE_POINT);
        places.push(("software update point", place));
        places
    }

    /// Which backends are the built-in ones.
    pub(super) fn known(&self) -> Known {
        Known {
            management_point: matches!(self.management_point, Backend::BuiltIn(_)),
            software_update_point: matches!(self.software_update_point, Backend::BuiltIn(_)),
        }
    }

    /// The clients of `--once`.
    pub(super) fn clients(&self, folder: &Folder) -> anyhow::Result<Clients> {
        let root = pki::read_certificates(&files::read(&folder.absolute("pki/root.pem"))?)?;
        let client = |pair: Option<&KeyPair>| {
            let tls = tls::https_client(&root, pair).map_err(|error| anyhow!(error))?;
            anyhow::Ok(Client::new(self.address(), tls, self.tasks.clone()))
        };
        let pair = |name: &str| {
            let [certificate, key] =
                ["pem", "key"].map(|end| folder.absolute(&format!("clients/{name}.{end}")));
            anyhow::Ok(pki::load_pem(
                &files::read(&certificate)?,
                &files::read(&key)?,
            )?)
        };
        Ok(Clients {
            trusted: client(Some(&pair("pc-1")?))?,
            anonymous: client(None)?,
            stranger: client(Some(&pair("stranger")?))?,
        })
    }

    /// Drains both roles and stops the backends; `impatient` cuts the drain short.
    pub(super) async fn finish(self, impatient: impl Future<Output = ()>) {
        self.background.abort();
        let drained = async {
            // It finishes what is under way through its tunnels, and the gateway then has nothing to wait for.
            self.connection_point.drain();
            self.connection_point_tasks.join().await;
            self.gateway.drain();
            self.tasks.join().await;
        };
        tokio::select! {
            biased;
            () = drained => {}
            () = impatient => {
                warn!("ended at the second signal, before the drain was over");
                self.connection_point_tasks.abort();
                self.tasks.abort();
                return;
            }
        }
        for backend in [self.management_point, self.software_update_point] {
            if let Backend::BuiltIn(backend) = backend {
                backend.stop().await;
            }
        }
    }
}

impl Backend {
    fn url(&self) -> String {
        match self {
            Self::BuiltIn(backend) => backend.url(),
            Self::Real(url) => url.clone(),
        }
    }

    fn place(&self, role: &str) -> String {
        let url = self.url();
        match self {
            Self::BuiltIn(_) => format!("{url}, role {role}, built in"),
            Self::Real(_) => format!("{url}, role {role}"),
        }
    }
}

/// Starts the gateway and writes the ports that it got into its file.
async fn start_gateway(
    folder: &Folder,
    port: u16,
    metrics: &Metrics,
) -> Result<(Gateway, Files), Failure> {
    let wanted = Addresses {
        client: vec![SocketAddr::new(ANY.ip(), port)],
        tunnel: Vec::new(),
        health: Some(ANY),
        admin: Some(ANY),
    };
    folder.write_service()?;
    let path = folder.write_gateway(&wanted)?;
    let config = config::load_gateway(&path)?;
    let (files, definition) = service::load_with_files(&config.store, UnixTime::now());
    let gateway = bind(&path, config.settings, definition?, metrics).await?;
    tell_where(gateway.addresses());
    folder.write_gateway(gateway.addresses())?;
    Ok((gateway, files))
}

async fn start_connection_point(path: PathBuf) -> Result<ConnectionPoint, Failure> {
    let config = config::load_connection_point(&path, UnixTime::now())?;
    let built = ConnectionPoint::build(config.settings, Metrics::new()).await;
    Ok(built.map_err(|faults| of_file(&path, faults))?)
}

/// Waits until a tunnel serves both roles.
async fn wait_for_roles(registry: &Registry) -> anyhow::Result<()> {
    let began = Instant::now();
    let serves_both = || registry.view().iter().any(|tunnel| tunnel.roles.len() >= 2);
    while !serves_both() {
        if began.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(anyhow!(
                "no tunnel served both roles within {seconds} s; the log says why"
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
