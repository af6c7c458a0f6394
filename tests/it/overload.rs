//! Overload: storms of handshakes, many clients behind one address, more work than there is room for, and memory that
//! thousands of stalled clients would take.

use crate::served::live;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use opencmg::cli::builtin::{BuiltIn, Options, content};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;

use crate::backend::{self, Backend};
use crate::client::{Client, Connection, get};
use crate::load::Running;
use crate::world::{HOST, Node, Plan, World, eventually, mp_list, mutual, server, within};

/// How many clients come at once after an outage.
const STORM: usize = 1_000;

/// How many clients are behind one address.
const BEHIND_ONE_ADDRESS: usize = 3_000;

const MIB: f64 = 1_048_576.0;

/// How many clients stall.
const STALLED: usize = 2_000;

/// A client that comes back after an outage: a handshake, a request, and a connection that stays.
async fn comes_back(client: &Client) -> Connection {
    let mut connection = client.connect().await.unwrap();
    let request = client.addressed(get(&mp_list()));
    let answer = connection.send(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    connection
}

async fn no_live_request_failed(live: Running) {
    live.stop();
    let report = live.finish(Duration::from_secs(30)).await;
    assert_eq!(report.failed().len(), 0, "{:?}", report.failed().first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_handshakes_is_absorbed_without_harm_to_those_connected() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let live = live(&world);
    live.wait_over(20).await;
    let client = world.client("pc-2");
    let storm = futures_util::future::join_all((0..STORM).map(|_| comes_back(&client)));
    let back = within(Duration::from_secs(60), "everyone is back", storm).await;
    let open = world.gateways[0]
        .metric("opencmg_connections_open", "")
        .await;
    assert!(open >= back.len() as f64, "{open} of {STORM} are open");
    no_live_request_failed(live).await;
    drop(back);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_clients_behind_one_address_are_all_served() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let client = world.client("pc-2");
    let all = futures_util::stream::iter(0..BEHIND_ONE_ADDRESS).map(|_| comes_back(&client));
    let mut connections: Vec<_> = within(
        Duration::from_secs(60),
        "everyone is in",
        all.buffer_unordered(300).collect(),
    )
    .await;
    assert_eq!(connections.len(), BEHIND_ONE_ADDRESS);
    // They are all still there.
    for connection in connections.iter_mut().step_by(100) {
        let request = client.addressed(get(&mp_list()));
        assert_eq!(
            connection.send(request).await.unwrap().status,
            StatusCode::OK
        );
    }
    let refused = world.gateways[0]
        .metric("opencmg_connections_refused_total", "")
        .await;
    assert_eq!(refused, 0.0);
    drop(connections);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_capacity_the_gateway_sheds_at_once_and_recovers_by_itself() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let backend = Backend::start(move |_| {
        let gate = held.clone();
        async move {
            let _pass = gate.acquire().await.unwrap();
            backend::answer(200, "done")
        }
    })
    .await;
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .gateway("[proxy]\nrequests = 100\n");
    let world = plan.start().await;
    let (client, request) = (world.client("pc-1"), || get(&mutual("SMS_MP/x")));
    let mut connection = client.connect_h2().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        let request = client.addressed(request());
        held.push(connection.start_later(request).await.unwrap());
    }
    eventually("the gateway is full", async || backend.seen() >= 100).await;
    let memory = resident(&world.gateways[0]).await;
    let flood = futures_util::stream::iter(0..1_000).map(async |_| {
        let answer = within(Duration::from_secs(5), "a refusal", client.send(request()));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.phrase, "CMGService_Overloaded");
        let after: u64 = answer.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=10).contains(&after), "{after} s");
    });
    flood.buffer_unordered(50).collect::<Vec<_>>().await;
    let grown = resident(&world.gateways[0]).await - memory;
    assert!(
        grown < 64.0 * 1_048_576.0,
        "{grown} bytes more after the flood"
    );
    let shed = world.gateways[0]
        .metric("opencmg_request_failures_total", "\"overloaded\"")
        .await;
    assert_eq!(shed, 1_000.0);
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    for response in held {
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }
    eventually("it serves again", async || {
        client.send(request()).await.unwrap().status == StatusCode::OK
    })
    .await;
    world.finish().await;
}

