//! HTTP/2 clients that cost more than they should: the connection that exceeds a budget goes, the others do not notice.

use std::time::Duration;

use tokio::time::interval;

use super::frames::{
    CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Outcome, PRIORITY, Peer,
    REFUSED_STREAM, field, frame, headers, kept_field, ping, request, reset, settings, window,
};
use super::rig::{Plan, Rig, holding, mutual, server};
use crate::client::{Client, Connection, get};
use crate::world::eventually;

const CALM: Outcome = Outcome::GoAway(ENHANCE_YOUR_CALM);

/// A gateway with one connection that lives through what happens beside it.
struct Scene {
    rig: Rig,
    client: Client,
    neighbour: Connection,
}

impl Scene {
    async fn of(plan: Plan) -> Self {
        let rig = plan.start().await;
        let client = rig.client();
        let neighbour = client.connect_h2().await.unwrap();
        let mut scene = Self {
            rig,
            client,
            neighbour,
        };
        scene.neighbour_is_served().await;
        scene
    }

    async fn new() -> Self {
        Self::of(Plan::new()).await
    }

    async fn peer(&self) -> Peer {
        Peer::connect(&self.client, &[]).await
    }

    async fn neighbour_is_served(&mut self) {
        let request = self.client.addressed(get(&mutual("SMS_MP/beside")));
        assert_eq!(self.neighbour.send(request).await.unwrap().status, 200);
    }

    /// Nothing is left of one connection that was closed for a reason, and nobody else was touched.
    async fn finish(mut self, reason: &str) {
        let refused = "opencmg_connections_refused_total";
        self.rig.counts(refused, reason, 1.0).await;
        assert_eq!(self.rig.metric(refused, ""), 1.0);
        self.rig.counts("opencmg_connections_open", "", 1.0).await;
        self.rig.counts("opencmg_requests_in_flight", "", 0.0).await;
        self.neighbour_is_served().await;
        assert_eq!(self.rig.metric("opencmg_tunnel_ends_total", ""), 0.0);
        self.rig.finish().await;
    }

    /// Floods with a frame that has no budget of the parser's.
    async fn floods(self, bytes: impl FnMut(u32) -> Vec<u8>) {
        let mut peer = self.peer().await;
        assert!(peer.flood(20_000, bytes).await, "it is never stopped");
        peer.end().await;
        self.finish("too-many-frames").await;
    }
}

