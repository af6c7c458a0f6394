//! Which tunnel a request takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use opencmg::reason::Reason;
use opencmg::role::{Health, PublishedRole};
use opencmg::tasks::Tasks;
use opencmg::tunnel::{Incoming, Need, RegistrySettings};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::{
    ConnectionPoint, Gateway, NEED, ROLE, connection_point, gateway, gateway_of, get, published,
    supervisor_settings, until, whole,
};

/// Connection points that hold every request until told to answer, and count them by name.
#[derive(Clone, Default)]
struct Holding {
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    go: Arc<Notify>,
}

impl Holding {
    fn start(&self, name: &'static str, gateway: &Gateway) -> ConnectionPoint {
        let (to, this) = (gateway.clone(), self.clone());
        let settings = supervisor_settings(&["a"]);
        let handle = move |incoming: Incoming| {
            let this = this.clone();
            async move {
                *this.counts.lock().unwrap().entry(name).or_default() += 1;
                if incoming.request.uri().path() != "/now" {
                    this.go.notified().await;
                }
                let _ = incoming.respond.send(Response::new(whole(name))).await;
            }
        };
        connection_point(name, settings, move |_| Ok(to.clone()), handle)
    }

    fn count(&self, name: &str) -> usize {
        self.counts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Sends requests that stay in flight.
    async fn hold(&self, gateway: &Gateway, need: Need, count: usize) {
        let before = self.count("one") + self.count("two");
        for _ in 0..count {
            let registry = gateway.registry.clone();
            gateway.tasks.spawn(async move {
                let _ = registry.send(need, get("/held")).await;
            });
        }
        until(|| self.count("one") + self.count("two") == before + count).await;
    }
}

fn without_slow_start() -> RegistrySettings {
    RegistrySettings {
        slow_start: Duration::ZERO,
        ..RegistrySettings::default()
    }
}

#[tokio::test]
async fn requests_in_flight_are_spread_evenly_and_long_polls_count_apart() {
    let gateway = gateway_of(without_slow_start(), 0, &["one", "two"]);
    let holding = Holding::default();
    let _one = holding.start("one", &gateway);
    gateway.tunnels(2).await;
    let long_poll = Need {
        long_poll: true,
        ..NEED
    };
    holding.hold(&gateway, long_poll, 100).await;
    assert_eq!(holding.count("one"), 100);
    let _two = holding.start("two", &gateway);
    gateway.tunnels(4).await;
    holding.hold(&gateway, NEED, 200).await;
    let two = holding.count("two");
    assert!((90..=110).contains(&two), "{two} of 200 went to the second");
    holding.hold(&gateway, long_poll, 100).await;
    let polls = holding.count("two") - two;
    assert!(polls > 60, "{polls} of 100 polls went to the one without");
}

#[tokio::test(start_paused = true)]
async fn a_larger_capacity_takes_a_larger_share() {
    let gateway = gateway_of(without_slow_start(), 0, &["one", "two"]);
    let holding = Holding::default();
    let one = holding.start("one", &gateway);
    let large = PublishedRole {
        capacity: 300,
        ..published(ROLE)
    };
    one.roles.send_replace(Arc::new(vec![large]));
    let _two = holding.start("two", &gateway);
    gateway.tunnels(4).await;
    sleep(Duration::from_millis(1200)).await;
    holding.hold(&gateway, NEED, 200).await;
    let share = holding.count("one");
    assert!(
        (135..=165).contains(&share),
        "{share} of 200 went to three quarters of the capacity"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_point_that_comes_back_is_not_flooded() {
    let gateway = gateway(&["one", "two"]);
    let holding = Holding::default();
    let _one = holding.start("one", &gateway);
    gateway.tunnels(2).await;
    sleep(Duration::from_secs(60)).await;
    holding.hold(&gateway, NEED, 100).await;
    let two = holding.start("two", &gateway);
    gateway.tunnels(4).await;
    holding.hold(&gateway, NEED, 20).await;
    let at_first = holding.count("two");
    assert!(
        at_first <= 14,
        "{at_first} of the first 20 went to the fresh one"
    );
    sleep(Duration::from_secs(11)).await;
    holding.hold(&gateway, NEED, 100).await;
    let in_flight: usize = gateway
        .registry
        .view()
        .iter()
        .filter(|tunnel| tunnel.peer == "two")
        .map(|tunnel| tunnel.in_flight)
        .sum();
    assert!(
        (75..=125).contains(&in_flight),
        "{in_flight} of 220 are with the second after its start"
    );
    drop(two);
}

fn sticky(key: u64) -> Need {
    Need {
        sticky: Some(key),
        ..NEED
    }
}

async fn choice(gateway: &Gateway, key: u64) -> String {
    let answer = gateway.send(sticky(key), get("/now")).await.unwrap();
    answer.text().to_owned()
}

#[tokio::test]
async fn a_client_s_sticky_requests_go_to_one_connection_point_on_every_instance() {
    let gateways = [0, 1]
        .map(|index| gateway_of(RegistrySettings::default(), index, &["one", "two", "three"]));
    let holding = Holding::default();
    let names = ["one", "two", "three"];
    let mut points = Vec::new();
    for gateway in &gateways {
        for name in names {
            points.push(holding.start(name, gateway));
        }
        gateway.tunnels(6).await;
    }
    let mut chosen = BTreeMap::new();
    for key in 0..60 {
        let first = choice(&gateways[0], key).await;
        assert_eq!(choice(&gateways[0], key).await, first);
        assert_eq!(
            choice(&gateways[1], key).await,
            first,
            "another instance chooses otherwise"
        );
        chosen.insert(key, first);
    }
    let used: BTreeSet<&String> = chosen.values().collect();
    assert_eq!(used.len(), 3, "{used:?}");
    // The third leaves the first instance: only its clients move.
    points[2].drain.start();
    gateways[0].tunnels(4).await;
    for (key, before) in &chosen {
        let now = choice(&gateways[0], *key).await;
        assert!(
            now == *before || before == "three",
            "client {key} moved from {before} to {now}"
        );
        assert_ne!(now, "three");
    }
}

#[tokio::test(start_paused = true)]
async fn sticky_requests_go_by_the_healthy_ones_and_to_the_ailing_where_none_is_healthy() {
    let gateway = gateway(&["one", "two"]);
    let holding = Holding::default();
    let points = [
        holding.start("one", &gateway),
        holding.start("two", &gateway),
    ];
    gateway.tunnels(4).await;
    let ail = |point: &ConnectionPoint| {
        let role = PublishedRole {
            health: Health::Unhealthy,
            ..published(ROLE)
        };
        point.roles.send_replace(Arc::new(vec![role]));
    };
    ail(&points[0]);
    sleep(Duration::from_secs(3)).await;
    for key in 0..20 {
        assert_eq!(choice(&gateway, key).await, "two");
    }
    ail(&points[1]);
    sleep(Duration::from_secs(3)).await;
    let mut chosen = BTreeSet::new();
    for key in 0..20 {
        chosen.insert(choice(&gateway, key).await);
    }
    assert_eq!(chosen.len(), 2, "{chosen:?}");
}

#[tokio::test]
async fn when_all_streams_are_in_use_it_is_said_at_once_and_the_next_free_one_is_used() {
    let gateway = gateway(&["cp"]);
    let tasks = Tasks::new();
    let (io, _end) = gateway.pipe("cp");
    let (requests_in, mut requests) = tokio::sync::mpsc::channel(64);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(7);
    let mut connection = builder.handshake::<_, bytes::Bytes>(io).await.unwrap();
    tasks.spawn(async move {
        while let Some(Ok((request, mut way))) = connection.accept().await {
            if request.uri().path().starts_with("/.well-known/") {
                let head = Response::builder().status(404).body(()).unwrap();
                let _ = way.send_response(head, true);
            } else {
                let _ = requests_in.send((request, way)).await;
            }
        }
    });
    gateway.ready().await;
    for _ in 0..5 {
        let registry = gateway.registry.clone();
        gateway.tasks.spawn(async move {
            let _ = registry.send(NEED, get("/held")).await;
        });
    }
    let mut ways = Vec::new();
    for _ in 0..5 {
        ways.push(requests.recv().await.unwrap());
    }
    let began = Instant::now();
    let failure = gateway.get("/").await.unwrap_err();
    assert_eq!(failure.reason, Reason::TunnelsFull);
    let failure = gateway.send(sticky(1), get("/")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::TunnelsFull);
    assert!(began.elapsed() < Duration::from_secs(1));
    let (_request, mut way) = ways.pop().unwrap();
    way.send_response(Response::new(()), true).unwrap();
    until(|| gateway.registry.view()[0].in_flight == 4).await;
    let peer = async {
        let (_, mut way) = requests.recv().await.unwrap();
        way.send_response(Response::new(()), true).unwrap();
    };
    let (answer, ()) = tokio::join!(gateway.get("/"), peer);
    assert_eq!(answer.unwrap().head.status, 200);
}
