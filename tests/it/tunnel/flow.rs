//! Flow control: stalled clients and backends beside live ones on one tunnel, and the byte budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use opencmg::message::body::BodyError;
use opencmg::metrics::{ByPeer, Metrics};
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

/// The bytes of a body that comes byte by byte.
const DROPS: usize = 100_000;

/// How much of an upload comes at once.
const PART: usize = 4 << 10;

/// A body that comes byte by byte, as fast as it is taken.
fn drops() -> impl http_body::Body<Data = Bytes, Error = BodyError> + Unpin + Send {
    let drop = || Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"x")));
    StreamBody::new(futures_util::stream::iter(0..DROPS).map(move |_| drop()))
}

/// `/large` is answered with 4 MiB, `/drops` byte by byte, an upload to `/hold` is never read, everything else is read and counted.
async fn serve(incoming: Incoming) {
    let Incoming { request, respond } = incoming;
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/large" => {
            let _ = respond.send(Response::new(whole(vec![7; LARGE]))).await;
        }
        "/drops" => {
            let _ = respond.send(Response::new(drops())).await;
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
        bytes: 64 << 10,
        stalled_after: Duration::from_millis(200),
        upload_overhead: 0,
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
    until(|| gateway.metrics.buffered_bytes.get() <= 64 << 10).await;
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
async fn windows_shrink_with_the_number_of_bodies_so_that_nobody_is_cut_off() {
    let settings = BudgetSettings {
        bytes: 4 << 20,
        stalled_after: Duration::from_millis(50),
        upload_overhead: 0,
    };
    let (gateway, _point) = one_tunnel(settings).await;
    let mut stalled = Vec::new();
    // As many windows of 256 KiB are twice the budget.
    for _ in 0..32 {
        let response = gateway.registry.send(NEED, get("/large")).await.unwrap();
        stalled.push(response.into_body());
    }
    // Longer than anyone may stand still.
    settled().await;
    let buffered = gateway.metrics.buffered_bytes.get();
    assert!((1..=3 << 20).contains(&buffered), "{buffered} bytes");
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
    // Four windows that are a quarter of what they could be.
    until(|| gateway.metrics.buffered_bytes.get() >= WINDOW as i64).await;
    drop(held);
    until(|| gateway.metrics.buffered_bytes.get() == 0).await;
}

/// Sends uploads of twice a window each, of which nothing is read at the other end; counts the parts that are taken.
fn upload(gateway: &Gateway, count: usize) -> Arc<AtomicUsize> {
    let taken = Arc::<AtomicUsize>::default();
    for _ in 0..count {
        let (registry, taken) = (gateway.registry.clone(), Arc::clone(&taken));
        let parts = (0..2 * WINDOW / PART).map(move |_| {
            taken.fetch_add(1, Ordering::Relaxed);
            Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[1; PART])))
        });
        let body = StreamBody::new(futures_util::stream::iter(parts));
        gateway.tasks.spawn(async move {
            let request = Request::post("https://gw.test/hold").body(body).unwrap();
            let _ = registry.send(NEED, request).await;
        });
    }
    taken
}

/// Two gateways, each with a tunnel of one connection point, whose process has this budget.
async fn two_gateways<F>(
    settings: BudgetSettings,
    handle: impl Fn(Incoming) -> F + Clone + Send + Sync + 'static,
) -> (Metrics, Vec<(Gateway, ConnectionPoint)>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let metrics = Metrics::new();
    let budget = Budget::new(settings, metrics.clone());
    let mut all = Vec::new();
    for _ in 0..2 {
        let gateway = super::gateway(&["cp"]);
        let to = gateway.clone();
        let settings = SupervisorSettings {
            tunnels: 1,
            ..supervisor_settings(&["a"])
        };
        let supervisor =
            Supervisor::new(settings, budget.clone(), metrics.clone(), Random::seeded(1));
        let point = super::run(supervisor, metrics.clone(), handle.clone(), move |_| {
            let (theirs, _end) = to.pipe("cp");
            std::future::ready(Ok(theirs))
        });
        gateway.ready().await;
        all.push((gateway, point));
    }
    (metrics, all)
}

