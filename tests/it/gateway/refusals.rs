//! What is refused, with which status and phrase, and that it never reaches a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;

use super::raw;
use super::rig::{HOST, Plan, ROOT_HOST, Rig, SUP, answering, echo, mutual, server};
use crate::client::{Client, empty, full, get};

/// A rig and how many requests came through its tunnel.
async fn counted(mut plan: Plan) -> (Rig, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    plan.handler = answering(move |incoming| {
        counter.fetch_add(1, Ordering::SeqCst);
        echo(incoming)
    });
    (plan.start().await, count)
}

fn line(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

#[tokio::test]
async fn a_request_needs_exactly_one_host_that_the_handshake_named() {
    let (rig, forwarded) = counted(Plan::new()).await;
    let path = mutual("SMS_MP/x");
    for (head, status, phrase) in [
        (
            format!("GET {path} HTTP/1.1\r\n"),
            400,
            "CMGService_BadHost",
        ),
        (
            format!("GET {path} HTTP/1.1\r\nHost:\r\n"),
            400,
            "CMGService_BadHost",
        ),
        (
            format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\n"),
            400,
            "CMGService_BadHost",
        ),
        (
            format!("GET {path} HTTP/1.1\r\nHost: u@{HOST}\r\n"),
            400,
            "CMGService_BadHost",
        ),
        (
            format!("GET https://{HOST}{path} HTTP/1.1\r\nHost: other.opencmg.test\r\n"),
            400,
            "CMGService_BadHost",
        ),
        (
            format!("GET {path} HTTP/1.1\r\nHost: {ROOT_HOST}\r\n"),
            421,
            "CMGService_Misdirected",
        ),
        (
            format!("GET {path} HTTP/1.0\r\n"),
            400,
            "CMGService_BadHost",
        ),
        (
            format!("GET {path} HTTP/1.1\r\nHost: {HOST}:8443\r\n"),
            200,
            "OK",
        ),
        (
            format!("GET https://{HOST}{path} HTTP/1.1\r\nHost: {HOST}:443\r\n"),
            200,
            "OK",
        ),
    ] {
        let answer = raw::exchange(&rig.client(), &format!("{head}\r\n")).await;
        assert_eq!(
            (answer.status, answer.phrase.as_str()),
            (status, phrase),
            "{head}"
        );
    }
    assert_eq!(forwarded.load(Ordering::SeqCst), 2);
    let mut h2 = rig.client().connect_h2().await.unwrap();
    let elsewhere = rig.client().named(ROOT_HOST);
    let answer = h2.send(elsewhere.addressed(get(&path))).await.unwrap();
    assert_eq!(answer.status, 421);
    rig.finish().await;
}

#[tokio::test]
async fn a_path_that_is_not_harmless_or_not_published_is_never_forwarded() {
    let (rig, forwarded) = counted(Plan::new()).await;
    let client = rig.client();
    for bad in [
        mutual("SMS_MP/../x"),
        mutual("SMS_MP/%2e%2e/x"),
        mutual("SMS_MP/%252e%252e/x"),
        mutual("SMS_MP/a%2fb"),
        mutual("SMS_MP/a\\b"),
        mutual("SMS_MP/%00"),
        format!("/{}", mutual("SMS_MP/x")),
        "*".to_owned(),
    ] {
        let answer = raw::exchange(&client, &line(&bad)).await;
        assert_eq!(
            (answer.status, answer.phrase.as_str()),
            (400, "CMGService_BadPath"),
            "{bad}"
        );
        assert!(
            answer.body.contains("\"reason\":\"bad-path\""),
            "{}",
            answer.body
        );
    }
    for unknown in [
        "/".to_owned(),
        "/CCM_System/request".to_owned(),
        mutual("CCM_Systems/request"),
        mutual(""),
        "/CCM_Proxy_MutualAuth/1/SMS_MP/x".to_owned(),
        "/.well-known/opencmg/hello".to_owned(),
    ] {
        let answer = raw::exchange(&client, &line(&unknown)).await;
        let seen = (answer.status, answer.phrase.as_str());
        assert_eq!(seen, (404, "CMGService_UnknownEndpoint"), "{unknown}");
    }
    assert_eq!(forwarded.load(Ordering::SeqCst), 0);
    rig.counts("opencmg_request_failures_total", "bad-path", 8.0)
        .await;
    rig.counts("opencmg_request_failures_total", "unknown-endpoint", 6.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn connect_unknown_expectations_and_methods_are_refused() {
    let (rig, forwarded) = counted(Plan::new()).await;
    let client = rig.client();
    let connect = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    let answer = raw::exchange(&client, &connect).await;
    assert_eq!((answer.status, answer.closed), (405, true));

    let path = mutual("CCM_System/request");
    let expect = format!(
        "CCM_POST {path} HTTP/1.1\r\nHost: {HOST}\r\nExpect: magic\r\nContent-Length: 1\r\n\r\nx"
    );
    let answer = raw::exchange(&client, &expect).await;
    assert_eq!(
        (answer.status, answer.phrase.as_str()),
        (417, "CMGService_ExpectationFailed")
    );

    let delete = Request::delete(&path).body(empty()).unwrap();
    let answer = client.send(delete).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (405, "CMGService_MethodNotAllowed")
    );
    assert_eq!(answer.headers["allow"], "GET, HEAD, POST, CCM_POST");
    assert_eq!(forwarded.load(Ordering::SeqCst), 0);
    rig.finish().await;
}

#[tokio::test]
async fn an_endpoint_with_tokens_and_one_that_needs_a_certificate_refuse_strangers() {
    let (rig, forwarded) = counted(Plan::new()).await;
    let token = format!("/CCM_Proxy_ServerAuth/{}/CCM_STS", super::rig::MP);
    for client in [rig.anonymous(), rig.client()] {
        let answer = client.get(&token).await;
        assert_eq!(
            (answer.status.as_u16(), answer.phrase.as_str()),
            (401, "CMGService_Invalid_Token")
        );
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    let answer = rig.anonymous().get(&mutual("SMS_MP/x")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (403, "CMGService_ClientCertificateMissing")
    );
    assert_eq!(answer.headers["connection"], "close");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(
        answer.headers["proxy-status"],
        "CMGService; error=http_request_denied"
    );
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["request-id"], id);
    assert_eq!(problem["reason"], "certificate-missing");

    let at_root = |client: Client| client.named(ROOT_HOST);
    let path = "/sms_mp/.sms_aut";
    assert_eq!(at_root(rig.client()).get(path).await.status, 200);
    let answer = at_root(rig.anonymous()).get(path).await;
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (403, "CMGService_ClientCertificateMissing")
    );
    assert_eq!(forwarded.load(Ordering::SeqCst), 1);
    rig.finish().await;
}

#[tokio::test]
async fn a_refusal_that_closes_ends_an_http2_connection_after_its_answer() {
    let (rig, _) = counted(Plan::new()).await;
    let client = rig.anonymous();
    let mut h2 = client.connect_h2().await.unwrap();
    let answer = h2
        .send(client.addressed(get(&mutual("SMS_MP/x"))))
        .await
        .unwrap();
    assert_eq!(answer.status, 403);
    assert!(!answer.headers.contains_key("connection"));
    rig.counts("opencmg_connections_open", "", 0.0).await;
    assert!(
        h2.send(client.addressed(get(&server("Content/x"))))
            .await
            .is_err()
    );
    rig.finish().await;
}

#[tokio::test]
async fn without_a_tunnel_the_answer_comes_at_once_and_the_connection_closes() {
    let (mut rig, _) = counted(Plan::new()).await;
    rig.cut_tunnels().await;
    let started = tokio::time::Instant::now();
    let answer = rig.client().get(&mutual("SMS_MP/x")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (503, "CMGService_NoTunnel")
    );
    assert_eq!(answer.headers["connection"], "close");
    assert!(started.elapsed() < Duration::from_secs(2));
    rig.finish().await;
}

#[tokio::test]
async fn a_rate_per_address_fences_endpoints_that_nobody_authenticates() {
    let mut plan = Plan::new();
    let sup = plan.definition.roles.iter_mut().find(|role| role.id == SUP);
    sup.unwrap().rate_per_address = Some(1);
    let (rig, forwarded) = counted(plan).await;
    let client = rig.anonymous();
    let mut connection = client.connect().await.unwrap();
    let mut limited = None;
    for _ in 0..30 {
        let answer = connection
            .send(client.addressed(get(&server("Content/x"))))
            .await
            .unwrap();
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.unwrap();
    assert_eq!(limited.phrase, "CMGService_TooManyRequests");
    assert!(
        limited.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert!((10..25).contains(&forwarded.load(Ordering::SeqCst)));
    // Who has proven an identity is not one of the many behind an address.
    assert_eq!(rig.client().get(&server("Content/x")).await.status, 200);
    rig.finish().await;
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_is_taken() {
    let (rig, forwarded) = counted(Plan::new()).await;
    let client = rig.anonymous().named("web.opencmg.test");
    let post = "POST /app/x HTTP/1.1\r\nHost: web.opencmg.test\r\n";
    let answer = raw::exchange(&client, &format!("{post}Content-Length: 1001\r\n\r\n")).await;
    let seen = (answer.status, answer.phrase.as_str(), answer.closed);
    assert_eq!(seen, (413, "CMGService_RequestEntityTooLarge", true));
    assert_eq!(forwarded.load(Ordering::SeqCst), 0);

    // Of a body that announces nothing the limit is found on the way.
    let chunks = format!(
        "{post}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1001)
    );
    let answer = raw::exchange(&client, &chunks).await;
    assert_eq!((answer.status, answer.closed), (413, true));

    let request = Request::post("/app/x")
        .body(full("x".repeat(1000)))
        .unwrap();
    assert_eq!(client.send(request).await.unwrap().status, 200);
    rig.finish().await;
}

#[tokio::test]
async fn smuggling_shapes_are_refused_and_close() {
    let (rig, forwarded) = counted(Plan::new()).await;
    let client = rig.client();
    let post = format!(
        "POST {} HTTP/1.1\r\nHost: {HOST}\r\n",
        mutual("CCM_System/request")
    );
    for fields in [
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "Content-Length: +1\r\n\r\nx",
        "Content-Length: 1, 1\r\n\r\nx",
        "Content-Length: -1\r\n\r\nx",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Content-Length : 1\r\n\r\nx",
        "X: a\r\n b\r\n\r\n",
    ] {
        let answer = raw::exchange(&client, &format!("{post}{fields}")).await;
        assert!(
            (400..=501).contains(&answer.status) && answer.closed,
            "{fields}: {answer:?}"
        );
    }
    // Content-Length and Transfer-Encoding together: the chunks count and the connection is not used again.
    let both = format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET");
    let answer = raw::exchange(&client, &both).await;
    assert!(answer.closed, "{answer:?}");
    assert!(forwarded.load(Ordering::SeqCst) <= 1);
    rig.finish().await;
}
