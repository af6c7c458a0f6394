//! The pool of connections to a backend, and what happens when one breaks: against nginx and scripted sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use opencmg::backend::{BackendSettings, NoChallengeLeft, Terms};
use opencmg::reason::Reason;
use opencmg::role::Health;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use crate::backend_servers::{Raw, Server, Subject, request, settings};
use crate::client::spawn;
use crate::world::{eventually, free_address, within};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn sockets_are_the_requests_in_flight_and_a_bounded_idle_pool_that_ages() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let server = Raw::start(move |_, mut wire| {
        let held = held.clone();
        async move {
            while wire.head().await.is_some() {
                held.acquire().await.unwrap().forget();
                wire.answer("x").await;
            }
        }
    })
    .await;
    let subject = Arc::new(Subject::new(BackendSettings {
        idle_connections: 4,
        idle_timeout: SECOND,
        ..settings(&server.url())
    }));
    assert_eq!(
        subject.open(),
        0,
        "nothing is dialled before the first request"
    );
    let flights: Vec<_> = (0..20)
        .map(|_| {
            let subject = subject.clone();
            spawn(async move {
                let answer = subject.send(request("GET", "/", "")).await.unwrap();
                assert_eq!(answer.status(), 200);
            })
        })
        .collect();
    eventually("20 requests are in flight", async || {
        server.accepted() == 20
    })
    .await;
    assert_eq!((subject.open(), subject.idle()), (20, 0));
    gate.add_permits(20);
    for flight in flights {
        flight.await.unwrap();
    }
    eventually("only the idle pool is left", async || subject.open() == 4).await;
    assert_eq!(subject.idle(), 4);
    eventually("idle connections age", async || subject.open() == 0).await;
    assert_eq!(subject.idle(), 0);
    let subject = Arc::into_inner(subject).unwrap();
    subject.finish().await;
}

