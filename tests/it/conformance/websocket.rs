//! WebSockets, which are bytes to everything but the two ends: what opens one, and what carries it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use super::talk::{BARE, Said, one};
use crate::backend_servers::{Raw, Wire};
use crate::client::spawn;
use crate::world::{Plan, ROOT_HOST, WEB, World, eventually, within};

const LONG: Duration = Duration::from_secs(20);

/// RFC 6455 §1.3 has this key and what accepts it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const MEGABYTES: usize = 8 << 20;

/// What a backend that was asked for a WebSocket has in hand.
struct Asked {
    head: String,
    wire: Wire,
}

impl Asked {
    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The 101 to this very key.
    fn switching(&self) -> String {
        let key = self.field("sec-websocket-key").unwrap();
        let hash = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        let accept = STANDARD.encode(hash);
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        )
    }
}

/// A world with an endpoint that takes WebSockets and one that does not, and what its backend is asked.
async fn world(gateway: &str) -> (World, mpsc::UnboundedReceiver<Asked>, Raw) {
    let (asking, asked) = mpsc::unbounded_channel();
    let backend = Raw::start(move |_, mut wire| {
        let asking = asking.clone();
        async move {
            if let Some(head) = wire.head().await {
                let _ = asking.send(Asked { head, wire });
            }
        }
    })
    .await;
    let endpoints = "[[role.endpoint]]\nname = \"app\"\nwebsocket = true\n[[role.endpoint]]\nname = \"plain\"\n";
    let role =
        |more: &str| format!("[[role]]\nid = \"{WEB}\"\nkind = \"web\"\n{more}\n{endpoints}");
    let published = format!("root-host = \"{ROOT_HOST}\"\nconnection-points = [\"cp-1\"]");
    let world = Plan::new()
        .gateway(gateway)
        .service(&role(&published))
        .connection_point_with(&role(&format!("url = \"{}\"", backend.url())))
        .start()
        .await;
    (world, asked, backend)
}

fn opening(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {ROOT_HOST}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: chat\r\n{more}\r\n"
    )
}

async fn connect(world: &World) -> TlsStream<TcpStream> {
    let client = world.client("pc-1").named(ROOT_HOST);
    client.tls(&[b"http/1.1"]).await.unwrap()
}

async fn next(asked: &mut mpsc::UnboundedReceiver<Asked>) -> Asked {
    let next = within(LONG, "the backend is asked", asked.recv()).await;
    next.unwrap()
}

/// A WebSocket that is open from end to end.
async fn open(
    world: &World,
    asked: &mut mpsc::UnboundedReceiver<Asked>,
) -> (TlsStream<TcpStream>, TcpStream) {
    let mut tls = connect(world).await;
    tls.write_all(opening("/app/x", "").as_bytes())
        .await
        .unwrap();
    let mut backend = next(asked).await;
    let switching = backend.switching();
    backend.wire.say(&switching).await;
    assert_eq!(one(&mut tls).await.status, 101);
    (tls, backend.wire.0)
}

async fn says<S: tokio::io::AsyncRead + Unpin>(stream: &mut S, text: &str) {
    let mut heard = vec![0; text.len()];
    let read = stream.read_exact(&mut heard);
    within(LONG, text, read).await.unwrap();
    assert_eq!(heard, text.as_bytes());
}

