//! One request through the whole chain: client, gateway, tunnel, connection point, built-in backend; each role a process of its own.
//!
//! The harness is that of the integration tests. All of it shares this machine, so the figures tell one version of OpenCMG from
//! another and nothing else.

#![allow(
    clippy::print_stderr,
    reason = "a node that is left behind shows its log"
)]
#![allow(missing_docs, reason = "criterion's macros make the functions")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(dead_code, reason = "the harness offers more than a bench uses")]
#![allow(unreachable_pub, reason = "one binary, many modules")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::Request;
use http_body_util::Full;
use opencmg::cli::builtin::{BuiltIn, MPLIST, Options};
use tokio::runtime::Runtime;

#[path = "../tests/it/client.rs"]
mod client;
#[path = "../tests/it/load.rs"]
mod load;
#[path = "../tests/it/relay.rs"]
mod relay;
#[path = "../tests/it/world.rs"]
mod world;

use load::Load;
use world::{HOST, Plan, World, mutual};

const DEADLINE: Duration = Duration::from_secs(600);

fn request_path(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (world, _backend) = runtime.block_on(start());
    let mut group = criterion.benchmark_group("request_path");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for connections in [1, 64] {
        group.bench_function(format!("h1_c{connections}_get_mplist"), |b| {
            b.iter_custom(|requests| {
                let requests = requests.max(connections as u64);
                let took = runtime.block_on(run(&world, connections, requests));
                black_box(took)
            });
        });
    }
    group.finish();
    runtime.block_on(world.finish());
}

async fn start() -> (World, BuiltIn) {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let world = Plan::new().connection_point(&url, &url).start().await;
    (world, backend)
}

/// The time of so many requests over so many connections, their handshakes included.
async fn run(world: &World, connections: usize, requests: u64) -> Duration {
    let load = Load::new(world.gateways[0].address, |_| {
        Request::get(mutual("SMS_MP/.sms_aut?MPLIST"))
            .header("host", HOST)
            .body(Full::new(Bytes::new()))
            .unwrap()
    });
    let tls = world.client("pc-1").configuration();
    let start = tokio::time::Instant::now();
    let report = load
        .tls(tls, HOST)
        .connections(connections)
        .requests(requests)
        .start()
        .finish(DEADLINE)
        .await;
    let took = start.elapsed();
    assert!(report.failed().is_empty(), "{:?}", report.failed().first());
    assert_eq!(report.shots.len() as u64, requests);
    let bytes = |shot: &load::Shot| match &shot.outcome {
        load::Outcome::Answered { bytes, .. } => *bytes,
        load::Outcome::Aborted { .. } | load::Outcome::Unanswered(_) => 0,
    };
    assert!(
        report
            .shots
            .iter()
            .all(|shot| bytes(shot) == MPLIST.len() as u64)
    );
    took
}

criterion_group!(benches, request_path);
criterion_main!(benches);
