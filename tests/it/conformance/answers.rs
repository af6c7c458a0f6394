//! What becomes of a backend's answers as they stand on the wire, through the whole chain.

use std::sync::Arc;

use super::talk::{Said, hear};
use crate::backend_servers::Raw;
use crate::world::{HOST, MANAGEMENT_POINT, Plan, World, mutual};
use tokio::io::AsyncWriteExt;

/// What the client gets.
#[derive(Clone, Copy, Debug)]
enum Out {
    /// The status and the whole body.
    Served(u16, &'static str),
    /// 502 with `backend-protocol`.
    Refused,
    /// 502, or a body that does not end.
    Broken,
}
use Out::{Broken, Refused, Served};

struct Case {
    method: &'static str,
    answer: String,
    close: bool,
    out: Out,
}

fn get(answer: &str, out: Out) -> Case {
    Case {
        method: "GET",
        answer: answer.to_owned(),
        close: false,
        out,
    }
}

fn closing(answer: &str, out: Out) -> Case {
    Case {
        close: true,
        ..get(answer, out)
    }
}

fn head(answer: &str, out: Out) -> Case {
    Case {
        method: "HEAD",
        ..get(answer, out)
    }
}

/// A backend that gives each request the answer whose number is its path, and 200 `next` to any other.
async fn start(cases: Arc<Vec<Case>>) -> (World, Raw) {
    let backend = Raw::start(move |_, mut wire| {
        let cases = cases.clone();
        async move {
            while let Some(head) = wire.head().await {
                let path = head.split(' ').nth(1).unwrap_or_default();
                let number = path
                    .rsplit('/')
                    .next()
                    .and_then(|n| n.parse::<usize>().ok());
                let Some(case) = number.map(|number| &cases[number]) else {
                    wire.answer("next").await;
                    continue;
                };
                wire.say(&case.answer).await;
                if case.close {
                    return;
                }
            }
        }
    })
    .await;
    let role = format!(
        "[[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nurl = \"{}\"\n",
        backend.url()
    );
    let world = Plan::new().connection_point_with(&role).start().await;
    (world, backend)
}

async fn ask(world: &World, method: &str, path: &str) -> Vec<Said> {
    let mut tls = world.client("pc-1").tls(&[b"http/1.1"]).await.unwrap();
    let path = mutual(&format!("SMS_MP/{path}"));
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    hear(&mut tls, method == "HEAD").await
}

/// Every case comes out as it should, and the request after it gets its own answer.
async fn all(cases: Vec<Case>) -> (World, Raw) {
    let cases = Arc::new(cases);
    let (world, backend) = start(cases.clone()).await;
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let said = ask(&world, case.method, &number.to_string()).await;
        let right = match (&said[..], case.out) {
            ([said], Served(status, body)) => {
                said.status == status && said.whole && said.text() == body
            }
            ([said], Refused) => {
                said.status == 502
                    && (case.method == "HEAD" || said.text().contains("\"backend-protocol\""))
            }
            ([said], Broken) => said.status == 502 || !said.whole,
            // The break may overtake the head.
            ([], Broken) => true,
            _ => false,
        };
        let next = ask(&world, "GET", "next").await;
        if !right || next.len() != 1 || next[0].text() != "next" {
            wrong.push(format!("{:.200?}: {said:?}, then {next:?}", case.answer));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    (world, backend)
}

#[tokio::test]
async fn an_answer_has_one_length_or_is_a_502() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let with = |fields: &str, body: &str| format!("{ok}{fields}\r\n\r\n{body}");
    let chunks = "2\r\nok\r\n0\r\n\r\n";
    let (world, _backend) = all(vec![
        get(&with("Content-Length: 2", "ok"), Served(200, "ok")),
        get(
            &with("Transfer-Encoding: chunked", chunks),
            Served(200, "ok"),
        ),
        get(
            &with("Transfer-Encoding: Chunked", "2;a=b\r\nok\r\n0\r\n\r\n"),
            Served(200, "ok"),
        ),
        closing(&with("X: 1", "until the end"), Served(200, "until the end")),
        closing("HTTP/1.0 200 OK\r\n\r\nold", Served(200, "old")),
        closing(
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            Served(200, "ok"),
        ),
        get(
            &with("Content-Length: 2\r\nTransfer-Encoding: chunked", chunks),
            Refused,
        ),
        get(
            &with("Transfer-Encoding: chunked\r\nContent-Length: 12", chunks),
            Refused,
        ),
        get(&with("Transfer-Encoding: gzip, chunked", chunks), Refused),
        get(
            &with("Transfer-Encoding: chunked, chunked", chunks),
            Refused,
        ),
        get(
            &with(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                chunks,
            ),
            Refused,
        ),
        get(&with("Transfer-Encoding: xchunked", chunks), Refused),
        closing(&with("Transfer-Encoding: gzip", "ok"), Refused),
        closing(&with("Transfer-Encoding: identity", "ok"), Refused),
        closing(
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        get(
            &with("Content-Length: 2\r\nContent-Length: 3", "ok!"),
            Refused,
        ),
        get(
            &with("Content-Length: 2\r\nContent-Length: 2", "ok"),
            Refused,
        ),
        get(&with("Content-Length: 2, 2", "ok"), Refused),
        get(&with("Content-Length: +2", "ok"), Refused),
        get(&with("Content-Length: -2", "ok"), Refused),
        get(&with("Content-Length: 0x2", "ok"), Refused),
        get(&with("Content-Length: two", "ok"), Refused),
        get(&with("Content-Length: 18446744073709551616", "ok"), Refused),
        head(&with("Content-Length: two", ""), Refused),
    ])
    .await;
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_502() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(70 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(150));
    let (world, _backend) = all(vec![
        closing("hello", Refused),
        closing("HTTP/2.0 200 OK\r\n\r\n", Refused),
        closing("HTTP/1.2 200 OK\r\n\r\n", Refused),
        closing("HTTP/1.1 99 OK\r\n\r\n", Refused),
        closing("HTTP/1.1 2000 OK\r\n\r\n", Refused),
        get(
            "HTTP/1.1 599 X\r\nContent-Length: 2\r\n\r\nok",
            Served(599, "ok"),
        ),
        get("HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n", Refused),
        get("HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", Refused),
        closing("HTTP/1.1 OK\r\n\r\n", Refused),
        closing("HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", Refused),
        closing("HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", Refused),
        closing("HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", Refused),
        closing("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", Refused),
        closing("HTTP/1.1 200 OK\r\n: 1\r\n\r\n", Refused),
        closing(&long, Refused),
        closing(&many, Refused),
        get(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            Refused,
        ),
    ])
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_body_that_is_cut_or_torn_never_ends_cleanly() {
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (world, _backend) = all(vec![
        closing(&format!("{sized}ab"), Broken),
        closing(sized, Broken),
        closing(&format!("{chunked}5\r\nab"), Broken),
        closing(&format!("{chunked}2\r\nab\r\n"), Broken),
        closing(&format!("{chunked}2\r\nab\r\n0\r\n"), Broken),
        closing(&format!("{chunked}2\r\nabc\r\n0\r\n\r\n"), Broken),
        closing(&format!("{chunked}zz\r\nab\r\n0\r\n\r\n"), Broken),
        closing(&format!("{chunked}2\nab\r\n0\r\n\r\n"), Broken),
        closing(&format!("{chunked}fffffffffffffffff\r\nab"), Broken),
        closing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Broken),
    ])
    .await;
    world.finish().await;
}

#[tokio::test]
async fn what_follows_an_answer_is_never_taken_for_the_next_one() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let (world, _backend) = all(vec![
        get(
            &format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}"),
            Served(200, "ok"),
        ),
        get(
            &format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"
            ),
            Served(200, "ok"),
        ),
        get(
            &format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"),
            Served(204, ""),
        ),
        get(
            &format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 40\r\n\r\n{evil}"),
            Served(304, ""),
        ),
        head(
            &format!("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{evil}"),
            Served(200, ""),
        ),
        get(
            &format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{evil}"),
            Served(200, ""),
        ),
    ])
    .await;
    world.finish().await;
}