async fn ends<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) {
    let mut rest = Vec::new();
    let _ = within(LONG, "the end", stream.read_to_end(&mut rest)).await;
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

#[tokio::test]
async fn a_websocket_goes_through_with_a_key_of_its_own_on_each_leg() {
    let (world, mut asked, _backend) = world("").await;
    let mut tls = connect(&world).await;
    // What is said before the 101 waits for it.
    let early = format!(
        "{}early",
        opening(
            "/app/x?y=1",
            "TE: trailers\r\nCookie: a=b\r\nContent-Length: 0\r\n"
        )
    );
    tls.write_all(early.as_bytes()).await.unwrap();
    let mut backend = next(&mut asked).await;
    assert!(
        backend.head.starts_with("GET /app/x?y=1 HTTP/1.1\r\n"),
        "{}",
        backend.head
    );
    for (name, value) in [
        ("upgrade", Some("websocket")),
        ("connection", Some("Upgrade")),
        ("sec-websocket-version", Some("13")),
        ("sec-websocket-protocol", Some("chat")),
        ("cookie", Some("a=b")),
        ("te", None),
        ("content-length", None),
        ("transfer-encoding", None),
    ] {
        assert_eq!(backend.field(name), value, "{name}: {}", backend.head);
    }
    assert_ne!(backend.field("sec-websocket-key"), Some(KEY));
    let switching = backend.switching();
    backend.wire.say(&format!("{switching}hello")).await;
    let said = one(&mut tls).await;
    assert_eq!(
        (said.status, said.phrase.as_str()),
        (101, "Switching Protocols")
    );
    assert_eq!(said.field("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(said.field("sec-websocket-protocol"), Some("chat"));
    assert_eq!(said.field("upgrade"), Some("websocket"));
    assert_eq!(said.field("connection"), Some("Upgrade"));
    for gone in ["content-length", "transfer-encoding"] {
        assert_eq!(said.field(gone), None, "{said:?}");
    }
    says(&mut tls, "hello").await;
    let mut wire = backend.wire.0;
    says(&mut wire, "early").await;
    // A ping and a close are bytes like others, and no request.
    tls.write_all(b"\x89\x80GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut ping = [0; 20];
    let read = wire.read_exact(&mut ping);
    within(LONG, "the ping", read).await.unwrap();
    assert_eq!(&ping, b"\x89\x80GET / HTTP/1.1\r\n\r\n");
    drop(tls);
    ends(&mut wire).await;
    world.finish().await;
}

#[tokio::test]
async fn what_a_websocket_says_is_never_taken_for_a_refusal_of_the_parser() {
    let (world, mut asked, _backend) = world("").await;
    let (mut tls, mut wire) = open(&world, &mut asked).await;
    wire.write_all(BARE.as_bytes()).await.unwrap();
    says(&mut tls, BARE).await;
    drop(tls);
    ends(&mut wire).await;
    world.finish().await;
}

#[tokio::test]
async fn each_direction_of_a_websocket_ends_alone() {
    let (world, mut asked, _backend) = world("").await;
    let (mut tls, mut wire) = open(&world, &mut asked).await;
    tls.write_all(b"bye").await.unwrap();
    tls.shutdown().await.unwrap();
    says(&mut wire, "bye").await;
    ends(&mut wire).await;
    wire.write_all(b"last").await.unwrap();
    drop(wire);
    says(&mut tls, "last").await;
    ends(&mut tls).await;

    let (mut tls, wire) = open(&world, &mut asked).await;
    drop(wire);
    ends(&mut tls).await;
    let (tls, mut wire) = open(&world, &mut asked).await;
    drop(tls);
    ends(&mut wire).await;
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_that_is_full_in_one_direction_flows_in_the_other() {
    let (world, mut asked, _backend) = world("").await;
    let (mut tls, wire) = open(&world, &mut asked).await;
    let (mut reading, mut writing) = wire.into_split();
    spawn(async move {
        writing.write_all(&vec![2; MEGABYTES]).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    // The client reads nothing until it has said everything.
    let sent = async {
        tls.write_all(&vec![1; MEGABYTES]).await?;
        tls.flush().await
    };
    let mut heard = vec![0; MEGABYTES];
    let both = async { tokio::join!(sent, reading.read_exact(&mut heard)) };
    let (sent, read) = within(LONG, "the client's megabytes", both).await;
    sent.unwrap();
    read.unwrap();
    assert!(heard.iter().all(|byte| *byte == 1));
    let mut heard = Vec::new();
    let read = tls.read_to_end(&mut heard);
    within(LONG, "the backend's megabytes", read).await.unwrap();
    assert_eq!(heard.len(), MEGABYTES);
    assert!(heard.iter().all(|byte| *byte == 2));
    world.finish().await;
}

/// What comes of an opening if the backend gives this answer; `None` if it is not asked for a WebSocket.
async fn refused(world: &World, asked: &mut mpsc::UnboundedReceiver<Asked>, answer: &str) -> Said {
    let mut tls = connect(world).await;
    tls.write_all(opening("/app/x", "").as_bytes())
        .await
        .unwrap();
    next(asked).await.wire.say(answer).await;
    one(&mut tls).await
}

#[tokio::test]
async fn an_opening_that_the_backend_refuses_or_mistakes_switches_nothing() {
    let (world, mut asked, _backend) = world("").await;
    let said = refused(
        &world,
        &mut asked,
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    assert_eq!((said.status, said.text().as_str()), (401, "no"));
    assert_eq!(said.field("www-authenticate"), Some("Bearer"));
    for mistaken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let said = refused(&world, &mut asked, mistaken).await;
        assert_eq!(said.status, 502, "{mistaken}: {said:?}");
        assert!(said.text().contains("\"backend-protocol\""), "{said:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_request_that_opens_no_websocket_is_a_plain_one_or_a_bad_one() {
    let (world, mut asked, _backend) = world("").await;
    let upper = opening("/app/x", "").replace("websocket\r\n", "h2c\r\n");
    let old = opening("/app/x", "").replace("HTTP/1.1", "HTTP/1.0");
    for plain in [
        opening("/plain/x", ""),
        opening("/app/x", "Content-Length: 2\r\n") + "ok",
        upper,
        old,
    ] {
        let mut tls = connect(&world).await;
        tls.write_all(plain.as_bytes()).await.unwrap();
        let mut backend = next(&mut asked).await;
        assert_eq!(backend.field("upgrade"), None, "{}", backend.head);
        assert_ne!(backend.field("connection"), Some("Upgrade"));
        backend.wire.answer("plain").await;
        assert_eq!(one(&mut tls).await.text(), "plain");
    }
    for bad in [
        opening("/app/x", "").replace("Version: 13", "Version: 8"),
        opening("/app/x", "").replace(KEY, "short"),
        opening("/app/x", &format!("Sec-WebSocket-Key: {KEY}\r\n")),
    ] {
        let mut tls = connect(&world).await;
        tls.write_all(bad.as_bytes()).await.unwrap();
        let said = one(&mut tls).await;
        assert_eq!(
            (said.status, said.phrase.as_str()),
            (400, "CMGService_BadRequest")
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_without_a_word_ends_and_so_does_one_of_an_instance_that_drains() {
    let (world, mut asked, _backend) = world("[proxy]\nwebsocket-idle = \"1s\"\n").await;
    let (mut tls, mut wire) = open(&world, &mut asked).await;
    ends(&mut tls).await;
    ends(&mut wire).await;
    world.finish().await;

    let (mut world, mut asked, _backend) = self::world("").await;
    let (mut tls, mut wire) = open(&world, &mut asked).await;
    within(LONG, "the drain", world.gateways[0].stop()).await;
    ends(&mut tls).await;
    ends(&mut wire).await;
    world.gateways.clear();
    world.finish().await;
}

#[tokio::test]
async fn what_a_websocket_carried_counts_also_if_its_age_ends_it() {
    let (world, mut asked, _backend) = world("[proxy]\nmax-age = \"3s\"\n").await;
    let (mut tls, mut wire) = open(&world, &mut asked).await;
    tls.write_all(b"hello").await.unwrap();
    says(&mut wire, "hello").await;
    wire.write_all(b"hi").await.unwrap();
    says(&mut tls, "hi").await;
    ends(&mut tls).await;
    let gateway = &world.gateways[0];
    eventually("both directions are counted", async || {
        let received = gateway.metric("opencmg_received_bytes_total", "\"app\"");
        let sent = gateway.metric("opencmg_sent_bytes_total", "\"app\"");
        (received.await, sent.await) == (5.0, 2.0)
    })
    .await;
    world.finish().await;
}
