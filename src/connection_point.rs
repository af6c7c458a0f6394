//! The connection point: composition only. Builds everything in order, dials the gateways, and forwards what their
//! tunnels bring until it is drained.

mod alert;
mod dial;
mod expiry;
mod preflight;
mod settings;
mod status;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use self::dial::{Credentials, Dialer, Proxy};
use crate::admin;
use crate::alerts::{Expiring, Expiry};
use crate::drain::Drain;
use crate::forward::Forward;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use crate::tunnel::{Budget, Random, Supervisor, SupervisorSettings, TunnelView};

pub use expiry::expiring;
pub use preflight::{Step, Verdict, preflight};
pub use settings::{GatewaySettings, OutboundProxy, Settings};

/// The addresses that a connection point is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Administration.
    pub admin: Option<SocketAddr>,
}

/// A connection point that is built and not yet running.
#[derive(Debug)]
pub struct ConnectionPoint {
    addresses: Addresses,
    admin: Option<TcpListener>,
    shared: Arc<Shared>,
}

/// What may be done to a running connection point. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    forward: Forward,
    gateways: Mutex<BTreeMap<String, Running>>,
    /// One for the tunnels to all gateways.
    budget: Budget,
    drain: Drain,
    drain_deadline: Duration,
    // Tunnels and their requests: what a drain waits for.
    tunnels: Tasks,
    // Connections to backends, watchers, administration: what ends with the process.
    background: Tasks,
    expiry: Expiry,
    expiring: Mutex<Vec<Expiring>>,
    metrics: Metrics,
}

/// The tunnels to one gateway.
#[derive(Debug)]
struct Running {
    settings: GatewaySettings,
    tunnel: SupervisorSettings,
    proxy: Option<OutboundProxy>,
    dialer: Arc<Dialer>,
    supervisor: Supervisor,
    drain: Drain,
}

impl ConnectionPoint {
    /// Builds every component and binds the administration port. Nothing is dialled yet.
    ///
    /// # Errors
    /// Everything that is wrong, worded for an administrator; nothing stays bound.
    pub async fn build(settings: Settings, metrics: Metrics) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let background = Tasks::new();
        let budget = Budget::of_process(settings.budget, metrics.clone());
        let (roles, allowance) = (settings.roles.clone(), budget.allowance());
        let forward = Forward::build(roles, &metrics, &background, allowance);
        let forward = forward.map_err(|found| faults.extend(found)).ok();
        let running = prepare(&settings, &budget, &metrics);
        let running = running.map_err(|found| faults.extend(found)).ok();
        let admin = bind(settings.admin).await;
        let admin = admin.map_err(|fault| faults.push(fault)).ok();
        let (Some(forward), Some(running), Some(admin)) = (forward, running, admin) else {
            background.abort();
            faults.dedup();
            return Err(faults);
        };
        let address = admin
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let gateways = running
            .into_iter()
            .map(|running| (running.settings.name.clone(), running))
            .collect();
        Ok(Self {
            addresses: Addresses { admin: address },
            admin,
            shared: Arc::new(Shared {
                started: Instant::now(),
                forward,
                gateways: Mutex::new(gateways),
                budget,
                drain: Drain::new(),
                drain_deadline: settings.drain_deadline,
                tunnels: Tasks::new(),
                background,
                expiry: Expiry::new(metrics.clone()),
                expiring: Mutex::new(expiring(&settings)),
                metrics,
            }),
        })
    }

    /// Where it is bound; a port that was 0 is the real one.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// A handle for changes while it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Dials and serves until it is drained: its tunnels say so, requests under way end within the deadline, the rest
    /// is cut off.
    pub async fn run(self) {
        let shared = self.shared;
        if let Some(listener) = self.admin {
            shared.serve_admin(listener);
        }
        for running in shared.gateways().values() {
            shared.start(running);
        }
        shared.background.spawn(Arc::clone(&shared).watch_expiry());
        let mut draining = shared.drain.watch();
        draining.draining().await;
        shared.metrics.draining.set(1);
        for running in shared.gateways().values() {
            running.drain.start();
        }
        if tokio::time::timeout(shared.drain_deadline, shared.tunnels.join())
            .await
            .is_err()
        {
            tracing::warn!("the drain's deadline has passed; what is left is cut off");
            for running in shared.gateways().values() {
                running.drain.force();
            }
            shared.tunnels.abort();
            shared.tunnels.join().await;
        }
        shared.drain.force();
        shared.forward.close();
        shared.background.abort();
        shared.background.join().await;
    }
}

impl Handle {
    /// Puts other settings in force, whole or not at all: roles, gateways and every certificate, read anew from disk.
    /// Requests under way end as they began. The administration address and the drain's deadline take a restart.
    ///
    /// # Errors
    /// Everything that is wrong; nothing is changed then.
    pub fn apply(&self, settings: &Settings) -> Result<(), Vec<String>> {
        let shared = &self.0;
        let fresh = prepare(settings, &shared.budget, &shared.metrics)?;
        shared.forward.apply(settings.roles.clone())?;
        shared.budget.resize(settings.budget.bytes);
        shared.take_expiring(settings);
        let mut gateways = shared.gateways();
        let mut before = std::mem::take(&mut *gateways);
        for running in fresh {
            let name = running.settings.name.clone();
            let now = shared.replace(before.remove(&name), running);
            gateways.insert(name, now);
        }
        before.into_values().for_each(|gone| shared.retire(gone));
        Ok(())
    }

