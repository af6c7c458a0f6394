//! The loop that keeps a connection point's tunnels to one gateway up.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, pending};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::budget::Budget;
use super::dial::{self, Common, Ended, Event, Order, Ties};
use super::io::Traffic;
use super::plan::{Next, Plan};
use super::wire::Instance;
use super::{Incoming, Random, SupervisorSettings, TunnelView};
use crate::drain::Draining;
use crate::metrics::{ByDial, ByPeer, ByReason, Dial, Metrics};
use crate::reason::Reason;
use crate::role::PublishedRole;
use crate::tasks::Tasks;

/// How many events of tunnels may wait.
const EVENTS: usize = 256;

/// An instance that is said to be live and is not met for this long is an alert.
const ALERT_AFTER: Duration = Duration::from_secs(30);

/// What is still to be done at the end of a drain may take this long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Keeps the tunnels to one gateway up. Clones are handles on the same loop.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: SupervisorSettings,
    metrics: Metrics,
    budget: Budget,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// Every tunnel that is dialled or up.
    tunnels: BTreeMap<u64, Tunnel>,
    absent: BTreeSet<Instance>,
    absent_since: Option<Instant>,
}

#[derive(Debug)]
struct Tunnel {
    orders: watch::Sender<Order>,
    up: Option<Instant>,
    shown: Option<Shown>,
    in_flight: Arc<AtomicUsize>,
}

/// A tunnel that is up, in the metrics, as long as this lives.
#[derive(Debug)]
struct Shown(Gauge);

impl Shown {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Supervisor {
    /// Makes a supervisor that does nothing until [`Supervisor::run`].
    pub fn new(
        settings: SupervisorSettings,
        budget: Budget,
        metrics: Metrics,
        random: Random,
    ) -> Self {
        let state = Mutex::new(State {
            plan: Plan::new(settings.clone(), random, Instant::now()),
            tunnels: BTreeMap::new(),
            absent: BTreeSet::new(),
            absent_since: None,
        });
        Self(Arc::new(Inner {
            settings,
            metrics,
            budget,
            state,
        }))
    }

    /// Dials, serves and replaces tunnels until drained; to be called once.
    ///
    /// `dial` gets one of the settings' addresses; each request is handed to `handle` in a task of `tasks`, which an abort of
    /// theirs ends by way of the tunnel: it is to wait for the request's reset beside whatever it waits for. When
    /// `draining` begins, every tunnel says so, finishes its requests and closes; when it is forced, all close at once.
    /// Returns when every tunnel is closed.
    pub async fn run<D, DF, H, HF, IO>(
        &self,
        dial: D,
        roles: watch::Receiver<Arc<Vec<PublishedRole>>>,
        handle: H,
        tasks: Tasks,
        mut draining: Draining,
    ) where
        D: Fn(String) -> DF + Send + Sync + 'static,
        DF: Future<Output = io::Result<IO>> + Send + 'static,
        H: Fn(Incoming) -> HF + Send + Sync + 'static,
        HF: Future<Output = ()> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (events_in, mut events) = mpsc::channel(EVENTS);
        let common = Arc::new(Common {
            wire: self.0.settings.wire.clone(),
            budget: self.0.budget.clone(),
            roles,
            handle: Arc::new(handle),
            tasks: tasks.clone(),
            traffic: self.traffic(),
            streams: {
                let streams = &self.0.metrics.tunnel_streams;
                streams.get_or_create(&self.label()).clone()
            },
            patience: self.0.settings.dial_timeout,
        });
        let dial = Arc::new(dial);
        loop {
            let now = Instant::now();
            let next = self.state().plan.next(now);
            match next {
                Next::Dial(address, id) => {
                    let address = self.0.settings.addresses[address].clone();
                    let ties = self.seat(id, events_in.clone());
                    let tunnel = open(Arc::clone(&dial), address, Arc::clone(&common), ties);
                    tasks.spawn(tunnel);
                }
                Next::Drain(id) => self.order(id, Order::Drain),
                Next::Wait(until) => tokio::select! {
                    biased;
                    () = draining.draining() => break,
                    Some(event) = events.recv() => self.take(event),
                    () = wait_until(until) => (),
                },
            }
            self.look_for_absent();
        }
        self.drain(events, draining).await;
    }

