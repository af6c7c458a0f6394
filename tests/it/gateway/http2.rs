//! The rules of HTTP/2 that a request can break, frame by frame.

use super::frames::{
    ACK, DATA, END_STREAM, GOAWAY, HEADERS, NO_ERROR, Outcome, PADDED, PROTOCOL_ERROR, Peer,
    SETTINGS, WINDOW_UPDATE, block, frame, headers, ping, request, settings, window,
};
use super::rig::{HOST, Plan, Rig, holding, mutual};

const RESET: Outcome = Outcome::Reset(PROTOCOL_ERROR);
/// The parser may treat an error of a stream as one of the connection (RFC 9113 §5.4.2).
const GONE: Outcome = Outcome::GoAway(PROTOCOL_ERROR);

fn status(status: u16) -> Outcome {
    Outcome::Status(status)
}

/// What becomes of a request with these fields on a connection of its own, which is then still alive or said why not.
async fn judge(rig: &Rig, fields: &[(&str, &str)]) -> Outcome {
    let mut peer = Peer::connect(&rig.client(), &[]).await;
    assert!(peer.send(&headers(1, END_STREAM, &block(fields))).await);
    let outcome = peer.outcome(1).await;
    if outcome == GONE {
        return RESET;
    }
    if outcome == RESET {
        assert!(peer.is_heard().await, "the connection goes on");
    }
    outcome
}

/// The fields of a good request, some of them in place of others.
fn but<'f>(path: &'f str, changes: &[(&'f str, Option<&'f str>)]) -> Vec<(&'f str, &'f str)> {
    let good = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", path),
    ];
    let mut fields = Vec::new();
    for (name, value) in good {
        match changes.iter().find(|(changed, _)| *changed == name) {
            Some((_, Some(value))) => fields.push((name, *value)),
            Some((_, None)) => {}
            None => fields.push((name, value)),
        }
    }
    fields
}

