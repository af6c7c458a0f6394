//! The composition of a gateway: build in order, bind, run until drained. No logic of its own.

mod built;
mod expiry;
mod reception;
mod revocation;
mod settings;
mod sockets;
mod status;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use self::built::{Built, tell_notes};
pub use self::expiry::expiring;
use self::reception::Reception;
use self::revocation::Stale;
pub use self::settings::{Definition, Settings};
use self::sockets::Sockets;
use crate::admin::{self, Health, Views};
use crate::alerts::Expiry;
use crate::drain::Drain;
use crate::identity::Trust;
use crate::instances::Instance;
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::pki::{UnixTime, Usage};
use crate::proxy::{self, Proxy};
use crate::revocation::Refresher;
use crate::tasks::Tasks;
use crate::tls::{Port, ServerTls};
use crate::tunnel::{self, Budget, Hello, Random, Registry};

/// How often chains are looked at that have ended: a second or two of trust too long harms nobody.
const RECHECK: Duration = Duration::from_secs(2);

/// How long what was ended by force may take to be gone.
const AFTERMATH: Duration = Duration::from_secs(5);

/// The addresses that a gateway is bound to, in the order of its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For clients, and tunnels by ALPN or server name.
    pub client: Vec<SocketAddr>,
    /// For tunnels alone.
    pub tunnel: Vec<SocketAddr>,
    /// Health.
    pub health: Option<SocketAddr>,
    /// Administration.
    pub admin: Option<SocketAddr>,
}

/// A gateway that is bound and not yet running.
#[derive(Debug)]
pub struct Gateway {
    core: Arc<Core>,
    sockets: Sockets,
    addresses: Addresses,
}

/// What may be done to a running gateway. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Core>);

/// The components, in the order in which a request meets them.
#[derive(Debug)]
struct Core {
    started: Instant,
    instance: Instance,
    drain_deadline: Duration,
    definition: Mutex<Arc<Definition>>,
    listener: Listener,
    clients: Trust,
    connection_points: Trust,
    refresher: Refresher,
    proxy: Proxy,
    registry: Registry,
    expiry: Expiry,
    metrics: Metrics,
    drain: Drain,
    /// Clients and tunnels.
    connections: Tasks,
    /// Everything else.
    loops: Tasks,
}

impl Gateway {
    /// Builds every component from settings and definition, and binds every address.
    ///
    /// # Errors
    /// Everything that is wrong, worded for an administrator; nothing stays bound.
    #[allow(clippy::unused_async, reason = "sockets are bound inside the runtime")]
    pub async fn bind(
        settings: Settings,
        definition: Arc<Definition>,
        metrics: Metrics,
    ) -> Result<Self, Vec<String>> {
        let sockets = Sockets::bind(&settings);
        let core = Core::build(settings, definition, metrics);
        match (sockets, core) {
            (Ok(sockets), Ok(core)) => Ok(Self {
                addresses: sockets.addresses(),
                core: Arc::new(core),
                sockets,
            }),
            (sockets, core) => {
                let faults = [core.err(), sockets.err()];
                Err(faults.into_iter().flatten().flatten().collect())
            }
        }
    }

    /// Where it is bound; ports that were 0 are the real ones.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The table of its tunnels.
    pub fn registry(&self) -> &Registry {
        &self.core.registry
    }

    /// A handle for changes while it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.core))
    }

    /// Serves until it is drained: new work is refused from the begin of the drain, the old is finished, and what is left
    /// at the deadline is ended.
    pub async fn run(self) {
        let Self {
            core,
            sockets,
            addresses,
        } = self;
        core.serve(sockets, &addresses);
        let mut draining = core.drain.watch();
        draining.draining().await;
        core.metrics.draining.set(1);
        info!(deadline_s = core.drain_deadline.as_secs(), "draining");

        let finished = core.listener.clients_gone();
        if timeout(core.drain_deadline, finished).await.is_err() {
            warn!("the drain's deadline has passed: what is left is ended");
        }
        core.drain.force();
        core.refresher.stop();
        for tasks in [&core.connections, &core.loops] {
            if timeout(AFTERMATH, tasks.join()).await.is_err() {
                tasks.abort();
                tasks.join().await;
            }
        }
    }
}

impl Handle {
    /// Puts a definition in force, whole or not at all; live connections and tunnels are re-verified where trust changed.
    ///
    /// Takes time in proportion to the live connections; call it from a blocking task.
    ///
    /// # Errors
    /// Everything that is wrong; the last good definition stays in force.
    pub fn apply(&self, definition: Arc<Definition>) -> Result<(), Vec<String>> {
        self.0.apply(definition)
    }

    /// Starts the drain; [`Gateway::run`] returns when it is over. Later calls change nothing.
    pub fn drain(&self) {
        self.0.drain.start();
    }
}

