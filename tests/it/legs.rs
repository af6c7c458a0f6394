//! Each leg fails in each way while a download and an upload are under way: both end, nothing broken is taken for whole,
//! nothing stays counted, and the next requests pass.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use opencmg::cli::builtin::content;
use tokio::task::JoinHandle;

use crate::backend::{self, Backend};
use crate::client::{Client, full, get, spawn};
use crate::relay::{Mode, Relay, Way};
use crate::world::{
    MANAGEMENT_POINT, Plan, SOFTWARE_UPDATE_POINT, World, eventually, free_address, mutual, within,
};

/// How many bytes each transfer moves.
const LARGE: usize = 16 << 20;

/// After so many bytes the leg fails.
const SOME: u64 = 1 << 20;

/// Time-outs that a test can wait for.
const GATEWAY: &str = "[proxy]\nbody-grace = \"1s\"\nsend-timeout = \"1s\"\nidle-timeout = \"2s\"\n\
    [tunnel]\nsilence = \"1s\"\nping-answer = \"1s\"\n";
const POINT: &str = "silence = \"1s\"\nping-answer = \"1s\"\nreconnect-max = \"1s\"\n";
const ROLE: &str = "response-timeout = \"1s\"\nprogress-timeout = \"1s\"\n";

/// What happens to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Delay,
    Swallow,
    Freeze(Way),
    Corrupt(Way),
    Cut,
    HalfClose(Way),
}

const EVERY: [Fault; 9] = [
    Fault::Delay,
    Fault::Swallow,
    Fault::Freeze(Way::ToTarget),
    Fault::Freeze(Way::FromTarget),
    Fault::Corrupt(Way::ToTarget),
    Fault::Corrupt(Way::FromTarget),
    Fault::Cut,
    Fault::HalfClose(Way::ToTarget),
    Fault::HalfClose(Way::FromTarget),
];

impl Fault {
    fn strike(self, relay: &Relay) {
        match self {
            Self::Delay => relay.delay(Duration::from_millis(50)),
            Self::Swallow => relay.swallow(),
            Self::Freeze(way) => relay.set(way, Mode::Freeze),
            Self::Corrupt(way) => relay.set(way, Mode::Corrupt),
            Self::Cut => relay.cut(),
            Self::HalfClose(way) => relay.half_close(way),
        }
    }
}

/// A backend that gives and takes much.
async fn backend() -> Backend {
    Backend::start(async |request: Request<Incoming>| {
        if request.method() == "GET" {
            return backend::answer(200, content::bytes_at(0, LARGE));
        }
        match request.into_body().collect().await {
            Ok(body) => backend::answer(200, body.to_bytes().len().to_string()),
            Err(_) => backend::answer(400, "cut"),
        }
    })
    .await
}

fn plan(url: &str) -> Plan {
    let role =
        |id, kind| format!("[[role]]\nid = \"{id}\"\nkind = \"{kind}\"\nurl = \"{url}\"\n{ROLE}");
    let roles = role(MANAGEMENT_POINT, "management-point")
        + &role(SOFTWARE_UPDATE_POINT, "software-update-point");
    Plan::new()
        .connection_point_with(&roles)
        .connection_points(POINT)
        .gateway(GATEWAY)
}

/// A download; the answer is one that may be believed.
async fn download(client: Client) -> bool {
    let Ok(answer) = client.send(get(&mutual("SMS_MP/large"))).await else {
        return false;
    };
    let whole = answer.status == StatusCode::OK;
    assert!(
        !whole || answer.body == content::bytes_at(0, LARGE),
        "a broken body was taken for a whole one"
    );
    whole
}

/// An upload, likewise.
async fn upload(client: Client) -> bool {
    let request = Request::put(mutual("CCM_Incoming/x"));
    let request = request.body(full(content::bytes_at(0, LARGE))).unwrap();
    let Ok(answer) = client.send(request).await else {
        return false;
    };
    let whole = answer.status == StatusCode::OK;
    assert!(!whole || answer.body == LARGE.to_string(), "{answer:?}");
    whole
}

fn transfers(client: &Client) -> [JoinHandle<()>; 2] {
    let (down, up) = (download(client.clone()), upload(client.clone()));
    [
        spawn(async move {
            down.await;
        }),
        spawn(async move {
            up.await;
        }),
    ]
}

/// Strikes the leg that the relay is on with every fault.
async fn every_fault(world: &World, client: &Client, relay: &Relay, faults: &[Fault]) {
    for fault in faults {
        let begun = [Way::ToTarget, Way::FromTarget].map(|way| relay.bytes(way));
        let under_way = transfers(client);
        eventually("bytes flow both ways", async || {
            relay.bytes(Way::ToTarget) > begun[0] + SOME
                && relay.bytes(Way::FromTarget) > begun[1] + SOME
        })
        .await;
        fault.strike(relay);
        eventually(&format!("nothing is left of {fault:?}"), async || {
            let gateway = &world.gateways[0];
            let point = &world.connection_points[0];
            gateway.metric("opencmg_requests_in_flight", "").await == 0.0
                && point.metric("opencmg_tunnel_streams", "").await == 0.0
        })
        .await;
        relay.delay(Duration::ZERO);
        relay.pass();
        // A client whose bytes vanish does not notice by itself.
        relay.cut();
        for transfer in under_way {
            let what = format!("the client hears of {fault:?}");
            within(Duration::from_secs(20), &what, transfer)
                .await
                .unwrap();
        }
        eventually(&format!("it serves after {fault:?}"), async || {
            download(client.clone()).await && upload(client.clone()).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_leg_that_fails_in_any_way_costs_no_more_than_what_is_on_it() {
    let backend = backend().await;
    let world = plan(&backend.url()).start().await;
    let relay = Relay::start(world.gateways[0].address).await;
    let client = world.client("pc-1").at(relay.address());
    every_fault(&world, &client, &relay, &EVERY).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_leg_that_fails_in_any_way_costs_no_more_than_what_is_on_it() {
    let backend = backend().await;
    let relay = Arc::new(Relay::start(free_address()).await);
    let world = plan(&backend.url()).through(&relay).start().await;
    let client = world.client("pc-1");
    every_fault(&world, &client, &relay, &EVERY).await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_leg_that_fails_in_any_way_costs_no_more_than_what_is_on_it() {
    let backend = backend().await;
    let relay = Relay::start(backend.address).await;
    let url = format!("http://{}", relay.address());
    let world = plan(&url).start().await;
    let client = world.client("pc-1");
    // Nobody can tell a flipped bit on a leg without TLS.
    let faults: Vec<_> = EVERY
        .into_iter()
        .filter(|fault| !matches!(fault, Fault::Corrupt(_)))
        .collect();
    every_fault(&world, &client, &relay, &faults).await;
    world.finish().await;
}