    /// Starts the drain; [`ConnectionPoint::run`] returns when it is over. Later calls change nothing.
    pub fn drain(&self) {
        self.0.drain.start();
    }

    /// Whether a tunnel is up.
    pub fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    /// Every tunnel that is up.
    pub fn tunnels(&self) -> Vec<TunnelView> {
        self.0.views()
    }
}

impl Shared {
    fn gateways(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gateway that stays the same keeps its tunnels and gets the certificates; another one takes its place.
    fn replace(&self, old: Option<Running>, fresh: Running) -> Running {
        match old {
            Some(old) if old.is_same(&fresh) => {
                old.dialer.take_credentials(&fresh.dialer);
                return old;
            }
            Some(old) => self.retire(old),
            None => {}
        }
        if !self.drain.watch().is_draining() {
            self.start(&fresh);
        }
        fresh
    }

    /// Lets the requests of a gateway that is not wanted any more end.
    fn retire(&self, running: Running) {
        running.drain.start();
        let deadline = self.drain_deadline;
        self.background.spawn(async move {
            tokio::time::sleep(deadline).await;
            running.drain.force();
        });
    }

    fn start(&self, running: &Running) {
        let dialer = Arc::clone(&running.dialer);
        let dial = move |address: String| {
            let dialer = Arc::clone(&dialer);
            async move { dialer.dial(&address).await.map(alert::Explained) }
        };
        let forward = self.forward.clone();
        let handle = move |incoming| forward.clone().handle(incoming);
        let (roles, tasks) = (self.forward.roles(), self.tunnels.clone());
        let (supervisor, draining) = (running.supervisor.clone(), running.drain.watch());
        self.tunnels.spawn(async move {
            supervisor.run(dial, roles, handle, tasks, draining).await;
        });
    }

    fn serve_admin(self: &Arc<Self>, listener: TcpListener) {
        let (of_status, of_ready) = (Arc::downgrade(self), Arc::downgrade(self));
        let views = admin::Views {
            metrics: self.metrics.clone(),
            status: Arc::new(move || of_status.upgrade().map(|shared| status::of(&shared)).into()),
        };
        let health = admin::Health {
            draining: self.drain.watch(),
            is_ready: Arc::new(move || of_ready.upgrade().is_some_and(|shared| shared.is_ready())),
        };
        let router = admin::router(views, health);
        let tasks = self.background.clone();
        let serve = admin::serve(listener, router, tasks, self.drain.watch());
        self.background.spawn(serve);
    }

    fn is_ready(&self) -> bool {
        self.gateways()
            .values()
            .any(|running| running.supervisor.is_ready())
    }

    fn views(&self) -> Vec<TunnelView> {
        let gateways = self.gateways();
        gateways
            .values()
            .flat_map(|running| running.supervisor.view())
            .collect()
    }
}

impl Running {
    fn is_same(&self, other: &Self) -> bool {
        self.settings == other.settings && self.tunnel == other.tunnel && self.proxy == other.proxy
    }
}

/// Builds what dials each gateway, without dialling.
fn prepare(
    settings: &Settings,
    budget: &Budget,
    metrics: &Metrics,
) -> Result<Vec<Running>, Vec<String>> {
    let mut faults = Vec::new();
    let mut all = Vec::new();
    for gateway in &settings.gateways {
        let proxy = Proxy::load(settings.outbound_proxy.as_ref()).map_err(|fault| vec![fault]);
        let credentials = Credentials::load(settings, gateway);
        match (proxy, credentials) {
            (Ok(proxy), Ok(credentials)) => {
                let tunnel = SupervisorSettings {
                    gateway: gateway.name.clone(),
                    addresses: gateway.addresses.clone(),
                    ..settings.tunnel.clone()
                };
                let random = Random::from_system();
                all.push(Running {
                    dialer: Arc::new(Dialer::new(
                        gateway.clone(),
                        proxy,
                        credentials,
                        settings.tunnel.dial_timeout,
                    )),
                    supervisor: Supervisor::new(
                        tunnel.clone(),
                        budget.clone(),
                        metrics.clone(),
                        random,
                    ),
                    settings: gateway.clone(),
                    tunnel,
                    proxy: settings.outbound_proxy.clone(),
                    drain: Drain::new(),
                });
            }
            (proxy, credentials) => {
                faults.extend(proxy.err().into_iter().flatten());
                faults.extend(credentials.err().into_iter().flatten());
            }
        }
    }
    faults.dedup();
    faults.is_empty().then_some(all).ok_or(faults)
}

async fn bind(address: Option<SocketAddr>) -> Result<Option<TcpListener>, String> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).await;
    bound
        .map(Some)
        .map_err(|error| format!("admin: {address} cannot be bound: {error}"))
}
