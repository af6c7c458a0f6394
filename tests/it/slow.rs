//! Slow and greedy peers against the real binary: slowhttptest in all its modes, slow handshakes, and clients that leave.

use crate::served::live;
use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use opencmg::cli::builtin::{BuiltIn, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::spawn;
use crate::world::{MANAGEMENT_POINT, Plan, World, eventually, mutual, server, within};

/// How many slow connections each attack opens.
const SLOW: usize = 200;

/// Limits that a test can wait for; idle connections have longer than what is slow, which is to be counted as that.
const LIMITS: &str = "[listener]\nhandshake-timeout = \"2s\"\nconnections-per-address = 1000\n\
    [proxy]\nhead-timeout = \"2s\"\nbody-grace = \"1s\"\nsend-timeout = \"2s\"\nidle-timeout = \"5s\"\n";

/// A world with small time-outs, and what its backends are.
async fn world() -> (World, [BuiltIn; 2]) {
    let backends = [
        BuiltIn::management_point(Options::default()).await.unwrap(),
        BuiltIn::software_update_point().await.unwrap(),
    ];
    let [point, update] = &backends;
    let plan = Plan::new().connection_point(&point.url(), &update.url());
    (plan.gateway(LIMITS).start().await, backends)
}

/// Runs slowhttptest while live clients send requests, each of which must be answered.
async fn attack(world: &World, scheme: &str, path: &str, mode: &[&str]) {
    let live = live(world);
    live.wait_over(20).await;
    let url = format!("{scheme}://{}{path}", world.gateways[0].address);
    let log = world.dir.path().join("slowhttptest.log");
    let output = File::create(&log).unwrap();
    let connections = SLOW.to_string();
    let mut attacker = Command::new("slowhttptest")
        .args(["-c", &connections, "-r", "200", "-l", "15", "-u", &url])
        .args(mode)
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("slowhttptest has ended", async || {
        attacker.try_wait().unwrap().is_some()
    })
    .await;
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("slow HTTP test status"), "{log}");
    let before = live.over();
    live.wait_over(before + 20).await;
    live.stop();
    let report = live.finish(Duration::from_secs(20)).await;
    assert_eq!(report.failed().len(), 0, "{:?}", report.failed().first());
    eventually("no connection is left", async || {
        world.gateways[0]
            .metric("opencmg_connections_open", "")
            .await
            == 0.0
    })
    .await;
}

/// Waits until a counter of the gateway has reached the number of slow connections.
async fn counted(world: &World, name: &str, reason: &str) {
    counted_up_to(world, name, reason, SLOW as f64).await;
}

async fn counted_up_to(world: &World, name: &str, reason: &str, all: f64) {
    let label = format!("reason=\"{reason}\"");
    let mut last = 0.0;
    let what = format!("{name}{{{label}}} counts every slow connection");
    let counts = eventually(&what, async || {
        last = world.gateways[0].metric(name, &label).await;
        last >= all
    });
    counts.await;
}

/// slowhttptest now and then leaves out a head and begins with what should follow it, which is no request: how often, of
/// few at most.
async fn headless(world: &World) -> f64 {
    let name = "opencmg_connections_refused_total";
    let headless = world.gateways[0].metric(name, "reason=\"bad-request\"");
    let headless = headless.await;
    assert!(headless <= SLOW as f64 / 50.0, "{headless} without a head");
    headless
}

