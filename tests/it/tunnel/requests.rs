//! Requests and answers through one tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use opencmg::message::body::BodyError;
use opencmg::reason::Reason;
use opencmg::tunnel::{Failure, Incoming, Need};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::{Answer, NEED, echo, fed, get, pair, request, until, whole};

fn post<B>(body: B, length: Option<u64>) -> Request<B> {
    let request = Request::post("https://gw.test/x");
    let request = match length {
        Some(length) => request.header("content-length", length),
        None => request,
    };
    request.body(body).unwrap()
}

#[tokio::test]
async fn a_get_goes_through_a_tunnel_and_its_answer_comes_back() {
    let (gateway, _point) = pair(echo).await;
    let answer = gateway.get("/a/b?c").await.unwrap();
    assert_eq!(answer.head.status, 200);
    assert_eq!(answer.text(), "GET /a/b 0");
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways_byte_by_byte() {
    let (gateway, _point) = pair(|incoming: Incoming| async move {
        let all = incoming.request.into_body().collect().await.unwrap();
        let trailers = all.trailers().cloned();
        let back = whole(all.to_bytes()).with_trailers(std::future::ready(trailers.map(Ok)));
        incoming.respond.send(Response::new(back)).await.unwrap();
    })
    .await;
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    let sent = trailers.clone();
    let body = whole(bytes.clone()).with_trailers(std::future::ready(Some(Ok(sent))));
    let length = Some(bytes.len() as u64);
    let answer = gateway.send(NEED, post(body, length)).await.unwrap();
    assert!(answer.error.is_none(), "{:?}", answer.error);
    assert_eq!(answer.body, bytes);
    assert_eq!(answer.trailers, Some(trailers));
}

#[tokio::test]
async fn content_length_is_kept_and_head_has_no_body() {
    let (gateway, _point) = pair(|incoming: Incoming| async move {
        let told = incoming.request.headers().get("content-length").cloned();
        let mut response = Response::new(whole(Bytes::new()));
        let length = HeaderValue::from_static("123");
        response.headers_mut().insert("content-length", length);
        if let Some(told) = told {
            response.headers_mut().insert("x-told", told);
        }
        incoming.respond.send(response).await.unwrap();
    })
    .await;
    let answer = gateway.send(NEED, request("HEAD", "/", "")).await.unwrap();
    assert!(answer.error.is_none(), "{:?}", answer.error);
    assert_eq!(answer.head.headers["content-length"], "123");
    let answer = gateway
        .registry
        .send(NEED, post(whole("four"), Some(4)))
        .await;
    assert!(answer.is_err(), "123 bytes were promised and none sent");
}

/// Why an answer broke off, before or after its head.
fn broken(answer: Result<Answer, Failure>) -> Reason {
    match answer {
        Ok(answer) => answer.error.unwrap().reason,
        Err(failure) => failure.reason,
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly() {
    for length in [None, Some("100")] {
        let (gateway, _point) = pair(move |incoming: Incoming| async move {
            let (feeder, body) = fed();
            let mut response = Response::new(body);
            if let Some(length) = length {
                let value = HeaderValue::from_static(length);
                response.headers_mut().insert("content-length", value);
            }
            feeder
                .send(Ok(Frame::data(Bytes::from("part"))))
                .await
                .unwrap();
            let broken = BodyError::new(Reason::BackendBroken, "gone");
            feeder.send(Err(broken)).await.unwrap();
            let sent = incoming.respond.send(response).await;
            assert_eq!(sent, Err(Reason::BackendBroken));
        })
        .await;
        assert_eq!(broken(gateway.get("/").await), Reason::BackendBroken);
    }
}

#[tokio::test]
async fn an_answer_shorter_than_its_length_never_ends_cleanly() {
    let (gateway, _point) = pair(|incoming: Incoming| async move {
        let mut response = Response::new(whole("part"));
        let length = HeaderValue::from_static("100");
        response.headers_mut().insert("content-length", length);
        let sent = incoming.respond.send(response).await;
        assert_eq!(sent, Err(Reason::LengthMismatch));
    })
    .await;
    assert_eq!(broken(gateway.get("/").await), Reason::BackendBroken);
}

#[tokio::test]
async fn a_client_that_breaks_off_its_upload_resets_the_stream() {
    let (seen_in, mut seen) = mpsc::channel(1);
    let (gateway, _point) = pair(move |incoming: Incoming| {
        let seen_in = seen_in.clone();
        async move {
            let Incoming { request, respond } = incoming;
            let end = request.into_body().collect().await;
            seen_in.send(end.unwrap_err()).await.unwrap();
            drop(respond);
        }
    })
    .await;
    let (feeder, body) = fed();
    feeder
        .send(Ok(Frame::data(Bytes::from("part"))))
        .await
        .unwrap();
    let gone = BodyError::new(Reason::ClientGone, "gone");
    feeder.send(Err(gone)).await.unwrap();
    let failure = gateway.send(NEED, post(body, Some(100))).await.unwrap_err();
    assert_eq!(failure.reason, Reason::ClientGone, "{failure:?}");
    let error = seen.recv().await.unwrap();
    assert_eq!(error.reason, Reason::ClientGone, "{error:?}");
}

#[tokio::test]
async fn an_upload_shorter_or_longer_than_its_length_is_refused() {
    let (gateway, _point) = pair(echo).await;
    for (length, what) in [(3, "longer"), (5, "shorter")] {
        let request = post(whole("four"), Some(length));
        let failure = gateway.send(NEED, request).await.unwrap_err();
        assert_eq!(failure.reason, Reason::LengthMismatch);
        assert!(failure.detail.contains(what), "{}", failure.detail);
    }
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let (gateway, _point) = pair(|incoming: Incoming| async move {
        let mut response = Response::new(whole("too large"));
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        incoming.respond.send(response).await.unwrap();
    })
    .await;
    let (feeder, body) = fed();
    feeder
        .send(Ok(Frame::data(Bytes::from("part"))))
        .await
        .unwrap();
    let answer = gateway.send(NEED, post(body, Some(1 << 40))).await.unwrap();
    assert_eq!(answer.head.status, 413);
    assert_eq!(answer.text(), "too large");
    timeout(Duration::from_secs(5), feeder.closed())
        .await
        .expect("the body is still read");
}

#[tokio::test]
async fn an_answer_may_stream_while_its_request_still_does() {
    let (gateway, _point) = pair(|incoming: Incoming| async move {
        let body = incoming.request.into_body();
        incoming.respond.send(Response::new(body)).await.unwrap();
    })
    .await;
    let (feeder, body) = fed();
    let request = post(body, None);
    let response = gateway.registry.send(NEED, request).await.unwrap();
    let mut body = response.into_body();
    for word in ["one", "two", "three"] {
        feeder
            .send(Ok(Frame::data(Bytes::from(word))))
            .await
            .unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(feeder);
    let end = body.frame().await;
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test]
async fn a_client_that_leaves_is_heard_at_the_other_end() {
    let (seen_in, mut seen) = mpsc::channel(1);
    let (gateway, _point) = pair(move |mut incoming: Incoming| {
        let seen_in = seen_in.clone();
        async move {
            let waits = incoming.request.uri().path() == "/wait";
            let reason = if waits {
                incoming.respond.reset().await;
                Reason::ClientGone
            } else {
                let endless = whole(vec![0; 8 << 20]);
                let sent = incoming.respond.send(Response::new(endless)).await;
                sent.unwrap_err()
            };
            seen_in.send(reason).await.unwrap();
        }
    })
    .await;
    {
        let sending = gateway.registry.send(NEED, get("/wait"));
        let waited = timeout(Duration::from_millis(50), sending).await;
        assert!(waited.is_err());
    }
    assert_eq!(seen.recv().await.unwrap(), Reason::ClientGone);
    let response = gateway.registry.send(NEED, get("/endless")).await.unwrap();
    drop(response);
    assert_eq!(seen.recv().await.unwrap(), Reason::ClientGone);
    until(|| gateway.registry.view()[0].in_flight == 0).await;
}

const EXPECT: Need = Need {
    expect_continue: true,
    ahead: 0,
    ..NEED
};

#[tokio::test(start_paused = true)]
async fn an_announced_body_is_not_read_before_the_100_has_come() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let (gateway, _point) = pair(move |mut incoming: Incoming| {
        let wait = Arc::clone(&wait);
        async move {
            assert_eq!(incoming.request.headers()["expect"], "100-continue");
            wait.notified().await;
            incoming.respond.send_continue();
            echo(incoming).await;
        }
    })
    .await;
    let (feeder, body) = fed();
    let polls = Arc::clone(&body.polls);
    feeder
        .send(Ok(Frame::data(Bytes::from("four"))))
        .await
        .unwrap();
    drop(feeder);
    let sending = gateway.send(EXPECT, post(body, Some(4)));
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(polls.load(Ordering::Relaxed), 0);
        go.notify_one();
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(sending, release);
    assert_eq!(answer.unwrap().text(), "POST /x 4");
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "it waited for the time-out"
    );
}

#[tokio::test(start_paused = true)]
async fn an_announced_body_is_read_after_a_second_without_a_100() {
    let (gateway, _point) = pair(echo).await;
    let (feeder, body) = fed();
    feeder
        .send(Ok(Frame::data(Bytes::from("four"))))
        .await
        .unwrap();
    drop(feeder);
    let began = Instant::now();
    let answer = gateway.send(EXPECT, post(body, Some(4))).await.unwrap();
    assert_eq!(answer.text(), "POST /x 4");
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_secs(1) && waited < Duration::from_secs(2),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_final_answer_ends_an_announced_exchange_without_reading_the_body() {
    let (gateway, _point) = pair(|incoming: Incoming| async move {
        let mut response = Response::new(whole("no"));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        incoming.respond.send(response).await.unwrap();
    })
    .await;
    let (feeder, body) = fed();
    let polls = Arc::clone(&body.polls);
    let answer = gateway.send(EXPECT, post(body, Some(4))).await.unwrap();
    assert_eq!((answer.head.status.as_u16(), answer.text()), (401, "no"));
    assert_eq!(polls.load(Ordering::Relaxed), 0);
    assert!(feeder.is_closed());
}

#[tokio::test]
async fn the_gateway_s_own_paths_are_never_a_client_s() {
    let (gateway, _point) = pair(echo).await;
    let request = request(
        "PUT",
        "/.well-known/opencmg/refusal",
        "{\"reason\":\"draining\"}",
    );
    let failure = gateway.send(NEED, request).await.unwrap_err();
    assert_eq!(failure.reason, Reason::UnknownEndpoint);
}

#[tokio::test]
async fn a_handler_that_drops_a_request_fails_it_and_no_other() {
    let count = Arc::new(AtomicUsize::new(0));
    let (gateway, _point) = pair(move |incoming: Incoming| {
        let first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if !first {
                echo(incoming).await;
            }
        }
    })
    .await;
    assert_eq!(
        gateway.get("/").await.unwrap_err().reason,
        Reason::TunnelLost
    );
    assert_eq!(gateway.get("/").await.unwrap().head.status, 200);
}
