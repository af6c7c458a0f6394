//! One request through the whole chain: client, gateway, tunnel, connection point, built-in backend; each role a process of its own.
//!
//! The harness is that of the integration tests, the client the load generator. All of it shares this machine, so the figures tell one
//! version of OpenCMG from another and nothing else.

#![allow(
    clippy::print_stderr,
    reason = "a node that is left behind shows its log"
)]
#![allow(missing_docs, reason = "criterion's macros make the functions")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(dead_code, reason = "the harness offers more than a bench uses")]
#![allow(unreachable_pub, reason = "one binary, many modules")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::load::{Mode, Plan as Load, Protocol, Run, Target};
use opencmg::pki::{load_pem, read_certificates};
use opencmg::tls::{KeyExchange, LoadClient, LoadClientSettings, Sessions};
use tokio::runtime::Runtime;

#[path = "../tests/it/client.rs"]
mod client;
#[path = "../tests/it/relay.rs"]
mod relay;
#[path = "../tests/it/world.rs"]
mod world;

use world::{HOST, Plan, World, mutual, server};

const DEADLINE: Duration = Duration::from_secs(600);
const PROTOCOLS: [(&str, Protocol); 2] = [("h1", Protocol::Http1), ("h2", Protocol::Http2)];

/// What is asked for: its name, its path, the bytes sent.
struct Payload {
    name: &'static str,
    path: String,
    body: usize,
}

fn payloads() -> [Payload; 4] {
    let get = |name, size: u64| Payload {
        name,
        path: server(&format!("Content/u-{size}.cab")),
        body: 0,
    };
    [
        get("get_1k", 1 << 10),
        get("get_100k", 100 << 10),
        get("get_10m", 10 << 20),
        Payload {
            name: "post_64k",
            path: mutual("CCM_System/request"),
            body: 64 << 10,
        },
    ]
}

fn request_path(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (world, _backends) = runtime.block_on(start());
    let mut group = criterion.benchmark_group("request_path");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for payload in payloads() {
        let many = if payload.name == "get_10m" { 4 } else { 64 };
        for (name, protocol) in PROTOCOLS {
            for connections in [1, many] {
                let id = format!("{name}_c{connections}_{}", payload.name);
                group.bench_function(id, |b| {
                    b.iter_custom(|requests| {
                        let load = load(&world, &payload, protocol, connections, requests);
                        runtime.block_on(run(load, requests))
                    });
                });
            }
        }
    }
    group.finish();
    runtime.block_on(world.finish());
}

async fn start() -> (World, [BuiltIn; 2]) {
    let management_point = BuiltIn::management_point(Options::default()).await.unwrap();
    let software_update_point = BuiltIn::software_update_point().await.unwrap();
    let world = Plan::new()
        .connection_point(&management_point.url(), &software_update_point.url())
        .start()
        .await;
    (world, [management_point, software_update_point])
}

fn load(
    world: &World,
    payload: &Payload,
    protocol: Protocol,
    connections: usize,
    requests: u64,
) -> Load {
    let read = |name: &str| std::fs::read(world.pki.file(name)).unwrap();
    let tls = LoadClientSettings {
        ca: read_certificates(&read("root.pem")).unwrap(),
        key_pair: Some(load_pem(&read("pc-1.pem"), &read("pc-1.key")).unwrap()),
        key_exchange: KeyExchange::X25519,
        suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        alpn: match protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        },
        sessions: Sessions::None,
    };
    let address = world.gateways[0].address.to_string();
    let url = format!("https://{HOST}{}", payload.path);
    Load {
        target: Target::resolve(&url, Some(&address)).unwrap(),
        tls: LoadClient::build(&tls).unwrap(),
        mode: Mode::KeepAlive,
        protocol,
        connections,
        streams: 1,
        threads: 1,
        rate: None,
        dial_rate: None,
        duration: DEADLINE,
        warm_up: Duration::ZERO,
        requests: Some(requests),
        patience: DEADLINE,
        method: if payload.body == 0 {
            Method::GET
        } else {
            Method::from_bytes(b"CCM_POST").unwrap()
        },
        fields: HeaderMap::new(),
        body: vec![b'x'; payload.body].into(),
    }
}

/// The time of so many requests, once all connections are up.
async fn run(load: Load, requests: u64) -> Duration {
    let running = Run::start(load).unwrap();
    running.ended().await;
    let report = running.report().unwrap();
    assert!(report.failures.is_empty(), "{report}");
    assert_eq!(report.requests, requests);
    Duration::from_secs_f64(report.seconds)
}

criterion_group!(benches, request_path);
criterion_main!(benches);
