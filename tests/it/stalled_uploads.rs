//! Memory that thousands of stalled uploads would take, at the gateway and at the connection point.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::backend::{self, Backend};
use crate::client::{Body, Client, Connection, spawn_all};
use crate::world::{HOST, Plan, World, eventually, mutual, within};

/// How many uploads stall, each on a connection of its own.
const STALLED: usize = 2_000;

/// How many of them begin at once: more than that do not find room at a socket that listens.
const AT_ONCE: usize = 50;

/// How many of them are seen to go on where they stood.
const FIRST: usize = 20;

/// What each of them has to send, and in which parts.
const LENGTH: usize = 8 << 20;
const PART: usize = 16 << 10;

/// A backend that reads what is uploaded, but what asks for it only once the gate is open.
async fn backend(gate: &Arc<Semaphore>) -> Backend {
    let gate = gate.clone();
    Backend::start(move |request: Request<Incoming>| {
        let gate = gate.clone();
        async move {
            if request.uri().query() == Some("stall") {
                let _pass = gate.acquire().await.unwrap();
            }
            let (mut body, mut length) = (request.into_body(), 0);
            while let Some(Ok(frame)) = body.frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            backend::answer(200, length.to_string())
        }
    })
    .await
}

/// A body of so many bytes, which tells how many of them were taken.
fn body(length: usize, taken: Arc<AtomicUsize>) -> Body {
    let chunk = Bytes::from(vec![7; PART]);
    let frames = (0..length / PART).map(move |_| {
        taken.fetch_add(PART, Ordering::Relaxed);
        io::Result::Ok(Frame::data(chunk.clone()))
    });
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)))
}

type Sender = hyper::client::conn::http2::SendRequest<Body>;

/// An upload on a connection that is there; it comes to whether all of it was taken.
type Upload = Pin<Box<dyn Future<Output = bool> + Send>>;

/// An upload over HTTP/1.1 from a socket that holds little; it tells how far it has come.
async fn over_http1(client: &Client, sent: Arc<AtomicUsize>) -> Upload {
    let mut tls = client.tls(&[b"http/1.1"]).await.unwrap();
    let tcp = socket2::SockRef::from(tls.get_ref().0);
    tcp.set_send_buffer_size(16 << 10).unwrap();
    Box::pin(async move {
        let path = mutual("CCM_Incoming/x?stall");
        let fields = format!("Host: {HOST}\r\nContent-Length: {LENGTH}\r\nConnection: close");
        let head = format!("PUT {path} HTTP/1.1\r\n{fields}\r\n\r\n");
        tls.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..LENGTH / PART {
            tls.write_all(&[7; PART]).await.unwrap();
            sent.fetch_add(PART, Ordering::Relaxed);
        }
        tls.flush().await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        answer.ends_with(LENGTH.to_string().as_bytes())
    })
}

/// The same over a connection of HTTP/2.
fn over_http2(client: &Client, connection: &Sender, sent: Arc<AtomicUsize>) -> Upload {
    let mut connection = Connection::H2(connection.clone());
    let request = Request::put(mutual("CCM_Incoming/x?stall"));
    let request = client.addressed(request.body(body(LENGTH, sent)).unwrap());
    Box::pin(async move {
        let answer = connection.send(request).await;
        answer.is_ok_and(|answer| answer.body == LENGTH.to_string())
    })
}

/// How the uploads come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Http1,
    /// As many connections of HTTP/2.
    Http2,
    /// Few connections of HTTP/2, and a tenth over HTTP/1.1.
    Few,
}

impl Over {
    async fn connect(self, client: &Client, sent: &Arc<AtomicUsize>) -> Vec<Upload> {
        let (http1, each) = match self {
            Self::Http1 => (STALLED, 1),
            Self::Http2 => (0, 1),
            Self::Few => (STALLED / 10, 200),
        };
        let mut uploads = Vec::new();
        for _ in 0..http1 {
            uploads.push(over_http1(client, sent.clone()).await);
        }
        while uploads.len() < STALLED {
            let Connection::H2(connection) = client.connect_h2().await.unwrap() else {
                unreachable!("it is one of HTTP/2");
            };
            for _ in 0..each {
                uploads.push(over_http2(client, &connection, sent.clone()));
            }
        }
        uploads
    }
}

