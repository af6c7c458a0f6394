//! Heap allocations per request: of a gateway, and of a connection point.
//!
//! The role that is counted runs in this process and everything else in processes of its own, but for a backend that allocates nothing.
//! What a connection costs falls out, since two runs over as many connections are compared.

#![allow(clippy::print_stdout, reason = "its result")]
#![allow(
    clippy::print_stderr,
    reason = "a node that is left behind shows its log"
)]
#![allow(missing_docs, reason = "a program")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(dead_code, reason = "the harness offers more than a bench uses")]
#![allow(unreachable_pub, reason = "one binary, many modules")]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use opencmg::config;
use opencmg::connection_point::ConnectionPoint;
use opencmg::gateway::Gateway;
use opencmg::metrics::Metrics;
use opencmg::service;
use opencmg::tasks::Tasks;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio::runtime::Runtime;

#[path = "../tests/it/client.rs"]
mod client;
#[path = "../tests/it/relay.rs"]
mod relay;
#[path = "../tests/it/world.rs"]
mod world;

use world::{HOST, Plan, World, mutual, now};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 8;
const BODY: usize = 1 << 10;

/// The role that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Gateway,
    ConnectionPoint,
}

fn main() {
    // As criterion has it: measured under `cargo bench`, tried under `cargo test`.
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let requests = if is_measured { 20_000 } else { 50 };
    for (name, role) in [
        ("gateway", Role::Gateway),
        ("connection_point", Role::ConnectionPoint),
    ] {
        for protocol in ["h1", "h2"] {
            let (allocations, bytes) = count(role, protocol, requests);
            if is_measured {
                println!(
                    "allocations/{name}_{protocol}_get_1k  {allocations:.1} of {bytes:.0} B together, per request"
                );
            } else {
                println!("Testing allocations/{name}_{protocol}_get_1k\nSuccess");
            }
        }
    }
}

/// Allocations and bytes per request.
fn count(role: Role, protocol: &str, requests: u64) -> (f64, f64) {
    let runtime = Runtime::new().unwrap();
    let backend = backend();
    let (world, tasks) = runtime.block_on(start(role, backend));
    let run = |requests: u64| {
        let region = Region::new(ALLOCATOR);
        load(&world, protocol, requests);
        region.change()
    };
    run(requests.min(1000));
    let (few, many) = (run(requests), run(3 * requests));
    let per_request = |of: fn(&Stats) -> usize| {
        let [few, many] = [&few, &many].map(|stats| of(stats) as f64);
        (many - few) / (2 * requests) as f64
    };
    let counted = (
        per_request(|stats| stats.allocations + stats.reallocations),
        per_request(|stats| stats.bytes_allocated),
    );
    tasks.abort();
    runtime.block_on(async {
        tasks.join().await;
        world.finish().await;
    });
    counted
}

/// A world in which one role is in this process.
async fn start(role: Role, backend: SocketAddr) -> (World, Tasks) {
    let url = format!("http://{backend}");
    let mut world = Plan::new().connection_point(&url, &url).start().await;
    let tasks = Tasks::new();
    let file = |name: &str| world.dir.path().join(format!("{name}.toml"));
    match role {
        Role::Gateway => {
            let file = file("gateway-0");
            world.gateways[0].stop().await;
            let config = config::load_gateway(&file).unwrap();
            let (_, definition) = service::load_with_files(&config.store, now());
            let definition = Arc::new(definition.unwrap());
            let gateway = Gateway::bind(config.settings, definition, Metrics::new()).await;
            tasks.spawn(gateway.unwrap().run());
        }
        Role::ConnectionPoint => {
            let file = file("cp-1");
            world.connection_points[0].stop().await;
            world.gateways[0].has_tunnels(0).await;
            let config = config::load_connection_point(&file, now()).unwrap();
            let built = ConnectionPoint::build(config.settings, Metrics::new()).await;
            tasks.spawn(built.unwrap().run());
        }
    }
    world.gateways[0].has_tunnels(1).await;
    (world, tasks)
}

/// Sends so many requests from a process of its own.
fn load(world: &World, protocol: &str, requests: u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencmg"));
    command
        .arg("load")
        .arg(format!("https://{HOST}{}", mutual("SMS_MP/a")))
        .args(["--connect", &world.gateways[0].address.to_string()])
        .args(["--requests", &requests.to_string(), "--duration", "10min"])
        .args(["--warm-up", "0s", "--json"])
        .args(["--connections", &CONNECTIONS.to_string()]);
    for (flag, name) in [
        ("--ca", "root.pem"),
        ("--certificate", "pc-1.pem"),
        ("--key", "pc-1.key"),
    ] {
        command.arg(flag).arg(world.pki.file(name));
    }
    if protocol == "h2" {
        command.arg("--http2");
    }
    let output = command.output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({ "200": requests });
    assert_eq!(report["statuses"], expected, "{report}");
}

/// A backend that allocates only per connection: its answers are the same bytes.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) {
    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
    reply.resize(reply.len() + BODY, b'x');
    stream.set_nodelay(true).unwrap();
    let mut request = [0; 16 << 10];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut request[filled..]) {
        filled += read;
        if request[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(&reply).is_err() {
                return;
            }
        }
    }
}
