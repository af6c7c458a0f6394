//! What becomes of a backend's answers on their way to the client, through the whole chain.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use tokio::sync::Semaphore;

use crate::backend::{Answer, Backend, answer};
use crate::backend_servers::{Raw, Server};
use crate::client::{empty, full, get};
use crate::world::{HOST, MANAGEMENT_POINT, Plan, World, mutual, within};

/// A world with one role at a backend, and more keys of that role.
async fn world(url: &str, more: &str) -> World {
    let role = format!(
        "[[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nurl = \"{url}\"\n{more}\n"
    );
    Plan::new().connection_point_with(&role).start().await
}

fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    let value = HeaderValue::from_str(value).unwrap();
    answer.headers_mut().append(name, value);
    answer
}

/// A backend that tells what it was asked: request line, fields, body.
async fn mirror() -> Backend {
    Backend::start(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let mut text = format!("{} {}\n", head.method, head.uri);
        for (name, value) in &head.headers {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
        }
        let body = body.collect().await.unwrap().to_bytes();
        text.push_str(&format!("{} bytes", body.len()));
        answer(200, text)
    })
    .await
}

#[tokio::test]
async fn the_backend_sees_its_own_path_and_host_and_nothing_that_was_meant_for_a_hop() {
    let backend = mirror().await;
    let world = world(&format!("{}/base", backend.url()), "").await;
    let client = world.client("pc-1");
    let request = Request::builder()
        .uri(mutual("SMS_MP/.sms_pol?{0E38}.SHA256:AB&x=%2f.."))
        .header("ccmclientid", "GUID:1")
        .header("opencmg-role", "1")
        .header("opencmg-connection", "1")
        .header("via", "1.1 elsewhere")
        .body(empty())
        .unwrap();
    let seen = client.send(request).await.unwrap();
    let seen = String::from_utf8(seen.body.to_vec()).unwrap();
    let first = seen.lines().next().unwrap();
    assert_eq!(first, "GET /base/SMS_MP/.sms_pol?{0E38}.SHA256:AB&x=%2f..");
    let host = format!("host: {}", backend.address);
    assert!(seen.lines().any(|line| line == host), "{seen}");
    assert!(
        seen.contains("ccmclientid: GUID:1") && seen.contains("x-request-id: "),
        "{seen}"
    );
    for gone in [
        "opencmg-role",
        "opencmg-connection",
        "via:",
        "te:",
        "connection:",
        "client-cert",
    ] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_length_stays_a_length_and_a_method_without_a_body_says_so() {
    let backend = mirror().await;
    let world = world(&backend.url(), "").await;
    let client = world.client("pc-1");
    for (method, body, length) in [
        (
            "CCM_POST",
            Bytes::from(vec![1; 100_000]),
            Some("content-length: 100000"),
        ),
        ("BITS_POST", Bytes::new(), Some("content-length: 0")),
        ("GET", Bytes::new(), None),
    ] {
        let endpoint = if method == "BITS_POST" {
            "CCM_Incoming/x"
        } else {
            "CCM_System/request"
        };
        let mut request = Request::builder().method(method).uri(mutual(endpoint));
        if !body.is_empty() || method == "BITS_POST" {
            request = request.header("content-length", body.len());
        }
        let seen = client
            .send(request.body(full(body)).unwrap())
            .await
            .unwrap();
        let seen = String::from_utf8(seen.body.to_vec()).unwrap();
        assert!(!seen.contains("transfer-encoding"), "{seen}");
        let found = seen.lines().find(|line| line.starts_with("content-length"));
        assert_eq!(found, length, "{seen}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_backends_error_keeps_its_body_and_gets_our_phrase() {
    let backend = Backend::start(|request: Request<Incoming>| async move {
        if request.uri().path().ends_with("own") {
            let mut refused = answer(403, "403.7");
            let phrase = ReasonPhrase::try_from(&b"Client certificate required"[..]).unwrap();
            refused.extensions_mut().insert(phrase);
            return refused;
        }
        answer(500, "it broke")
    })
    .await;
    let world = world(&backend.url(), "").await;
    let client = world.client("pc-1");
    let own = client.get(&mutual("SMS_MP/own")).await;
    assert_eq!(own.status, 403);
    assert_eq!(own.phrase, "CMGConnector_Clientcertificaterequired");
    assert_eq!(own.body, "403.7");
    let plain = client.get(&mutual("SMS_MP/x")).await;
    assert_eq!(
        (plain.status.as_u16(), plain.phrase.as_str()),
        (500, "CMGConnector_InternalServerError")
    );
    world.finish().await;
}

#[tokio::test]
async fn nginx_that_answers_403_with_its_own_page_is_passed_on() {
    let server = Server::nginx("server { listen @ADDRESS@; location / { return 403; } }").await;
    let world = world(&server.url("http"), "").await;
    let refused = world.client("pc-1").get(&mutual("SMS_MP/x")).await;
    assert_eq!(
        (refused.status.as_u16(), refused.phrase.as_str()),
        (403, "CMGConnector_Forbidden")
    );
    assert!(String::from_utf8_lossy(&refused.body).contains("nginx"));
    world.finish().await;
}

#[tokio::test]
async fn a_redirect_under_the_base_is_mapped_and_any_other_is_refused() {
    let backend = Backend::start(|request: Request<Incoming>| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let to = match request.uri().path() {
            "/base/SMS_MP/absolute" => format!("http://{host}/base/SMS_MP/there?x#y"),
            "/base/SMS_MP/path" => "/base/SMS_MP/there".to_owned(),
            "/base/SMS_MP/relative" => "there".to_owned(),
            "/base/SMS_MP/secure" => format!("https://{host}/base/SMS_MP/there"),
            "/base/SMS_MP/above" => "/elsewhere".to_owned(),
            _ => "http://intranet.corp.example/".to_owned(),
        };
        with(answer(302, ""), "location", &to)
    })
    .await;
    let world = world(&format!("{}/base", backend.url()), "").await;
    let client = world.client("pc-1");
    let outside = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}");
    for (path, to) in [
        (
            "absolute",
            format!("https://{HOST}{outside}/SMS_MP/there?x#y"),
        ),
        ("path", format!("{outside}/SMS_MP/there")),
        ("relative", "there".to_owned()),
    ] {
        let redirect = client.get(&mutual(&format!("SMS_MP/{path}"))).await;
        assert_eq!(redirect.status, 302);
        assert_eq!(redirect.headers["location"], to);
    }
    for path in ["secure", "above", "other"] {
        let refused = client.get(&mutual(&format!("SMS_MP/{path}"))).await;
        assert_eq!(
            (refused.status.as_u16(), refused.phrase.as_str()),
            (502, "CMGConnector_Redirect")
        );
        let told = format!("{:?}", refused.headers);
        assert!(!refused.headers.contains_key("location"), "{told}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_backend_cannot_set_fields_that_are_ours() {
    let backend = Backend::start(|_| async {
        let answer = with(answer(200, "x"), "opencmg-phrase", "CMGService_Forged");
        let answer = with(answer, "opencmg-reason", "draining");
        with(answer, "etag", "\"1\"")
    })
    .await;
    let world = world(&backend.url(), "").await;
    let seen = world.client("pc-1").get(&mutual("SMS_MP/x")).await;
    assert_eq!((seen.status.as_u16(), seen.phrase.as_str()), (200, "OK"));
    assert_eq!(seen.headers["etag"], "\"1\"");
    assert!(
        !seen
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("opencmg"))
    );
    world.finish().await;
}

#[tokio::test]
async fn answers_without_a_body_keep_their_fields_and_the_connection() {
    let server = Server::nginx(
        "server { listen @ADDRESS@; etag on;\n\
         location /SMS_MP/empty { return 204; }\n\
         location /SMS_MP/same { add_header ETag '\"1\"' always; return 304; }\n\
         location / { return 200 12345; } }",
    )
    .await;
    let world = world(&server.url("http"), "").await;
    let client = world.client("pc-1");
    let mut connection = client.connect().await.unwrap();
    let mut send = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(mutual(path));
        let request = client.addressed(request.body(empty()).unwrap());
        connection.send(request).await.unwrap()
    };
    let head = send("HEAD", "SMS_MP/x").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], "5");
    let empty = send("GET", "SMS_MP/empty").await;
    assert_eq!((empty.status.as_u16(), empty.body.len()), (204, 0));
    let same = send("GET", "SMS_MP/same").await;
    assert_eq!(same.status, 304);
    assert_eq!(same.headers["etag"], "\"1\"");
    assert_eq!(send("GET", "SMS_MP/x").await.body, "12345");
    world.finish().await;
}