/// Connects them all, begins them all, and returns the first ones and the others once nothing of them moves any more.
async fn stall(world: &World, backend: &Backend, over: Over) -> [JoinSet<bool>; 2] {
    let (client, sent) = (world.client("pc-1"), Arc::<AtomicUsize>::default());
    let connected = over.connect(&client, &sent).await;
    let (mut first, mut others) = (JoinSet::new(), JoinSet::new());
    for (index, upload) in connected.into_iter().enumerate() {
        match index < FIRST {
            true => first.spawn(upload),
            false => others.spawn(upload),
        };
        if (index + 1) % AT_ONCE == 0 {
            eventually("the uploads are on their way", async || {
                backend.seen() > index
            })
            .await;
        }
    }
    let (mut before, mut unchanged) = (0, 0);
    eventually("they stall", async || {
        let now = sent.load(Ordering::Relaxed);
        let same = std::mem::replace(&mut before, now) == now;
        unchanged = if same { unchanged + 1 } else { 0 };
        unchanged == 10
    })
    .await;
    [first, others]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_uploads_stay_within_the_budget_and_live_ones_complete() {
    two_thousand_stall(Over::Http1, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_uploads_over_as_many_of_http2_are_counted_and_live_ones_complete() {
    two_thousand_stall(Over::Http2, 2.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_stalled_uploads_over_few_connections_stay_within_the_budget() {
    two_thousand_stall(Over::Few, 1.0).await;
}

/// They stall a gateway and a connection point with the budget of a machine with 1 GiB, whose memory grows by less than
/// `times` as much.
async fn two_thousand_stall(over: Over, times: f64) {
    const BUDGET: f64 = 256.0 * 1_048_576.0;
    let gate = Arc::new(Semaphore::new(0));
    let backend = backend(&gate).await;
    let limit = "buffered-bytes = \"256 MiB\"\n";
    let listener = "[listener]\nconnections-per-address = 5000\n";
    let plan = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .connection_points(limit)
        .gateway(&format!("{listener}[tunnel]\n{limit}"));
    let world = plan.start().await;
    let nodes = [&world.gateways[0], &world.connection_points[0]];
    let before = nodes.map(|node| node.memory_kib("VmRSS"));
    let [first, mut others] = stall(&world, &backend, over).await;
    let client = world.client("pc-2");
    let live = (0..20).map(async |_| {
        let body = body(1 << 20, Arc::default());
        let request = Request::put(mutual("CCM_Incoming/x?live"));
        let request = request.body(body).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.body, (1 << 20).to_string());
    });
    let live = futures_util::future::join_all(live);
    within(Duration::from_secs(60), "the live uploads", live).await;
    for (node, before) in nodes.iter().zip(before) {
        let what = format!(
            "what {} has buffered is counted and within the budget",
            node.name
        );
        eventually(&what, async || {
            let buffered = node.metric("opencmg_buffered_bytes", "").await;
            (1e6..=BUDGET).contains(&buffered)
        })
        .await;
        let peak = (node.memory_kib("VmHWM") - before) as f64 * 1_024.0;
        assert!(peak < times * BUDGET, "{}: {peak} bytes at most", node.name);
    }
    let at_gateway = world.gateways[0].metric("opencmg_requests_in_flight", "");
    let (left, least) = (at_gateway.await, STALLED as f64 * 0.8);
    assert!(left >= least, "{left} go on");
    others.shutdown().await;
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let first = within(Duration::from_secs(60), "the first", first.join_all()).await;
    if over == Over::Http1 {
        assert_eq!(first, [true; FIRST]);
    }
    world.finish().await;
}

/// How many uploads stall a gateway that has no room for them.
const TOO_MANY: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_stalled_longest_are_refused_when_there_is_no_room_for_all_and_others_pass() {
    let small = "buffered-bytes = \"1 MiB\"\n";
    let gateway = format!("[tunnel]\n{small}");
    refused_when_there_is_no_room(false, |plan| plan.gateway(&gateway)).await;
    refused_when_there_is_no_room(true, |plan| plan.gateway(&gateway)).await;
    refused_when_there_is_no_room(false, |plan| plan.connection_points(small)).await;
}

async fn refused_when_there_is_no_room(http2: bool, limited: impl Fn(Plan) -> Plan) {
    let gate = Arc::new(Semaphore::new(0));
    let backend = backend(&gate).await;
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = limited(plan).start().await;
    let client = world.client("pc-1");
    let uploads = spawn_all((0..TOO_MANY).map(|_| {
        let client = client.clone();
        async move {
            let mut connection = match http2 {
                true => client.connect_h2().await.unwrap(),
                false => client.connect().await.unwrap(),
            };
            let body = body(LENGTH, Arc::default());
            let request = Request::put(mutual("CCM_Incoming/x?stall")).body(body);
            let answer = connection.send(client.addressed(request.unwrap())).await;
            answer.ok().map(|answer| (answer.status, answer.headers))
        }
    }));
    let failures = "opencmg_request_failures_total";
    eventually("some are refused", async || {
        world.gateways[0].metric(failures, "\"overloaded\"").await >= 10.0
    })
    .await;
    eventually("what is buffered is within each budget", async || {
        let nodes = [&world.gateways[0], &world.connection_points[0]];
        for node in nodes {
            let buffered = node.metric("opencmg_buffered_bytes", "").await;
            let budget = node.metric("opencmg_buffer_budget_bytes", "").await;
            if buffered > budget {
                return false;
            }
        }
        true
    })
    .await;
    let live = Request::put(mutual("CCM_Incoming/x?live"));
    let live = client.send(live.body(body(1 << 20, Arc::default())).unwrap());
    let live = within(Duration::from_secs(30), "a live upload", live).await;
    assert_eq!(live.unwrap().body, (1 << 20).to_string());
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let answers = within(Duration::from_secs(60), "all of them", uploads).await;
    let (mut taken, mut refused) = (0, 0);
    for (status, headers) in answers.into_iter().flatten() {
        match status {
            StatusCode::OK => taken += 1,
            StatusCode::SERVICE_UNAVAILABLE if headers.contains_key("retry-after") => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(taken > 0 && refused >= 10, "{taken} and {refused}");
    world.finish().await;
}
