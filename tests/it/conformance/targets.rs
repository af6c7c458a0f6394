//! What a request is for: forms of the target, Host, the scheme, and the server name of the handshake.

use super::talk::{Log, talk};
use crate::client::{empty, get};
use crate::gateway::rig::{HOST, Plan, ROOT_HOST, mutual};

/// A request line, its Host, and the status and phrase of the one answer.
type Case<'c> = (String, &'c str, (u16, &'c str));

const OK: (u16, &str) = (200, "OK");
const BAD_PATH: (u16, &str) = (400, "CMGService_BadPath");
const BAD_HOST: (u16, &str) = (400, "CMGService_BadHost");
const BAD_REQUEST: (u16, &str) = (400, "CMGService_BadRequest");
const MISDIRECTED: (u16, &str) = (421, "CMGService_Misdirected");
const CONNECT: (u16, &str) = (405, "CMGService_ConnectRefused");

async fn all(cases: &[Case<'_>]) {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    let rig = plan.start().await;
    let client = rig.client();
    let mut wrong = Vec::new();
    for (line, host, wanted) in cases {
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let said = talk(&client, head.as_bytes()).await;
        let found: Vec<_> = said
            .iter()
            .map(|said| (said.status, said.phrase.as_str()))
            .collect();
        let forwarded = log.take();
        if found != [*wanted] || forwarded.len() != usize::from(*wanted == OK) {
            wrong.push(format!("{line} ({host}): {said:?}, {forwarded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rig.finish().await;
}

#[tokio::test]
async fn a_target_has_one_form_and_no_fragment() {
    let path = mutual("SMS_MP/x");
    all(&[
        (format!("GET {path}?a=1&b=%2f..%zz"), HOST, OK),
        (format!("GET https://{HOST}{path}"), HOST, OK),
        (format!("GET HTTPS://{HOST}{path}"), HOST, OK),
        (format!("GET {path}"), "GW.openCMG.TEST.", OK),
        (format!("GET {path}"), "gw.opencmg.test:443", OK),
        (format!("GET {path}"), "gw.opencmg.test:8443", OK),
        (format!("GET {path}#f"), HOST, BAD_PATH),
        (format!("GET {path}?a#f"), HOST, BAD_PATH),
        (format!("GET {path}#"), HOST, BAD_PATH),
        (format!("GET https://{HOST}{path}#f"), HOST, BAD_PATH),
        (format!("GET {path}%zz"), HOST, BAD_PATH),
        (format!("GET {path}/100%"), HOST, BAD_PATH),
        (format!("GET {path}/%2e%2E/y"), HOST, BAD_PATH),
        (format!("GET {path}\\y"), HOST, BAD_PATH),
        (format!("GET {path}/\u{e4}"), HOST, BAD_PATH),
        ("GET *".to_owned(), HOST, BAD_PATH),
        ("OPTIONS *".to_owned(), HOST, BAD_PATH),
        (format!("GET /{path}"), HOST, BAD_PATH),
        (format!("GET {HOST}:443"), HOST, BAD_PATH),
        (
            format!("GET https://{HOST}"),
            HOST,
            (404, "CMGService_UnknownEndpoint"),
        ),
        (format!("GET {}", &path[1..]), HOST, BAD_REQUEST),
    ])
    .await;
}

#[tokio::test]
async fn a_request_is_for_the_one_host_and_scheme_of_its_connection() {
    let path = mutual("SMS_MP/x");
    all(&[
        (format!("GET http://{HOST}{path}"), HOST, MISDIRECTED),
        (format!("GET ftp://{HOST}{path}"), HOST, MISDIRECTED),
        (
            format!("GET https://{ROOT_HOST}{path}"),
            ROOT_HOST,
            MISDIRECTED,
        ),
        (format!("GET https://{ROOT_HOST}{path}"), HOST, BAD_HOST),
        (format!("GET https://u@{HOST}{path}"), HOST, BAD_HOST),
        (format!("GET https://{HOST}:{path}"), HOST, BAD_HOST),
        (format!("GET https://{path}"), HOST, BAD_REQUEST),
        (format!("GET {path}"), ROOT_HOST, MISDIRECTED),
        (format!("GET {path}"), "192.0.2.1", MISDIRECTED),
        (format!("GET {path}"), "", BAD_HOST),
        (format!("GET {path}"), "gw.opencmg.test:", BAD_HOST),
        (format!("GET {path}"), "gw.opencmg.test:x", BAD_HOST),
        (format!("GET {path}"), "gw.opencmg.test:+443", BAD_HOST),
        (format!("GET https://{HOST}:+443{path}"), HOST, BAD_HOST),
        (format!("GET {path}"), "gw.opencmg.test:65536", BAD_HOST),
        (format!("GET {path}"), "gw.\u{f6}pencmg.test", BAD_HOST),
        (
            format!("GET {path}"),
            "gw.opencmg.test, gw.opencmg.test",
            BAD_HOST,
        ),
        (format!("GET {path}"), "u@gw.opencmg.test", BAD_HOST),
        (format!("GET {path}"), "https://gw.opencmg.test", BAD_HOST),
        (format!("GET {path}"), "gw.opencmg.test/x", BAD_HOST),
        (format!("GET {path}"), "gw.opencmg.test\\x", BAD_HOST),
        (format!("CONNECT {HOST}:443"), HOST, CONNECT),
        (format!("CONNECT {path}"), HOST, CONNECT),
    ])
    .await;
}

#[tokio::test]
async fn two_hosts_are_one_too_many_wherever_they_stand_and_none_is_one_too_few() {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    let rig = plan.start().await;
    let path = mutual("SMS_MP/x");
    for fields in [
        format!("Host: {HOST}\r\nHost: {HOST}\r\n"),
        format!("Host: {HOST}\r\nX: 1\r\nhost: other.test\r\n"),
        format!("Host: {HOST}\r\nHost:\r\n"),
        "Host:\r\n".to_owned(),
        String::new(),
    ] {
        for target in [path.clone(), format!("https://{HOST}{path}")] {
            let head = format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
            let said = talk(&rig.client(), head.as_bytes()).await;
            // An absolute target names its host itself; HTTP/1.1 asks for the field all the same.
            let wanted = (400, "CMGService_BadHost");
            let found = (said[0].status, said[0].phrase.as_str());
            assert_eq!(found, wanted, "{head}");
        }
    }
    assert_eq!(log.take(), []);
    rig.finish().await;
}

#[tokio::test]
async fn a_scheme_other_than_https_is_misdirected_over_http2_as_well() {
    let rig = Plan::new().start().await;
    let mut h2 = rig.client().connect_h2().await.unwrap();
    for (scheme, status) in [("http", 421), ("https", 200)] {
        let mut request = get(&format!("{scheme}://{HOST}{}", mutual("SMS_MP/x")));
        *request.body_mut() = empty();
        let answer = h2.send(request).await.unwrap();
        assert_eq!(answer.status, status, "{scheme}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_fragment_in_a_later_request_of_a_connection_is_seen_and_forgotten_again() {
    let log = Log::default();
    let mut plan = Plan::new();
    plan.handler = log.handler();
    let rig = plan.start().await;
    let mut tls = rig.client().tls(&[b"http/1.1"]).await.unwrap();
    let path = mutual("CCM_System/request");
    for (target, host, body, status) in [
        (path.clone(), HOST, "a#b", 200),
        (format!("{path}#x"), HOST, "", 400),
        (path.clone(), HOST, "#", 200),
        // Refused for something else before the fragment is judged.
        (format!("{path}#x"), ROOT_HOST, "", 421),
        (path.clone(), HOST, "", 200),
    ] {
        use tokio::io::AsyncWriteExt;
        let length = body.len();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nX: #\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(super::talk::one(&mut tls).await.status, status, "{target}");
    }
    rig.finish().await;
}
