//! Where a request ends: Content-Length, Transfer-Encoding, chunks, and what is sent behind a body.

use super::talk::{Log, statuses, talk};
use crate::gateway::rig::{HOST, Plan, Rig, mutual};

async fn rig() -> (Rig, Log) {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    (plan.start().await, log)
}

/// A POST with these fields and what comes behind them.
fn post(rest: &str) -> String {
    let path = mutual("CCM_System/request");
    format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{rest}")
}

/// The request that stands behind every case: it asks for the end of the connection, and is the one that an attacker
/// would smuggle.
fn next() -> String {
    let path = mutual("SMS_MP/next");
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
}

/// Each case is refused with its status, nothing of it is forwarded whole, and nothing behind it is answered.
async fn all_refused(cases: &[(&str, u16)]) {
    let (rig, log) = rig().await;
    let client = rig.client();
    let mut wrong = Vec::new();
    for (rest, status) in cases {
        let said = talk(&client, format!("{}{}", post(rest), next()).as_bytes()).await;
        let forwarded = log.take();
        let ours = said
            .iter()
            .all(|said| said.phrase.starts_with("CMGService_"));
        if statuses(&said) != [*status] || !forwarded.is_empty() || !ours {
            wrong.push(format!("{rest:.200?}: {said:?}, forwarded {forwarded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rig.finish().await;
}

/// Each case is served with its body, and so is the request behind it unless the connection closes.
async fn all_served(cases: &[(&str, &str, bool)]) {
    let (rig, log) = rig().await;
    let client = rig.client();
    let mut wrong = Vec::new();
    for (rest, body, goes_on) in cases {
        let said = talk(&client, format!("{}{}", post(rest), next()).as_bytes()).await;
        let forwarded = log.take();
        let count = if *goes_on { 2 } else { 1 };
        let bodies: Vec<_> = forwarded
            .iter()
            .map(|request| request.body.clone())
            .collect();
        let wanted = [body.as_bytes().to_vec(), Vec::new()][..count].to_vec();
        if statuses(&said) != [200, 200][..count] || bodies != wanted {
            wrong.push(format!("{rest:.200?}: {said:?}, forwarded {forwarded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rig.finish().await;
}

#[tokio::test]
async fn a_content_length_that_is_not_one_number_is_refused() {
    all_refused(&[
        ("Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        ("Content-Length: 1\r\nContent-Length: \r\n\r\nx", 400),
        ("Content-Length: +1\r\n\r\nx", 400),
        ("Content-Length: -1\r\n\r\nx", 400),
        ("Content-Length: 1, 1\r\n\r\nx", 400),
        ("Content-Length: 1,\r\n\r\nx", 400),
        ("Content-Length: 1 1\r\n\r\nx", 400),
        ("Content-Length: 0x1\r\n\r\nx", 400),
        ("Content-Length: 1_0\r\n\r\nx", 400),
        ("Content-Length: 1.0\r\n\r\nx", 400),
        ("Content-Length: 1e0\r\n\r\nx", 400),
        ("Content-Length: \"1\"\r\n\r\nx", 400),
        ("Content-Length: one\r\n\r\nx", 400),
        ("Content-Length:\r\n\r\nx", 400),
        ("Content-Length: \u{661}\r\n\r\nx", 400),
        ("Content-Length: 18446744073709551616\r\n\r\nx", 400),
        ("Content-Length: 18446744073709551615\r\n\r\nx", 431),
        ("Content-Length: 1\x0b\r\n\r\nx", 400),
        ("Content-Length: \x0c1\r\n\r\nx", 400),
        ("Content-Length : 1\r\n\r\nx", 400),
        ("Content-Length\t: 1\r\n\r\nx", 400),
        (" Content-Length: 1\r\n\r\nx", 400),
    ])
    .await;
}

#[tokio::test]
async fn a_transfer_encoding_that_is_not_one_chunked_is_refused() {
    let chunks = "0\r\n\r\n";
    let with = |field: &str| format!("{field}\r\n\r\n{chunks}");
    let fields = [
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: chunked, chunked", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            501,
        ),
        ("Transfer-Encoding: , chunked", 501),
        (
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            501,
        ),
        ("Content-Length: 5\r\nTransfer-Encoding: gzip, chunked", 501),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: chunked, gzip", 400),
        ("Transfer-Encoding: chunked,", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: gzip", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: chunkedx", 400),
        ("Transfer-Encoding: chunked;q=1", 400),
        ("Transfer-Encoding: \"chunked\"", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding\t: chunked", 400),
        ("Transfer-Encoding:\x0bchunked", 400),
        ("Transfer-Encoding: \x0cchunked", 400),
        ("Transfer-Encoding: chunked\x00", 400),
        ("Transfer-Encoding: chun\rked", 400),
        (" Transfer-Encoding: chunked", 400),
        ("X: 1\r\n Transfer-Encoding: chunked", 400),
        ("X: 1\r\n\tchunked", 400),
        ("Transfer-Encoding:\r\n chunked", 400),
        ("\rTransfer-Encoding: chunked", 400),
        ("Transfer\rEncoding: chunked", 400),
        ("X:1\rTransfer-Encoding: chunked", 400),
    ];
    let cases: Vec<_> = fields.map(|(field, status)| (with(field), status)).into();
    let cases: Vec<_> = cases
        .iter()
        .map(|(case, status)| (case.as_str(), *status))
        .collect();
    all_refused(&cases).await;
}

#[tokio::test]
async fn transfer_encoding_over_http10_is_refused() {
    let (rig, log) = rig().await;
    let path = mutual("CCM_System/request");
    for more in ["", "Content-Length: 5\r\n", "Connection: keep-alive\r\n"] {
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: {HOST}\r\n{more}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        );
        let said = talk(&rig.client(), (request + &next()).as_bytes()).await;
        assert_eq!(statuses(&said), [400], "{more}");
    }
    assert_eq!(log.take(), []);
    rig.finish().await;
}

#[tokio::test]
async fn chunks_that_are_not_as_the_grammar_has_them_are_refused() {
    let long = "a".repeat(17 << 10);
    let bodies = [
        "0x1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "_1\r\nx\r\n0\r\n\r\n",
        "1_\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1 1\r\nx\r\n0\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "\r\nx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\rx\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nxx\r\n0\r\n\r\n",
        "2\r\nx\r\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        "1;a=\"\n\"\r\nx\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "0\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\nX: 1\rY: 2\r\n\r\n",
        "0\r\n: 1\r\n\r\n",
        "0\r\nX: a\x00b\r\n\r\n",
        "0\r\n",
        &format!("1;{long}\r\nx\r\n0\r\n\r\n"),
        &format!("0\r\nX: {long}{long}\r\n\r\n"),
    ];
    let cases: Vec<_> = bodies
        .iter()
        .map(|body| format!("Transfer-Encoding: chunked\r\n\r\n{body}"))
        .collect();
    let cases: Vec<_> = cases.iter().map(|case| (case.as_str(), 400)).collect();
    all_refused(&cases).await;
}

#[tokio::test]
async fn what_the_grammar_allows_is_served_and_the_next_request_is_the_next_one() {
    all_served(&[
        ("Content-Length: 2\r\n\r\nxy", "xy", true),
        ("Content-Length: 002\r\n\r\nxy", "xy", true),
        ("Content-Length:2\r\n\r\nxy", "xy", true),
        ("Content-Length: \t2 \r\n\r\nxy", "xy", true),
        // The same number twice is one number (RFC 9112 §6.3).
        (
            "Content-Length: 2\r\nContent-Length: 2\r\n\r\nxy",
            "xy",
            true,
        ),
        ("\r\n", "", true),
        ("Content-Length: 0\r\n\r\n", "", true),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", true),
        (
            "Transfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n1\r\ny\r\n0\r\n\r\n",
            "xy",
            true,
        ),
        (
            "Transfer-Encoding:\tchunked \r\n\r\n0002\r\nxy\r\n000\r\n\r\n",
            "xy",
            true,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nA;b=c;d=\"e\"\r\n0123456789\r\n0;x\r\n\r\n",
            "0123456789",
            true,
        ),
        (
            "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "x",
            true,
        ),
        (
            "Content-Length: 1\r\nTransfer_Encoding: chunked\r\n\r\n0",
            "0",
            true,
        ),
        (
            "Content_Length: 5\r\nContent-Length: 1\r\n\r\n0",
            "0",
            true,
        ),
    ])
    .await;
}

#[tokio::test]
async fn of_both_lengths_the_chunks_count_and_the_connection_ends_with_the_answer() {
    all_served(&[
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "x",
            false,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "x",
            false,
        ),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
            "",
            false,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n",
            "",
            false,
        ),
    ])
    .await;
    let (rig, log) = rig().await;
    let both = post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let said = talk(&rig.client(), both.as_bytes()).await;
    assert_eq!(said[0].field("connection"), Some("close"), "{said:?}");
    let forwarded = log.take();
    assert_eq!(forwarded[0].field("content-length"), None);
    assert_eq!(forwarded[0].field("transfer-encoding"), None);
    rig.finish().await;
}

#[tokio::test]
async fn a_lone_lf_in_the_trailers_swallows_what_follows_and_never_becomes_a_request() {
    let (rig, log) = rig().await;
    let path = mutual("SMS_MP/smuggled");
    for body in ["0\r\n\n", "0\r\nX: 1\n\r\n"] {
        // The connection goes on, so that a request could follow.
        let smuggled = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let head = "Transfer-Encoding: chunked\r\n\r\n";
        let case = format!("{}{smuggled}{}", post(&format!("{head}{body}")), next());
        let said = talk(&rig.client(), case.as_bytes()).await;
        assert_eq!(statuses(&said), [200, 200], "{body:?}: {said:?}");
        let targets: Vec<_> = log.take().into_iter().map(|seen| seen.target).collect();
        let wanted = [mutual("CCM_System/request"), mutual("SMS_MP/next")];
        assert_eq!(targets, wanted, "{body:?}");
    }
    rig.finish().await;
}