async fn resident(node: &Node) -> f64 {
    node.metric("opencmg_process_resident_memory_bytes", "")
        .await
}

/// A connection whose kernel takes little of what nobody reads.
async fn narrow(client: &Client, alpn: &[u8]) -> TlsStream<TcpStream> {
    let tls = client.tls(&[alpn]).await.unwrap();
    let tcp = socket2::SockRef::from(tls.get_ref().0);
    tcp.set_recv_buffer_size(16 << 10).unwrap();
    tls
}

/// Downloads that nobody takes a byte of, as many as are asked for: a tenth over HTTP/1.1, the others over HTTP/2.
async fn stall(world: &World, count: usize) -> Vec<Box<dyn std::any::Any + Send>> {
    let client = world.anonymous();
    let mut held: Vec<Box<dyn std::any::Any + Send>> = Vec::new();
    let large = server("Content/x-67108864.cab");
    let one = async |_| {
        let mut tls = narrow(&client, b"http/1.1").await;
        let request = format!("GET {large} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        // Many futures of one task share its turn: without it TLS may keep what it was given.
        tls.flush().await.unwrap();
        let mut answer = [0; 12];
        // Who has stalled for long enough may be closed before it has read anything.
        if tls.read_exact(&mut answer).await.is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
        tls
    };
    let mut many = futures_util::stream::iter(0..count / 10)
        .map(one)
        .buffer_unordered(50);
    while let Some(one) = many.next().await {
        held.push(Box::new(one));
    }
    for _ in 0..count * 9 / 10 / 200 {
        // Windows as large as they can be, and a socket that is not read.
        let tls = narrow(&client, b"h2").await;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30);
        let (mut send, connection) = builder.handshake::<_, Bytes>(tls).await.unwrap();
        let mut connection = Box::pin(connection);
        for _ in 0..200 {
            let uri = format!("https://{HOST}{large}");
            let request = Request::get(uri).body(()).unwrap();
            held.push(Box::new(send.send_request(request, true).unwrap()));
        }
        // The requests go out, and then nobody looks after the connection.
        let _ = tokio::time::timeout(Duration::from_millis(20), &mut connection).await;
        held.push(Box::new((send, connection)));
    }
    held
}