#[tokio::test]
async fn interim_answers_that_nobody_asked_for_are_dropped() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let go = "HTTP/1.1 100 Continue\r\n\r\n";
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let (world, _backend) = all(vec![
        get(&format!("{go}{ok}"), Served(200, "ok")),
        get(&format!("{go}{go}{hints}{go}{ok}"), Served(200, "ok")),
        get(&format!("{hints}{ok}"), Served(200, "ok")),
        get(&format!("HTTP/1.1 199 X\r\n\r\n{ok}"), Served(200, "ok")),
    ])
    .await;
    world.finish().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_say_what_they_may() {
    let (world, _backend) = all(vec![
        get(
            "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\nX-Kept: 1\r\n\r\n",
            Served(204, ""),
        ),
        get(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\nETag: \"1\"\r\nX-Kept: 1\r\n\r\n",
            Served(304, ""),
        ),
        get(
            "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\nX-Kept: 1\r\n\r\n",
            Served(205, ""),
        ),
        head(
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Kept: 1\r\n\r\n",
            Served(200, ""),
        ),
        head(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n",
            Served(200, ""),
        ),
    ])
    .await;
    for (number, method, length) in [
        // RFC 9110 §8.6: a 204 has no Content-Length.
        (0, "GET", None),
        // It may have one in a 304 (§15.4.5), and our server leaves it out.
        (1, "GET", None),
        (2, "GET", Some("0")),
        (3, "HEAD", Some("4")),
        (4, "HEAD", None),
    ] {
        let said = ask(&world, method, &number.to_string()).await;
        assert_eq!(
            said[0].field("content-length"),
            length,
            "{number}: {said:?}"
        );
        assert_eq!(said[0].field("x-kept"), Some("1"));
    }
    world.finish().await;
}
