//! Connection points that break HTTP/2: what they break goes, and nothing else.

use http_body_util::BodyExt;
use opencmg::reason::Reason;
use opencmg::tunnel::{Body, Failure, SupervisorSettings, TunnelEnd};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{
    ConnectionPoint, Gateway, NEED, connection_point, echo, gateway, get, reasons,
    supervisor_settings, until,
};
use crate::client::spawn;
use crate::gateway::frames::{
    CONTINUATION, DATA, END_STREAM, HEADERS, PREFACE, PRIORITY, Peer, SETTINGS, field, frame,
    headers, kept_field, ping, reset, settings, window,
};

/// `:status: 200` and `:status: 404` (RFC 7541 appendix A).
const OK: &[u8] = &[0x88];
const NOT_FOUND: &[u8] = &[0x8d];

/// A gateway with a hostile tunnel, on which one request has come, and a good one beside it.
struct Scene {
    gateway: Gateway,
    bad: Peer,
    stream: u32,
    end: oneshot::Receiver<TunnelEnd>,
    asked: JoinHandle<()>,
    answer: oneshot::Receiver<Result<http::Response<Body>, Failure>>,
    _good: ConnectionPoint,
}

impl Scene {
    async fn new() -> Self {
        let gateway = gateway(&["bad", "cp"]);
        let (mut io, end) = gateway.pipe("bad");
        let mut preface = [0; PREFACE.len()];
        io.read_exact(&mut preface).await.unwrap();
        let mut bad = Peer::over(io);
        assert!(bad.send(&settings(&[])).await);
        bad.next_of(SETTINGS).await.unwrap();
        // It publishes nothing and serves what the service definition gives it.
        for _ in 0..2 {
            let request = bad.next_of(HEADERS).await.unwrap();
            assert!(
                bad.send(&headers(request.stream, END_STREAM, NOT_FOUND))
                    .await
            );
        }
        gateway.ready().await;
        let (to, answer) = oneshot::channel();
        let registry = gateway.registry.clone();
        let asked = spawn(async move {
            let _ = to.send(registry.send(NEED, get("/x")).await);
        });
        let stream = bad.next_of(HEADERS).await.unwrap().stream;
        let to = gateway.clone();
        let settings = SupervisorSettings {
            tunnels: 1,
            ..supervisor_settings(&["a"])
        };
        let good = connection_point("cp", settings, move |_| Ok(to.clone()), echo);
        gateway.tunnels(2).await;
        Self {
            gateway,
            bad,
            stream,
            end,
            asked,
            answer,
            _good: good,
        }
    }

    /// Waits for the end of the hostile tunnel, for its breach and no other.
    async fn is_over(&mut self, what: &str) {
        self.bad.end().await;
        let end = (&mut self.end).await.unwrap();
        assert_eq!(end.reason, Some(Reason::TunnelProtocol), "{what}: {end:?}");
        let metrics = &self.gateway.metrics;
        let ended = reasons(metrics, "tunnel_ends", Reason::TunnelProtocol);
        assert_eq!(ended, 1, "{what}");
    }
}

/// What a hostile peer does on the stream of a request.
type Attack = fn(u32) -> Vec<u8>;

