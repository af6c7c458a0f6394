//! What is sent again when a tunnel does not answer, and what is not. The peers are written by hand on `h2`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use opencmg::metrics::ByRole;
use opencmg::reason::Reason;
use opencmg::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::{Gateway, NEED, ROLE, fed, foreign, gateway, get, request, until};

type Received = mpsc::Receiver<(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>)>;

/// Two peers under one gateway.
async fn two() -> (Gateway, Received, Received, Tasks) {
    let gateway = gateway(&["one", "two"]);
    let tasks = Tasks::new();
    let one = foreign(gateway.pipe("one").0, &tasks).await;
    let two = foreign(gateway.pipe("two").0, &tasks).await;
    gateway.tunnels(2).await;
    (gateway, one, two, tasks)
}

/// The first request that comes to either peer, and the other peer's.
async fn first(
    one: &mut Received,
    two: &mut Received,
) -> (
    Request<h2::RecvStream>,
    h2::server::SendResponse<Bytes>,
    bool,
) {
    tokio::select! {
        Some((request, way)) = one.recv() => (request, way, true),
        Some((request, way)) = two.recv() => (request, way, false),
    }
}

fn answer(way: &mut h2::server::SendResponse<Bytes>, text: &'static str) {
    let mut body = way.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from(text), true).unwrap();
}

async fn read(mut body: h2::RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

fn retries(gateway: &Gateway) -> u64 {
    gateway
        .metrics
        .retries
        .get_or_create(&ByRole::new(ROLE))
        .get()
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_with_its_body() {
    let (gateway, mut one, mut two, _tasks) = two().await;
    let sending = gateway.send(NEED, request("CCM_POST", "/x", vec![7; 60_000]));
    let peers = async {
        let (_, mut way, was_one) = first(&mut one, &mut two).await;
        way.send_reset(h2::Reason::REFUSED_STREAM);
        let other = if was_one { &mut two } else { &mut one };
        let (request, mut way) = other.recv().await.unwrap();
        assert_eq!(request.method().as_str(), "CCM_POST");
        assert_eq!(read(request.into_body()).await, vec![7; 60_000]);
        answer(&mut way, "second");
    };
    let (answered, ()) = tokio::join!(sending, peers);
    assert_eq!(answered.unwrap().text(), "second");
    assert_eq!(retries(&gateway), 1);
}

#[tokio::test]
async fn a_refused_upload_of_which_too_much_was_read_is_lost() {
    let (gateway, mut one, mut two, _tasks) = two().await;
    let (feeder, body) = fed();
    let request = Request::post("https://gw.test/x").body(body).unwrap();
    let sending = gateway.send(NEED, request);
    let peers = async {
        for _ in 0..3 {
            let part = Bytes::from(vec![1; 30_000]);
            feeder.send(Ok(Frame::data(part))).await.unwrap();
        }
        until(|| feeder.capacity() == feeder.max_capacity()).await;
        let (_request, mut way, _) = first(&mut one, &mut two).await;
        way.send_reset(h2::Reason::REFUSED_STREAM);
    };
    let (answered, ()) = tokio::join!(sending, peers);
    assert_eq!(answered.unwrap_err().reason, Reason::TunnelLost);
    assert_eq!(retries(&gateway), 0);
}

#[tokio::test]
async fn a_refusal_everywhere_is_answered_with_the_first_reason() {
    let (gateway, mut one, mut two, _tasks) = two().await;
    let sending = gateway.get("/x");
    let peers = async {
        for _ in 0..2 {
            let (_request, mut way, _) = first(&mut one, &mut two).await;
            way.send_reset(h2::Reason::REFUSED_STREAM);
        }
    };
    let (answered, ()) = tokio::join!(sending, peers);
    assert_eq!(answered.unwrap_err().reason, Reason::TunnelLost);
    assert_eq!(retries(&gateway), 1);
}

#[tokio::test]
async fn a_request_is_sent_again_once_and_no_more() {
    let gateway = gateway(&["one", "two", "three"]);
    let (tasks, seen) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
    for name in ["one", "two", "three"] {
        let mut requests = foreign(gateway.pipe(name).0, &tasks).await;
        let seen = Arc::clone(&seen);
        tasks.spawn(async move {
            while let Some((_request, mut way)) = requests.recv().await {
                seen.fetch_add(1, Ordering::Relaxed);
                way.send_reset(h2::Reason::REFUSED_STREAM);
            }
        });
    }
    gateway.tunnels(3).await;
    let failure = gateway.get("/x").await.unwrap_err();
    assert_eq!(failure.reason, Reason::TunnelLost);
    assert_eq!((seen.load(Ordering::Relaxed), retries(&gateway)), (2, 1));
}

#[tokio::test]
async fn another_reset_is_final() {
    let (gateway, mut one, mut two, _tasks) = two().await;
    let peers = async {
        let (_request, mut way, _) = first(&mut one, &mut two).await;
        way.send_reset(h2::Reason::CANCEL);
    };
    let (answered, ()) = tokio::join!(gateway.get("/x"), peers);
    assert_eq!(answered.unwrap_err().reason, Reason::TunnelLost);
    assert_eq!(retries(&gateway), 0);
}

/// Two peers, each in tasks of its own, so that one can be cut off.
async fn two_to_cut() -> (Gateway, (Received, Tasks), (Received, Tasks)) {
    let gateway = gateway(&["one", "two"]);
    let (tasks_one, tasks_two) = (Tasks::new(), Tasks::new());
    let one = foreign(gateway.pipe("one").0, &tasks_one).await;
    let two = foreign(gateway.pipe("two").0, &tasks_two).await;
    gateway.tunnels(2).await;
    (gateway, (one, tasks_one), (two, tasks_two))
}

#[tokio::test]
async fn after_a_cut_only_safe_requests_without_body_are_sent_again() {
    for (method, body, again) in [
        ("GET", "", true),
        ("HEAD", "", true),
        ("OPTIONS", "", true),
        ("PROPFIND", "", true),
        ("PROPFIND", "<a/>", false),
        ("CCM_POST", "x", false),
        ("BITS_POST", "", false),
        ("POST", "", false),
        ("DELETE", "", false),
    ] {
        let (gateway, (mut one, tasks_one), (mut two, tasks_two)) = two_to_cut().await;
        let sending = gateway.send(NEED, request(method, "/x", body));
        let peers = async {
            let (_request, _way, was_one) = first(&mut one, &mut two).await;
            let (cut, other) = if was_one {
                (&tasks_one, &mut two)
            } else {
                (&tasks_two, &mut one)
            };
            cut.abort();
            if again {
                let (_request, mut way) = other.recv().await.unwrap();
                way.send_response(Response::new(()), true).unwrap();
            }
        };
        let (answered, ()) = tokio::join!(sending, peers);
        match answered {
            Ok(answer) => assert!(again && answer.head.status == 200, "{method} {body}"),
            Err(failure) => {
                assert_eq!(
                    (failure.reason, again),
                    (Reason::TunnelLost, false),
                    "{method} {body}"
                );
            }
        }
        assert_eq!(retries(&gateway), u64::from(again), "{method} {body}");
    }
}

#[tokio::test]
async fn after_a_byte_of_the_answer_nothing_is_sent_again() {
    let (gateway, (mut one, tasks_one), (mut two, tasks_two)) = two_to_cut().await;
    let peers = async {
        let (_request, mut way, was_one) = first(&mut one, &mut two).await;
        let mut body = way.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from("part"), false).unwrap();
        (was_one, way, body)
    };
    let (response, (was_one, _way, _body)) =
        tokio::join!(gateway.registry.send(NEED, get("/x")), peers);
    let mut body = response.unwrap().into_body();
    let part = body.frame().await.unwrap().unwrap();
    assert_eq!(part.into_data().unwrap(), "part");
    if was_one { tasks_one } else { tasks_two }.abort();
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.reason, Reason::TunnelLost);
    assert_eq!(retries(&gateway), 0);
}

