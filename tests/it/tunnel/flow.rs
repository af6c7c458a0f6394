//! Flow control: stalled clients and backends beside live ones on one tunnel, and the byte budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use opencmg::metrics::Metrics;
use opencmg::reason::Reason;
use opencmg::tunnel::{
    Budget, BudgetSettings, Incoming, Random, RegistrySettings, Supervisor, SupervisorSettings,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{
    ConnectionPoint, Gateway, NEED, connection_point, fed, gateway_with, get, pair,
    supervisor_settings, until, whole,
};

const LARGE: usize = 4 << 20;

/// The window of one stream.
const WINDOW: usize = 256 << 10;

/// `/large` is answered with 4 MiB, an upload to `/hold` is never read, everything else is read and counted.
async fn serve(incoming: Incoming) {
    let Incoming { request, respond } = incoming;
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/large" => {
            let _ = respond.send(Response::new(whole(vec![7; LARGE]))).await;
        }
        "/hold" => {
            let mut respond = respond;
            respond.reset().await;
            drop(body);
        }
        _ => {
            let Ok(all) = body.collect().await else {
                return;
            };
            let text = all.to_bytes().len().to_string();
            let _ = respond.send(Response::new(whole(text))).await;
        }
    }
}

async fn one_tunnel(budget: BudgetSettings) -> (Gateway, ConnectionPoint) {
    let gateway = gateway_with(RegistrySettings::default(), budget, 0, &["cp"]);
    let to = gateway.clone();
    let settings = SupervisorSettings {
        tunnels: 1,
        ..supervisor_settings(&["a"])
    };
    let point = connection_point("cp", settings, move |_| Ok(to.clone()), serve);
    gateway.ready().await;
    (gateway, point)
}

/// Downloads and uploads one after the other; all must be through in time.
async fn live_traffic(gateway: &Gateway) {
    let all = async {
        for _ in 0..5 {
            let answer = gateway.get("/large").await.unwrap();
            assert!(answer.error.is_none(), "{:?}", answer.error);
            assert_eq!(answer.body.len(), LARGE);
            let upload = super::request("POST", "/count", vec![1; LARGE]);
            let answer = gateway.send(NEED, upload).await.unwrap();
            assert_eq!(answer.text(), LARGE.to_string());
        }
    };
    timeout(Duration::from_secs(60), all)
        .await
        .expect("live traffic is slowed");
}

#[tokio::test]
async fn stalled_downloads_do_not_slow_a_live_one_on_the_same_tunnel() {
    let (gateway, _point) = one_tunnel(BudgetSettings::default()).await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let response = gateway.registry.send(NEED, get("/large")).await.unwrap();
        stalled.push(response.into_body());
    }
    live_traffic(&gateway).await;
    let mut one = stalled.pop().unwrap();
    drop(stalled);
    let mut read = 0;
    while let Some(frame) = one.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(
        read, LARGE,
        "a client that stood still and goes on loses nothing"
    );
}