#[tokio::test]
async fn a_tunnel_that_breaks_http2_ends_alone() {
    let attacks: [(&str, Attack); 8] = [
        ("a bomb", |stream| {
            let mut block = [OK, &kept_field("x-bomb", &"b".repeat(3_900))].concat();
            block.resize(16_000, 0x80 | 62);
            headers(stream, 0, &block)
        }),
        ("a head in endless parts", |stream| {
            let part = frame(CONTINUATION, 0, stream, &field("x-a", "b"));
            [frame(HEADERS, 0, stream, OK), part.repeat(100)].concat()
        }),
        ("a flood of empty data", |stream| {
            let empty = frame(DATA, 0, stream, b"");
            [headers(stream, 0, OK), empty.repeat(101)].concat()
        }),
        ("a frame above the limit", |stream| {
            frame(DATA, 0, stream, &[0; 70_000])
        }),
        ("a pushed stream", |stream| {
            frame(5, 4, stream, &[&[0, 0, 0, 2], OK].concat())
        }),
        ("a stream that was never opened", |_| {
            frame(DATA, 0, 9_999, b"x")
        }),
        ("no HPACK", |stream| headers(stream, 0, &[0xff; 20])),
        ("a request", |_| headers(2, END_STREAM, OK)),
    ];
    for (what, attack) in attacks {
        let mut scene = Scene::new().await;
        scene.bad.send(&attack(scene.stream)).await;
        scene.is_over(what).await;
        // An answer whose head had come ends within its body; before that, the request goes by the other tunnel.
        if let Ok(response) = scene.answer.await.unwrap()
            && let Ok(body) = response.into_body().collect().await
        {
            assert_eq!(body.to_bytes(), "GET /x 0", "{what}");
        }
        scene.asked.await.unwrap();
        let answer = scene.gateway.get("/y").await.unwrap();
        assert_eq!(answer.text(), "GET /y 0", "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_is_malformed_or_more_than_its_window_costs_its_request_and_no_more() {
    let attacks: [(&str, Attack); 5] = [
        ("more than the window", |stream| {
            let data = frame(DATA, 0, stream, &[0; 16_000]);
            [headers(stream, 0, OK), data.repeat(20)].concat()
        }),
        ("a field of the connection", |stream| {
            headers(
                stream,
                END_STREAM,
                &[OK, &field("connection", "close")].concat(),
            )
        }),
        ("no status", |stream| {
            headers(stream, END_STREAM, &field("x-a", "b"))
        }),
        ("a body longer than its length", |stream| {
            let head = [OK, &field("content-length", "1")].concat();
            [
                headers(stream, 0, &head),
                frame(DATA, END_STREAM, stream, b"xx"),
            ]
            .concat()
        }),
        ("a body shorter than its length", |stream| {
            let head = [OK, &field("content-length", "3")].concat();
            [
                headers(stream, 0, &head),
                frame(DATA, END_STREAM, stream, b"xx"),
            ]
            .concat()
        }),
    ];
    for (what, attack) in attacks {
        let mut scene = Scene::new().await;
        assert!(scene.bad.send(&attack(scene.stream)).await);
        if let Ok(response) = scene.answer.await.unwrap() {
            let body = response.into_body().collect().await;
            assert!(body.is_err(), "{what}");
        }
        assert!(scene.bad.is_heard().await, "{what}: the tunnel goes on");
        scene.gateway.tunnels(2).await;
    }
}

/// More than the budget of a tunnel, in thousands of frames.
const FLOOD: u32 = 150;

#[tokio::test]
async fn a_tunnel_that_floods_ends_alone() {
    let floods: [(&str, Attack); 7] = [
        ("PING", |_| ping()),
        ("SETTINGS", |_| settings(&[])),
        ("WINDOW_UPDATE of one byte", |_| window(0, 1)),
        ("PRIORITY", |stream| {
            frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1])
        }),
        ("RST_STREAM", reset),
        ("frames of an unknown kind", |_| frame(0xbe, 0, 0, b"")),
        ("interim answers", |stream| {
            headers(stream, 0, &field(":status", "103"))
        }),
    ];
    for (what, flood) in floods {
        let mut scene = Scene::new().await;
        let thousand = flood(scene.stream).repeat(1_000);
        let half = scene.bad.flood(FLOOD / 3, |_| thousand.clone()).await;
        assert!(!half, "{what}: stopped below the budget");
        // Most go by the tunnel that is flooded, whose peer says no capacity, and again by the other when it has ended.
        let beside: Vec<_> = (0..300)
            .map(|_| {
                let gateway = scene.gateway.clone();
                spawn(async move {
                    let answer = gateway.get("/y").await.unwrap();
                    assert_eq!(answer.text(), "GET /y 0", "{what}: beside it");
                })
            })
            .collect();
        until(|| beside.iter().any(JoinHandle::is_finished)).await;
        scene.bad.flood(FLOOD, |_| thousand.clone()).await;
        scene.is_over(what).await;
        scene.asked.await.unwrap();
        for asked in beside {
            asked.await.unwrap();
        }
        let answer = scene.gateway.get("/y").await.unwrap();
        assert_eq!(answer.text(), "GET /y 0", "{what}: after it");
    }
}