#[tokio::test]
async fn pseudo_fields_come_first_once_and_all() {
    let rig = Plan::new().start().await;
    let path = mutual("SMS_MP/x");
    let good = but(&path, &[]);
    let with = |more: &[(&'static str, &'static str)]| [&good[..], more].concat();
    let mut late = good.clone();
    late.insert(0, ("x-a", "b"));
    for (what, fields, outcome) in [
        ("as it should be", good.clone(), status(200)),
        ("after a field", late, RESET),
        (":path twice", with(&[(":path", "/")]), RESET),
        (":method twice", with(&[(":method", "GET")]), RESET),
        (":authority twice", with(&[(":authority", HOST)]), RESET),
        (":scheme twice", with(&[(":scheme", "https")]), RESET),
        ("an unknown one", with(&[(":other", "x")]), RESET),
        ("that of answers", with(&[(":status", "200")]), RESET),
        (
            ":protocol unasked",
            with(&[(":protocol", "websocket")]),
            RESET,
        ),
        ("no :method", but(&path, &[(":method", None)]), RESET),
        ("no :scheme", but(&path, &[(":scheme", None)]), RESET),
        ("no :path", but(&path, &[(":path", None)]), RESET),
        (
            "no :authority",
            but(&path, &[(":authority", None)]),
            status(400),
        ),
    ] {
        assert_eq!(judge(&rig, &fields).await, outcome, "{what}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn fields_of_http2_are_lower_case_clean_and_of_no_connection() {
    let rig = Plan::new().start().await;
    let path = mutual("SMS_MP/x");
    for (name, value, outcome) in [
        ("x-a", "b", status(200)),
        ("X-A", "b", RESET),
        ("", "b", RESET),
        ("x a", "b", RESET),
        ("x:a", "b", RESET),
        ("x\ra", "b", RESET),
        ("x-a", "b\rc", RESET),
        ("x-a", "b\nhost: evil", RESET),
        ("x-a", "b\r\n\r\nGET / HTTP/1.1", RESET),
        ("x-a", "b\0c", RESET),
        ("x-a", " b", status(400)),
        ("x-a", "b\t", status(400)),
        ("connection", "close", RESET),
        ("keep-alive", "timeout=5", RESET),
        ("proxy-connection", "close", RESET),
        ("transfer-encoding", "chunked", RESET),
        ("upgrade", "websocket", RESET),
        ("te", "gzip", RESET),
        ("te", "trailers", status(200)),
    ] {
        let fields = [&but(&path, &[])[..], &[(name, value)]].concat();
        assert_eq!(judge(&rig, &fields).await, outcome, "{name:?}: {value:?}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn targets_of_http2_are_whole_and_of_this_server() {
    let rig = Plan::new().start().await;
    let path = mutual("SMS_MP/x");
    let bare = path.trim_start_matches('/').to_owned();
    let with = |name: &'static str, value: &'static str| but(&path, &[(name, Some(value))]);
    let host = |value: &'static str| [&but(&path, &[])[..], &[("host", value)]].concat();
    let asterisk = but("*", &[(":method", Some("OPTIONS"))]);
    let connect = but(
        &path,
        &[
            (":method", Some("CONNECT")),
            (":scheme", None),
            (":path", None),
        ],
    );
    for (what, fields, outcome) in [
        ("an empty path", but("", &[]), RESET),
        ("a path without a slash", but(&bare, &[]), RESET),
        ("a path of a fragment", but("/x#y", &[]), status(404)),
        ("a path with a space", but("/x y", &[]), RESET),
        ("a path with CR", but("/x\r\ny", &[]), RESET),
        ("a dot segment", but("/a/../b", &[]), status(400)),
        ("the asterisk of GET", but("*", &[]), status(400)),
        ("the asterisk of OPTIONS", asterisk, status(400)),
        (
            "an absolute URI",
            but("https://gw.opencmg.test/x", &[]),
            RESET,
        ),
        ("another scheme", with(":scheme", "http"), status(421)),
        ("an unknown scheme", with(":scheme", "gopher"), status(421)),
        ("no scheme at all", with(":scheme", ""), status(421)),
        (
            "another host",
            with(":authority", "other.test"),
            status(421),
        ),
        (
            "user information",
            with(":authority", "u@gw.opencmg.test"),
            status(400),
        ),
        ("an empty authority", with(":authority", ""), RESET),
        ("the same host again", host(HOST), status(200)),
        ("a host of its own", host("other.test"), status(400)),
        ("an unknown method", with(":method", "FROB"), status(405)),
        ("no method at all", with(":method", ""), RESET),
        ("CONNECT", connect, status(405)),
    ] {
        assert_eq!(judge(&rig, &fields).await, outcome, "{what}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_length_that_the_data_does_not_have_is_an_error_of_the_stream() {
    let rig = Plan::new().start().await;
    let path = mutual("CCM_System/request");
    for (lengths, data, outcome) in [
        (&["4"][..], "body", status(200)),
        (&["3"], "body", RESET),
        (&["5"], "body", RESET),
        (&["4", "4"], "body", status(200)),
        (&["4", "5"], "body", RESET),
        (&["+4"], "body", RESET),
        (&["-4"], "body", RESET),
        (&["4, 4"], "body", RESET),
        (&["0x4"], "body", RESET),
        (&["99999999999999999999"], "body", RESET),
    ] {
        let mut fields = but(&path, &[(":method", Some("POST"))]);
        fields.extend(lengths.iter().map(|length| ("content-length", *length)));
        let mut peer = Peer::connect(&rig.client(), &[]).await;
        let bytes = [
            headers(1, 0, &block(&fields)),
            frame(DATA, END_STREAM, 1, data.as_bytes()),
        ];
        assert!(peer.send(&bytes.concat()).await);
        assert_eq!(peer.outcome(1).await, outcome, "{lengths:?}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn trailers_that_hold_what_they_may_not_go_no_further_and_end_the_stream() {
    let rig = Plan::new().start().await;
    let post = request("POST", &mutual("CCM_System/request"));
    for (flags, fields, outcome) in [
        (END_STREAM, [("x-a", "b")], status(200)),
        // The parser passes it over.
        (END_STREAM, [(":path", "/x")], status(200)),
        (END_STREAM, [("connection", "close")], RESET),
        (0, [("x-a", "b")], RESET),
    ] {
        let mut peer = Peer::connect(&rig.client(), &[]).await;
        let bytes = [
            headers(1, 0, &post),
            frame(DATA, 0, 1, b"body"),
            headers(1, flags, &block(&fields)),
        ];
        assert!(peer.send(&bytes.concat()).await);
        assert_eq!(peer.outcome(1).await, outcome, "{flags} {fields:?}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn padding_is_counted_and_given_back() {
    let rig = Plan::new().start().await;
    let post = request("POST", &mutual("CCM_System/request"));
    let mut peer = Peer::connect(&rig.client(), &[]).await;
    assert!(peer.send(&headers(1, 0, &post)).await);
    // Of 256 bytes each, one is data: more than the windows of stream and connection hold, if padding stayed in them.
    let padded = frame(DATA, PADDED, 1, &[&[254, b'x'][..], &[0; 254]].concat());
    let (mut stream, mut sent) = (256_u32 << 10, 0);
    while sent < 2_u32 << 20 {
        while stream >= 256 {
            assert!(peer.send(&padded).await);
            (stream, sent) = (stream - 256, sent + 256);
        }
        let update = peer.next_of(WINDOW_UPDATE).await.unwrap();
        if update.stream == 1 {
            stream += u32::from_be_bytes(update.payload[..4].try_into().unwrap());
        }
    }
    assert!(peer.send(&frame(DATA, END_STREAM, 1, b"")).await);
    assert_eq!(peer.outcome(1).await, status(200));
    let text = String::from_utf8(peer.body(1).await).unwrap();
    assert!(
        text.contains(&format!("\"length\":{}", sent / 256)),
        "{text}"
    );

    drop(peer);
    let mut peer = Peer::connect(&rig.client(), &[]).await;
    assert!(peer.send(&headers(1, 0, &post)).await);
    // Padding as long as the payload.
    peer.send(&frame(DATA, PADDED, 1, &[4, 0, 0, 0])).await;
    assert_eq!(peer.outcome(1).await, GONE);
    rig.finish().await;
}

#[tokio::test]
async fn a_window_that_settings_make_negative_fills_again() {
    let rig = Plan::new().start().await;
    let mut peer = Peer::connect(&rig.client(), &[(4, 10)]).await;
    let get = request("GET", &mutual("SMS_MP/x"));
    assert!(peer.send(&headers(1, END_STREAM, &get)).await);
    let first = peer.next_of(DATA).await.unwrap();
    assert_eq!(first.payload.len(), 10);
    // 10 bytes are on their way: the window is -10, then 0, and only then open.
    assert!(peer.send(&settings(&[(4, 0)])).await);
    assert_eq!(peer.next_of(SETTINGS).await.unwrap().flags, ACK);
    assert!(peer.send(&[window(1, 10), ping()].concat()).await);
    loop {
        let next = peer.next().await.unwrap();
        assert_ne!(next.kind, DATA, "the window is not open");
        if next.kind == super::frames::PING {
            break;
        }
    }
    assert!(peer.send(&settings(&[(4, 65_535)])).await);
    let rest = peer.body(1).await;
    assert!(rest.starts_with(b"{") || !rest.is_empty());

    let mut peer = Peer::connect(&rig.client(), &[]).await;
    peer.send(&settings(&[(4, 1 << 31)])).await;
    assert_eq!(peer.end().await, GONE);
    rig.finish().await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_gets_the_answers_it_waits_for() {
    let (plan, release) = holding(|path| path.ends_with("held"));
    let rig = plan.start().await;
    let goodbye = frame(GOAWAY, 0, 0, &[0; 8]);

    let mut idle = Peer::connect(&rig.client(), &[]).await;
    assert!(idle.send(&goodbye).await);
    assert_eq!(idle.end().await, Outcome::GoAway(NO_ERROR));

    let mut peer = Peer::connect(&rig.client(), &[]).await;
    let get = request("GET", &mutual("SMS_MP/held"));
    assert!(peer.send(&headers(1, END_STREAM, &get)).await);
    rig.counts("opencmg_requests_in_flight", "SMS_MP", 1.0)
        .await;
    assert!(peer.send(&goodbye).await);
    assert!(peer.is_heard().await);
    release.notify_one();
    assert_eq!(peer.body(1).await, b"late");
    peer.end().await;

    // In the middle of a body: what was sent so far was a request without an end.
    let mut peer = Peer::connect(&rig.client(), &[]).await;
    let post = request("POST", &mutual("CCM_System/request"));
    assert!(peer.send(&headers(1, 0, &post)).await);
    assert!(peer.send(&frame(DATA, 0, 1, b"half")).await);
    assert!(peer.send(&goodbye).await);
    assert!(peer.send(&frame(DATA, END_STREAM, 1, b" and half")).await);
    assert_eq!(peer.outcome(1).await, status(200));
    rig.counts("opencmg_requests_in_flight", "", 0.0).await;
    rig.finish().await;
}

#[tokio::test]
async fn a_frame_that_cannot_be_is_an_error_of_the_connection_and_counted() {
    let rig = Plan::new().start().await;
    let get = request("GET", &mutual("SMS_MP/x"));
    let mut closed = 0.0;
    for (what, bytes) in [
        (
            "a block that is no HPACK",
            headers(1, END_STREAM, &[0xff; 20]),
        ),
        ("a stream of the server's", headers(2, END_STREAM, &get)),
        ("data of no stream", frame(DATA, 0, 1, b"x")),
        ("a frame above the limit", frame(DATA, 0, 1, &[0; 16_385])),
        ("a PING of seven bytes", frame(6, 0, 0, &[0; 7])),
        ("an update by nothing", window(0, 0)),
        ("a pushed stream", frame(5, 4, 1, &[0, 0, 0, 2])),
        (
            "a frame within a head",
            [frame(HEADERS, 0, 1, &get), ping()].concat(),
        ),
    ] {
        let mut peer = Peer::connect(&rig.client(), &[]).await;
        peer.send(&bytes).await;
        let outcome = peer.end().await;
        assert!(
            matches!(outcome, Outcome::GoAway(1..)),
            "{what}: {outcome:?}"
        );
        closed += 1.0;
        let refused = "opencmg_connections_refused_total";
        rig.counts(refused, "bad-request", closed).await;
    }
    rig.finish().await;
}
