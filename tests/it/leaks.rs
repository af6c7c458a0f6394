//! Nothing is left behind: tasks, descriptors and memory of both roles after many requests, aborted ones and reconnects.
//!
//! A twentieth of the counts by default, a sixtieth of the reconnects; `OPENCMG_LEAKS=full` runs all of them.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Full;
use opencmg::cli::builtin::{BuiltIn, Options};

use crate::client::get;
use crate::load::Load;
use crate::relay::Relay;
use crate::world::{
    HOST, MANAGEMENT_POINT, Node, Plan, SOFTWARE_UPDATE_POINT, World, eventually, free_address,
    mutual, server, within,
};

/// How many tunnels there are; all are cut at once.
const TUNNELS: u64 = 16;

/// How often each thing happens, in all.
struct Counts {
    requests: u64,
    aborted: usize,
    /// How often all tunnels are cut.
    cuts: u64,
}

impl Counts {
    fn wanted() -> Self {
        let full = std::env::var("OPENCMG_LEAKS").is_ok_and(|value| value == "full");
        let share = if full { 1 } else { 20 };
        Self {
            requests: 1_000_000 / share as u64,
            aborted: 100_000 / share,
            cuts: 10_000 / TUNNELS / if full { 1 } else { 60 },
        }
    }

    fn tenth(&self) -> Self {
        Self {
            requests: self.requests / 10,
            aborted: self.aborted / 10,
            cuts: self.cuts / 10,
        }
    }
}

/// What a node has.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Has {
    tasks: f64,
    descriptors: f64,
    memory: f64,
}

impl Has {
    async fn of(node: &Node) -> Self {
        Self {
            tasks: node.metric("opencmg_process_tasks", "").await,
            descriptors: node.metric("opencmg_process_open_fds", "").await,
            memory: node
                .metric("opencmg_process_resident_memory_bytes", "")
                .await,
        }
    }
}

/// Requests that are answered, over eight connections.
async fn requests(world: &World, count: u64) {
    let request = |_| {
        let request = Request::get(mutual("SMS_MP/.sms_aut?MPLIST")).header("host", HOST);
        request.body(Full::default()).unwrap()
    };
    let load = Load::new(world.gateways[0].address, request)
        .tls(world.client("pc-1").configuration(), HOST)
        .connections(8)
        .requests(count)
        .start();
    let report = load.finish(Duration::from_secs(1_500)).await;
    assert_eq!(report.failed().len(), 0, "{:?}", report.failed().first());
}

/// Requests that their client gives up: before the head of an answer, and in the middle of its body.
async fn aborted(world: &World, count: usize) {
    let (client, backend) = (world.client("pc-1"), &world.connection_points[0]);
    for _ in 0..count / 100 {
        let mut connection = client.connect_h2().await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..50 {
            let request = client.addressed(get(&mutual("BGB/x?hold=60")));
            waiting.push(connection.start_later(request).await.unwrap());
        }
        for _ in 0..50 {
            let request = client.addressed(get(&server("Content/x-1048576.cab")));
            let answer = connection.start(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
        }
        eventually("the long polls are held", async || {
            backend.metric("opencmg_tunnel_streams", "").await >= 50.0
        })
        .await;
        drop(waiting);
    }
}

/// The tunnels are cut, and come back.
async fn reconnects(world: &World, relay: &Relay, cuts: u64) {
    for _ in 0..cuts {
        let before = relay.accepted();
        relay.cut();
        eventually("the tunnels are dialled anew", async || {
            relay.accepted() >= before + TUNNELS
        })
        .await;
        has_tunnels(world).await;
    }
}

async fn has_tunnels(world: &World) {
    eventually("the tunnels are up", async || {
        world.gateways[0].metric("opencmg_tunnels", "").await == TUNNELS as f64
    })
    .await;
}

async fn everything(world: &World, relay: &Relay, counts: &Counts) {
    requests(world, counts.requests).await;
    aborted(world, counts.aborted).await;
    reconnects(world, relay, counts.cuts).await;
}

/// Waits until each node has as many tasks and descriptors as before.
async fn is_as_before(nodes: &[&Node], before: &[Has]) {
    for (node, before) in nodes.iter().zip(before) {
        let mut now = *before;
        let what = format!("{} is as {before:?}", node.name);
        let as_before = eventually(&what, async || {
            now = Has::of(node).await;
            now.tasks == before.tasks && now.descriptors == before.descriptors
        });
        as_before.await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_aborted_requests_and_reconnects_leave_nothing_behind() {
    let backends = [
        BuiltIn::management_point(Options::default()).await.unwrap(),
        BuiltIn::software_update_point().await.unwrap(),
    ];
    let relay = Arc::new(Relay::start(free_address()).await);
    let role = |id, kind, url| {
        format!(
            "[[role]]\nid = \"{id}\"\nkind = \"{kind}\"\nurl = \"{url}\"\nidle-timeout = \"1s\"\n"
        )
    };
    let [point, update] = backends.each_ref().map(BuiltIn::url);
    let roles = role(MANAGEMENT_POINT, "management-point", point)
        + &role(SOFTWARE_UPDATE_POINT, "software-update-point", update);
    // A pause grows with each reconnect that follows soon, up to half a minute.
    let plan = Plan::new()
        .tunnels(TUNNELS as usize)
        .connection_points("reconnect-max = \"1s\"\n")
        .gateway(&format!(
            "[tunnel]\ntunnels-per-connection-point = {TUNNELS}\n"
        ))
        .connection_point_with(&roles);
    let world = plan.through(&relay).start().await;
    has_tunnels(&world).await;
    let counts = Counts::wanted();
    let nodes = [&world.gateways[0], &world.connection_points[0]];
    let before = [Has::of(nodes[0]).await, Has::of(nodes[1]).await];
    everything(&world, &relay, &counts.tenth()).await;
    is_as_before(&nodes, &before).await;
    let warm = [Has::of(nodes[0]).await, Has::of(nodes[1]).await];
    let all = everything(&world, &relay, &counts);
    within(Duration::from_secs(3_600), "everything", all).await;
    is_as_before(&nodes, &before).await;
    for (node, warm) in nodes.iter().zip(&warm) {
        let grown = Has::of(node).await.memory / warm.memory;
        assert!(grown <= 1.10, "{}: {grown} times {warm:?}", node.name);
    }
    world.finish().await;
    for backend in backends {
        backend.stop().await;
    }
}
