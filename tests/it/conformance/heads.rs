//! Request lines, field lines and methods.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use opencmg::message::body::BodyError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::talk::{BARE, Log, hear, statuses, talk};
use crate::gateway::rig::{HOST, Plan, Rig, answering, mutual};

async fn rig() -> (Rig, Log) {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    (plan.start().await, log)
}

fn path() -> String {
    mutual("SMS_MP/x")
}

/// The request behind every case.
fn next() -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n",
        path()
    )
}

async fn all(cases: &[(Vec<u8>, &[u16])]) {
    let (rig, log) = rig().await;
    let client = rig.client();
    let mut wrong = Vec::new();
    for (bytes, wanted) in cases {
        let said = talk(&client, &[bytes, next().as_bytes()].concat()).await;
        let forwarded = log.take().len();
        let served = wanted.iter().filter(|status| **status == 200).count();
        let named =
            |status: &u16, phrase: &str| *status == 200 || phrase.starts_with("CMGService_");
        let ours = said.iter().all(|said| named(&said.status, &said.phrase));
        if statuses(&said) != *wanted || forwarded != served || !ours {
            let text = String::from_utf8_lossy(bytes).into_owned();
            wrong.push(format!("{text:.300?}: {forwarded} forwarded, {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rig.finish().await;
}

#[tokio::test]
async fn a_request_line_that_is_none_is_refused_and_closes() {
    let path = path();
    let lines = [
        format!("GET {path}"),
        format!("GET {path} HTTP/0.9"),
        format!("GET {path} HTTP/1.10"),
        format!("GET {path} HTTP/1.2"),
        format!("GET {path} HTTP/2.0"),
        format!("GET {path} HTTP/3"),
        format!("GET {path} http/1.1"),
        format!("GET {path} HTTP/1,1"),
        format!("GET {path} HTTP/1.1 "),
        format!("GET {path} HTTP/1.1 x"),
        format!("GET  {path} HTTP/1.1"),
        format!("GET {path}  HTTP/1.1"),
        format!("GET\t{path} HTTP/1.1"),
        format!("GET {path}\tHTTP/1.1"),
        format!("GET {path} x HTTP/1.1"),
        format!(" GET {path} HTTP/1.1"),
        format!("{path} HTTP/1.1"),
        format!("G(T {path} HTTP/1.1"),
        format!("G@T {path} HTTP/1.1"),
        format!("G\u{c4}T {path} HTTP/1.1"),
        format!("GET\x00 {path} HTTP/1.1"),
        format!("GET {path}\rX HTTP/1.1"),
        format!("\rGET {path} HTTP/1.1"),
        format!("\x16\x03\x01GET {path} HTTP/1.1"),
    ];
    let cases = lines.map(|line| {
        let head = format!("{line}\r\nHost: {HOST}\r\n\r\n");
        (head.into_bytes(), &[400_u16][..])
    });
    all(&cases).await;
}

#[tokio::test]
async fn the_preface_of_http2_on_a_connection_of_http1_is_closed_without_a_word() {
    all(&[(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[])]).await;
}

#[tokio::test]
async fn a_field_line_that_is_none_is_refused_and_closes() {
    let path = path();
    let fields: [&[u8]; 19] = [
        b"X : 1",
        b"X\t: 1",
        b": 1",
        b"X",
        b"X 1",
        b"X Y: 1",
        b"X@Y: 1",
        b"X\x00: 1",
        b"\x00X: 1",
        b"X\xe4: 1",
        b"X: a\x00b",
        b"X: a\x01b",
        b"X: a\x08b",
        b"X: a\x1bb",
        b"X: a\x7fb",
        b"X: a\rb",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b"X: \r\n b",
    ];
    let mut cases: Vec<(Vec<u8>, &[u16])> = Vec::new();
    for field in fields {
        let line = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n");
        cases.push(([line.as_bytes(), field, b"\r\n\r\n"].concat(), &[400]));
    }
    // White space before the first field would be a field of the request line.
    let first = format!("GET {path} HTTP/1.1\r\n X: 1\r\nHost: {HOST}\r\n\r\n");
    cases.push((first.into_bytes(), &[400]));
    all(&cases).await;
}

#[tokio::test]
async fn a_head_with_too_much_in_it_is_a_431_whoever_finds_it() {
    let line = format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n", path());
    let many = |count: usize| "X: 1\r\n".repeat(count);
    let long = |len: usize| format!("X: {}\r\n", "a".repeat(len));
    let cases = [
        many(95),
        many(150),
        long(17 << 10),
        long(40 << 10),
        long(200 << 10),
    ]
    .map(|fields| {
        let head = format!("{line}{fields}\r\n");
        (head.into_bytes(), &[431_u16][..])
    });
    all(&cases).await;
}

#[tokio::test]
async fn what_a_lenient_reader_may_take_is_taken() {
    let path = path();
    let get = |head: String| (head.into_bytes(), &[200_u16, 200][..]);
    all(&[
        // RFC 9112 §2.2: a lone LF may end a line, and an empty line before a request is passed over.
        get(format!("GET {path} HTTP/1.1\nHost: {HOST}\n\n")),
        get(format!(
            "\r\n\r\nGET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        )),
        get(format!("GET {path} HTTP/1.1\r\nhOsT:{HOST}\r\n\r\n")),
        get(format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST} \t\r\nX:\r\n\r\n"
        )),
        get(format!(
            "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX: \u{e4}\r\n\r\n"
        )),
        // HTTP/1.0 ends with its answer, whatever it asks for.
        (
            format!("GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n").into_bytes(),
            &[200],
        ),
        (
            format!("GET {path} HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n")
                .into_bytes(),
            &[200],
        ),
        (
            format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: x, Close\r\n\r\n")
                .into_bytes(),
            &[200],
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_method_keeps_its_case_and_passes_only_where_it_is_listed() {
    let (rig, log) = rig().await;
    let client = rig.client();
    for (method, endpoint, status) in [
        ("CCM_POST", "CCM_System/request", 200),
        ("BITS_POST", "CCM_Incoming/x", 200),
        ("PROPFIND", "CCM_Client/x", 200),
        ("ccm_post", "CCM_System/request", 405),
        ("Get", "SMS_MP/x", 405),
        ("BITS_POST", "CCM_System/request", 405),
        ("TRACE", "SMS_MP/x", 405),
        ("OPTIONS", "SMS_MP/x", 405),
        ("!#$%&'*+-.^_`|~09aZ", "SMS_MP/x", 405),
    ] {
        let path = mutual(endpoint);
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let said = talk(&client, head.as_bytes()).await;
        assert_eq!(statuses(&said), [status], "{method}: {said:?}");
        let forwarded = log.take();
        let methods: Vec<_> = forwarded.iter().map(|seen| seen.method.as_str()).collect();
        assert_eq!(methods, [method][..usize::from(status == 200)]);
    }
    rig.finish().await;
}

#[tokio::test]
async fn an_answer_that_ends_like_a_refusal_of_the_parser_comes_byte_for_byte() {
    let first_seen = Arc::new(Notify::new());
    let mut plan = Plan::new();
    let seen = first_seen.clone();
    plan.handler = answering(move |incoming| {
        let seen = seen.clone();
        async move {
            let piece = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
            let first = futures_util::stream::iter([Ok::<_, BodyError>(piece("first"))]);
            let last = futures_util::stream::once(async move {
                seen.notified().await;
                Ok(piece(BARE))
            });
            let mut answer = Response::new(StreamBody::new(first.chain(Box::pin(last))));
            let length = HeaderValue::from("first".len() + BARE.len());
            answer.headers_mut().insert("content-length", length);
            let _ = incoming.respond.send(answer).await;
        }
    });
    let rig = plan.start().await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let path = mutual("SMS_MP/x");
    let good = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    tls.write_all(good.as_bytes()).await.unwrap();
    let mut begin = Vec::new();
    while !begin.ends_with(b"first") {
        begin.push(tls.read_u8().await.unwrap());
    }
    first_seen.notify_one();
    let mut last = vec![0; BARE.len()];
    tls.read_exact(&mut last).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&last), BARE);
    // Once the answer is out, a refusal of the parser is in our words.
    tls.write_all(b"GET / HTTP/1.1\r\nno field\r\n\r\n")
        .await
        .unwrap();
    let said = hear(&mut tls, false).await;
    assert_eq!(statuses(&said), [400], "{said:?}");
    assert_eq!(said[0].phrase, "CMGService_BadRequest");
    drop(tls);
    rig.finish().await;
}

#[tokio::test]
async fn a_refusal_of_the_parser_behind_an_answer_comes_after_it_and_in_our_words() {
    let (rig, log) = rig().await;
    // In one read with the request before it, and with two of them.
    for requests in 1..3 {
        let good = format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", path()).repeat(requests);
        let bad = "GET / HTTP/1.1\r\nno field\r\n\r\n";
        let said = talk(&rig.client(), format!("{good}{bad}").as_bytes()).await;
        assert_eq!(statuses(&said)[..requests], vec![200; requests], "{said:?}");
        assert!(said[..requests].iter().all(|said| said.text() == "ok"));
        let refused: Vec<_> = said[requests..].iter().map(|said| &said.phrase).collect();
        assert_eq!(refused, ["CMGService_BadRequest"], "{said:?}");
        assert_eq!(log.take().len(), requests);
    }
    rig.finish().await;
}