async fn end(world: World, backends: [BuiltIn; 2]) {
    world.finish().await;
    for backend in backends {
        backend.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_go_with_their_reason_and_no_live_request_suffers() {
    let (world, backends) = world().await;
    let path = server("Content/x-1024.cab");
    attack(&world, "https", &path, &["-H", "-i", "1"]).await;
    let slow = SLOW as f64 - headless(&world).await;
    let name = "opencmg_connections_refused_total";
    counted_up_to(&world, name, "client-too-slow", slow).await;
    end(world, backends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_go_with_their_reason_and_no_live_request_suffers() {
    let (world, backends) = world().await;
    let path = server("ClientWebService/client.asmx");
    let mode = ["-B", "-i", "1", "-s", "8192", "-x", "10"];
    attack(&world, "https", &path, &mode).await;
    let slow = SLOW as f64 - headless(&world).await;
    let name = "opencmg_request_failures_total";
    counted_up_to(&world, name, "client-too-slow", slow).await;
    end(world, backends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_go_with_their_reason_and_no_live_request_suffers() {
    let (world, backends) = world().await;
    let path = server("Content/x-67108864.cab");
    let mode = ["-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32"];
    attack(&world, "https", &path, &mode).await;
    counted(&world, "opencmg_request_failures_total", "stalled-client").await;
    end(world, backends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_for_a_thousand_ranges_are_answered_and_no_live_request_suffers() {
    let (world, backends) = world().await;
    let path = server("Content/x-1048576.cab");
    attack(&world, "https", &path, &["-R", "-a", "5", "-b", "1000"]).await;
    let failed = world.gateways[0]
        .metric("opencmg_requests_in_flight", "")
        .await;
    assert_eq!(failed, 0.0);
    end(world, backends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_slow_before_the_handshake_goes_with_its_reason_and_no_live_request_suffers() {
    let (world, backends) = world().await;
    // No TLS at all: nothing of it is waited for.
    attack(&world, "http", "/", &["-H", "-i", "1"]).await;
    counted(
        &world,
        "opencmg_handshake_failures_total",
        "handshake-failed",
    )
    .await;
    // Silent, and a record that drips.
    let live = live(&world);
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut tcp = TcpStream::connect(world.gateways[0].address).await.unwrap();
        slow.push(spawn(async move {
            let (mut read, mut write) = tcp.split();
            let drip = async {
                let mut pause = tokio::time::interval(Duration::from_millis(100));
                for byte in [0x16, 3, 1, 1, 0, 1].into_iter().chain([0; 250]) {
                    pause.tick().await;
                    if number % 2 == 0 || write.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            let mut rest = Vec::new();
            tokio::select! {
                () = drip => (),
                _ = read.read_to_end(&mut rest) => (),
            }
        }));
    }
    let all = futures_util::future::join_all(slow);
    within(Duration::from_secs(20), "every slow handshake is over", all).await;
    counted(
        &world,
        "opencmg_handshake_failures_total",
        "handshake-timeout",
    )
    .await;
    live.stop();
    let report = live.finish(Duration::from_secs(20)).await;
    assert_eq!(report.failed().len(), 0, "{:?}", report.failed().first());
    end(world, backends).await;
}

/// A backend that takes connections and reads nothing; what it says, it says when a request begins.
async fn deaf(says: &'static str) -> (String, Arc<tokio::sync::Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::<tokio::sync::Mutex<Vec<_>>>::default();
    let keep = taken.clone();
    spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            if !says.is_empty() {
                tcp.read_u8().await.unwrap();
                tcp.write_all(says.as_bytes()).await.unwrap();
            }
            keep.lock().await.push(tcp);
        }
    });
    (url, taken)
}

/// A body without an end.
fn endless() -> crate::client::Body {
    let chunk = Bytes::from(vec![7; 64 << 10]);
    let frames = std::iter::repeat_with(move || std::io::Result::Ok(Frame::data(chunk.clone())));
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_its_client_abandons_leaves_nothing_behind_a_backend_that_never_reads() {
    // Over HTTP/2 its leaving is heard at once. Over HTTP/1.1 it stands behind the bytes that nobody takes: there the
    // backend's time ends it.
    abandoned("", "", &[true, false]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_its_upload_is_no_failure_of_the_backend_that_reads_it() {
    let (world, _backends) = world().await;
    let client = world.client("pc-1");
    let byte = futures_util::stream::iter([std::io::Result::Ok(Frame::data(Bytes::from("x")))]);
    let begun = byte.chain(futures_util::stream::pending());
    let request = Request::put(mutual("CCM_Incoming/x"))
        .body(BodyExt::boxed(StreamBody::new(begun)))
        .unwrap();
    let request = client.addressed(request);
    let mut connection = client.connect_h2().await.unwrap();
    let upload = spawn(async move {
        let answer = connection.start(request).await;
        drop((answer, connection));
    });
    let point = &world.connection_points[0];
    eventually("the backend reads", async || {
        point.metric("opencmg_backend_connections", "").await == 1.0
    })
    .await;
    upload.abort();
    eventually("the upload is over", async || {
        point.metric("opencmg_tunnel_streams", "").await == 0.0
    })
    .await;
    let failures = point.metric("opencmg_backend_failures_total", "").await;
    assert_eq!(failures, 0.0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_a_long_poll_ends_as_others_do_if_the_backend_never_reads() {
    let long_poll = "[[role.endpoint]]\nname = \"CCM_Incoming\"\nlong-poll = true\n";
    abandoned(long_poll, "", &[false]).await;
    // Also behind an answer that has begun, which may go on without end.
    let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    abandoned(long_poll, begun, &[false]).await;
}

/// Uploads to a backend that reads nothing end after their clients have gone, whatever version of HTTP those spoke.
async fn abandoned(endpoints: &str, answer: &'static str, versions: &[bool]) {
    let (url, _taken) = deaf(answer).await;
    let role = format!(
        "[[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nurl = \"{url}\"\nprogress-timeout = \"5s\"\n{endpoints}"
    );
    let world = Plan::new().connection_point_with(&role).start().await;
    let client = world.client("pc-1");
    for h2 in versions.iter().copied() {
        let mut started = Vec::new();
        for _ in 0..10 {
            let mut connection = match h2 {
                true => client.connect_h2().await.unwrap(),
                false => client.connect().await.unwrap(),
            };
            let request = Request::put(mutual("CCM_Incoming/x"))
                .body(endless())
                .unwrap();
            let request = client.addressed(request);
            started.push(spawn(async move {
                let answer = connection.start(request).await;
                std::future::pending::<()>().await;
                drop((answer, connection));
            }));
        }
        let streams = async |wanted: f64| {
            let what = format!("{wanted} uploads at the connection point, HTTP/2 {h2}");
            eventually(&what, async || {
                let point = &world.connection_points[0];
                point.metric("opencmg_tunnel_streams", "").await == wanted
            })
            .await;
        };
        streams(10.0).await;
        // Until nothing moves: every window on the way is full.
        let mut before = -1.0;
        eventually("the uploads stall", async || {
            let name = "opencmg_tunnel_sent_bytes_total";
            let now = world.gateways[0].metric(name, "").await;
            std::mem::replace(&mut before, now) == now
        })
        .await;
        for upload in started {
            upload.abort();
        }
        streams(0.0).await;
    }
    world.finish().await;
}
