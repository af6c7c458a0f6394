//! What connection points publish, and what a gateway makes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use opencmg::reason::Reason;
use opencmg::role::{Health, PublishedRole};
use opencmg::tasks::Tasks;
use opencmg::tunnel::Policy;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{
    Gateway, NEED, OTHER_ROLE, ROLE, connection_point, echo, gateway, get, pair, policy, published,
    reasons, supervisor_settings, until,
};

/// A peer whose roles stream the test writes.
struct Speaker {
    roles: h2::SendStream<Bytes>,
    requests: mpsc::Receiver<(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>)>,
    end: tokio::sync::oneshot::Receiver<opencmg::tunnel::TunnelEnd>,
}

impl Speaker {
    async fn new(gateway: &Gateway, name: &str, tasks: &Tasks) -> Self {
        let (io, end) = gateway.pipe(name);
        let (requests_in, mut requests) = mpsc::channel(64);
        let mut connection = h2::server::handshake(io).await.unwrap();
        tasks.spawn(async move {
            while let Some(Ok(request)) = connection.accept().await {
                let _ = requests_in.send(request).await;
            }
        });
        loop {
            let (request, mut way): (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) =
                requests.recv().await.unwrap();
            let hello = request.uri().path().ends_with("/hello");
            let head = Response::builder().header("content-type", "application/jsonl");
            let roles = way.send_response(head.body(()).unwrap(), hello).unwrap();
            if !hello {
                return Self {
                    roles,
                    requests,
                    end,
                };
            }
        }
    }

    fn say(&mut self, line: impl Into<Bytes>) {
        self.roles.send_data(line.into(), false).unwrap();
    }
}

fn line(capacity: u32) -> String {
    format!("{{\"roles\":[{{\"id\":\"5\",\"health\":\"healthy\",\"capacity\":{capacity}}}]}}\n")
}

#[tokio::test]
async fn a_role_that_a_peer_may_not_serve_is_ignored_and_counted() {
    let (gateway, point) = pair(echo).await;
    let both = vec![published(ROLE), published(OTHER_ROLE)];
    point.roles.send_replace(Arc::new(both));
    until(|| reasons(&gateway.metrics, "tunnel_refusals", Reason::RoleNotAllowed) == 1).await;
    assert_eq!(gateway.registry.view()[0].roles, [ROLE]);
    let need = opencmg::tunnel::Need {
        role: OTHER_ROLE,
        ..NEED
    };
    let failure = gateway.send(need, get("/")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoTunnel);
    gateway.get("/").await.unwrap();
}

#[tokio::test]
async fn a_change_of_policy_is_in_force_at_once() {
    let (gateway, _point) = pair(echo).await;
    let none = Policy {
        connection_points: [("cp".to_owned(), [OTHER_ROLE].into())].into(),
    };
    gateway.registry.apply(none);
    assert_eq!(gateway.get("/").await.unwrap_err().reason, Reason::NoTunnel);
    gateway.registry.apply(policy(&["cp"]));
    gateway.get("/").await.unwrap();
}

#[tokio::test]
async fn a_peer_that_does_not_speak_of_roles_serves_what_is_assigned_to_its_name() {
    let gateway = gateway(&["haproxy"]);
    let tasks = Tasks::new();
    let mut requests = super::foreign(gateway.pipe("HAProxy").0, &tasks).await;
    gateway.ready().await;
    let peer = async {
        let (_, mut way) = requests.recv().await.unwrap();
        way.send_response(Response::new(()), true).unwrap();
    };
    let (answer, ()) = tokio::join!(gateway.get("/"), peer);
    assert_eq!(answer.unwrap().head.status, 200);
}

#[tokio::test]
async fn a_peer_that_resets_the_question_for_roles_serves_nothing_and_is_told_to_come_again() {
    let gateway = gateway(&["cp"]);
    let tasks = Tasks::new();
    let (io, end) = gateway.pipe("cp");
    let mut connection = h2::server::handshake(io).await.unwrap();
    tasks.spawn(async move {
        while let Some(Ok((request, mut way))) = connection.accept().await {
            if request.uri().path().ends_with("/roles") {
                way.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                let _ = way.send_response(Response::new(()), true);
            }
        }
    });
    let end = timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
    assert_eq!(end.reason, Some(Reason::TunnelProtocol), "{end:?}");
    assert!(!gateway.registry.is_ready());
    assert_eq!(gateway.get("/").await.unwrap_err().reason, Reason::NoTunnel);
}