#[tokio::test]
async fn a_client_that_takes_its_requests_back_one_by_one_is_stopped() {
    let (plan, _held) = holding(|path| !path.ends_with("beside"));
    let scene = Scene::of(plan).await;
    let mut peer = scene.peer().await;
    let block = request("GET", &mutual("SMS_MP/x"));
    let mut taken_back = 0;
    // Each request is under way before it is taken back.
    for stream in (1..).step_by(2) {
        if !peer.send(&headers(stream, END_STREAM, &block)).await
            || !peer.is_heard().await
            || !peer.send(&reset(stream)).await
        {
            break;
        }
        taken_back += 1;
        assert!(taken_back < 2_000, "it is never stopped");
    }
    assert!(taken_back >= 1_000, "{taken_back}");
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_client_that_takes_back_requests_before_they_are_looked_at_is_stopped() {
    let scene = Scene::new().await;
    let mut peer = scene.peer().await;
    let block = request("GET", &mutual("SMS_MP/x"));
    let pair = |n: u32| [headers(2 * n + 1, END_STREAM, &block), reset(2 * n + 1)].concat();
    let pairs: Vec<_> = (0..100).map(pair).collect();
    peer.send(&pairs.concat()).await;
    assert_eq!(peer.end().await, CALM);
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_client_that_makes_the_gateway_reset_its_streams_is_stopped() {
    let (plan, _held) = holding(|path| !path.ends_with("beside"));
    let scene = Scene::of(plan).await;
    let mut peer = scene.peer().await;
    let block = request("GET", &mutual("SMS_MP/x"));
    // The window overflows, which is an error of the stream (RFC 9113 §6.9.1).
    let mut flood = async |n: u32| {
        let stream = 2 * n + 1;
        let bytes = [
            headers(stream, END_STREAM, &block),
            window(stream, (1 << 31) - 1),
        ];
        peer.send(&bytes.concat()).await && peer.is_heard().await
    };
    let mut made = 0;
    while flood(made).await {
        made += 1;
        assert!(made < 2_000, "it is never stopped");
    }
    assert!(made >= 1_000, "{made}");
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_client_that_ignores_the_limit_of_streams_is_refused_and_then_stopped() {
    let (mut plan, _held) = holding(|path| !path.ends_with("beside"));
    plan.settings.proxy.streams = 10;
    let scene = Scene::of(plan).await;
    let mut peer = scene.peer().await;
    let block = request("GET", &mutual("SMS_MP/x"));
    for n in 0..11 {
        assert!(peer.send(&headers(2 * n + 1, END_STREAM, &block)).await);
    }
    assert_eq!(peer.outcome(21).await, Outcome::Reset(REFUSED_STREAM));
    assert!(peer.is_heard().await, "the connection goes on");
    assert!(
        peer.flood(3_000, |n| headers(2 * n + 23, END_STREAM, &block))
            .await,
        "it is never stopped"
    );
    assert_eq!(peer.end().await, CALM);
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_head_in_endless_parts_is_stopped() {
    let scene = Scene::new().await;
    let mut peer = scene.peer().await;
    let block = request("GET", &mutual("SMS_MP/x"));
    peer.send(&frame(HEADERS, END_STREAM, 1, &block)).await;
    for _ in 0..50 {
        peer.send(&frame(CONTINUATION, 0, 1, &field("x-a", "b")))
            .await;
    }
    assert_eq!(peer.end().await, CALM);
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_flood_of_pings_is_stopped() {
    Scene::new().await.floods(|_| ping().repeat(10)).await;
}

#[tokio::test]
async fn a_flood_of_settings_is_stopped() {
    let scene = Scene::new().await;
    scene.floods(|n| settings(&[(4, 65_535 + n % 2)])).await;
}

#[tokio::test]
async fn a_flood_of_priorities_is_stopped() {
    let scene = Scene::new().await;
    scene
        .floods(|n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 15]))
        .await;
}

#[tokio::test]
async fn a_flood_of_window_updates_is_stopped() {
    Scene::new().await.floods(|_| window(0, 1).repeat(10)).await;
}

#[tokio::test]
async fn a_flood_of_unknown_frames_is_stopped() {
    Scene::new().await.floods(|_| frame(0xbe, 0, 0, b"x")).await;
}

#[tokio::test]
async fn a_client_that_opens_its_window_byte_by_byte_is_stopped() {
    let scene = Scene::new().await;
    // No byte of an answer may come but by a window update.
    let mut peer = Peer::connect(&scene.client, &[(4, 0)]).await;
    let block = request("GET", &mutual("SMS_MP/x"));
    assert!(peer.send(&headers(1, END_STREAM, &block)).await);
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    assert!(
        peer.flood(20_000, |_| window(1, 1)).await,
        "it is never stopped"
    );
    scene.finish("too-many-frames").await;
}

/// How long a client of [`with_window`] may take nothing.
const STALLS: Duration = Duration::from_millis(500);

/// A client whose streams have this window, of a gateway that soon gives up who takes nothing.
async fn with_window(window: u32) -> (Scene, Peer) {
    let mut plan = Plan::new();
    plan.settings.proxy.send_timeout = STALLS;
    let scene = Scene::of(plan).await;
    let peer = Peer::connect(&scene.client, &[(4, window)]).await;
    (scene, peer)
}

#[tokio::test]
async fn a_client_that_keeps_its_window_shut_is_given_up() {
    let (scene, mut peer) = with_window(0).await;
    let block = request("GET", &mutual("SMS_MP/x"));
    assert!(peer.send(&headers(1, END_STREAM, &block)).await);
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    peer.end().await;
    scene.finish("stalled-client").await;
}

/// What acknowledges PINGs is no part of an answer, however many are acknowledged with one write.
#[tokio::test]
async fn a_client_that_keeps_its_window_shut_and_sends_pings_is_given_up() {
    let (scene, mut peer) = with_window(0).await;
    let block = request("GET", &mutual("SMS_MP/x"));
    assert!(peer.send(&headers(1, END_STREAM, &block)).await);
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    let mut pace = interval(STALLS / 10);
    let mut sent = 0;
    while peer.send(&ping().repeat(20)).await {
        sent += 1;
        assert!(sent < 60, "it is served after six times its time");
        pace.tick().await;
    }
    scene.finish("stalled-client").await;
}

/// The requests are over as soon as the server of HTTP/2 has their answers, and the connection is not idle for that.
#[tokio::test]
async fn a_client_that_takes_a_byte_of_each_answer_is_given_up_though_all_are_over() {
    let (scene, mut peer) = with_window(1).await;
    let block = request("GET", &mutual("SMS_MP/x"));
    for stream in (1..40).step_by(2) {
        assert!(peer.send(&headers(stream, END_STREAM, &block)).await);
        assert_eq!(peer.next_of(DATA).await.unwrap().payload.len(), 1);
    }
    peer.end().await;
    scene.finish("stalled-client").await;
}

#[tokio::test]
async fn a_flood_of_empty_data_is_stopped_and_costs_no_tunnel() {
    let (plan, _held) = holding(|path| !path.ends_with("beside"));
    let scene = Scene::of(plan).await;
    let block = request("POST", &mutual("CCM_System/request"));
    // As many as one connection may send, on several: what reaches the tunnel would be too many there.
    let mut allowed = Vec::new();
    for _ in 0..3 {
        let mut peer = scene.peer().await;
        assert!(peer.send(&headers(1, 0, &block)).await);
        assert!(peer.send(&frame(DATA, 0, 1, b"").repeat(100)).await);
        assert!(peer.is_heard().await);
        allowed.push(peer);
    }
    let mut peer = scene.peer().await;
    peer.send(&headers(1, 0, &block)).await;
    peer.send(&frame(DATA, 0, 1, b"").repeat(101)).await;
    assert_eq!(peer.end().await, CALM);
    drop(allowed);
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_head_that_unpacks_to_far_more_than_it_is_is_stopped() {
    let scene = Scene::new().await;
    let mut peer = scene.peer().await;
    let mut block = request("GET", &mutual("SMS_MP/x"));
    block.extend_from_slice(&kept_field("x-bomb", &"b".repeat(3_900)));
    // Each byte more names the field in the table once more.
    block.resize(16_000, 0x80 | 62);
    peer.send(&headers(1, END_STREAM, &block)).await;
    assert_eq!(peer.end().await, CALM);
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_cookie_in_thousands_of_crumbs_is_refused_or_stopped() {
    let scene = Scene::new().await;
    let crumbs = |count: usize| {
        let mut block = request("GET", &mutual("SMS_MP/x"));
        block.extend_from_slice(&kept_field("cookie", "a=b"));
        block.resize(block.len() + count, 0x80 | 62);
        headers(1, END_STREAM, &block)
    };
    // Fewer than the limit of fields are a request; more are refused; far more are an attack.
    for (count, outcome) in [
        (80, Outcome::Status(200)),
        (500, Outcome::Status(431)),
        (2_000, Outcome::Status(431)),
        (8_000, CALM),
    ] {
        let mut peer = scene.peer().await;
        peer.send(&crumbs(count)).await;
        assert_eq!(peer.outcome(1).await, outcome, "{count} crumbs");
    }
    scene.finish("too-many-frames").await;
}

#[tokio::test]
async fn a_head_of_http2_that_is_never_finished_is_given_up_beside_live_requests() {
    let (mut plan, release) = holding(|path| !path.ends_with("beside"));
    plan.settings.proxy.head_timeout = Duration::from_millis(500);
    let scene = Scene::of(plan).await;
    let mut peer = scene.peer().await;
    let block = request("GET", &mutual("SMS_MP/x"));
    assert!(peer.send(&headers(1, END_STREAM, &block)).await);
    let in_flight = ("opencmg_requests_in_flight", "SMS_MP");
    scene.rig.counts(in_flight.0, in_flight.1, 1.0).await;
    assert!(peer.send(&frame(HEADERS, END_STREAM, 3, &block)).await);
    let mut halved = scene.peer().await;
    assert!(halved.send(&headers(1, END_STREAM, &block)[..20]).await);
    // A client may promise no stream; half a promise is waited for like half a head.
    let mut promised = scene.peer().await;
    let promise = [&[0, 0, 0, 2][..], &block].concat();
    assert!(promised.send(&frame(5, 0, 1, &promise)).await);
    for peer in [&mut peer, &mut halved, &mut promised] {
        peer.end().await;
    }
    let refused = "opencmg_connections_refused_total";
    scene.rig.counts(refused, "client-too-slow", 3.0).await;
    release.notify_waiters();
    scene.rig.counts(in_flight.0, in_flight.1, 0.0).await;
    let mut scene = scene;
    scene.neighbour_is_served().await;
    scene.rig.finish().await;
}

#[tokio::test]
async fn a_preface_that_is_never_finished_is_given_up() {
    let mut plan = Plan::new();
    plan.settings.proxy.head_timeout = Duration::from_millis(500);
    let scene = Scene::of(plan).await;
    let mut peer = Peer::silent(&scene.client).await;
    assert!(peer.send(&super::frames::PREFACE[..20]).await);
    peer.end().await;
    scene.finish("client-too-slow").await;
}

#[tokio::test]
async fn a_busy_client_is_never_taken_for_a_flood() {
    let scene = Scene::new().await;
    let client = scene.client.clone();
    let path = server("Content/x");
    let block = request("GET", &path);
    let mut peer = scene.peer().await;
    // Two window updates, a PING and a priority with each of many requests.
    for n in 0..2_000_u32 {
        let stream = 2 * n + 1;
        let idle = [
            window(0, 10_000),
            window(stream, 100),
            ping(),
            frame(0x10, 0, 0, &[0, 0, 0, 1, b'u']),
        ];
        let bytes = [headers(stream, END_STREAM, &block), idle.concat()].concat();
        assert!(peer.send(&bytes).await, "request {n}");
        assert_eq!(peer.outcome(stream).await, Outcome::Status(200));
    }
    let mut other = client.connect_h2().await.unwrap();
    let answer = other.send(client.addressed(get(&path))).await.unwrap();
    assert_eq!(answer.status, 200);
    eventually("nothing was refused", async || {
        scene.rig.metric("opencmg_connections_refused_total", "") == 0.0
    })
    .await;
    scene.rig.finish().await;
}
