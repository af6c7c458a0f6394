//! Beginning and end of tunnels: who is welcome, silence, removal, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use opencmg::drain::Drain;
use opencmg::reason::Reason;
use opencmg::tasks::Tasks;
use opencmg::tunnel::{Incoming, Need, Policy, RegistrySettings, SupervisorSettings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::{
    Gateway, NEED, connection_point_with, echo, foreign, gateway, gateway_of, get, pair, policy,
    supervisor_settings, until, whole,
};

/// What a peer is told when it is not welcome.
async fn refusal(gateway: &Gateway, name: &str) -> Value {
    let (io, end) = gateway.pipe(name);
    let mut connection = h2::server::handshake(io).await.unwrap();
    let tasks = Tasks::new();
    let (requests_in, mut requests) = tokio::sync::mpsc::channel(8);
    tasks.spawn(async move {
        while let Some(Ok(request)) = connection.accept().await {
            let _ = requests_in.send(request).await;
        }
    });
    let (request, mut way) = requests.recv().await.unwrap();
    assert_eq!(request.method(), "PUT");
    assert_eq!(request.uri().path(), "/.well-known/opencmg/refusal");
    let mut body = request.into_body();
    let mut json = Vec::new();
    while let Some(data) = body.data().await {
        json.extend_from_slice(&data.unwrap());
    }
    way.send_response(Response::new(()), true).unwrap();
    timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
    assert!(requests.recv().await.is_none(), "the tunnel goes on");
    serde_json::from_slice(&json).unwrap()
}

#[tokio::test]
async fn who_is_not_welcome_is_told_why_and_for_how_long() {
    let settings = RegistrySettings {
        tunnels_per_connection_point: 2,
        ..RegistrySettings::default()
    };
    let gateway = gateway_of(settings, 0, &["cp"]);
    let stranger = refusal(&gateway, "stranger").await;
    assert_eq!(stranger["reason"], "unknown-connection-point");
    assert_eq!(stranger["permanent"], true);
    let tasks = Tasks::new();
    let _one = foreign(gateway.pipe("cp").0, &tasks).await;
    let _two = foreign(gateway.pipe("CP").0, &tasks).await;
    gateway.tunnels(2).await;
    let third = refusal(&gateway, "cp").await;
    assert_eq!(third["reason"], "too-many-tunnels");
    assert_eq!(third["permanent"], false);
    gateway.drain.start();
    let late = refusal(&gateway, "cp").await;
    assert_eq!(
        (late["reason"].as_str(), late["retry_after_s"].as_u64()),
        (Some("draining"), Some(2))
    );
    assert_eq!(gateway.registry.view().len(), 2);
}

#[tokio::test]
async fn a_peer_that_answers_no_refusal_is_closed_all_the_same() {
    let gateway = gateway(&[]);
    let (mut io, end) = gateway.pipe("stranger");
    let end = timeout(Duration::from_secs(10), end)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(end.reason, Some(Reason::UnknownConnectionPoint));
    let mut all = Vec::new();
    timeout(Duration::from_secs(5), io.read_to_end(&mut all))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_name_that_is_taken_out_loses_its_tunnels_within_two_seconds() {
    let (gateway, point) = pair(echo).await;
    let began = Instant::now();
    gateway.registry.apply(Policy::default());
    assert_eq!(gateway.get("/").await.unwrap_err().reason, Reason::NoTunnel);
    until(|| gateway.registry.view().is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    until(|| !point.supervisor.is_ready()).await;
    assert_eq!(
        point.dials.lock().unwrap().len(),
        1,
        "a permanent refusal was not heeded"
    );
}

/// A relay between two pipes that swallows everything once told to.
async fn relay_that_swallows(
    gateway: Gateway,
    swallow: watch::Receiver<bool>,
) -> std::io::Result<tokio::io::DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (to_gateway, _end) = gateway.pipe("cp");
    let (mut a_in, mut a_out) = tokio::io::split(ours);
    let (mut b_in, mut b_out) = tokio::io::split(to_gateway);
    let pump = |swallow: watch::Receiver<bool>| async move { swallow };
    let (left, right) = (pump(swallow.clone()).await, pump(swallow).await);
    gateway.tasks.spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(1..) = read_into(&mut a_in, &mut b_out, &mut buffer, &left).await {}
    });
    gateway.tasks.spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(1..) = read_into(&mut b_in, &mut a_out, &mut buffer, &right).await {}
    });
    Ok(theirs)
}

async fn read_into<R, W>(
    from: &mut R,
    to: &mut W,
    buffer: &mut [u8],
    swallow: &watch::Receiver<bool>,
) -> std::io::Result<usize>
where
    R: AsyncReadExt + Unpin,
    W: AsyncWriteExt + Unpin,
{
    let read = from.read(buffer).await?;
    if *swallow.borrow() {
        // Neither bytes nor the end pass on.
        return if read == 0 {
            std::future::pending().await
        } else {
            Ok(read)
        };
    }
    to.write_all(&buffer[..read]).await?;
    Ok(read)
}

