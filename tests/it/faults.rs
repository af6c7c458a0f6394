//! What fails, and what nobody notices of it: nodes killed and drained, tunnels whose packets vanish, backends that die, stalled
//! clients.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use opencmg::cli::builtin::{BuiltIn, Options, content};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::backend::{self, Backend};
use crate::client::{Answer, Body, Client, full, get, read, spawn};
use crate::relay::Relay;
use crate::world::{Plan, World, eventually, free_address, mutual, server, within};

const AFTER_A_FAULT: Duration = Duration::from_secs(15);

/// A backend that answers nothing until its gate opens.
struct Gated {
    backend: Backend,
    gate: Arc<Semaphore>,
}

impl Gated {
    async fn start() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let held = gate.clone();
        let backend = Backend::start(move |request: Request<Incoming>| {
            let gate = held.clone();
            async move {
                let _ = request.into_body().collect().await;
                let _pass = gate.acquire().await.unwrap();
                backend::answer(200, "done")
            }
        })
        .await;
        Self { backend, gate }
    }

    fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    /// Waits until this many requests wait at the gate or were seen before.
    async fn has_seen(&self, requests: usize) {
        let what = format!("the backend has seen {requests} requests");
        eventually(&what, async || self.backend.seen() >= requests).await;
    }
}

type Started = JoinHandle<io::Result<Answer>>;

/// Starts requests over HTTP/2 connections, 50 on each; they are not waited for.
async fn start_many(
    client: &Client,
    count: usize,
    make: impl Fn() -> Request<Body>,
) -> Vec<Started> {
    let mut started = Vec::new();
    for _ in 0..count.div_ceil(50) {
        let mut connection = client.connect_h2().await.unwrap();
        for _ in 0..50.min(count - started.len()) {
            let request = client.addressed(make());
            let response = connection.start_later(request).await.unwrap();
            started.push(spawn_answer(async move {
                read(response.await.map_err(io::Error::other)?).await
            }));
        }
    }
    started
}

fn spawn_answer(answer: impl Future<Output = io::Result<Answer>> + Send + 'static) -> Started {
    #[allow(
        clippy::disallowed_methods,
        reason = "the runtime of a test ends with the test"
    )]
    tokio::spawn(answer)
}

async fn all(started: Vec<Started>) -> Vec<io::Result<Answer>> {
    let answers = futures_util::future::join_all(started);
    let answers = within(AFTER_A_FAULT, "every request is done", answers).await;
    answers.into_iter().map(Result::unwrap).collect()
}

fn gets() -> Request<Body> {
    get(&mutual("SMS_MP/.sms_aut?MPLIST"))
}

fn posts() -> Request<Body> {
    Request::builder()
        .method("CCM_POST")
        .uri(mutual("CCM_System/request"))
        .body(full("<Msg/>"))
        .unwrap()
}

fn assert_every_one_is_ok(answers: &[io::Result<Answer>]) {
    for answer in answers {
        let answer = answer.as_ref().expect("a request was lost");
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(answer.body, "done");
    }
}

