//! Limits and time-outs of requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use opencmg::message::body::{BodyError, Pace};
use opencmg::pki::issue::{Leaf, Validity};
use opencmg::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::raw;
use super::rig::{HOST, Plan, Rig, answering, body, mutual, seen, server};
use crate::client::{full, get};
use crate::world::{eventually, now, within};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_head_above_the_limit_is_refused_with_a_reason() {
    let rig = Plan::new().start().await;
    let client = rig.client();
    let path = mutual("SMS_MP/x");
    let large = |length: usize| {
        let mut request = get(&path);
        let value = "v".repeat(length);
        request
            .headers_mut()
            .insert("x-large", value.parse().unwrap());
        request
    };
    assert_eq!(client.send(large(15_000)).await.unwrap().status, 200);
    let answer = client.send(large(17_000)).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (431, "CMGService_RequestHeaderTooLarge")
    );
    let mut many = get(&path);
    for number in 0..95 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        many.headers_mut().insert(name, "v".parse().unwrap());
    }
    assert_eq!(client.send(many).await.unwrap().status, 431);
    rig.counts("opencmg_request_failures_total", "head-too-large", 2.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn a_target_above_the_limit_is_refused_with_a_reason() {
    let rig = Plan::new().start().await;
    let client = rig.client();
    let long = |length: usize| get(&mutual(&format!("SMS_MP/x?{}", "q".repeat(length))));
    assert_eq!(client.send(long(8_000)).await.unwrap().status, 200);
    let answer = client.send(long(8_192)).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (414, "CMGService_RequestUriTooLong")
    );
    rig.counts("opencmg_request_failures_total", "target-too-long", 1.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn a_client_that_sends_more_than_its_rate_waits_and_others_at_its_address_do_not() {
    let mut plan = Plan::new();
    plan.settings.proxy.client_rate = 2;
    let rig = plan.start().await;
    let leaf = Leaf::client("pc-2", Validity::days(now(), 1));
    rig.pki.issue(&rig.pki.intermediate, "pc-2", &leaf);
    let (busy, other) = (rig.client(), rig.client_of("pc-2"));
    let request = || get(&mutual("SMS_MP/x"));
    // Ten seconds' worth at once, over whatever connections.
    for _ in 0..10 {
        let mut connection = busy.connect().await.unwrap();
        for _ in 0..2 {
            let answer = connection.send(busy.addressed(request())).await.unwrap();
            assert_eq!(answer.status, 200);
        }
    }
    let answer = busy.send(request()).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (429, "CMGService_TooManyRequests")
    );
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(other.send(request()).await.unwrap().status, 200);
    let anonymous = rig.anonymous().get(&server("Content/x")).await;
    assert_eq!(anonymous.status, 200);
    eventually("the client may send again", async || {
        busy.send(request()).await.unwrap().status == 200
    })
    .await;
    rig.finish().await;
}

#[tokio::test]
async fn too_many_requests_at_once_are_told_to_come_again() {
    let mut plan = Plan::new();
    plan.settings.proxy.requests = 2;
    let release = Arc::new(Notify::new());
    let held = release.clone();
    plan.handler = answering(move |incoming| {
        let held = held.clone();
        async move {
            held.notified().await;
            let _ = incoming.respond.send(Response::new(body("late"))).await;
        }
    });
    let rig = plan.start().await;
    let client = rig.client();
    let mut h2 = client.connect_h2().await.unwrap();
    let request = || client.addressed(get(&mutual("SMS_MP/x")));
    let first = h2.start_later(request()).await.unwrap();
    let second = h2.start_later(request()).await.unwrap();
    rig.counts("opencmg_requests_in_flight", "SMS_MP", 2.0)
        .await;
    let answer = client.send(request()).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.phrase.as_str()),
        (503, "CMGService_Overloaded")
    );
    assert!(answer.headers.contains_key("retry-after"));
    release.notify_one();
    release.notify_one();
    for response in [first.await, second.await] {
        assert_eq!(
            response
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes(),
            "late"
        );
    }
    rig.counts("opencmg_requests_in_flight", "SMS_MP", 0.0)
        .await;
    rig.finish().await;
}

/// A gateway that waits 300 ms for a body, and longer for one that comes at 100 B/s.
async fn impatient() -> Rig {
    let mut plan = Plan::new();
    plan.settings.proxy.body_pace = Pace {
        grace: Duration::from_millis(300),
        least_rate: 100,
    };
    plan.start().await
}