/// The clock jumps once nothing moves any more.
async fn settled() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_from_one_gateway_makes_the_windows_of_anothers_tunnel_small() {
    let settings = BudgetSettings {
        bytes: 16 * WINDOW as u64,
        ..BudgetSettings::default()
    };
    let (_, all) = two_gateways(settings, serve).await;
    let alone = upload(&all[1].0, 1);
    settled().await;
    let alone = alone.load(Ordering::Relaxed) * PART;
    assert!((WINDOW..=WINDOW + PART).contains(&alone), "{alone} bytes");

    upload(&all[0].0, 16);
    settled().await;
    let beside = upload(&all[1].0, 1);
    settled().await;
    let beside = beside.load(Ordering::Relaxed) * PART;
    assert!((PART..=WINDOW / 8).contains(&beside), "{beside} bytes");
    all.iter().for_each(|(gateway, _)| gateway.tasks.abort());
}

#[tokio::test(start_paused = true)]
async fn the_tunnels_to_all_gateways_share_the_budget_of_the_process() {
    const SMALLEST: usize = WINDOW >> 6;
    let (first_in, mut first) = mpsc::channel(64);
    let go = watch::Sender::new(false);
    let going = go.subscribe();
    let handle = move |incoming: Incoming| {
        let (first_in, mut go) = (first_in.clone(), going.clone());
        async move {
            let Incoming { request, respond } = incoming;
            let mut body = request.into_body();
            let _ = go.wait_for(|go| *go).await;
            let _ = first_in.send(body.frame().await.unwrap()).await;
            drop(respond);
        }
    };
    let settings = BudgetSettings {
        bytes: 16 * SMALLEST as u64,
        stalled_after: Duration::from_millis(50),
        upload_overhead: 0,
    };
    let (metrics, all) = two_gateways(settings, handle).await;
    // The windows of both tunnels become as small as can be; these three alone are too much, and are lost.
    upload(&all[0].0, 3);
    settled().await;
    // One gateway's uploads may take the whole budget, and do.
    upload(&all[0].0, 16);
    settled().await;
    assert_eq!(metrics.buffered_bytes.get(), 16 * SMALLEST as i64);
    upload(&all[1].0, 4);
    settled().await;
    let left = metrics.buffered_bytes.get();
    assert!(left < 16 * SMALLEST as i64, "{left} bytes");
    go.send_replace(true);
    let mut lost = 0;
    for _ in 0..23 {
        if let Err(error) = first.recv().await.unwrap() {
            assert_eq!(error.reason, Reason::Overloaded);
            lost += 1;
        }
    }
    // Down to nine tenths: six or seven of the twenty.
    assert!(
        (3 + 6..=3 + 7).contains(&lost),
        "{lost} of 23 lost their bodies"
    );
    all.iter().for_each(|(gateway, _)| gateway.tasks.abort());
}

/// Each frame takes a place at the other end until it is read, whatever is in it.
#[tokio::test]
async fn bodies_that_come_byte_by_byte_go_in_few_frames_and_whole() {
    let (gateway, _point) = one_tunnel(BudgetSettings::default()).await;
    let request = Request::post("https://gw.test/count")
        .body(drops())
        .unwrap();
    let answer = gateway.send(NEED, request).await.unwrap();
    assert_eq!(answer.text(), DROPS.to_string());
    let answer = gateway.get("/drops").await.unwrap();
    assert!(answer.error.is_none(), "{:?}", answer.error);
    assert!(answer.body.len() == DROPS && answer.body.iter().all(|byte| *byte == b'x'));
    // A frame of its own would be ten bytes for each of one, both ways.
    let (metrics, peer) = (&gateway.metrics, ByPeer::new("cp"));
    for (way, bytes) in [
        ("sent", &metrics.tunnel_sent_bytes),
        ("received", &metrics.tunnel_received_bytes),
    ] {
        let bytes = bytes.get_or_create(&peer).get();
        assert!(
            (DROPS as u64..2 * DROPS as u64).contains(&bytes),
            "{bytes} bytes {way}"
        );
    }
}

#[tokio::test]
async fn a_thousand_requests_at_once_share_one_tunnel() {
    let (gateway, _point) = pair(super::echo).await;
    let all = (0..1000).map(|_| gateway.get("/x"));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.unwrap().text(), "GET /x 0");
    }
}