#[tokio::test]
async fn nothing_is_served_before_roles_are_published_and_no_tunnel_is_said_at_once() {
    let gateway = gateway(&["cp"]);
    let tasks = Tasks::new();
    assert!(!gateway.registry.is_ready());
    assert_eq!(gateway.get("/").await.unwrap_err().reason, Reason::NoTunnel);
    let _speaker = Speaker::new(&gateway, "cp", &tasks).await;
    assert!(!gateway.registry.is_ready());
    assert_eq!(gateway.get("/").await.unwrap_err().reason, Reason::NoTunnel);
}

#[tokio::test(start_paused = true)]
async fn of_lines_that_come_too_fast_the_newest_wins_and_the_tunnel_lives() {
    let gateway = gateway(&["cp"]);
    let tasks = Tasks::new();
    let mut speaker = Speaker::new(&gateway, "cp", &tasks).await;
    speaker.say(line(1));
    gateway.ready().await;
    let began = Instant::now();
    for capacity in 2..50 {
        speaker.say(line(capacity));
    }
    speaker.say("{\"roles\":[]}\n");
    until(|| gateway.registry.view()[0].roles.is_empty()).await;
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        reasons(&gateway.metrics, "tunnel_refusals", Reason::TunnelProtocol),
        48
    );
    assert!(speaker.end.try_recv().is_err(), "the tunnel has ended");
}

#[tokio::test]
async fn a_line_that_is_too_long_or_no_json_ends_its_tunnel_and_no_other() {
    for bad in [vec![b'x'; (256 << 10) + 1], b"roles!\n".to_vec()] {
        let gateway = gateway(&["cp", "other"]);
        let tasks = Tasks::new();
        let mut other = Speaker::new(&gateway, "other", &tasks).await;
        other.say(line(1));
        let mut speaker = Speaker::new(&gateway, "cp", &tasks).await;
        speaker.say(line(1));
        gateway.tunnels(2).await;
        speaker.say(bad);
        let end = timeout(Duration::from_secs(10), speaker.end)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(end.reason, Some(Reason::TunnelProtocol), "{end:?}");
        let refusal = speaker.requests.recv().await.unwrap();
        assert_eq!(refusal.0.uri().path(), "/.well-known/opencmg/refusal");
        gateway.tunnels(1).await;
        assert!(other.end.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_draining_line_takes_a_tunnel_out_at_once() {
    let gateway = gateway(&["cp"]);
    let tasks = Tasks::new();
    let mut speaker = Speaker::new(&gateway, "cp", &tasks).await;
    speaker.say(line(1));
    gateway.ready().await;
    speaker.say("{\"draining\":true}\n");
    until(|| !gateway.registry.is_ready()).await;
    assert_eq!(gateway.get("/").await.unwrap_err().reason, Reason::NoTunnel);
    assert!(speaker.end.try_recv().is_err(), "the tunnel has ended");
}

fn with(health: Health, capacity: u32) -> Arc<Vec<PublishedRole>> {
    Arc::new(vec![PublishedRole {
        health,
        capacity,
        ..published(ROLE)
    }])
}

#[tokio::test]
async fn an_ailing_backend_is_asked_only_where_no_healthy_one_is() {
    let gateway = gateway(&["one", "two"]);
    let (to_one, to_two) = (gateway.clone(), gateway.clone());
    let named = |name: &'static str| {
        move |incoming: opencmg::tunnel::Incoming| async move {
            let answer = Response::new(super::whole(name));
            let _ = incoming.respond.send(answer).await;
        }
    };
    let settings = supervisor_settings(&["a"]);
    let one = connection_point(
        "one",
        settings.clone(),
        move |_| Ok(to_one.clone()),
        named("one"),
    );
    let two = connection_point("two", settings, move |_| Ok(to_two.clone()), named("two"));
    gateway.tunnels(4).await;
    one.roles.send_replace(with(Health::Unhealthy, 100));
    let only_two = async {
        loop {
            let mut names = std::collections::BTreeSet::new();
            for _ in 0..20 {
                names.insert(gateway.get("/").await.unwrap().text().to_owned());
            }
            if names.len() == 1 && names.contains("two") {
                return;
            }
        }
    };
    timeout(Duration::from_secs(20), only_two).await.unwrap();
    two.roles.send_replace(with(Health::Unhealthy, 100));
    let both_again = async { while gateway.get("/").await.unwrap().text() != "one" {} };
    timeout(Duration::from_secs(20), both_again).await.unwrap();
}