    /// Whether at least one tunnel is up.
    pub fn is_ready(&self) -> bool {
        let state = self.state();
        let up = |(id, tunnel): (&u64, &Tunnel)| tunnel.up.is_some() && !state.plan.is_leaving(*id);
        state.tunnels.iter().any(up)
    }

    /// Every tunnel that is up. Which role a request is for is the business of the handler, so `roles` is empty.
    pub fn view(&self) -> Vec<TunnelView> {
        let state = self.state();
        let view = |(id, tunnel): (&u64, &Tunnel)| {
            let up = tunnel.up?;
            Some(TunnelView {
                peer: self.0.settings.gateway.clone(),
                remote: state.plan.address(*id).unwrap_or_default().to_owned(),
                age: up.elapsed(),
                instance: state.plan.instance(*id).cloned(),
                in_flight: tunnel.in_flight.load(Ordering::Relaxed),
                long_polls: 0,
                requests: None,
                draining: state.plan.is_leaving(*id),
                roles: Vec::new(),
            })
        };
        state.tunnels.iter().filter_map(view).collect()
    }

    /// The instances that are said to be live and that no tunnel leads to.
    pub fn absent(&self) -> Vec<Instance> {
        self.state().absent.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, id: u64, events: mpsc::Sender<Event>) -> Ties {
        let (orders_in, orders) = watch::channel(Order::Serve);
        let in_flight = Arc::<AtomicUsize>::default();
        let tunnel = Tunnel {
            orders: orders_in,
            up: None,
            shown: None,
            in_flight: Arc::clone(&in_flight),
        };
        self.state().tunnels.insert(id, tunnel);
        Ties {
            id,
            in_flight,
            orders,
            events,
        }
    }

    fn order(&self, id: u64, order: Order) {
        if let Some(tunnel) = self.state().tunnels.get(&id) {
            tunnel.orders.send_replace(order);
        }
    }

    fn take(&self, event: Event) {
        let now = Instant::now();
        let gateway = &self.0.settings.gateway;
        match event {
            Event::Up(id) => {
                let mut state = self.state();
                state.plan.up(id, now);
                if let Some(tunnel) = state.tunnels.get_mut(&id) {
                    tunnel.up = Some(now);
                    let tunnels = &self.0.metrics.tunnels;
                    tunnel.shown = Some(Shown::new(&tunnels.get_or_create(&self.label())));
                }
            }
            Event::Hello(id, hello) => {
                let instance = hello.instance.clone();
                let (met, surplus) = {
                    let plan = &mut self.state().plan;
                    let met = plan.instance(id).is_some();
                    (met, plan.hello(id, hello, now))
                };
                if met {
                    // It only says what is new.
                } else if surplus {
                    tracing::debug!(%gateway, index = instance.index, "a tunnel to an instance that has enough is closed");
                    self.order(id, Order::Drain);
                } else {
                    self.count(Dial::Up);
                    tracing::info!(%gateway, index = instance.index, run = %instance.run, "a tunnel is up");
                }
            }
            Event::Ended(id, ended) => self.end(id, &ended, now),
        }
    }