#[tokio::test]
async fn stalled_uploads_do_not_slow_a_live_one_on_the_same_tunnel() {
    let (gateway, _point) = one_tunnel(BudgetSettings::default()).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut feeders = Vec::new();
    for _ in 0..100 {
        let (feeder, body) = fed();
        let (registry, sent) = (gateway.registry.clone(), Arc::clone(&sent));
        gateway.tasks.spawn(async move {
            let request = Request::post("https://gw.test/hold").body(body).unwrap();
            let _ = registry.send(NEED, request).await;
        });
        let keep = feeder.clone();
        gateway.tasks.spawn(async move {
            // More than a stream's window: most of it must wait.
            for _ in 0..32 {
                let part = Frame::data(Bytes::from(vec![1; 32 << 10]));
                if feeder.send(Ok(part)).await.is_err() {
                    return;
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        feeders.push(keep);
    }
    until(|| sent.load(Ordering::Relaxed) >= 100 * 8).await;
    live_traffic(&gateway).await;
    assert!(
        sent.load(Ordering::Relaxed) < 100 * 32,
        "uploads that nobody reads went through"
    );
    gateway.tasks.abort();
}

#[tokio::test]
async fn above_the_budget_the_longest_stalled_lose_their_bodies_and_live_ones_do_not() {
    let settings = BudgetSettings {
        // Less than forty windows hold, however small they are made.
        bytes: 128 << 10,
        stalled_after: Duration::from_millis(200),
    };
    let (gateway, point) = one_tunnel(settings).await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let response = gateway.registry.send(NEED, get("/large")).await.unwrap();
        stalled.push(response.into_body());
    }
    until(|| gateway.metrics.buffered_bytes.get() > 0).await;
    live_traffic(&gateway).await;
    // A body that is taken away resets its stream, which its sender sees at once.
    until(|| point.supervisor.view()[0].in_flight <= 30).await;
    until(|| gateway.metrics.buffered_bytes.get() <= 128 << 10).await;
    let mut lost = 0;
    for mut body in stalled {
        let first = body.frame().await.unwrap();
        if let Err(error) = first {
            assert_eq!(error.reason, Reason::StalledClient);
            lost += 1;
        }
    }
    assert!((10..40).contains(&lost), "{lost} of 40 lost their bodies");
    until(|| gateway.registry.view()[0].in_flight == 0).await;
    live_traffic(&gateway).await;
}

#[tokio::test(start_paused = true)]
async fn above_half_of_the_budget_windows_shrink_so_that_nobody_is_cut_off() {
    let settings = BudgetSettings {
        bytes: 4 << 20,
        stalled_after: Duration::from_millis(50),
    };
    let (gateway, _point) = one_tunnel(settings).await;
    let mut stalled = Vec::new();
    for count in [12, 20] {
        for _ in 0..count {
            let response = gateway.registry.send(NEED, get("/large")).await.unwrap();
            stalled.push(response.into_body());
        }
        // Twelve windows of 256 KiB are three quarters of the budget.
        until(|| gateway.metrics.buffered_bytes.get() >= 3 << 20).await;
        let answer = gateway.get("/small").await.unwrap();
        assert_eq!(answer.text(), "0");
    }
    // Longer than anyone may stand still.
    tokio::time::sleep(Duration::from_secs(2)).await;
    live_traffic(&gateway).await;
    for mut body in stalled {
        let first = body.frame().await.unwrap();
        assert!(first.is_ok(), "{first:?}");
    }
}

#[tokio::test]
async fn what_the_budget_counts_goes_back_to_nothing() {
    let settings = BudgetSettings {
        bytes: 2 << 20,
        ..BudgetSettings::default()
    };
    let (gateway, _point) = one_tunnel(settings).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let response = gateway.registry.send(NEED, get("/large")).await.unwrap();
        held.push(response.into_body());
    }
    until(|| gateway.metrics.buffered_bytes.get() >= 1 << 20).await;
    drop(held);
    until(|| gateway.metrics.buffered_bytes.get() == 0).await;
}

/// Sends uploads that fill the windows of their streams.
fn upload(gateway: &Gateway, count: usize) {
    for _ in 0..count {
        let registry = gateway.registry.clone();
        gateway.tasks.spawn(async move {
            let body = super::request("POST", "/hold", vec![1; 2 * WINDOW]);
            let _ = registry.send(NEED, body).await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_tunnels_to_all_gateways_share_the_budget_of_the_process() {
    let metrics = Metrics::new();
    let settings = BudgetSettings {
        bytes: 16 * WINDOW as u64,
        stalled_after: Duration::from_millis(50),
    };
    let budget = Budget::new(settings, metrics.clone());
    let (first_in, mut first) = mpsc::channel(32);
    let go = watch::Sender::new(false);
    let mut all = Vec::new();
    for _ in 0..2 {
        let gateway = super::gateway(&["cp"]);
        let (first_in, go, to) = (first_in.clone(), go.subscribe(), gateway.clone());
        let handle = move |incoming: Incoming| {
            let (first_in, mut go) = (first_in.clone(), go.clone());
            async move {
                let Incoming { request, respond } = incoming;
                let mut body = request.into_body();
                let _ = go.wait_for(|go| *go).await;
                let _ = first_in.send(body.frame().await.unwrap()).await;
                drop(respond);
            }
        };
        let settings = SupervisorSettings {
            tunnels: 1,
            ..supervisor_settings(&["a"])
        };
        let supervisor =
            Supervisor::new(settings, budget.clone(), metrics.clone(), Random::seeded(1));
        let point = super::run(supervisor, metrics.clone(), handle, move |_| {
            let (theirs, _end) = to.pipe("cp");
            std::future::ready(Ok(theirs))
        });
        gateway.ready().await;
        all.push((gateway, point));
    }
    // One gateway's uploads may take the whole budget, and do.
    upload(&all[0].0, 16);
    until(|| metrics.buffered_bytes.get() == 16 * WINDOW as i64).await;
    upload(&all[1].0, 4);
    until(|| metrics.buffered_bytes.get() < 16 * WINDOW as i64).await;
    go.send_replace(true);
    let mut lost = 0;
    for _ in 0..20 {
        if let Err(error) = first.recv().await.unwrap() {
            assert_eq!(error.reason, Reason::StalledClient);
            lost += 1;
        }
    }
    assert!((1..=4).contains(&lost), "{lost} of 20 lost their bodies");
    all.iter().for_each(|(gateway, _)| gateway.tasks.abort());
}

#[tokio::test]
async fn a_thousand_requests_at_once_share_one_tunnel() {
    let (gateway, _point) = pair(super::echo).await;
    let all = (0..1000).map(|_| gateway.get("/x"));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.unwrap().text(), "GET /x 0");
    }
}
