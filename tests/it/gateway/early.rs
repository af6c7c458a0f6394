//! Backends that answer before they have read the request, and with much.

use std::time::Duration;

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{HOST, Plan, Rig, answering, body, mutual};
use crate::world::within;

const LONG: Duration = Duration::from_secs(30);

/// More than every buffer on the way takes, in either direction.
const LARGE: usize = 64 << 20;

/// A rig whose backend answers every request with much and reads nothing of it.
async fn rig(send_timeout: Duration) -> Rig {
    let mut plan = Plan::new();
    plan.handler = answering(|incoming| async move {
        let _unread = incoming.request.into_body();
        let large = Response::new(body(vec![7; LARGE]));
        let _ = incoming.respond.send(large).await;
    });
    plan.settings.proxy.send_timeout = send_timeout;
    plan.start().await
}

fn head() -> String {
    let path = mutual("CCM_Incoming/x");
    format!("PUT {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LARGE}\r\n\r\n")
}

#[tokio::test]
async fn a_client_that_reads_while_it_sends_gets_all_of_the_answer_and_then_the_end() {
    let rig = rig(LONG).await;
    let tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(tls);
    let sending = async {
        writing.write_all(head().as_bytes()).await.unwrap();
        let part = vec![1; 64 << 10];
        // Ends when the gateway has closed, at the latest when everything is sent.
        for _ in 0..LARGE / part.len() {
            if writing.write_all(&part).await.is_err() {
                break;
            }
        }
    };
    let answered = async {
        let mut answer = Vec::new();
        reading.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let both = async { tokio::join!(answered, sending) };
    let (answer, ()) = within(LONG, "the answer and the end", both).await;
    assert_eq!(&answer[..12], b"HTTP/1.1 200");
    assert!(answer.ends_with(b"\r\n0\r\n\r\n"), "the answer is cut off");
    let length = answer.iter().filter(|byte| **byte == 7).count();
    assert_eq!(length, LARGE);
    rig.counts("opencmg_requests_in_flight", "", 0.0).await;
    assert_eq!(rig.metric("opencmg_request_failures_total", ""), 0.0);
    rig.finish().await;
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_reads_only_after_it_has_sent_everything() {
    let rig = rig(LONG).await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    // More than CCM_System takes, refused by its head alone.
    let path = mutual("CCM_System/request");
    let post =
        format!("CCM_POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LARGE}\r\n\r\n");
    let exchange = async {
        tls.write_all(post.as_bytes()).await.unwrap();
        for _ in 0..LARGE / (64 << 10) {
            tls.write_all(&[1; 64 << 10]).await.unwrap();
        }
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    };
    let answer = within(LONG, "the refusal", exchange).await;
    assert!(
        answer.starts_with("HTTP/1.1 413 CMGService_RequestEntityTooLarge\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\"reason\":\"body-too-large\""), "{answer}");
    rig.finish().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_until_it_has_sent_everything_is_given_up_in_time() {
    let rig = rig(Duration::from_millis(300)).await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    tls.write_all(head().as_bytes()).await.unwrap();
    let mut sent = 0;
    let closed = async {
        let part = vec![1; 64 << 10];
        while sent < LARGE && tls.write_all(&part).await.is_ok() {
            sent += part.len();
        }
    };
    within(LONG, "the gateway closes", closed).await;
    assert!(sent < LARGE, "everything was taken");
    rig.counts("opencmg_request_failures_total", "stalled-client", 1.0)
        .await;
    rig.counts("opencmg_requests_in_flight", "", 0.0).await;
    rig.finish().await;
}