    fn end(&self, id: u64, ended: &Ended, now: Instant) {
        let (address, was_up, pause) = {
            let mut state = self.state();
            let address = state.plan.address(id).unwrap_or_default().to_owned();
            let was_up = state
                .tunnels
                .remove(&id)
                .is_some_and(|tunnel| tunnel.up.is_some());
            let pause = state.plan.ended(id, ended.refused.as_ref(), now);
            (address, was_up, pause)
        };
        let gateway = &self.0.settings.gateway;
        let detail = &ended.detail;
        let pause = format!("{:.1}s", pause.as_secs_f64());
        if let Some(refused) = &ended.refused {
            self.count(Dial::Refused);
            if refused.permanent {
                tracing::error!(%gateway, %address, reason = %refused.reason, next = %pause, "the gateway refuses this connection point until an administrator changes it");
            } else {
                tracing::warn!(%gateway, %address, reason = %refused.reason, next = %pause, "the gateway refuses the tunnel for now");
            }
        } else if let Some(reason) = ended.reason {
            if was_up {
                let ends = &self.0.metrics.tunnel_ends;
                ends.get_or_create(&ByReason { reason }).inc();
            } else {
                self.count(Dial::Unreachable);
            }
            tracing::warn!(%gateway, %address, %reason, %detail, next = %pause, "a tunnel is lost");
        } else {
            tracing::info!(%gateway, %address, %detail, "a tunnel has ended");
        }
    }

    fn label(&self) -> ByPeer {
        ByPeer::new(&self.0.settings.gateway)
    }

    fn traffic(&self) -> Traffic {
        let (metrics, label) = (&self.0.metrics, self.label());
        Traffic {
            received: metrics.tunnel_received_bytes.get_or_create(&label).clone(),
            sent: metrics.tunnel_sent_bytes.get_or_create(&label).clone(),
        }
    }

    fn count(&self, outcome: Dial) {
        let dials = &self.0.metrics.tunnel_dials;
        dials.get_or_create(&ByDial { outcome }).inc();
    }

    /// Raises the alert for instances that are said to be live and are not met.
    fn look_for_absent(&self) {
        let mut state = self.state();
        let absent = state.plan.absent();
        if absent.is_empty() {
            state.absent_since = None;
            state.absent = absent;
            return;
        }
        let since = *state.absent_since.get_or_insert_with(Instant::now);
        if absent != state.absent && since.elapsed() >= ALERT_AFTER {
            let gateway = &self.0.settings.gateway;
            let indices: Vec<u16> = absent.iter().map(|instance| instance.index).collect();
            tracing::warn!(%gateway, ?indices, "live instances of the gateway cannot be met");
            state.absent = absent;
        }
    }

    async fn drain(&self, mut events: mpsc::Receiver<Event>, mut draining: Draining) {
        let ids: Vec<u64> = self.state().tunnels.keys().copied().collect();
        for id in ids {
            self.state().plan.leave(id);
            self.order(id, Order::Drain);
        }
        let mut last_words = None;
        while !self.state().tunnels.is_empty() {
            tokio::select! {
                biased;
                () = draining.forced(), if last_words.is_none() => {
                    last_words = Some(Instant::now() + LAST_WORDS);
                    let ids: Vec<u64> = self.state().tunnels.keys().copied().collect();
                    ids.into_iter().for_each(|id| self.order(id, Order::Close));
                }
                Some(event) = events.recv() => self.take(event),
                () = wait_until(last_words) => break,
            }
        }
        self.state().tunnels.clear();
    }
}

async fn wait_until(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// One tunnel from its dial to its end.
async fn open<D, DF, H, HF, IO>(dial: Arc<D>, address: String, common: Arc<Common<H>>, ties: Ties)
where
    D: Fn(String) -> DF + Send + Sync + 'static,
    DF: Future<Output = io::Result<IO>> + Send + 'static,
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (id, events) = (ties.id, ties.events.clone());
    let mut orders = ties.orders.clone();
    let dialled = tokio::select! {
        biased;
        // Nothing is lost yet: a dial is simply dropped.
        _ = orders.wait_for(|order| *order != Order::Serve) => None,
        dialled = timeout(common.patience, dial(address)) => Some(dialled),
    };
    let ended = match dialled {
        None => Ended::new(None, "not needed any more"),
        Some(Ok(Ok(io))) => dial::serve(&common, io, ties).await,
        Some(Ok(Err(error))) => Ended::new(Some(Reason::TunnelLost), error.to_string()),
        Some(Err(_)) => Ended::new(Some(Reason::TunnelSilent), "the dial took too long"),
    };
    // Only a supervisor that is gone does not hear.
    let _ = events.send(Event::Ended(id, ended)).await;
}
