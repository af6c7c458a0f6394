//! Clients that pipeline, go away, are answered early, or speak HTTP/1.0.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore};

use super::talk::{Log, hear, one, statuses, talk};
use crate::gateway::rig::{HOST, Plan, Rig, answering, body, mutual, server};
use crate::world::within;

const LONG: Duration = Duration::from_secs(20);

async fn rig() -> (Rig, Log) {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    (plan.start().await, log)
}

fn get(rest: &str, more: &str) -> String {
    let path = mutual(rest);
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{more}\r\n")
}

/// A gateway whose requests wait, and what says that one has come and that one was reset.
async fn waiting() -> (Rig, Arc<Semaphore>, Arc<Semaphore>) {
    let [come, reset] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    let mut plan = Plan::new();
    let (coming, resetting) = (come.clone(), reset.clone());
    plan.handler = answering(move |mut incoming| {
        let (come, reset) = (coming.clone(), resetting.clone());
        async move {
            come.add_permits(1);
            incoming.respond.reset().await;
            reset.add_permits(1);
        }
    });
    (plan.start().await, come, reset)
}

async fn next(what: &str, semaphore: &Semaphore) {
    let permit = within(LONG, what, semaphore.acquire()).await;
    permit.unwrap().forget();
}

#[tokio::test]
async fn a_client_that_goes_while_it_waits_is_noticed_whatever_it_has_sent_before() {
    let (rig, come, reset) = waiting().await;
    let poll = get("BGB/x", "");
    let post = format!(
        "POST {} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nok",
        mutual("BGB/x")
    );
    let chunks = format!(
        "POST {} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        mutual("BGB/x")
    );
    let many = poll.repeat(200);
    for (what, request, later) in [
        ("nothing more", poll.as_str(), ""),
        ("a byte with it", &format!("{poll}G"), ""),
        ("a byte later", &poll, "G"),
        ("a byte behind a body", &post, "G"),
        ("a byte behind chunks", &chunks, "G"),
        ("another request", &poll, &poll),
        ("many requests", &poll, &many),
    ] {
        for politely in [true, false] {
            let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
            tls.write_all(request.as_bytes()).await.unwrap();
            next("the request comes", &come).await;
            tls.write_all(later.as_bytes()).await.unwrap();
            if politely {
                tls.shutdown().await.unwrap();
            }
            drop(tls);
            next(&format!("{what}: the stream is reset"), &reset).await;
            rig.counts("opencmg_requests_in_flight", "", 0.0).await;
            rig.counts("opencmg_connections_open", "", 0.0).await;
        }
    }
    rig.finish().await;
}

#[tokio::test]
async fn what_is_read_ahead_while_a_request_waits_is_answered_in_order() {
    let open = Arc::new(Notify::new());
    let opened = open.clone();
    let mut plan = Plan::new();
    let come = Arc::new(Semaphore::new(0));
    let coming = come.clone();
    plan.handler = answering(move |incoming| {
        let (opened, come) = (opened.clone(), coming.clone());
        async move {
            let path = incoming.request.uri().path().to_owned();
            if path.ends_with("first") {
                come.add_permits(1);
                opened.notified().await;
            }
            let name = path.rsplit('/').next().unwrap().to_owned();
            let _ = incoming.respond.send(Response::new(body(name))).await;
        }
    });
    let rig = plan.start().await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    tls.write_all(get("SMS_MP/first", "").as_bytes())
        .await
        .unwrap();
    next("the first comes", &come).await;
    // More than is read at once, and cut in the middle of a head.
    let mut wanted = vec!["first".to_owned()];
    let mut more = String::new();
    for number in 0..300 {
        wanted.push(format!("n{number}"));
        let last = if number == 299 {
            "Connection: close\r\n"
        } else {
            ""
        };
        more += &get(&format!("SMS_MP/n{number}"), last);
    }
    let (start, end) = more.split_at(more.len() / 2 + 7);
    tls.write_all(start.as_bytes()).await.unwrap();
    tls.flush().await.unwrap();
    let rest = async {
        open.notify_one();
        tls.write_all(end.as_bytes()).await.unwrap();
    };
    within(LONG, "all is sent", rest).await;
    let said = hear(&mut tls, false).await;
    let bodies: Vec<_> = said.iter().map(super::talk::Said::text).collect();
    assert_eq!(bodies, wanted);
    rig.finish().await;
}

