//! Accepting: PROXY protocol, limits, time-outs, idle connections.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use opencmg::gateway::Settings;
use opencmg::units::Network;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use super::rig::{HOST, Plan, Rig, mutual, seen, server};
use crate::client::get;
use crate::world::{eventually, within};

const LONG: Duration = Duration::from_secs(20);

async fn rig(change: impl FnOnce(&mut Settings)) -> Rig {
    let mut plan = Plan::new();
    change(&mut plan.settings);
    plan.start().await
}

/// Whether the gateway closes a connection by itself.
async fn is_closed(tcp: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let read = within(LONG, "the gateway closes", tcp.read_to_end(&mut rest));
    read.await.is_ok_and(|_| rest.is_empty()) || rest.is_empty()
}

#[tokio::test]
async fn a_proxy_header_of_a_trusted_source_gives_the_clients_address() {
    let plan = Plan::new();
    let rig = plan.start().await;
    // The supervisor of a rig sends no header, so that a gateway of its own is needed.
    let mut settings = Settings {
        listen: vec![([127, 0, 0, 1], 0).into()],
        health: None,
        admin: None,
        ..Settings::default()
    };
    settings.listener.proxy_protocol_from = vec![Network::parse("127.0.0.0/8").unwrap()];
    let definition = std::sync::Arc::new(rig.definition.clone());
    let metrics = opencmg::metrics::Metrics::new();
    let gateway = opencmg::gateway::Gateway::bind(settings, definition, metrics.clone()).await;
    let gateway = gateway.unwrap();
    let (address, handle) = (gateway.addresses().client[0], gateway.handle());
    let run = crate::client::spawn(gateway.run());

    let mut bare = TcpStream::connect(address).await.unwrap();
    bare.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0\0\0\0\0")
        .await
        .unwrap();
    assert!(is_closed(&mut bare).await);
    eventually("the missing header is counted", async || {
        let text = metrics.encode();
        text.contains("opencmg_connections_refused_total{reason=\"bad-proxy-header\"} 1")
    })
    .await;

    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = rig.client().at(relay.local_addr().unwrap());
    let balancer = crate::client::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut server = TcpStream::connect(address).await.unwrap();
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        header.extend_from_slice(&[192, 0, 2, 7, 192, 0, 2, 8, 0x12, 0x34, 0x01, 0xbb]);
        server.write_all(&header).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    // No tunnel leads here: that the answer comes shows that the header was taken off.
    let answer = front.get(&mutual("SMS_MP/x")).await;
    assert_eq!(answer.phrase, "CMGService_NoTunnel");
    balancer.abort();
    handle.drain();
    within(LONG, "the gateway drains", run).await.unwrap();
    let echoed = seen(&rig.client().get(&mutual("SMS_MP/x")).await);
    assert!(
        echoed.fields["forwarded"]
            .to_str()
            .unwrap()
            .starts_with("for=127.0.0.1;")
    );
    rig.finish().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_finish_is_given_up() {
    let rig =
        rig(|settings| settings.listener.handshake_timeout = Duration::from_millis(300)).await;
    let mut silent = TcpStream::connect(rig.addresses.client[0]).await.unwrap();
    assert!(is_closed(&mut silent).await);
    rig.counts("opencmg_handshake_failures_total", "handshake-timeout", 1.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn an_address_has_few_unproven_connections_and_proven_ones_do_not_count() {
    let rig = rig(|settings| settings.listener.connections_per_address = 3).await;
    let path = server("Content/x");
    let mut proven = Vec::new();
    for _ in 0..5 {
        let client = rig.client();
        let mut connection = client.connect().await.unwrap();
        assert_eq!(
            connection
                .send(client.addressed(get(&path)))
                .await
                .unwrap()
                .status,
            200
        );
        proven.push(connection);
    }
    let mut unproven = Vec::new();
    for _ in 0..3 {
        let client = rig.anonymous();
        let mut connection = client.connect().await.unwrap();
        assert_eq!(
            connection
                .send(client.addressed(get(&path)))
                .await
                .unwrap()
                .status,
            200
        );
        unproven.push(connection);
    }
    assert!(rig.anonymous().send(get(&path)).await.is_err());
    rig.counts(
        "opencmg_connections_refused_total",
        "too-many-connections",
        1.0,
    )
    .await;
    let more = rig.client().send(get(&path)).await.unwrap();
    assert_eq!(more.status, 200, "strangers keep nobody out who is known");
    unproven.pop();
    eventually("the place is free again", async || {
        rig.anonymous().send(get(&path)).await.is_ok()
    })
    .await;
    rig.finish().await;
}

/// Connections that do not move, and 50 clients that come after them.
async fn storm_behind(silent: usize, accepted: f64, change: impl FnOnce(&mut Settings)) {
    let rig = rig(change).await;
    rig.counts("opencmg_tunnels", "", 2.0).await;
    let name = "opencmg_connections_accepted_total";
    let before = rig.metric(name, "");
    let mut still = Vec::new();
    for _ in 0..silent {
        still.push(TcpStream::connect(rig.addresses.client[0]).await.unwrap());
    }
    rig.counts(name, "", before + silent as f64).await;
    let clients: Vec<_> = (0..50).map(|_| rig.client()).collect();
    let storm = clients.into_iter().map(async |client| {
        let answer = client.send(get(&mutual("SMS_MP/x"))).await.unwrap();
        assert_eq!(answer.status, 200);
    });
    let storm = futures_util::future::join_all(storm);
    let storm = crate::client::spawn(async move {
        storm.await;
    });
    rig.counts(name, "", before + accepted).await;
    assert!(!storm.is_finished());
    drop(still);
    within(LONG, "everyone has a turn", storm).await.unwrap();
    assert_eq!(rig.metric("opencmg_connections_refused_total", ""), 0.0);
    rig.finish().await;
}

#[tokio::test]
async fn more_handshakes_than_allowed_wait_in_the_kernel() {
    storm_behind(8, 8.0, |settings| settings.listener.handshakes = 8).await;
}

#[tokio::test]
async fn more_handshakes_of_one_address_than_allowed_wait_for_each_other() {
    storm_behind(2, 52.0, |settings| {
        settings.listener.connections_per_address = 2;
    })
    .await;
}

#[tokio::test]
async fn more_clients_than_allowed_are_turned_away_and_tunnels_are_not() {
    let rig = rig(|settings| settings.listener.connections = 1).await;
    let client = rig.client();
    let mut only = client.connect().await.unwrap();
    let request = || client.addressed(get(&mutual("SMS_MP/x")));
    assert_eq!(only.send(request()).await.unwrap().status, 200);
    assert!(client.send(request()).await.is_err());
    rig.counts(
        "opencmg_connections_refused_total",
        "too-many-connections",
        1.0,
    )
    .await;
    assert_eq!(only.send(request()).await.unwrap().status, 200);
    rig.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_whatever_its_version() {
    let rig = rig(|settings| settings.proxy.idle_timeout = Duration::from_millis(300)).await;
    let client = rig.client();
    let request = || client.addressed(get(&mutual("SMS_MP/x")));
    let mut one = client.connect().await.unwrap();
    let mut two = client.connect_h2().await.unwrap();
    assert_eq!(one.send(request()).await.unwrap().status, 200);
    assert_eq!(two.send(request()).await.unwrap().status, 200);
    rig.counts("opencmg_connections_open", "", 0.0).await;
    assert!(one.send(request()).await.is_err());
    assert!(two.send(request()).await.is_err());
    rig.counts("opencmg_connections_refused_total", "\"idle\"", 2.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn a_request_head_that_drips_is_given_up() {
    let rig = rig(|settings| settings.proxy.head_timeout = Duration::from_millis(300)).await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let head = format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n", mutual("SMS_MP/x"));
    tls.write_all(head.as_bytes()).await.unwrap();
    let drip = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while tls.write_all(b"x-a: b\r\n").await.is_ok() && tls.flush().await.is_ok() {
            pause.tick().await;
        }
    };
    within(LONG, "the gateway closes", drip).await;
    rig.counts("opencmg_connections_refused_total", "client-too-slow", 1.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn a_request_head_has_its_time_and_not_twice_as_much() {
    let time = Duration::from_secs(3);
    let rig = rig(|settings| settings.proxy.head_timeout = time).await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let began = Instant::now();
    tls.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = within(LONG, "the gateway closes", tls.read_to_end(&mut rest)).await;
    let waited = began.elapsed();
    assert!((time..time * 3 / 2).contains(&waited), "{waited:?}");
    rig.finish().await;
}

#[tokio::test]
async fn tickets_come_with_the_first_answer() {
    let rig = Plan::new().start().await;
    let client = rig.client();
    let mut tls = client.tls(&[b"http/1.1"]).await.unwrap();
    assert_eq!(kind(&tls), Some(HandshakeKind::Full));
    rig.counts("opencmg_connections_open", "", 1.0).await;
    let nothing = tls.get_ref().0.try_read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);

    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
        mutual("SMS_MP/x")
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    within(LONG, "an answer", tls.read_exact(&mut status))
        .await
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let again = client.tls(&[b"http/1.1"]).await.unwrap();
    assert_eq!(kind(&again), Some(HandshakeKind::Resumed));
    drop((tls, again));
    rig.finish().await;
}

fn kind(tls: &TlsStream<TcpStream>) -> Option<HandshakeKind> {
    tls.get_ref().1.handshake_kind()
}

#[tokio::test]
async fn a_client_that_renegotiates_is_refused() {
    let rig = Plan::new().start().await;
    let address = rig.addresses.client[0].to_string();
    let renegotiate = move || {
        let mut command = Command::new("timeout");
        command.args(["30", "openssl", "s_client", "-tls1_2", "-servername", HOST]);
        command.args(["-connect", &address]).stdin(Stdio::piped());
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = piped.spawn().expect("openssl is installed");
        // A line of this letter asks for it; the end of the lines would end the client before the answer.
        let mut lines = client.stdin.take().unwrap();
        lines.write_all(b"R\n").unwrap();
        let out = client.wait_with_output().unwrap();
        drop(lines);
        [out.stdout, out.stderr].concat()
    };
    let heard = tokio::task::spawn_blocking(renegotiate);
    let heard = within(2 * LONG, "openssl gives up", heard).await.unwrap();
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.contains("RENEGOTIATING"), "{heard}");
    assert!(heard.contains("no renegotiation"), "{heard}");
    assert_eq!(rig.client().get(&mutual("SMS_MP/x")).await.status, 200);
    rig.finish().await;
}

#[tokio::test]
async fn an_old_connection_is_wound_up_with_its_next_answer() {
    let rig = rig(|settings| settings.proxy.max_age = Duration::from_millis(200)).await;
    let client = rig.client();
    let mut connection = client.connect().await.unwrap();
    let mut last = None;
    let requests = async {
        while let Ok(answer) = connection
            .send(client.addressed(get(&mutual("SMS_MP/x"))))
            .await
        {
            assert_eq!(answer.status, 200);
            last = Some(answer);
        }
    };
    within(LONG, "the connection is wound up", requests).await;
    // Every request was answered, and the last answer said that it was the last.
    assert_eq!(last.unwrap().headers["connection"], "close");
    rig.finish().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let rig = Plan::new().start().await;
    let settings = Settings {
        listen: rig.addresses.client.clone(),
        health: None,
        admin: None,
        ..Settings::default()
    };
    let definition = std::sync::Arc::new(rig.definition.clone());
    let metrics = opencmg::metrics::Metrics::new();
    let faults = opencmg::gateway::Gateway::bind(settings, definition, metrics)
        .await
        .unwrap_err();
    let address = rig.addresses.client[0];
    assert!(
        faults[0].starts_with(&format!("cannot listen on {address}: ")),
        "{faults:?}"
    );
    rig.finish().await;
}
