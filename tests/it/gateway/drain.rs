//! The drain: what is under way ends well, what waits without end is told to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;

use super::rig::{holding, mutual};
use crate::client::{get, spawn};
use crate::world::{eventually, plain_get, within};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_is_under_way_ends_well_and_health_says_so() {
    let (plan, release) = holding(|path| path.ends_with("hold"));
    let rig = plan.start().await;
    let health = rig.addresses.health.unwrap();
    assert_eq!(plain_get(health, "/healthz").await.0, 200);
    assert_eq!(plain_get(health, "/readyz").await.0, 200);
    let client = rig.client();
    let request = || client.addressed(get(&mutual("SMS_MP/hold")));
    let mut h1 = client.connect().await.unwrap();
    let mut h2 = client.connect_h2().await.unwrap();
    let later = h2.start_later(request()).await.unwrap();
    let one = {
        let request = request();
        spawn(async move {
            let answer = h1.send(request).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &answer.body[..]),
                (200, &b"late"[..])
            );
            assert_eq!(answer.headers["connection"], "close");
        })
    };
    rig.counts("opencmg_requests_in_flight", "SMS_MP\"", 2.0)
        .await;
    rig.handle.drain();
    eventually("healthz says so", async || {
        plain_get(health, "/healthz").await.0 == 503
    })
    .await;
    // HTTP/2 takes no more requests on this connection.
    eventually("no request is taken", async || {
        h2.start(request()).await.is_err()
    })
    .await;
    release.notify_one();
    release.notify_one();
    within(LONG, "HTTP/1.1 is answered", one).await.unwrap();
    let answer = later.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "late");
    rig.finish().await;
}

#[tokio::test]
async fn a_long_poll_is_told_to_come_again_and_nothing_else_is_lost() {
    let (plan, _release) = holding(|path| path.ends_with("hold"));
    let rig = plan.start().await;
    let client = rig.client();
    let polling = {
        let client = client.clone();
        spawn(async move {
            let answer = client.get(&mutual("BGB/hold")).await;
            assert_eq!(
                (answer.status.as_u16(), answer.phrase.as_str()),
                (503, "CMGService_Draining")
            );
            assert!(answer.headers.contains_key("retry-after"));
        })
    };
    rig.counts("opencmg_requests_in_flight", "BGB", 1.0).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    for _ in 0..8 {
        let (client, stop) = (client.clone(), stop.clone());
        busy.push(spawn(async move {
            let mut connection = client.connect().await.unwrap();
            let mut last = false;
            while !last {
                let answer = connection
                    .send(client.addressed(get(&mutual("SMS_MP/x"))))
                    .await;
                let answer = answer.unwrap();
                assert_eq!(answer.status, 200);
                last = answer
                    .headers
                    .get("connection")
                    .is_some_and(|value| value == "close");
            }
            assert!(stop.load(Ordering::SeqCst), "closed before the drain");
        }));
    }
    eventually("clients are busy", async || {
        rig.metric("opencmg_requests_total", "SMS_MP\"") > 50.0
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    rig.handle.drain();
    within(LONG, "the long poll is answered", polling)
        .await
        .unwrap();
    for client in busy {
        within(LONG, "each client gets its last answer", client)
            .await
            .unwrap();
    }
    rig.counts("opencmg_request_failures_total", "draining", 1.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn the_deadline_ends_what_is_left() {
    let (mut plan, _release) = holding(|path| path.ends_with("hold"));
    plan.settings.drain_deadline = Duration::from_millis(300);
    let rig = plan.start().await;
    let client = rig.client();
    let hanging = spawn(async move {
        let request = client.addressed(get(&mutual("SMS_MP/hold")));
        assert!(client.connect().await.unwrap().send(request).await.is_err());
    });
    rig.counts("opencmg_requests_in_flight", "SMS_MP\"", 1.0)
        .await;
    let metrics = rig.metrics.clone();
    rig.finish().await;
    within(LONG, "the client hears of it", hanging)
        .await
        .unwrap();
    let text = metrics.encode();
    let line = text
        .lines()
        .find(|line| line.contains("request_failures") && line.contains("\"draining\""));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
}