#[tokio::test]
async fn a_body_that_makes_no_progress_is_given_up_and_one_that_drips_fast_enough_is_not() {
    let rig = impatient().await;
    let post = format!(
        "POST {} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\nx",
        mutual("CCM_System/request")
    );
    let answer = within(
        LONG,
        "the body is given up",
        raw::exchange(&rig.client(), &post),
    )
    .await;
    assert_eq!(
        (answer.status, answer.phrase.as_str()),
        (408, "CMGService_RequestTimeout")
    );
    assert!(answer.closed);
    rig.counts("opencmg_request_failures_total", "client-too-slow", 1.0)
        .await;

    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    tls.write_all(post.as_bytes()).await.unwrap();
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..9 {
        pause.tick().await;
        tls.write_all(&[b'x'; 111]).await.unwrap();
        tls.flush().await.unwrap();
    }
    let mut answer = [0; 12];
    within(LONG, "the answer comes", tls.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    rig.finish().await;
}

#[tokio::test]
async fn a_long_poll_may_wait_without_end_and_its_body_may_not() {
    let rig = impatient().await;
    let client = rig.client();
    for h2 in [false, true] {
        let mut connection = match h2 {
            true => client.connect_h2().await.unwrap(),
            false => client.connect().await.unwrap(),
        };
        let begun = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"x")))]);
        let body = http_body_util::StreamBody::new(begun.chain(futures_util::stream::pending()));
        let request = Request::post(mutual("BGB/x")).body(BodyExt::boxed(body));
        let answer = connection.start(client.addressed(request.unwrap()));
        let answer = within(LONG, "the body is given up", answer).await.unwrap();
        assert_eq!(answer.status(), 408, "HTTP/2 {h2}");
    }
    rig.counts("opencmg_request_failures_total", "client-too-slow", 2.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted_and_its_request_is_reset() {
    let mut plan = Plan::new();
    let reset = Arc::new(Notify::new());
    let told = reset.clone();
    plan.handler = answering(move |mut incoming| {
        let told = told.clone();
        async move {
            incoming.respond.reset().await;
            told.notify_one();
        }
    });
    let rig = plan.start().await;
    for h2 in [false, true] {
        let client = rig.client();
        let mut connection = match h2 {
            true => client.connect_h2().await.unwrap(),
            false => client.connect().await.unwrap(),
        };
        let request = client.addressed(get(&mutual("SMS_MP/x")));
        let sending = connection.start(request);
        let _ = tokio::time::timeout(Duration::from_millis(200), sending).await;
        drop(connection);
        within(LONG, "the connection point hears of it", reset.notified()).await;
    }
    rig.counts("opencmg_request_failures_total", "client-gone", 2.0)
        .await;
    rig.counts("opencmg_requests_total", "status=\"none\"", 2.0)
        .await;
    rig.finish().await;
}

#[tokio::test]
async fn a_hundred_continue_is_the_backends_and_a_refusal_comes_without_one() {
    let mut plan = Plan::new();
    plan.handler = answering(|incoming| async move {
        if incoming.request.uri().path().ends_with("refuse") {
            let mut answer = Response::new(body("no"));
            *answer.status_mut() = http::StatusCode::UNAUTHORIZED;
            let _ = incoming.respond.send(answer).await;
        } else {
            super::rig::echo(incoming).await;
        }
    });
    let rig = plan.start().await;
    let head = |path: &str| {
        format!(
            "POST {} HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            mutual(path)
        )
    };
    let answer = raw::exchange(&rig.client(), &head("CCM_System/refuse")).await;
    assert_eq!(
        answer.status, 401,
        "a final answer without a 100: {answer:?}"
    );

    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    tls.write_all(head("CCM_System/take").as_bytes())
        .await
        .unwrap();
    let mut interim = [0; 25];
    within(LONG, "a 100 comes", tls.read_exact(&mut interim))
        .await
        .unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    tls.write_all(b"12345").await.unwrap();
    let mut answer = [0; 12];
    within(LONG, "the answer comes", tls.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    rig.finish().await;
}

#[tokio::test]
async fn a_broken_answer_is_never_a_complete_one() {
    let mut plan = Plan::new();
    let seen = Arc::new(Notify::new());
    let head_seen = seen.clone();
    plan.handler = answering(move |incoming| {
        let head_seen = head_seen.clone();
        async move {
            let half = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))]);
            let end = futures_util::stream::once(async move {
                head_seen.notified().await;
                Err(BodyError::new(Reason::BackendBroken, "as told"))
            });
            let body = http_body_util::StreamBody::new(half.chain(Box::pin(end)));
            let _ = incoming.respond.send(Response::new(body)).await;
        }
    });
    let rig = plan.start().await;
    let client = rig.client();
    for h2 in [false, true] {
        let mut connection = match h2 {
            true => client.connect_h2().await.unwrap(),
            false => client.connect().await.unwrap(),
        };
        let answer = connection.start(client.addressed(get(&mutual("SMS_MP/x"))));
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        seen.notify_one();
        assert!(answer.into_body().collect().await.is_err());
    }
    rig.counts("opencmg_requests_in_flight", "", 0.0).await;
    assert_eq!(rig.metric("opencmg_request_failures_total", ""), 2.0);
    rig.finish().await;
}