/// Two connection points with one gated backend, and 1,000 GETs and 50 POSTs that wait at it.
async fn world_under_load(plan: Plan) -> (World, Gated, Vec<Started>, Vec<Started>) {
    let gated = Gated::start().await;
    let url = gated.backend.url();
    let plan = plan
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let world = plan.start().await;
    let client = world.client("pc-1");
    let reads = start_many(&client, 1000, gets).await;
    let writes = start_many(&client, 50, posts).await;
    gated.has_seen(1050).await;
    (world, gated, reads, writes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_connection_point_costs_no_get_and_every_post_is_told() {
    let (mut world, gated, reads, writes) = world_under_load(Plan::new()).await;
    world.connection_points[0].kill();
    // What was under way through the dead one and may be sent again comes a second time.
    gated.has_seen(1051).await;
    gated.open();
    assert_every_one_is_ok(&all(reads).await);
    let (mut lost, mut kept) = (0, 0);
    for answer in all(writes).await {
        let answer = answer.expect("a request was cut without an answer");
        match answer.status {
            StatusCode::OK => kept += 1,
            StatusCode::BAD_GATEWAY => {
                assert_eq!(answer.phrase, "Bad Gateway", "HTTP/2 has no phrase");
                assert!(
                    String::from_utf8_lossy(&answer.body).contains("tunnel-lost"),
                    "{answer:?}"
                );
                lost += 1;
            }
            _ => panic!("{answer:?}"),
        }
    }
    assert!(
        lost > 0 && kept > 0,
        "{lost} lost, {kept} kept: the load was not spread"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_connection_point_costs_nothing() {
    let (mut world, gated, reads, writes) = world_under_load(Plan::new()).await;
    world.connection_points[0].signal("TERM");
    eventually("the drained one is out of the pick", async || {
        world.gateways[0].tunnel_names().await.len() == 1
    })
    .await;
    let later = start_many(&world.client("pc-2"), 100, posts).await;
    gated.open();
    for answers in [all(reads).await, all(writes).await, all(later).await] {
        assert_every_one_is_ok(&answers);
    }
    world.connection_points[0].exits().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_instance_finishes_what_it_has_and_the_other_serves_on() {
    let plan = Plan::new().instances(2);
    let (mut world, gated, reads, writes) = world_under_load(plan).await;
    world.gateways[0].signal("TERM");
    let drained = world.gateways[0].health;
    eventually("the instance says that it drains", async || {
        crate::world::plain_get(drained, "/healthz").await.0 == 503
    })
    .await;
    let other = world.client("pc-2").at(world.gateways[1].address);
    let elsewhere = start_many(&other, 100, posts).await;
    gated.open();
    for answers in [all(reads).await, all(writes).await, all(elsewhere).await] {
        assert_every_one_is_ok(&answers);
    }
    world.gateways[0].exits().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_whose_packets_vanish_is_given_up_and_its_gets_are_sent_elsewhere() {
    let gated = Gated::start().await;
    let url = gated.backend.url();
    let relay = Arc::new(Relay::start(free_address()).await);
    let plan = Plan::new()
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let world = plan.through(&relay).start().await;
    let reads = start_many(&world.client("pc-1"), 1000, gets).await;
    gated.has_seen(1000).await;
    relay.swallow();
    gated.has_seen(1001).await;
    gated.open();
    assert_every_one_is_ok(&all(reads).await);
    let silent = world.gateways[0]
        .metric("opencmg_tunnel_ends_total", "tunnel-silent")
        .await;
    assert!(silent >= 1.0, "{silent} tunnels were given up");
    relay.pass();
    world.finish().await;
}

#[tokio::test]
async fn without_any_connection_point_the_answer_is_503_at_once_until_one_is_back() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let plan = Plan::new()
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let mut world = plan.start().await;
    let client = world.client("pc-1");
    assert_eq!(client.send(gets()).await.unwrap().status, StatusCode::OK);
    for node in &mut world.connection_points {
        node.kill();
    }
    eventually("no tunnel is left", async || {
        world.gateways[0].tunnel_names().await.is_empty()
    })
    .await;
    let refused = within(Duration::from_secs(1), "the refusal", client.send(gets()))
        .await
        .unwrap();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.phrase, "CMGService_NoTunnel");
    assert_eq!(refused.headers["connection"], "close");
    let readiness = crate::world::plain_get(world.gateways[0].health, "/readyz")
        .await
        .0;
    assert_eq!(readiness, 503);
    for node in &mut world.connection_points {
        node.start();
    }
    world.gateways[0].has_tunnels(2).await;
    assert_eq!(client.send(gets()).await.unwrap().status, StatusCode::OK);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_dead_backend_is_told_apart_and_served_again_when_it_is_back() {
    let address = free_address();
    let answers = async |_| backend::answer(200, "done");
    let backend = Backend::start_at(address, answers).await;
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let client = world.client("pc-1");
    assert_eq!(client.send(gets()).await.unwrap().status, StatusCode::OK);
    drop(backend);
    let dead = client.send(posts()).await.unwrap();
    assert_eq!(dead.status, StatusCode::BAD_GATEWAY, "{dead:?}");
    assert!(dead.phrase.starts_with("CMGConnector_Backend"), "{dead:?}");
    let _back = Backend::start_at(address, answers).await;
    eventually("the backend serves again", async || {
        client.send(gets()).await.unwrap().status == StatusCode::OK
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn an_answer_cut_by_its_backend_is_never_taken_for_a_whole_one() {
    let cut = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", cut.local_addr().unwrap());
    let scissors = Arc::new(Semaphore::new(0));
    let held = scissors.clone();
    spawn(async move {
        loop {
            let (mut tcp, _) = cut.accept().await.unwrap();
            let mut head = [0; 4096];
            // The probe of a connection point connects and sends nothing.
            if tcp.read(&mut head).await.is_ok_and(|n| n > 0) {
                let half = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf";
                tcp.write_all(half.as_bytes()).await.unwrap();
                held.acquire().await.unwrap().forget();
            }
        }
    });
    let world = Plan::new().connection_point(&url, &url).start().await;
    let client = world.client("pc-1");
    let [mut h1, mut h2] = [
        client.connect().await.unwrap(),
        client.connect_h2().await.unwrap(),
    ];
    for connection in [&mut h1, &mut h2] {
        let response = connection.start(client.addressed(gets())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        scissors.add_permits(1);
        assert!(read(response).await.is_err(), "a cut answer ended cleanly");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_downloads_never_slow_others_on_the_same_tunnel() {
    let backend = BuiltIn::software_update_point().await.unwrap();
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .tunnels(1);
    let world = plan.start().await;
    let client = world.anonymous();
    let large = server("Content/x-67108864.cab");
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let mut connection = client.connect().await.unwrap();
        let response = connection
            .start(client.addressed(get(&large)))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        stalled.push((connection, response));
    }
    let live = (0..100).map(async |_| {
        let answer = client
            .send(get(&server("Content/x-4194304.cab")))
            .await
            .unwrap();
        assert!(
            answer.body == content::bytes_at(0, 4 << 20),
            "the body came changed"
        );
    });
    let live = futures_util::future::join_all(live);
    within(Duration::from_secs(60), "the live downloads", live).await;
    let held = world.connection_points[0]
        .metric("opencmg_tunnel_streams", "")
        .await;
    assert!(held >= 100.0, "{held} of the stalled are under way");
    drop(stalled);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_uploads_never_slow_others_on_the_same_tunnel() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let backend = Backend::start(move |request: Request<Incoming>| {
        let gate = held.clone();
        async move {
            if request.uri().query() == Some("stall") {
                let _pass = gate.acquire().await.unwrap();
            }
            let (mut body, mut length) = (request.into_body(), 0);
            while let Some(frame) = body.frame().await {
                length += frame.unwrap().data_ref().map_or(0, |data| data.len());
            }
            backend::answer(200, length.to_string())
        }
    })
    .await;
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .tunnels(1);
    let world = plan.start().await;
    let client = world.client("pc-1");
    let put = |query: &str, size: usize| {
        let chunk = content::bytes_at(0, 1 << 20);
        let frames = (0..size >> 20).map(move |_| io::Result::Ok(Frame::data(chunk.clone())));
        let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        Request::put(mutual(&format!("CCM_Incoming/x?{query}")))
            .body(body)
            .unwrap()
    };
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let (client, request) = (client.clone(), put("stall", 16 << 20));
        stalled.push(spawn_answer(async move { client.send(request).await }));
    }
    eventually("100 uploads stall", async || backend.seen() >= 100).await;
    let live = (0..100).map(async |_| {
        let answer = client.send(put("live", 4 << 20)).await.unwrap();
        assert_eq!(answer.body, (4 << 20).to_string());
    });
    let live = futures_util::future::join_all(live);
    within(Duration::from_secs(60), "the live uploads", live).await;
    assert!(stalled.iter().all(|task| !task.is_finished()));
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    for answer in all(stalled).await {
        assert_eq!(answer.unwrap().body, (16 << 20).to_string());
    }
    world.finish().await;
}