impl Core {
    fn build(
        settings: Settings,
        definition: Arc<Definition>,
        metrics: Metrics,
    ) -> Result<Self, Vec<String>> {
        let built = Built::build(&definition, &metrics)?;
        let loops = Tasks::new();
        let refresher = Refresher::new(settings.revocation, metrics.clone(), loops.clone());
        let revocation = revocation::begin(&refresher, &definition, &built.clients, &metrics);
        let clients = Trust::with_settings(
            built.clients,
            revocation,
            Usage::Client,
            metrics.clone(),
            settings.trust,
        );
        let connection_points = Trust::new(
            built.connection_points,
            Usage::ConnectionPoint,
            metrics.clone(),
        );
        let tls = tls_of(&definition, &clients, &refresher, &connection_points)?;
        tell_notes(&definition, &metrics);

        let instance = Instance::new(settings.instance, &mut rand::rng());
        let hello = Hello::alone(
            &definition.name,
            tunnel::Instance {
                index: instance.index,
                run: instance.run_id.clone(),
            },
        );
        let random = Random::from_system();
        let budget = Budget::of_process(settings.budget, metrics.clone());
        let registry = Registry::new(settings.tunnel, hello, budget, metrics.clone(), random);
        registry.apply(built.policy);

        let drain = Drain::new();
        let connections = Tasks::new();
        let proxy = Proxy::new(proxy::Parts {
            settings: settings.proxy,
            routes: built.routes,
            registry: registry.clone(),
            metrics: metrics.clone(),
            access: settings.access,
            instance: instance.index,
            draining: drain.watch(),
        });
        Ok(Self {
            started: Instant::now(),
            instance,
            drain_deadline: settings.drain_deadline,
            definition: Mutex::new(definition),
            listener: Listener::new(settings.listener, tls, metrics.clone(), connections.clone()),
            clients,
            connection_points,
            proxy,
            registry,
            expiry: Expiry::new(metrics.clone()),
            metrics,
            drain,
            connections,
            refresher,
            loops,
        })
    }

    /// Spawns the loops of every socket.
    fn serve(self: &Arc<Self>, sockets: Sockets, addresses: &Addresses) {
        let reception = Reception {
            clients: self.clients.clone(),
            refresher: self.refresher.clone(),
            connection_points: self.connection_points.clone(),
            proxy: self.proxy.clone(),
            registry: self.registry.clone(),
            metrics: self.metrics.clone(),
            draining: self.drain.watch(),
        };
        let clients = sockets
            .client
            .into_iter()
            .map(|socket| (socket, Port::Client));
        let tunnels = sockets
            .tunnel
            .into_iter()
            .map(|socket| (socket, Port::Tunnel));
        for (socket, port) in clients.chain(tunnels) {
            let (listener, reception) = (self.listener.clone(), reception.clone());
            let draining = self.drain.watch();
            self.connections.spawn(async move {
                listener.accept(socket, port, reception, draining).await;
            });
        }
        let registry = self.registry.clone();
        let health = Health {
            draining: self.drain.watch(),
            is_ready: Arc::new(move || registry.is_ready()),
        };
        let (core, addresses) = (Arc::downgrade(self), addresses.clone());
        let views = Views {
            metrics: self.metrics.clone(),
            status: Arc::new(move || {
                let core = core.upgrade();
                core.map_or_else(Default::default, |core| status::of(&core, &addresses))
            }),
        };
        let routers = [
            (sockets.health, admin::health_router(health.clone())),
            (sockets.admin, admin::router(views, health)),
        ];
        for (socket, router) in routers {
            let Some(socket) = socket else { continue };
            let serving = admin::serve(socket, router, self.loops.clone(), self.drain.watch());
            self.loops.spawn(serving);
        }
        self.loops.spawn(Arc::clone(self).recheck());
        self.loops.spawn(Arc::clone(self).watch_expiry());
        self.loops.spawn(Arc::clone(self).watch_budget());
        let core = Arc::downgrade(self);
        self.refresher.start(Box::new(move || {
            if let Some(core) = core.upgrade() {
                core.apply_fetched();
            }
        }));
    }

    /// Looks after the budget, with tunnels and without, until the drain is over.
    async fn watch_budget(self: Arc<Self>) {
        let mut forced = self.drain.watch();
        tokio::select! {
            biased;
            () = forced.forced() => {}
            () = self.registry.budget().watch() => {}
        }
    }

    /// Closes connections whose chains have ended, until the drain is over.
    async fn recheck(self: Arc<Self>) {
        let mut forced = self.drain.watch();
        let mut ticks = interval(RECHECK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stale = Stale::default();
        loop {
            tokio::select! {
                biased;
                () = forced.forced() => return,
                _ = ticks.tick() => {}
            }
            let now = UnixTime::now();
            self.clients.recheck_expired(now);
            self.connection_points.recheck_expired(now);
            let revocation = self.clients.revocation();
            stale.tell(revocation.crls(), now);
            if revocation.crls().is_due(now) {
                self.apply_due().await;
            }
        }
    }

    fn apply(&self, definition: Arc<Definition>) -> Result<(), Vec<String>> {
        let mut current = self.lock();
        if definition.name != current.name {
            let fault = "name: cannot change while the service lives \
                         (make a second service under the new name and move over)";
            return Err(vec![fault.to_owned()]);
        }
        let built = Built::build(&definition, &self.metrics)?;
        let definition = revocation::with_what_stays(definition, &current, UnixTime::now());
        // Sessions and tickets of names that stay as they are outlive the change.
        let tls = (definition.tls != current.tls)
            .then(|| self.listener.tls().rebuild(&definition.tls))
            .transpose()?;
        // From here on nothing fails.
        if let Some(tls) = tls {
            self.listener.replace(tls);
        }
        self.proxy.replace(built.routes);
        self.registry.apply(built.policy);
        self.apply_trust(built.clients, &definition, &current);
        if definition.connection_point_ca != current.connection_point_ca {
            self.connection_points.replace(built.connection_points);
        }
        self.look_at_expiry(&definition);
        tell_notes(&definition, &self.metrics);
        *current = definition;
        Ok(())
    }

    fn definition(&self) -> Arc<Definition> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Definition>> {
        let lock = self.definition.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls_of(
    definition: &Definition,
    clients: &Trust,
    refresher: &Refresher,
    connection_points: &Trust,
) -> Result<ServerTls, Vec<String>> {
    let (clients, refresher) = (clients.clone(), refresher.clone());
    let connection_points = connection_points.clone();
    ServerTls::build(
        &definition.tls,
        Arc::new(move |presented| reception::judge_client(&clients, &refresher, presented)),
        Arc::new(move |presented| connection_points.verify(presented).map(drop)),
    )
}
