//! What belongs to one hop and what goes through: `Connection`, `TE`, `Trailer`, `Via`, `Max-Forwards`, trailers.

use super::talk::{Log, Said, hear, statuses, talk};
use crate::backend_servers::Raw;
use crate::client::{Body, get};
use crate::gateway::rig::{HOST, Plan, WEB, mutual};
use crate::world::{self, MANAGEMENT_POINT, World};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncWriteExt;

const WEB_HOST: &str = "web.opencmg.test";

/// A world whose backend gives every request the same answer and tells the heads that it was sent.
async fn world_of(answer: String) -> (World, Raw, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (heads, told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Raw::start(move |_, mut wire| {
        let (answer, heads) = (answer.clone(), heads.clone());
        async move {
            while let Some(head) = wire.head().await {
                let _ = heads.send(head);
                wire.say(&answer).await;
            }
        }
    })
    .await;
    let role = format!(
        "[[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nurl = \"{}\"\n",
        backend.url()
    );
    let plan = world::Plan::new().connection_point_with(&role);
    (plan.start().await, backend, told)
}

async fn ask(world: &World, fields: &str) -> Said {
    let mut tls = world.client("pc-1").tls(&[b"http/1.1"]).await.unwrap();
    let path = world::mutual("SMS_MP/x");
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{fields}\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut said = hear(&mut tls, false).await;
    assert_eq!(said.len(), 1, "{said:?}");
    said.remove(0)
}

#[tokio::test]
async fn fields_of_one_hop_end_there_in_both_directions() {
    let fields = "Connection: X-Hop, close, Content-Length, ETag-Not\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nTE: trailers\r\n\
                  opencmg-phrase: theirs\r\nOpenCMG_Reason: theirs\r\nX-Request-Id: theirs\r\n\
                  Proxy-Status: theirs; error=connection_refused\r\nX-Kept: 1\r\n";
    let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok");
    let (world, _backend, mut heads) = world_of(answer).await;
    let said = ask(
        &world,
        "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: Basic x\r\n\
         Proxy-Connection: x\r\nUpgrade: websocket\r\nHTTP2-Settings: x\r\nProxy_Authorization: Basic x\r\n\
         Keep_Alive: 5\r\nProxy.Connection: x\r\nTransfer.Encoding: chunked\r\nX.Forwarded.For: 192.0.2.9\r\n\
         X!Forwarded!For: 192.0.2.9\r\nTE: gzip;q=1, trailers\r\nX-Kept: 1\r\n",
    )
    .await;
    assert_eq!(said.text(), "ok");
    assert_eq!(said.field("x-kept"), Some("1"));
    assert_eq!(said.field("content-length"), Some("2"));
    for gone in [
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "upgrade",
        "te",
        "opencmg-phrase",
        "opencmg_reason",
        "x-request-id",
        "proxy-status",
    ] {
        assert_eq!(said.field(gone), None, "{gone}: {said:?}");
    }
    let head = heads.recv().await.unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\nx-kept: 1\r\n"), "{head}");
    // RFC 9110 §10.1.4: of TE only `trailers` goes on, as a field of the next hop.
    assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: te\r\n"), "{head}");
    for gone in [
        "x-hop",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "upgrade",
        "http2-settings",
        "proxy_authorization",
        "keep_alive",
        "proxy.connection",
        "transfer.encoding",
        "x.forwarded.for",
        "x!forwarded!for",
        "gzip",
    ] {
        assert!(!head.contains(&format!("\r\n{gone}")), "{gone}: {head}");
    }
    world.finish().await;
}

#[tokio::test]
async fn trailers_of_an_answer_reach_only_who_takes_them_and_without_what_belongs_to_the_head() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Content-Length, Set-Cookie\r\n\r\n\
                  2\r\nok\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\nopencmg-phrase: x\r\n\r\n";
    let (world, _backend, _heads) = world_of(answer.to_owned()).await;
    let with = ask(&world, "TE: trailers\r\n").await;
    assert_eq!(with.text(), "ok");
    assert!(with.field("trailer").is_some(), "{with:?}");
    let trailers: Vec<_> = with
        .fields
        .iter()
        .filter(|line| line.starts_with('~'))
        .collect();
    assert_eq!(trailers, ["~x-sum: 1"]);
    let without = ask(&world, "").await;
    assert_eq!((without.text().as_str(), without.whole), ("ok", true));
    assert_eq!(without.field("trailer"), None, "{without:?}");
    assert!(!without.fields.iter().any(|line| line.starts_with('~')));
    let client = world.client("pc-1");
    let mut h2 = client.connect_h2().await.unwrap();
    for wanted in [true, false] {
        let mut request = client.addressed(get(&world::mutual("SMS_MP/x")));
        if wanted {
            let value = HeaderValue::from_static("trailers");
            request.headers_mut().insert("te", value);
        }
        let answer = h2.start(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap();
        let names = body
            .trailers()
            .map(|all| all.keys().cloned().collect::<Vec<_>>());
        let sum = http::HeaderName::from_static("x-sum");
        assert_eq!(names, wanted.then(|| vec![sum]));
        assert_eq!(body.to_bytes(), "ok");
    }
    world.finish().await;
}

#[tokio::test]
async fn trailers_of_a_request_go_through_without_what_a_client_may_not_say() {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    let rig = plan.start().await;
    let path = mutual("CCM_System/request");
    let names = [
        "X-Sum",
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "Client-Cert",
        "X_Forwarded_For",
        "opencmg-role",
        "Cookie",
    ];
    let trailers: String = names.map(|name| format!("{name}: 1\r\n")).concat();
    let request = format!(
        "CCM_POST {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nTrailer: X-Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{trailers}\r\n"
    );
    let said = talk(&rig.client(), request.as_bytes()).await;
    assert_eq!(statuses(&said), [200]);
    let forwarded = log.take();
    assert_eq!(forwarded[0].trailers, ["x-sum"]);
    assert_eq!(forwarded[0].body, b"ok");

    let mut trailers = HeaderMap::new();
    for name in names.iter().filter(|name| **name != "Transfer-Encoding") {
        let name: http::HeaderName = name.parse().unwrap();
        trailers.insert(name, HeaderValue::from_static("1"));
    }
    let frames = [
        Ok::<_, std::io::Error>(Frame::data(Bytes::from("ok"))),
        Ok(Frame::trailers(trailers)),
    ];
    let body: Body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    let request = Request::builder().method("CCM_POST").uri(&path).body(body);
    let client = rig.client();
    let mut h2 = client.connect_h2().await.unwrap();
    let answer = h2.send(client.addressed(request.unwrap())).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(log.take()[0].trailers, ["x-sum"]);
    rig.finish().await;
}

#[tokio::test]
async fn options_goes_as_far_as_max_forwards_says() {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    let web = plan.definition.roles.iter_mut().find(|role| role.id == WEB);
    web.unwrap().endpoints[0]
        .methods
        .push(http::Method::OPTIONS);
    let rig = plan.start().await;
    let client = rig.client().named(WEB_HOST);
    for (method, max, status, left) in [
        ("OPTIONS", "0", 204, None),
        ("OPTIONS", "1", 200, Some("0")),
        ("OPTIONS", "70", 200, Some("69")),
        ("OPTIONS", "x", 200, Some("x")),
        // For other methods the field means nothing.
        ("GET", "0", 200, Some("0")),
    ] {
        let request = format!(
            "{method} /app/x HTTP/1.1\r\nHost: {WEB_HOST}\r\nMax-Forwards: {max}\r\nConnection: close\r\n\r\n"
        );
        let said = talk(&client, request.as_bytes()).await;
        assert_eq!(statuses(&said), [status], "{method} {max}: {said:?}");
        let forwarded = log.take();
        let seen = forwarded
            .first()
            .and_then(|seen| seen.field("max-forwards"));
        assert_eq!(seen, left, "{method} {max}");
        if status == 204 {
            assert_eq!(said[0].field("allow"), Some("GET, POST, OPTIONS"));
        }
    }
    rig.finish().await;
}

#[tokio::test]
async fn via_names_the_version_that_was_spoken() {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    let rig = plan.start().await;
    let client = rig.client().named(WEB_HOST);
    for (version, via) in [("1.0", "1.0 opencmg"), ("1.1", "1.1 opencmg")] {
        let request =
            format!("GET /app/x HTTP/{version}\r\nHost: {WEB_HOST}\r\nConnection: close\r\n\r\n");
        let said = talk(&client, request.as_bytes()).await;
        assert_eq!(said[0].field("via"), Some("2 opencmg"), "{said:?}");
        assert_eq!(log.take()[0].field("via"), Some(via));
    }
    let mut h2 = client.connect_h2().await.unwrap();
    let answer = h2.send(client.addressed(get("/app/x"))).await.unwrap();
    assert_eq!(answer.headers["via"], "2 opencmg");
    assert_eq!(log.take()[0].field("via"), Some("2 opencmg"));
    rig.finish().await;
}

#[tokio::test]
async fn conditions_ranges_and_parts_pass_as_they_are_in_both_directions() {
    let body = "\r\n--b\r\nContent-Range: bytes 0-1/9\r\n\r\nab\r\n--b\r\nContent-Range: bytes 8-8/9\r\n\r\ni\r\n--b--\r\n";
    let kept = [
        "Accept-Ranges: bytes",
        "Content-Type: multipart/byteranges; boundary=b",
        "ETag: W/\"x\"",
        "Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT",
        "Content-Encoding: gzip",
        "Vary: Accept-Encoding, *",
        "Cache-Control: max-age=1, x=\"y, z\"",
    ];
    let fields = kept.join("\r\n");
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 206 Partial Content\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (world, _backend, mut heads) = world_of(answer).await;
    let sent = [
        "range: bytes=0-1,-1",
        "range: lines=1-2",
        "if-range: W/\"x\"",
        "if-none-match: \"a\", W/\"b\"",
        "if-match: *",
        "if-modified-since: Wed, 25 Nov 2026 00:00:00 GMT",
        "if-unmodified-since: yesterday",
        "accept-encoding: gzip;q=0, *",
        "cache-control: no-cache",
    ];
    let said = ask(&world, &sent.map(|line| format!("{line}\r\n")).concat()).await;
    assert_eq!((said.status, said.text().as_str()), (206, body));
    for line in kept {
        let (name, value) = line.split_once(": ").unwrap();
        assert_eq!(said.field(&name.to_ascii_lowercase()), Some(value));
    }
    let head = heads.recv().await.unwrap();
    for line in sent {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    world.finish().await;
}
