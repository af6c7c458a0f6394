//! Tunnels alone: requests from the registry to the handler of a connection point and back, without TLS, proxy and backend.
//!
//! Both ends are on one thread and joined by a pipe in memory or by loopback, so that a figure is the work of both.

#![allow(missing_docs, reason = "criterion's macros make the functions")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::combinators::MapErr;
use http_body_util::{BodyExt, Full};
use opencmg::drain::Drain;
use opencmg::message::body::BodyError;
use opencmg::metrics::Metrics;
use opencmg::role::{Health, PublishedRole, RoleId};
use opencmg::tasks::Tasks;
use opencmg::tunnel::{
    Budget, BudgetSettings, Hello, Incoming, Instance, Need, Peer, Policy, Random, Registry,
    RegistrySettings, Supervisor, SupervisorSettings,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

const ROLE: RoleId = RoleId::new(5);
const NEED: Need = Need {
    role: ROLE,
    sticky: None,
    long_poll: false,
    expect_continue: false,
    ahead: 0,
};

type Whole = MapErr<Full<Bytes>, fn(Infallible) -> BodyError>;

/// What joins the two ends.
#[derive(Clone, Copy)]
enum Way {
    Memory,
    Loopback,
}

/// A gateway's registry with tunnels of one connection point, which answers with bodies of one size.
struct Pair {
    registry: Registry,
    tasks: Tasks,
    // Dropping either is told to the other end.
    _roles: watch::Sender<Arc<Vec<PublishedRole>>>,
    _drains: [Arc<Drain>; 2],
}

impl Pair {
    async fn start(way: Way, size: usize, tunnels: usize) -> Self {
        let instance = Instance {
            index: 0,
            run: "run".to_owned(),
        };
        let hello = Hello::alone("gw.test", instance);
        let random = Random::seeded(1);
        let budget = || Budget::new(BudgetSettings::default(), Metrics::new());
        let settings = RegistrySettings {
            tunnels_per_connection_point: tunnels,
            ..RegistrySettings::default()
        };
        let registry = Registry::new(settings, hello, budget(), Metrics::new(), random);
        registry.apply(Policy {
            connection_points: HashMap::from([("cp".to_owned(), HashSet::from([ROLE]))]),
        });
        let drains = [(); 2].map(|()| Arc::new(Drain::new()));
        let tasks = Tasks::new();
        let role = PublishedRole {
            id: ROLE,
            health: Health::Healthy,
            capacity: 1000,
        };
        let roles = watch::Sender::new(Arc::new(vec![role]));
        let settings = SupervisorSettings {
            gateway: "gw".to_owned(),
            addresses: vec!["a".to_owned()],
            tunnels,
            ..SupervisorSettings::default()
        };
        let supervisor = Supervisor::new(settings, budget(), Metrics::new(), Random::seeded(2));
        let (heard, draining, own) = (roles.subscribe(), drains[1].watch(), tasks.clone());
        let gateway = (registry.clone(), tasks.clone(), Arc::clone(&drains[0]));
        let body = Bytes::from(vec![b'x'; size]);
        tasks.spawn(async move {
            let dial = move |_| dial(way, gateway.clone());
            let handle = move |incoming| respond(incoming, body.clone());
            supervisor.run(dial, heard, handle, own, draining).await;
        });
        while registry.view().len() < tunnels || !registry.is_ready() {
            tokio::task::yield_now().await;
        }
        Self {
            registry,
            tasks,
            _roles: roles,
            _drains: drains,
        }
    }

    async fn get(&self, size: usize) {
        let request = Request::get("https://gw.test/a").body(whole(Bytes::new()));
        let response = self.registry.send(NEED, request.unwrap()).await.unwrap();
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(received, size);
    }
}

type Gateway = (Registry, Tasks, Arc<Drain>);

async fn dial(way: Way, gateway: Gateway) -> io::Result<Box<dyn Duplex>> {
    match way {
        Way::Memory => {
            let (near, far) = tokio::io::duplex(1 << 20);
            serve(&gateway, near);
            Ok(Box::new(far))
        }
        Way::Loopback => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let far = TcpStream::connect(listener.local_addr()?).await?;
            let (near, _) = listener.accept().await?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            serve(&gateway, near);
            Ok(Box::new(far))
        }
    }
}

/// Either kind of stream.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

fn serve(
    (registry, tasks, drain): &Gateway,
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) {
    let (registry, draining) = (registry.clone(), drain.watch());
    let peer = Peer {
        name: "cp".to_owned(),
        remote: "192.0.2.1:5000".parse().unwrap(),
    };
    tasks.spawn(async move {
        registry
            .serve(io, peer, std::future::pending(), draining)
            .await;
    });
}

async fn respond(incoming: Incoming, body: Bytes) {
    // A tunnel that ends with the bench takes the last answer with it.
    let _ = incoming.respond.send(Response::new(whole(body))).await;
}

fn whole(bytes: Bytes) -> Whole {
    Full::new(bytes).map_err(|never| match never {})
}

fn tunnel(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    for (name, way) in [("memory", Way::Memory), ("loopback", Way::Loopback)] {
        for (payload, size) in [("1k", 1 << 10), ("100k", 100 << 10)] {
            let pair = runtime.block_on(Pair::start(way, size, 1));
            measure(
                criterion,
                &runtime,
                &pair,
                &format!("{name}_{payload}"),
                size,
            );
            pair.tasks.abort();
            runtime.block_on(pair.tasks.join());
        }
    }
}

fn measure(criterion: &mut Criterion, runtime: &Runtime, pair: &Pair, name: &str, size: usize) {
    let mut group = criterion.benchmark_group("tunnel");
    for streams in [1, 64] {
        group.throughput(Throughput::Elements(streams));
        group.bench_function(format!("{name}_s{streams}"), |b| {
            b.iter(|| runtime.block_on(join_all((0..streams).map(|_| pair.get(size)))));
        });
    }
    group.finish();
}

/// What choosing among more tunnels adds to one request.
fn pick(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("registry_pick");
    for tunnels in [1, 4, 16] {
        let pair = runtime.block_on(Pair::start(Way::Memory, 0, tunnels));
        group.bench_function(format!("{tunnels}_tunnels"), |b| {
            b.iter(|| runtime.block_on(pair.get(0)));
        });
        pair.tasks.abort();
        runtime.block_on(pair.tasks.join());
    }
    group.finish();
}

criterion_group!(benches, tunnel, pick);
criterion_main!(benches);