/// What a future comes to, and the highest value of a metric until then.
async fn while_watched<T>(node: &Node, metric: &str, future: impl Future<Output = T>) -> (T, f64) {
    let mut most = 0.0f64;
    let watch = async {
        loop {
            most = most.max(node.metric(metric, "").await);
        }
    };
    let output = tokio::select! {
        output = future => output,
        never = watch => never,
    };
    (output, most)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_downloads_stay_within_the_budget_and_live_ones_complete() {
    // The default of a machine with 1 GiB.
    two_thousand_stall(256.0, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_downloads_stay_within_a_small_budget_but_for_what_does_not_count() {
    two_thousand_stall(64.0, 2.5).await;
}

/// They stall a gateway with so much `tunnel.buffered-bytes`, whose memory grows by less than `times` as much.
async fn two_thousand_stall(mib: f64, times: f64) {
    let backend = BuiltIn::software_update_point().await.unwrap();
    let budget = mib * MIB;
    let limits = format!(
        "[listener]\nconnections-per-address = 5000\n[tunnel]\nbuffered-bytes = \"{mib} MiB\"\n"
    );
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .gateway(&limits);
    let world = plan.start().await;
    let before = resident(&world.gateways[0]).await;
    let all = stall(&world, STALLED);
    let (held, most) = while_watched(&world.gateways[0], "opencmg_buffered_bytes", all).await;
    assert!((1.0..=budget).contains(&most), "{most} bytes are counted");
    let client = world.anonymous();
    let live = (0..20).map(async |_| {
        let path = server("Content/x-4194304.cab");
        let answer = client.send(get(&path)).await.unwrap();
        assert!(
            answer.body == content::bytes_at(0, 4 << 20),
            "the body came changed"
        );
    });
    let live = futures_util::future::join_all(live);
    within(Duration::from_secs(60), "the live downloads", live).await;
    let buffered = "opencmg_buffered_bytes";
    eventually("what is buffered is within the budget", async || {
        world.gateways[0].metric(buffered, "").await <= budget
    })
    .await;
    // What is counted is payload: heads, queues and the allocator's slack come on top, and most of the slack goes back
    // within 20 s.
    let peak = world.gateways[0].memory_kib("VmHWM") as f64 * 1_024.0 - before;
    assert!(peak < times * budget, "{peak} bytes at most");
    eventually("memory is near the budget again", async || {
        resident(&world.gateways[0]).await - before < 2.0 * budget
    })
    .await;
    drop(held);
    world.finish().await;
    backend.stop().await;
}

/// How many clients stall for a while, over each version of HTTP.
const PAUSING: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stall_while_windows_are_small_and_go_on_lose_nothing() {
    const LENGTH: usize = 4 << 20;
    let backend = BuiltIn::software_update_point().await.unwrap();
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .gateway("[tunnel]\nbuffered-bytes = \"8 MiB\"\n");
    let world = plan.start().await;
    let client = world.anonymous();
    let path = server(&format!("Content/x-{LENGTH}.cab"));
    let mut http1 = Vec::new();
    for _ in 0..PAUSING {
        let mut tls = client.tls(&[b"http/1.1"]).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        tls.flush().await.unwrap();
        assert_eq!(tls.read_u8().await.unwrap(), b'H');
        http1.push(tls);
    }
    let mut connection = client.connect_h2().await.unwrap();
    let mut http2 = Vec::new();
    for _ in 0..PAUSING {
        let request = client.addressed(get(&path));
        http2.push(connection.start(request).await.unwrap());
    }
    let buffered = "opencmg_buffered_bytes";
    eventually("something is held for all of them", async || {
        world.gateways[0].metric(buffered, "").await >= 100_000.0
    })
    .await;
    let whole = content::bytes_at(0, LENGTH);
    for mut tls in http1 {
        let mut answer = Vec::new();
        let rest = within(
            Duration::from_secs(30),
            "the rest",
            tls.read_to_end(&mut answer),
        );
        rest.await.unwrap();
        assert!(
            answer.ends_with(&whole),
            "{} bytes over HTTP/1.1",
            answer.len()
        );
    }
    // Together: those that are not read would use up what the client's connection takes.
    let all = futures_util::future::join_all(
        http2
            .into_iter()
            .map(async |answer| answer.into_body().collect().await.unwrap().to_bytes()),
    );
    for found in within(Duration::from_secs(30), "the rest", all).await {
        assert!(found == whole, "{} bytes over HTTP/2", found.len());
    }
    world.finish().await;
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_for_stalled_clients_is_counted_when_no_tunnel_is_left() {
    let backend = BuiltIn::software_update_point().await.unwrap();
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .gateway("[tunnel]\nbuffered-bytes = \"1 MiB\"\n");
    let mut world = plan.start().await;
    let held = stall(&world, 40).await;
    let buffered = "opencmg_buffered_bytes";
    eventually("something is held", async || {
        world.gateways[0].metric(buffered, "").await > 0.0
    })
    .await;
    world.connection_points[0].kill();
    drop(held);
    eventually("nothing is held any more", async || {
        world.gateways[0].metric(buffered, "").await == 0.0
    })
    .await;
    world.finish().await;
    backend.stop().await;
}
