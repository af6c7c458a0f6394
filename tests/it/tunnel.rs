//! The tunnel module over pipes in memory: both ends real, no TLS, the clock paused where time matters.

mod flow;
mod hostile;
mod life;
mod mesh;
mod pick;
mod publish;
mod requests;
mod retry;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use opencmg::drain::Drain;
use opencmg::message::body::BodyError;
use opencmg::metrics::Metrics;
use opencmg::reason::Reason;
use opencmg::role::{Health, PublishedRole, RoleId};
use opencmg::tasks::Tasks;
use opencmg::tunnel::{
    Budget, BudgetSettings, Failure, Hello, Incoming, Instance, Need, Peer, Policy, Random,
    Registry, RegistrySettings, Supervisor, SupervisorSettings, TunnelEnd,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{mpsc, oneshot, watch};

pub const ROLE: RoleId = RoleId::new(5);
pub const OTHER_ROLE: RoleId = RoleId::new(6);

pub fn published(id: RoleId) -> PublishedRole {
    PublishedRole {
        id,
        health: Health::Healthy,
        capacity: 100,
    }
}

pub fn policy(names: &[&str]) -> Policy {
    let entry = |name: &&str| ((*name).to_owned(), HashSet::from([ROLE]));
    Policy {
        connection_points: names.iter().map(entry).collect::<HashMap<_, _>>(),
    }
}

/// A gateway instance without sockets.
#[derive(Clone)]
pub struct Gateway {
    pub registry: Registry,
    pub metrics: Metrics,
    pub drain: Arc<Drain>,
    pub tasks: Tasks,
    pub accepted: Arc<AtomicUsize>,
}

pub fn gateway_of(settings: RegistrySettings, index: u16, names: &[&str]) -> Gateway {
    gateway_with(settings, BudgetSettings::default(), index, names)
}

pub fn gateway_with(
    settings: RegistrySettings,
    budget: BudgetSettings,
    index: u16,
    names: &[&str],
) -> Gateway {
    let metrics = Metrics::new();
    let budget = Budget::new(budget, metrics.clone());
    let instance = Instance {
        index,
        run: format!("run-{index}"),
    };
    let hello = Hello::alone("gw.test", instance);
    let random = Random::seeded(u64::from(index));
    let registry = Registry::new(settings, hello, budget, metrics.clone(), random);
    registry.apply(policy(names));
    Gateway {
        registry,
        metrics,
        drain: Arc::new(Drain::new()),
        tasks: Tasks::new(),
        accepted: Arc::default(),
    }
}

pub fn gateway(names: &[&str]) -> Gateway {
    gateway_of(RegistrySettings::default(), 0, names)
}

impl Gateway {
    /// Serves one connection in a task; the receiver gets its end.
    pub fn accept<IO>(&self, io: IO, name: &str) -> oneshot::Receiver<TunnelEnd>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (done, end) = oneshot::channel();
        let peer = Peer {
            name: name.to_owned(),
            remote: "192.0.2.1:5000".parse().unwrap(),
        };
        let (registry, draining) = (self.registry.clone(), self.drain.watch());
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn(async move {
            let end = registry
                .serve(io, peer, std::future::pending(), draining)
                .await;
            let _ = done.send(end);
        });
        end
    }

    /// Connects a peer of the test's own: the connection point's end of a pipe.
    pub fn pipe(&self, name: &str) -> (DuplexStream, oneshot::Receiver<TunnelEnd>) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        (theirs, self.accept(ours, name))
    }

    pub async fn ready(&self) {
        self.tunnels(1).await;
    }

    /// Waits until so many tunnels serve the role.
    pub async fn tunnels(&self, count: usize) {
        until(|| {
            let view = self.registry.view();
            view.iter()
                .filter(|t| !t.draining && !t.roles.is_empty())
                .count()
                == count
        })
        .await;
    }

    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(NEED, get(path)).await
    }

    pub async fn send<B>(&self, need: Need, request: Request<B>) -> Result<Answer, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        let response = self.registry.send(need, request).await?;
        let (head, body) = response.into_parts();
        let collected = body.collect().await;
        let (body, trailers, error) = match collected {
            Ok(all) => {
                let trailers = all.trailers().cloned();
                (all.to_bytes(), trailers, None)
            }
            Err(error) => (Bytes::new(), None, Some(error)),
        };
        Ok(Answer {
            head,
            body,
            trailers,
            error,
        })
    }
}

#[derive(Debug)]
pub struct Answer {
    pub head: http::response::Parts,
    pub body: Bytes,
    pub trailers: Option<http::HeaderMap>,
    pub error: Option<BodyError>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub const NEED: Need = Need {
    role: ROLE,
    sticky: None,
    long_poll: false,
    expect_continue: false,
    ahead: 0,
};

/// A body that cannot fail.
pub type Whole = http_body_util::combinators::MapErr<Full<Bytes>, fn(Infallible) -> BodyError>;

pub fn whole(bytes: impl Into<Bytes>) -> Whole {
    Full::new(bytes.into()).map_err(|never| match never {})
}

pub fn get(path: &str) -> Request<Whole> {
    request("GET", path, Bytes::new())
}

pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Whole> {
    let request = Request::builder().method(method);
    request
        .uri(format!("https://gw.test{path}"))
        .body(whole(body))
        .unwrap()
}

/// A body that the test feeds.
pub struct Fed {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BodyError>>,
    pub polls: Arc<AtomicUsize>,
}

pub type Feeder = mpsc::Sender<Result<Frame<Bytes>, BodyError>>;

pub fn fed() -> (Feeder, Fed) {
    let (feeder, frames) = mpsc::channel(4);
    let polls = Arc::default();
    (feeder, Fed { frames, polls })
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.frames.poll_recv(cx)
    }
}