#[tokio::test]
async fn bodies_and_requests_are_counted_once_at_their_end() {
    let rig = Plan::new().start().await;
    let request = Request::post(mutual("CCM_System/request"))
        .body(full(vec![7; 100_000]))
        .unwrap();
    let answer = rig.client().send(request).await.unwrap();
    assert_eq!(seen(&answer).length, 100_000);
    rig.counts("opencmg_received_bytes_total", "CCM_System\"", 100_000.0)
        .await;
    let sent = answer.body.len() as f64;
    rig.counts("opencmg_sent_bytes_total", "CCM_System\"", sent)
        .await;
    rig.counts("opencmg_requests_total", "CCM_System\"", 1.0)
        .await;
    assert_eq!(rig.metric("opencmg_request_failures_total", ""), 0.0);
    rig.finish().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let mut plan = Plan::new();
    // More than every buffer on the way takes, so that the answer waits for the client.
    plan.handler = answering(|incoming| async move {
        let large = Response::new(body(vec![7; 8 << 20]));
        let _ = incoming.respond.send(large).await;
    });
    plan.settings.proxy.send_timeout = Duration::from_millis(300);
    let rig = plan.start().await;
    let tls = rig.client().tls(&[b"h2"]).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (mut send, connection) = builder.handshake::<_, Bytes>(tls).await.unwrap();
    let over = crate::client::spawn(async move {
        let _ = connection.await;
    });
    let uri = format!("https://{HOST}{}", mutual("SMS_MP/x"));
    let request = Request::get(uri).body(()).unwrap();
    let (answer, _) = send.send_request(request, true).unwrap();
    // Held to the end: to drop it would reset the stream.
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    within(LONG, "the gateway closes", over).await.unwrap();
    rig.counts("opencmg_request_failures_total", "stalled-client", 1.0)
        .await;
    rig.finish().await;
}

/// Asks for a large answer and takes 64 KiB of it every 50 ms, 2 MiB in all; returns how many bytes came.
async fn take_slowly(rig: &Rig) -> usize {
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let tcp = socket2::SockRef::from(tls.get_ref().0);
    tcp.set_recv_buffer_size(32 << 10).unwrap();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
        mutual("SMS_MP/x")
    );
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut pause = tokio::time::interval(Duration::from_millis(50));
    let (mut piece, mut taken) = (vec![0; 64 << 10], 0);
    while taken < 2 << 20 {
        pause.tick().await;
        match tls.read_exact(&mut piece).await {
            Ok(_) => taken += piece.len(),
            Err(_) => break,
        }
    }
    taken
}

#[tokio::test]
async fn a_client_that_takes_its_answer_too_slowly_is_given_up_and_one_that_is_fast_enough_is_not()
{
    for (least_rate, given_up) in [(1_000 << 20, true), (240, false)] {
        let mut plan = Plan::new();
        plan.handler = answering(|incoming| async move {
            let large = Response::new(body(vec![7; 16 << 20]));
            let _ = incoming.respond.send(large).await;
        });
        plan.settings.proxy.send_timeout = Duration::from_millis(300);
        plan.settings.proxy.body_pace.least_rate = least_rate;
        let rig = plan.start().await;
        let taken = within(LONG, "the answer ends", take_slowly(&rig)).await;
        assert_eq!(taken < 2 << 20, given_up, "{taken} bytes");
        let (name, reason) = ("opencmg_request_failures_total", "client-too-slow");
        rig.counts(name, reason, f64::from(u8::from(given_up)))
            .await;
        rig.finish().await;
    }
}