/// A peer of bare frames: 404 to hello and roles, and a GOAWAY with a number below to the first request, with which it
/// may end.
async fn goes_away(mut io: DuplexStream, ends: bool) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    let mut preface = [0; 24];
    io.read_exact(&mut preface).await?;
    io.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await?;
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        io.read_exact(&mut payload).await?;
        let [id @ .., last] = [head[5], head[6], head[7], head[8]];
        if head[3] == HEADERS && last <= 3 {
            // END_STREAM and END_HEADERS; 0x8d is `:status: 404` (RFC 7541, appendix A).
            io.write_all(&[0, 0, 1, HEADERS, 5, id[0], id[1], id[2], last, 0x8d])
                .await?;
        } else if head[3] == HEADERS {
            io.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0])
                .await?;
            if ends {
                return Ok(());
            }
        }
    }
}

#[tokio::test]
async fn a_goodbye_and_the_end_in_one_read_are_no_loss() {
    let gateway = gateway(&["one"]);
    let (tasks, (io, end)) = (Tasks::new(), gateway.pipe("one"));
    tasks.spawn(async move {
        let _ = goes_away(io, true).await;
    });
    gateway.ready().await;
    let failure = gateway.get("/x").await.unwrap_err();
    assert_eq!(failure.reason, Reason::TunnelLost);
    let end = end.await.unwrap();
    assert_eq!(end.reason, None, "{end:?}");
}

#[tokio::test]
async fn a_request_above_the_number_of_a_goaway_is_sent_again_and_the_tunnel_left_alone() {
    let gateway = gateway(&["one", "two"]);
    let tasks = Tasks::new();
    let io = gateway.pipe("one").0;
    tasks.spawn(async move {
        let _ = goes_away(io, false).await;
    });
    let mut two = foreign(gateway.pipe("two").0, &tasks).await;
    gateway.tunnels(2).await;
    tasks.spawn(async move {
        while let Some((_request, mut way)) = two.recv().await {
            let _ = way.send_response(Response::new(()), true);
        }
    });
    let mut sent = 0;
    while retries(&gateway) == 0 {
        sent += 1;
        assert!(sent < 100, "the first peer was never picked");
        let answer = gateway.send(NEED, request("CCM_POST", "/x", "body")).await;
        assert_eq!(answer.unwrap().head.status, 200);
    }
    for _ in 0..50 {
        gateway.get("/x").await.unwrap();
    }
    assert_eq!(retries(&gateway), 1, "a tunnel that goes away was picked");
}