/// Waits for a condition; the deadline is far above what any machine needs.
pub async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("the condition never came true");
}

/// A connection point whose dials end in gateways of the test.
pub struct ConnectionPoint {
    pub supervisor: Supervisor,
    pub roles: watch::Sender<Arc<Vec<PublishedRole>>>,
    pub drain: Drain,
    pub tasks: Tasks,
    pub dials: Arc<Mutex<Vec<(String, tokio::time::Instant)>>>,
    pub metrics: Metrics,
}

pub fn supervisor_settings(addresses: &[&str]) -> SupervisorSettings {
    SupervisorSettings {
        gateway: "gw".to_owned(),
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        ..SupervisorSettings::default()
    }
}

/// Starts a connection point; `route` says to which gateway a dial leads.
pub fn connection_point<R, H, HF>(
    name: &'static str,
    settings: SupervisorSettings,
    route: R,
    handle: H,
) -> ConnectionPoint
where
    R: Fn(&str) -> io::Result<Gateway> + Send + Sync + 'static,
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
{
    let route = Arc::new(route);
    connection_point_with(name, settings, handle, move |address| {
        let routed = route(&address);
        async move {
            let (theirs, _end) = routed?.pipe(name);
            Ok(theirs)
        }
    })
}

/// Starts a connection point with a way to dial.
pub fn connection_point_with<D, DF, H, HF, IO>(
    seed: &str,
    settings: SupervisorSettings,
    handle: H,
    dial: D,
) -> ConnectionPoint
where
    D: Fn(String) -> DF + Send + Sync + 'static,
    DF: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
{
    let random = Random::seeded(seed.len() as u64);
    let metrics = Metrics::new();
    let budget = Budget::new(BudgetSettings::default(), metrics.clone());
    let supervisor = Supervisor::new(settings, budget, metrics.clone(), random);
    run(supervisor, metrics, handle, dial)
}

/// Runs a connection point that was made.
pub fn run<D, DF, H, HF, IO>(
    supervisor: Supervisor,
    metrics: Metrics,
    handle: H,
    dial: D,
) -> ConnectionPoint
where
    D: Fn(String) -> DF + Send + Sync + 'static,
    DF: Future<Output = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
{
    let roles = watch::Sender::new(Arc::new(vec![published(ROLE)]));
    let (drain, tasks) = (Drain::new(), Tasks::new());
    let dials: Arc<Mutex<Vec<_>>> = Arc::default();
    let (log, runner) = (Arc::clone(&dials), supervisor.clone());
    let (heard, draining, own) = (roles.subscribe(), drain.watch(), tasks.clone());
    tasks.spawn(async move {
        let dial = move |address: String| {
            let now = tokio::time::Instant::now();
            log.lock().unwrap().push((address.clone(), now));
            dial(address)
        };
        runner.run(dial, heard, handle, own, draining).await;
    });
    ConnectionPoint {
        supervisor,
        roles,
        drain,
        tasks,
        dials,
        metrics,
    }
}

/// A pair: a gateway, and a connection point `cp` with one tunnel to it.
pub async fn pair<H, HF>(handle: H) -> (Gateway, ConnectionPoint)
where
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
{
    let gateway = gateway(&["cp"]);
    let to = gateway.clone();
    let settings = SupervisorSettings {
        tunnels: 1,
        ..supervisor_settings(&["a"])
    };
    let point = connection_point("cp", settings, move |_| Ok(to.clone()), handle);
    gateway.ready().await;
    (gateway, point)
}

/// Answers with the request's method, path and body.
pub async fn echo(incoming: Incoming) {
    let (head, body) = incoming.request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let Ok(body) = body else { return };
    let text = format!("{} {} {}", head.method, head.uri.path(), body.len());
    let _ = incoming.respond.send(Response::new(whole(text))).await;
}

/// A peer written by hand on `h2`: speaks of no roles, hands out every other request.
pub async fn foreign(
    io: DuplexStream,
    tasks: &Tasks,
) -> mpsc::Receiver<(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>)> {
    let (requests_in, requests) = mpsc::channel(64);
    let mut connection = h2::server::handshake(io).await.unwrap();
    tasks.spawn(async move {
        while let Some(Ok((request, mut way))) = connection.accept().await {
            if request.uri().path().starts_with("/.well-known/opencmg/") {
                let head = Response::builder().status(404).body(()).unwrap();
                let _ = way.send_response(head, true);
            } else if requests_in.send((request, way)).await.is_err() {
                return;
            }
        }
    });
    requests
}

pub fn reasons(metrics: &Metrics, family: &str, reason: Reason) -> u64 {
    let text = metrics.encode();
    let line = format!("opencmg_{family}_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|l| l.strip_prefix(&line));
    value.map_or(0, |value| value.parse().unwrap())
}