#[tokio::test(start_paused = true)]
async fn silence_is_found_out_at_both_ends_within_ten_seconds_and_mended() {
    let gateway = gateway(&["cp"]);
    let swallow = watch::Sender::new(false);
    let (to, watch) = (gateway.clone(), swallow.subscribe());
    let settings = SupervisorSettings {
        tunnels: 1,
        ..supervisor_settings(&["a"])
    };
    let point = connection_point_with("cp", settings, echo, move |_| {
        relay_that_swallows(to.clone(), watch.clone())
    });
    gateway.ready().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        point.dials.lock().unwrap().len(),
        1,
        "an idle tunnel does not live"
    );
    gateway.get("/").await.unwrap();
    swallow.send_replace(true);
    let began = Instant::now();
    let lost = gateway.send(NEED, super::request("POST", "/", "x")).await;
    assert_eq!(lost.unwrap_err().reason, Reason::TunnelLost);
    let waited = began.elapsed();
    assert!(waited <= Duration::from_millis(10_100), "{waited:?}");
    until(|| !point.supervisor.is_ready()).await;
    assert!(began.elapsed() <= Duration::from_millis(10_200));
    swallow.send_replace(false);
    gateway.ready().await;
    assert!(
        began.elapsed() < Duration::from_secs(13),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn any_received_byte_is_life() {
    // The peer never answers a PING; it sends a byte of a roles line every 4 s.
    let gateway = gateway(&["cp"]);
    let (mut io, mut end) = gateway.pipe("cp");
    let tasks = Tasks::new();
    tasks.spawn(async move {
        let mut sink = vec![0; 4096];
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        loop {
            // A frame of an unknown type, which HTTP/2 ignores (RFC 9113 §5.5).
            io.write_all(&[0, 0, 0, 0xf0, 0, 0, 0, 0, 0]).await.unwrap();
            let drain = async { while io.read(&mut sink).await.is_ok() {} };
            let _ = timeout(Duration::from_secs(4), drain).await;
        }
    });
    let waited = timeout(Duration::from_secs(600), &mut end).await;
    assert!(waited.is_err(), "{waited:?}");
    tasks.abort();
    drop(tasks);
    let end = timeout(Duration::from_secs(20), end)
        .await
        .unwrap()
        .unwrap();
    assert!(end.reason.is_some());
}

#[tokio::test]
async fn a_connection_point_that_drains_finishes_its_requests_and_gets_no_new_ones() {
    let (gateway, go, point, started) = held().await;
    let sending = gateway.get("/held");
    let drain = async {
        until(|| started.load(Ordering::Relaxed) == 1).await;
        point.drain.start();
        until(|| !gateway.registry.is_ready()).await;
        let late = gateway.get("/late").await;
        assert_eq!(late.unwrap_err().reason, Reason::NoTunnel);
        go.notify_one();
    };
    let (answer, ()) = tokio::join!(sending, drain);
    assert_eq!(answer.unwrap().text(), "held");
    until(|| gateway.registry.view().is_empty()).await;
    timeout(Duration::from_secs(5), point.tasks.join())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_forced_drain_ends_what_is_left() {
    let (gateway, _go, point, started) = held().await;
    let sending = gateway.send(NEED, super::request("POST", "/held", ""));
    let force = async {
        until(|| started.load(Ordering::Relaxed) == 1).await;
        point.drain.force();
    };
    let (answer, ()) = tokio::join!(sending, force);
    assert_eq!(answer.unwrap_err().reason, Reason::TunnelLost);
}

#[tokio::test]
async fn an_instance_that_drains_serves_on_until_it_is_forced() {
    let (gateway, _point) = pair(echo).await;
    gateway.drain.start();
    for _ in 0..10 {
        gateway.get("/").await.unwrap();
    }
    assert!(gateway.registry.is_ready());
    gateway.drain.force();
    until(|| gateway.registry.view().is_empty()).await;
    timeout(Duration::from_secs(5), gateway.tasks.join())
        .await
        .unwrap();
}

/// A pair whose handler answers when told to.
async fn held() -> (
    Gateway,
    Arc<Notify>,
    super::ConnectionPoint,
    Arc<AtomicUsize>,
) {
    let (go, started) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (wait, count) = (Arc::clone(&go), Arc::clone(&started));
    let (gateway, point) = pair(move |incoming: Incoming| {
        let (wait, count) = (Arc::clone(&wait), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            wait.notified().await;
            let _ = incoming.respond.send(Response::new(whole("held"))).await;
        }
    })
    .await;
    (gateway, go, point, started)
}

#[tokio::test]
async fn a_certificate_that_no_longer_holds_ends_its_tunnel_with_its_reason() {
    let gateway = gateway(&["cp"]);
    let (io, theirs) = tokio::io::duplex(1 << 16);
    let tasks = Tasks::new();
    let _requests = {
        let registry = gateway.registry.clone();
        let draining = gateway.drain.watch();
        let (close, closed) = tokio::sync::oneshot::channel::<Reason>();
        let (done, end) = tokio::sync::oneshot::channel();
        let peer = opencmg::tunnel::Peer {
            name: "cp".to_owned(),
            remote: "192.0.2.1:1".parse().unwrap(),
        };
        tasks.spawn(async move {
            let closed = async { closed.await.unwrap() };
            let _ = done.send(registry.serve(io, peer, closed, draining).await);
        });
        let requests = foreign(theirs, &tasks).await;
        gateway.ready().await;
        close.send(Reason::CertificateExpired).unwrap();
        let end = timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
        assert_eq!(end.reason, Some(Reason::CertificateExpired));
        requests
    };
    assert!(gateway.registry.view().is_empty());
}

#[tokio::test]
async fn status_shows_every_tunnel_with_what_is_under_way() {
    let (gateway, go, point, started) = held().await;
    let poll = Need {
        long_poll: true,
        ..NEED
    };
    let looking = async {
        until(|| started.load(Ordering::Relaxed) == 2).await;
        let view = gateway.registry.view();
        assert_eq!((view[0].in_flight, view[0].long_polls), (1, 1));
        assert_eq!((view[0].peer.as_str(), view[0].draining), ("cp", false));
        let theirs = point.supervisor.view();
        assert_eq!((theirs[0].in_flight, theirs[0].remote.as_str()), (2, "a"));
        assert_eq!(theirs[0].instance.as_ref().map(|i| i.index), Some(0));
        go.notify_waiters();
    };
    let (one, two, ()) = tokio::join!(gateway.get("/"), gateway.send(poll, get("/")), looking);
    one.unwrap();
    two.unwrap();
    until(|| {
        let view = gateway.registry.view();
        view[0].in_flight + view[0].long_polls == 0
    })
    .await;
    let _ = (Drain::new(), policy(&[]));
}

#[tokio::test]
async fn a_peer_that_says_goaway_is_out_of_pick_at_once_and_finishes_what_it_has() {
    let gateway = gateway(&["cp"]);
    let (io, end) = gateway.pipe("cp");
    let (tasks, go) = (Tasks::new(), Arc::new(Notify::new()));
    let (held_in, mut held) = tokio::sync::mpsc::channel(1);
    let mut connection = h2::server::handshake(io).await.unwrap();
    let shutdown = Arc::clone(&go);
    tasks.spawn(async move {
        loop {
            let request = tokio::select! {
                request = connection.accept() => request,
                () = shutdown.notified() => {
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, mut way))) = request else {
                return;
            };
            if request.uri().path() == "/held" {
                held_in.send(way).await.unwrap();
            } else {
                let head = Response::builder().status(404).body(()).unwrap();
                way.send_response(head, true).unwrap();
            }
        }
    });
    gateway.ready().await;
    let (asker, asked) = tokio::sync::oneshot::channel();
    let to = gateway.clone();
    tasks.spawn(async move {
        let _ = asker.send(to.get("/held").await);
    });
    let mut way: h2::server::SendResponse<bytes::Bytes> = held.recv().await.unwrap();
    go.notify_one();
    until(|| gateway.registry.view()[0].draining).await;
    assert!(!gateway.registry.is_ready());
    let failure = gateway.get("/").await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoTunnel);
    way.send_response(Response::new(()), true).unwrap();
    assert_eq!(asked.await.unwrap().unwrap().head.status, 200);
    let end = timeout(Duration::from_secs(5), end).await.unwrap().unwrap();
    assert_eq!(end.reason, None, "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_reconnects_leave_no_task_behind() {
    let gateway = gateway(&["cp"]);
    let settings = SupervisorSettings {
        tunnels: 1,
        dials_per_second: 1_000,
        reconnect_max: Duration::from_millis(20),
        reconnect_min: Duration::from_millis(10),
        ..supervisor_settings(&["a"])
    };
    let cut = watch::Sender::new(0_u64);
    let (to, cuts) = (gateway.clone(), cut.subscribe());
    let point = connection_point_with("cp", settings, echo, move |_| {
        let (theirs, _end) = to.pipe("cp");
        let mut cuts = cuts.clone();
        cuts.mark_unchanged();
        // A pipe that ends at a cut.
        let (near, far) = tokio::io::duplex(1 << 16);
        to.tasks.spawn(async move {
            let (mut near, mut theirs) = (near, theirs);
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut theirs) => (),
                _ = cuts.changed() => (),
            }
        });
        std::future::ready(Ok(far))
    });
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    gateway.ready().await;
    gateway.get("/x").await.unwrap();
    let before = alive();
    for number in 1..=10_000 {
        let accepted = gateway.accepted.load(Ordering::Relaxed);
        cut.send_replace(number);
        until(|| gateway.accepted.load(Ordering::Relaxed) > accepted).await;
        gateway.ready().await;
    }
    gateway.get("/x").await.unwrap();
    until(|| alive() == before).await;
    let dials = point.dials.lock().unwrap().len();
    assert!(dials > 10_000, "{dials} dials");
}