#[tokio::test]
async fn a_body_that_nobody_read_is_never_taken_for_a_request() {
    let (rig, log) = rig().await;
    let inner = get("SMS_MP/smuggled", "");
    let length = inner.len();
    let fields = format!("Content-Length: {length}\r\n");
    let expects = format!("{fields}Expect: 100-continue\r\n");
    let chunked = format!("{length:x}\r\n{inner}\r\n0\r\n\r\n");
    let at = |method: &str, path: &str, fields: &str, body: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{body}")
    };
    let unknown = mutual("Nothing/x");
    let token = server("Nothing/x");
    let next = get("SMS_MP/next", "Connection: close\r\n");
    for request in [
        at("GET", &unknown, &fields, &inner),
        at("HEAD", &unknown, &fields, &inner),
        at("POST", &unknown, &fields, &inner),
        at("POST", &token, &fields, &inner),
        at("POST", &unknown, &expects, &inner),
        at("GET", &unknown, &expects, &inner),
        at("POST", &unknown, "Transfer-Encoding: chunked\r\n", &chunked),
        at("OPTIONS", &mutual("SMS_MP/x"), &fields, &inner),
        at("POST", &mutual("SMS_MP/../x"), &fields, &inner),
        at(
            "POST",
            &mutual("SMS_MP/x"),
            &format!("{fields}Expect: x\r\n"),
            &inner,
        ),
    ] {
        let said = talk(&rig.client(), format!("{request}{next}").as_bytes()).await;
        assert!(said[0].status >= 400, "{request}: {said:?}");
        // What stands behind the body may be served, or the connection closes before it.
        let targets: Vec<_> = log.take().into_iter().map(|seen| seen.target).collect();
        let next = [mutual("SMS_MP/next")];
        assert!(
            targets == next || targets.is_empty(),
            "{request}: {targets:?}"
        );
    }
    // Served, and with its body.
    let whole = at("GET", &mutual("SMS_MP/x"), &fields, &inner);
    let said = talk(&rig.client(), format!("{whole}{next}").as_bytes()).await;
    assert_eq!(statuses(&said), [200, 200]);
    let bodies: Vec<_> = log.take().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [inner.into_bytes(), Vec::new()]);
    rig.finish().await;
}

#[tokio::test]
async fn an_expectation_that_ends_without_a_100_ends_the_connection() {
    let (rig, log) = rig().await;
    // The client does not send the body, and its next request must not be taken for it.
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n",
        mutual("Nothing/x")
    );
    let next = get("SMS_MP/next", "");
    let said = talk(&rig.client(), format!("{head}{next}").as_bytes()).await;
    assert_eq!(statuses(&said), [404]);
    assert_eq!(log.take(), []);
    rig.finish().await;
}

#[tokio::test]
async fn a_client_of_http10_gets_no_chunks_no_100_and_the_end() {
    let (rig, log) = rig().await;
    let path = mutual("CCM_System/request");
    let request = format!(
        "CCM_POST {path} HTTP/1.0\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok"
    );
    let said = talk(&rig.client(), request.as_bytes()).await;
    assert_eq!(statuses(&said), [200]);
    assert_eq!(said[0].field("transfer-encoding"), None);
    assert_eq!(said[0].text(), "ok");
    let forwarded = log.take();
    assert_eq!(forwarded[0].field("expect"), None);
    assert_eq!(forwarded[0].body, b"ok");
    rig.finish().await;
}

#[tokio::test]
async fn an_expectation_without_a_body_is_ignored_and_an_unknown_one_is_refused() {
    let (rig, log) = rig().await;
    for (expect, status) in [
        ("100-continue", 200),
        ("100-Continue", 200),
        ("200-ok", 417),
        ("100-continue, x", 417),
        ("", 417),
    ] {
        let request = get(
            "SMS_MP/x",
            &format!("Expect: {expect}\r\nConnection: close\r\n"),
        );
        let said = talk(&rig.client(), request.as_bytes()).await;
        assert_eq!(statuses(&said), [status], "{expect}");
        let forwarded = log.take();
        assert!(forwarded.iter().all(|seen| seen.field("expect").is_none()));
    }
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let path = mutual("CCM_System/request");
    let head = format!(
        "CCM_POST {path} HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(one(&mut tls).await.status, 100);
    tls.write_all(b"ok").await.unwrap();
    assert_eq!(one(&mut tls).await.status, 200);
    rig.finish().await;
}