#[tokio::test]
async fn the_connection_given_back_last_is_taken_first() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let server = Raw::start(move |number, mut wire| {
        let held = held.clone();
        async move {
            while let Some(head) = wire.head().await {
                if head.starts_with("GET /hold") {
                    held.acquire().await.unwrap().forget();
                }
                wire.answer(&number.to_string()).await;
            }
        }
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    let (first, last) = {
        let first = subject.send(request("GET", "/hold", ""));
        tokio::pin!(first);
        tokio::select! {
            _ = &mut first => panic!("it is held"),
            () = eventually("the first is in flight", async || server.accepted() == 1) => (),
        }
        let second = subject.send(request("GET", "/", "")).await.unwrap();
        gate.add_permits(1);
        let first = first.await.unwrap();
        (second.into_body(), first.into_body())
    };
    assert_eq!((&first[..], &last[..]), (&b"1"[..], &b"0"[..]));
    for _ in 0..3 {
        let next = subject.send(request("GET", "/", "")).await.unwrap();
        assert_eq!(next.body(), &last);
    }
    subject.finish().await;
}

#[tokio::test]
async fn a_connection_that_nginx_closed_while_idle_is_noticed() {
    let server = Server::nginx(
        "keepalive_timeout 1s; server { listen @ADDRESS@; location / { return 200 ok; } }",
    )
    .await;
    let subject = Subject::new(settings(&server.url("http")));
    assert_eq!(
        subject.send(request("GET", "/", "")).await.unwrap().body(),
        "ok"
    );
    assert_eq!(subject.open(), 1);
    eventually("nginx closes the idle connection", async || {
        subject.open() == 0
    })
    .await;
    let post = subject.send(request("POST", "/", "abc")).await.unwrap();
    assert_eq!(
        post.body(),
        "ok",
        "even what cannot be repeated goes through"
    );
    assert_eq!(subject.dials(), 2);
    subject.finish().await;
}

#[tokio::test]
async fn what_cannot_be_repeated_passes_a_connection_that_was_closed_a_moment_ago() {
    let (closed, mut told) = mpsc::channel(9);
    let server = Raw::start(move |_, mut wire| {
        let closed = closed.clone();
        async move {
            if wire.head().await.is_some() {
                wire.answer("x").await;
            }
            drop(wire);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    let get = subject.send(request("GET", "/", "")).await;
    assert_eq!(get.unwrap().body(), "x");
    told.recv().await.unwrap();
    // What happened to a socket is known once another is connected.
    drop(TcpStream::connect(server.address).await.unwrap());
    let post = subject.send(request("POST", "/", "")).await;
    assert_eq!(post.unwrap().body(), "x");
    assert_eq!(subject.dials(), 2);
    subject.finish().await;
}

#[tokio::test]
async fn a_request_goes_out_whole_behind_an_early_answer_of_which_nobody_reads_more() {
    const LENGTH: usize = 32 << 20;
    let (read, mut told) = mpsc::channel(1);
    let server = Raw::start(move |_, mut wire| {
        let read = read.clone();
        async move {
            wire.head().await.unwrap();
            wire.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
                .await;
            read.send(wire.body(LENGTH).await.len()).await.unwrap();
            wire.say("done").await;
        }
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    let post = request("POST", "/", vec![7; LENGTH]);
    let answer = subject.backend.send(post, Terms::default()).await.unwrap();
    let all = within(30 * SECOND, "the request", told.recv()).await;
    assert_eq!(all, Some(LENGTH));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "done");
    subject.finish().await;
}

#[tokio::test]
async fn a_connection_that_belongs_to_a_client_is_let_go_when_its_server_closes_it() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let server = Raw::start(move |_, mut wire| {
        let held = held.clone();
        async move {
            wire.head().await.unwrap();
            wire.answer("x").await;
            held.acquire().await.unwrap().forget();
        }
    })
    .await;
    let subject = Subject::new(BackendSettings {
        connection_auth: true,
        idle_timeout: 3_600 * SECOND,
        ..settings(&server.url())
    });
    let terms = Terms {
        client: Some("a".to_owned()),
        ..Terms::default()
    };
    let answer = subject.backend.send(request("GET", "/", ""), terms).await;
    let body = answer.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "x");
    assert_eq!(subject.open(), 1);
    gate.add_permits(1);
    eventually("nothing is left open", async || subject.open() == 0).await;
    subject.finish().await;
}

/// A server that answers the first request of its first connection and hangs up at the second, having read it.
async fn hangs_up_once() -> Raw {
    Raw::start(|number, mut wire| async move {
        wire.head().await.unwrap();
        wire.answer("first").await;
        while wire.head().await.is_some() && number > 0 {
            wire.answer("again").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_get_that_broke_on_a_used_connection_goes_out_once_more_on_a_fresh_one() {
    let server = hangs_up_once().await;
    let subject = Subject::new(settings(&server.url()));
    for _ in 0..3 {
        let answer = subject.send(request("GET", "/", "")).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(server.accepted(), 2);
    subject.finish().await;
}

#[tokio::test]
async fn a_post_that_may_have_been_seen_is_not_sent_twice() {
    for (method, body) in [("CCM_POST", "body"), ("BITS_POST", "")] {
        let server = hangs_up_once().await;
        let subject = Subject::new(settings(&server.url()));
        subject.send(request("GET", "/", "")).await.unwrap();
        let failure = subject.send(request(method, "/", body)).await.unwrap_err();
        assert_eq!(failure.reason, Reason::BackendBroken, "{failure}");
        assert_eq!(server.accepted(), 1, "{method}");
        subject.finish().await;
    }
}

#[tokio::test]
async fn a_get_that_broke_on_a_fresh_connection_is_not_repeated() {
    let server = Raw::start(|_, mut wire| async move {
        wire.head().await.unwrap();
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackendBroken);
    assert_eq!(server.accepted(), 1);
    subject.finish().await;
}

#[tokio::test]
async fn an_answer_that_dies_midway_is_an_error_and_never_a_clean_end() {
    for start in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let server = Raw::start(move |_, mut wire| async move {
            wire.head().await.unwrap();
            wire.say(start).await;
        })
        .await;
        let subject = Subject::new(settings(&server.url()));
        let answer = subject.start(request("GET", "/", "")).await.unwrap();
        let error = answer.into_body().collect().await.unwrap_err();
        assert_eq!(error.reason, Reason::BackendBroken, "{start}");
        eventually("its socket is closed", async || subject.open() == 0).await;
        subject.finish().await;
    }
}

#[tokio::test]
async fn what_is_not_http_is_told_apart_from_a_broken_connection() {
    for junk in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let server = Raw::start(move |_, mut wire| async move {
            wire.head().await.unwrap();
            wire.say(junk).await;
            wire.head().await;
        })
        .await;
        let subject = Subject::new(settings(&server.url()));
        let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
        assert_eq!(failure.reason, Reason::BackendProtocol, "{failure}");
        subject.finish().await;
    }
}

#[tokio::test]
async fn a_backend_that_refuses_connections_is_unhealthy_until_it_takes_one_again() {
    let address = free_address();
    let subject = Subject::new(settings(&format!("http://{address}")));
    let mut health = subject.backend.health();
    for _ in 0..3 {
        assert_eq!(*health.borrow(), Health::Healthy);
        let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
        assert_eq!(failure.reason, Reason::BackendUnreachable);
        assert!(failure.detail.contains("onnection refused"), "{failure}");
    }
    assert_eq!(*health.borrow_and_update(), Health::Unhealthy);
    let server = Raw::start_at(address, |_, mut wire| async move {
        while wire.head().await.is_some() {
            wire.answer("back").await;
        }
    })
    .await;
    within(30 * SECOND, "the probe heals it", health.changed())
        .await
        .unwrap();
    assert_eq!(*health.borrow(), Health::Healthy);
    assert!(server.accepted() > 0, "without any request");
    subject.finish().await;
}

#[tokio::test]
async fn a_backend_that_takes_no_connection_in_time_is_unreachable() {
    // A full backlog swallows the SYN.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(tcp)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
    {
        fill.push(tcp);
    }
    let subject = Subject::new(BackendSettings {
        connect_timeout: Duration::from_millis(300),
        ..settings(&format!("http://{address}"))
    });
    let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackendUnreachable);
    assert!(failure.detail.contains("no answer in"), "{failure}");
    subject.finish().await;
}

#[tokio::test]
async fn an_answer_has_its_time_counted_from_the_end_of_the_request_and_a_long_poll_has_none() {
    let (polled, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Raw::start({
        let (polled, gate) = (polled.clone(), gate.clone());
        move |_, mut wire| {
            let (polled, gate) = (polled.clone(), gate.clone());
            async move {
                let head = wire.head().await.unwrap();
                if head.starts_with("GET /poll") {
                    polled.notify_one();
                    gate.notified().await;
                    wire.answer("at last").await;
                }
                wire.head().await;
            }
        }
    })
    .await;
    let subject = Subject::new(BackendSettings {
        response_timeout: SECOND,
        progress_timeout: SECOND,
        ..settings(&server.url())
    });
    let terms = Terms {
        long_poll: true,
        ..Terms::default()
    };
    let poll = subject.backend.send(request("GET", "/poll", ""), terms);
    // Two requests that come after the poll run out of their time, one after the other; the poll does not.
    let others = async {
        polled.notified().await;
        for _ in 0..2 {
            let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
            assert_eq!(failure.reason, Reason::BackendTimeout);
        }
        gate.notify_one();
    };
    let (answer, ()) = tokio::join!(poll, others);
    let body = answer.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "at last");
    subject.finish().await;
}

#[tokio::test]
async fn an_answers_body_has_to_make_progress() {
    let gate = Arc::new(Notify::new());
    let server = Raw::start({
        let gate = gate.clone();
        move |_, mut wire| {
            let gate = gate.clone();
            async move {
                if wire.head().await.unwrap().starts_with("GET /drip") {
                    wire.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na")
                        .await;
                    gate.notified().await;
                    wire.say("b").await;
                }
                wire.head().await;
            }
        }
    })
    .await;
    let subject = Subject::new(BackendSettings {
        progress_timeout: SECOND,
        response_timeout: SECOND * 6 / 10,
        ..settings(&server.url())
    });
    let answer = subject.start(request("GET", "/drip", "")).await.unwrap();
    let mut body = answer.into_body();
    let mut next = async || body.frame().await.unwrap();
    assert_eq!(next().await.unwrap().into_data().unwrap(), "a");
    // A request that runs out of its time measures what the body has used up of its own.
    let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackendTimeout);
    gate.notify_one();
    assert_eq!(next().await.unwrap().into_data().unwrap(), "b");
    let since = Instant::now();
    assert_eq!(next().await.unwrap_err().reason, Reason::BackendTimeout);
    let waited = since.elapsed();
    assert!(waited > SECOND * 9 / 10, "b was no progress: {waited:?}");
    eventually("its socket is closed", async || subject.open() == 0).await;
    subject.finish().await;
}

#[tokio::test]
async fn a_head_that_http_sys_would_refuse_is_refused_with_a_reason() {
    let server = Server::nginx("server { listen @ADDRESS@; location / { return 200 ok; } }").await;
    let subject = Subject::new(settings(&server.url("http")));
    let mut large = request("GET", "/", "");
    let value = "x".repeat(15 << 10).parse().unwrap();
    large.headers_mut().insert("x-large", value);
    let failure = subject.send(large).await.unwrap_err();
    assert_eq!(failure.reason, Reason::BackendHeadTooLarge);
    assert_eq!(subject.dials(), 0);
    subject.finish().await;
}

#[tokio::test]
async fn a_request_that_is_dropped_closes_its_socket() {
    let (closed, mut seen) = mpsc::channel(1);
    let server = Raw::start(move |_, mut wire| {
        let closed = closed.clone();
        async move {
            wire.head().await.unwrap();
            assert!(wire.head().await.is_none());
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    {
        let flight = subject.send(request("GET", "/", ""));
        tokio::pin!(flight);
        tokio::select! {
            _ = &mut flight => panic!("there is no answer"),
            () = eventually("it is in flight", async || server.accepted() == 1) => (),
        }
    }
    within(10 * SECOND, "the server sees the end", seen.recv())
        .await
        .unwrap();
    eventually("no socket is left", async || subject.open() == 0).await;
    subject.finish().await;
}

#[tokio::test]
async fn more_requests_than_the_capacity_are_refused() {
    let server =
        Raw::start(|_, mut wire| async move { while wire.head().await.is_some() {} }).await;
    let subject = Subject::new(BackendSettings {
        capacity: 1,
        ..settings(&server.url())
    });
    let flight = subject.send(request("GET", "/", ""));
    tokio::pin!(flight);
    tokio::select! {
        _ = &mut flight => panic!("there is no answer"),
        () = eventually("it is in flight", async || server.accepted() == 1) => (),
    }
    let failure = subject.send(request("GET", "/", "")).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Overloaded);
}

#[tokio::test]
async fn the_servers_100_is_told_before_its_answer() {
    let server = Raw::start(|_, mut wire| async move {
        let head = wire.head().await.unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        wire.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = wire.body(5).await;
        wire.answer(std::str::from_utf8(&body).unwrap()).await;
        wire.head().await;
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    let told = Arc::new(Notify::new());
    let tell = told.clone();
    let terms = Terms {
        on_continue: Some(Arc::new(move || tell.notify_one())),
        ..Terms::default()
    };
    let mut post = request("POST", "/", "hello");
    let expect = "100-continue".parse().unwrap();
    post.headers_mut().insert("expect", expect);
    let answer = subject.backend.send(post, terms).await.unwrap();
    within(SECOND, "the 100 was told", told.notified()).await;
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "hello"
    );
    subject.finish().await;
}

#[tokio::test]
async fn a_final_answer_before_the_body_was_sent_comes_through_and_ends_the_connection() {
    let (gate, (ended, mut seen)) = (Arc::new(Notify::new()), mpsc::channel(1));
    let server = Raw::start({
        let gate = gate.clone();
        move |_, mut wire| {
            let (gate, ended) = (gate.clone(), ended.clone());
            async move {
                wire.head().await.unwrap();
                wire.say("HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig")
                    .await;
                gate.notified().await;
                // What is left of the body in the sockets, and then the end.
                let (mut part, mut rest) = (vec![0; 64 << 10], 0);
                while let Ok(read @ 1..) = wire.0.read(&mut part).await {
                    rest += read;
                }
                ended.send(rest).await.unwrap();
            }
        }
    })
    .await;
    let subject = Subject::new(settings(&server.url()));
    // More than the sockets hold: while the server reads nothing it cannot have been sent.
    let body = Bytes::from(vec![0; 64 << 20]);
    let answer = subject.send(request("POST", "/", body)).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.body()[..]),
        (413, &b"big"[..])
    );
    eventually("the connection is not kept", async || subject.open() == 0).await;
    assert_eq!(subject.idle(), 0);
    gate.notify_one();
    let rest = within(10 * SECOND, "the server sees the end", seen.recv()).await;
    assert!(rest.unwrap() < 64 << 20, "all of the body was sent");
    subject.finish().await;
}

/// A server that demands NTLM, and takes for authenticated whatever comes over a connection after credentials did.
async fn ntlm() -> Raw {
    Raw::start(|number, mut wire| async move {
        let mut authenticated = false;
        while let Some(head) = wire.head().await {
            authenticated |= head.contains("authorization: NTLM");
            if authenticated {
                wire.answer(&number.to_string()).await;
            } else {
                let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n";
                wire.say(refusal).await;
            }
        }
    })
    .await
}

fn authenticated() -> http::Request<http_body_util::Full<Bytes>> {
    let mut request = request("GET", "/", "");
    let credentials = "NTLM TlRMTVNTUAAB".parse().unwrap();
    request.headers_mut().insert("authorization", credentials);
    request
}

#[tokio::test]
async fn ntlm_meets_no_shared_connection() {
    let server = ntlm().await;
    let subject = Subject::new(settings(&server.url()));
    let answer = subject.send(authenticated()).await.unwrap();
    assert_eq!(answer.status(), 401, "the credentials were not sent");
    assert!(!answer.headers().contains_key("www-authenticate"));
    assert!(answer.extensions().get::<NoChallengeLeft>().is_some());
    subject.finish().await;
}

#[tokio::test]
async fn with_connection_auth_a_backend_connection_belongs_to_one_client_connection() {
    let server = ntlm().await;
    let subject = Subject::new(BackendSettings {
        connection_auth: true,
        idle_timeout: SECOND,
        ..settings(&server.url())
    });
    let of = |client: &str| Terms {
        client: Some(client.to_owned()),
        ..Terms::default()
    };
    let plain = || request("GET", "/", "");
    let send = async |request, client: &str| {
        let answer = subject.backend.send(request, of(client)).await.unwrap();
        let (head, body) = answer.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    };
    let (head, _) = send(plain(), "a").await;
    assert_eq!(head.status, 401);
    assert_eq!(head.headers.get_all("www-authenticate").iter().count(), 2);
    let (head, number) = send(authenticated(), "a").await;
    assert_eq!(
        head.status, 200,
        "NTLM reaches the server on the connection of its client"
    );
    let (head, again) = send(plain(), "a").await;
    assert_eq!((head.status.as_u16(), &again), (200, &number));
    let (head, _) = send(plain(), "b").await;
    assert_eq!(
        head.status, 401,
        "another client is not authenticated by it"
    );
    let answer = subject.send(plain()).await.unwrap();
    assert_eq!(
        answer.status(),
        401,
        "nor is one whose connection is not known"
    );
    eventually("idle ones are released", async || subject.open() == 0).await;
    subject.finish().await;
}