#[tokio::test]
async fn trailers_of_an_answer_come_through() {
    let backend = Backend::start(|_| async {
        let frames = [
            Ok(hyper::body::Frame::data(Bytes::from("body"))),
            Ok(hyper::body::Frame::trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("x-sum"),
                HeaderValue::from_static("1"),
            )]))),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let mut answer = http::Response::new(BodyExt::boxed(body));
        let value = HeaderValue::from_static("x-sum");
        answer.headers_mut().insert("trailer", value);
        answer
    })
    .await;
    let world = world(&backend.url(), "").await;
    let client = world.client("pc-1");
    let mut connection = client.connect_h2().await.unwrap();
    let mut request = client.addressed(get(&mutual("SMS_MP/x")));
    let trailers = HeaderValue::from_static("trailers");
    request.headers_mut().insert("te", trailers);
    let answer = connection.start(request).await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(
        collected.trailers().map(|trailers| &trailers["x-sum"]),
        Some(&HeaderValue::from_static("1"))
    );
    world.finish().await;
}

#[tokio::test]
async fn a_backend_that_is_not_there_or_breaks_is_a_502_that_says_so() {
    let gone = crate::world::free_address();
    let world = world(&format!("http://{gone}"), "").await;
    let client = world.client("pc-1");
    let refused = client.get(&mutual("SMS_MP/x")).await;
    assert_eq!(refused.status, 502);
    assert!(refused.phrase.starts_with("CMGConnector_"), "{refused:?}");
    let problem: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(problem["reason"], "backend-unreachable");
    assert!(
        problem["detail"].as_str().unwrap().contains("refused"),
        "{problem}"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_dies_midway_never_looks_complete() {
    let cut = Arc::new(Semaphore::new(0));
    let cuts = cut.clone();
    let backend = Raw::start(move |_, mut wire| {
        let cuts = cuts.clone();
        async move {
            wire.head().await.unwrap();
            wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                .await;
            cuts.acquire().await.unwrap().forget();
        }
    })
    .await;
    let world = world(&backend.url(), "").await;
    let client = world.client("pc-1");
    for mut connection in [client.connect().await, client.connect_h2().await].map(Result::unwrap) {
        let request = client.addressed(get(&mutual("SMS_MP/x")));
        let answer = connection.start(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        cut.add_permits(1);
        let body = answer.into_body().collect();
        let body = within(Duration::from_secs(10), "it ends", body).await;
        body.expect_err("an abort, which no client takes for the end");
    }
    world.finish().await;
}

#[tokio::test]
async fn ntlm_is_stripped_with_its_reason() {
    let backend = Backend::start(|_| async {
        let answer = with(answer(401, ""), "www-authenticate", "Negotiate");
        with(answer, "www-authenticate", "NTLM")
    })
    .await;
    let world = world(&backend.url(), "").await;
    let refused = world.client("pc-1").get(&mutual("SMS_MP/x")).await;
    assert_eq!(
        (refused.status.as_u16(), refused.phrase.as_str()),
        (401, "CMGConnector_Unauthorized")
    );
    assert!(!refused.headers.contains_key("www-authenticate"));
    let failures = world.gateways[0]
        .metric(
            "opencmg_request_failures_total",
            "reason=\"connection-auth\"",
        )
        .await;
    assert_eq!(failures, 1.0);
    world.finish().await;
}

#[tokio::test]
async fn a_role_with_connection_auth_keeps_a_backend_connection_for_each_client_connection() {
    let backend = Backend::start(|request: Request<Incoming>| async move {
        match request.headers().get("authorization") {
            Some(value) => answer(200, value.as_bytes().to_vec()),
            None => with(answer(401, ""), "www-authenticate", "NTLM"),
        }
    })
    .await;
    let world = world(&backend.url(), "connection-auth = true").await;
    let client = world.client("pc-1");
    let mut connection = client.connect().await.unwrap();
    for _ in 0..3 {
        let mut request = client.addressed(get(&mutual("SMS_MP/x")));
        let credentials = HeaderValue::from_static("NTLM abc");
        request.headers_mut().insert("authorization", credentials);
        let answer = connection.send(request).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"NTLM abc"[..])
        );
    }
    assert_eq!(
        backend.open(),
        1,
        "one client connection, one backend connection"
    );
    let other = client.get(&mutual("SMS_MP/x")).await;
    assert_eq!(other.status, 401);
    assert_eq!(other.headers["www-authenticate"], "NTLM");
    assert_eq!(backend.open(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_request_that_this_service_has_sent_on_before_is_refused() {
    let backend = mirror().await;
    let world = world(&backend.url(), "").await;
    let client = world.client("pc-1");
    let seen = client.get(&mutual("SMS_MP/x")).await;
    let seen = String::from_utf8(seen.body.to_vec()).unwrap();
    let mark = seen
        .lines()
        .find_map(|line| line.strip_prefix("opencmg-service: "));
    assert_eq!(mark, Some(HOST), "a backend that is a gateway can know it");
    let request = Request::builder()
        .uri(mutual("SMS_MP/x"))
        .header("opencmg-service", format!("other.example, {HOST}"));
    let looped = client.send(request.body(empty()).unwrap()).await.unwrap();
    assert_eq!(
        (looped.status.as_u16(), looped.phrase.as_str()),
        (502, "CMGService_LoopDetected")
    );
    let request = Request::builder()
        .uri(mutual("SMS_MP/x"))
        .header("opencmg-service", "other.example");
    let passed = client.send(request.body(empty()).unwrap()).await.unwrap();
    let passed = String::from_utf8(passed.body.to_vec()).unwrap();
    let both = format!("opencmg-service: other.example, {HOST}");
    assert!(passed.contains(&both), "{passed}");
    world.finish().await;
}
