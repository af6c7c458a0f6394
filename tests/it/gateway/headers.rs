//! What of a request and an answer passes, and what is put in.

use http::Request;

use super::raw;
use super::rig::{HOST, MP, Plan, ROOT_HOST, Rig, SUP, answering, body, mutual, seen, server};
use crate::client::{Client, empty, full, get};

async fn rig() -> Rig {
    Plan::new().start().await
}

fn with(path: &str, fields: &[(&str, &str)]) -> Request<crate::client::Body> {
    let mut request = get(path);
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

async fn both(
    client: &Client,
    request: impl Fn() -> Request<crate::client::Body>,
) -> [super::rig::Seen; 2] {
    let one = client.send(request()).await.unwrap();
    let mut connection = client.connect_h2().await.unwrap();
    let two = connection.send(client.addressed(request())).await.unwrap();
    [seen(&one), seen(&two)]
}

#[tokio::test]
async fn path_and_query_arrive_byte_for_byte_over_both_versions() {
    let rig = rig().await;
    let path = mutual("sms_mp/.sms_aut?MPLIST2&CM1&x=%2e%2E/..%2f{}");
    for seen in both(&rig.client(), || get(&path)).await {
        assert_eq!(seen.uri, format!("https://{HOST}{path}"));
        assert_eq!(seen.method, "GET");
    }
    rig.finish().await;
}

#[tokio::test]
async fn an_absolute_target_that_names_its_host_is_served_and_another_is_refused() {
    let rig = rig().await;
    let path = mutual("SMS_MP/x?a=1");
    for (target, host, status) in [
        (HOST, HOST.to_owned(), 200),
        ("GW.OpenCMG.test:443", HOST.to_owned(), 200),
        (HOST, ROOT_HOST.to_owned(), 400),
        (ROOT_HOST, HOST.to_owned(), 400),
        (HOST, format!("{HOST}:8443"), 400),
        // It contradicts nothing in the request, but the handshake.
        (ROOT_HOST, ROOT_HOST.to_owned(), 421),
    ] {
        let get = format!("GET https://{target}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = raw::exchange(&rig.client(), &get).await;
        assert_eq!(answer.status, status, "{get}{answer:?}");
        if status == 200 {
            let seen = format!("\"uri\":\"https://{target}{path}\"");
            assert!(answer.body.contains(&seen), "{answer:?}");
        }
    }
    rig.finish().await;
}

#[tokio::test]
async fn fields_that_a_client_may_not_set_are_removed_and_ours_are_set() {
    let rig = rig().await;
    let path = mutual("SMS_MP/x");
    let request = || {
        with(
            &path,
            &[
                ("x-request-id", "theirs"),
                ("X_Request_Id", "theirs"),
                ("forwarded", "for=203.0.113.9"),
                ("x-forwarded-for", "203.0.113.9"),
                ("x_forwarded_proto", "http"),
                ("client-cert", ":AAAA:"),
                ("x-arr-clientcert", "AAAA"),
                ("ssl-client-cert", "AAAA"),
                ("True-Client-IP", "203.0.113.9"),
                ("x_client_ip", "203.0.113.9"),
                ("x-original-host", "other.test"),
                ("x-http-method", "DELETE"),
                ("opencmg-role", "1"),
                ("via", "1.1 theirs"),
                (
                    "traceparent",
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                ),
                ("ccmclientid", "GUID:1"),
                ("cookie", "a=1"),
            ],
        )
    };
    for seen in both(&rig.client(), request).await {
        let fields = &seen.fields;
        for gone in [
            "x_request_id",
            "x-forwarded-for",
            "x_forwarded_proto",
            "client-cert",
            "x-arr-clientcert",
            "ssl-client-cert",
            "true-client-ip",
            "x_client_ip",
            "x-original-host",
            "x-http-method",
            "opencmg-role",
            "via",
            "host",
            "connection",
        ] {
            assert!(!fields.contains_key(gone), "{gone}: {fields:?}");
        }
        let id = fields["x-request-id"].to_str().unwrap();
        assert!(id.len() == 32 && id != "theirs");
        assert_eq!(
            fields["forwarded"],
            format!("for=127.0.0.1;host=\"{HOST}\";proto=https")
        );
        let trace = fields["traceparent"].to_str().unwrap();
        assert!(
            trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
            "{trace}"
        );
        assert!(!trace.contains("b7ad6b7169203331"));
        assert_eq!(fields["ccmclientid"], "GUID:1");
        assert_eq!(fields["cookie"], "a=1");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_connection_field_takes_its_nominees_out_but_not_what_the_message_needs() {
    let rig = rig().await;
    let request = Request::post(mutual("CCM_System/request"))
        .header(
            "connection",
            "x-private, authorization, content-length, x-request-id, cookie",
        )
        .header("x-private", "1")
        .header("authorization", "Bearer x")
        .header("cookie", "a=b")
        .header("upgrade", "websocket")
        .body(full("12345"))
        .unwrap();
    let seen = seen(&rig.client().send(request).await.unwrap());
    assert_eq!(seen.length, 5);
    assert_eq!(seen.fields["content-length"], "5");
    assert_eq!(seen.fields["authorization"], "Bearer x");
    assert_eq!(seen.fields["cookie"], "a=b");
    assert!(seen.fields.contains_key("x-request-id"));
    for gone in ["x-private", "upgrade", "connection", "transfer-encoding"] {
        assert!(!seen.fields.contains_key(gone), "{gone}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn a_role_is_told_of_the_certificate_and_the_gateway_only_where_it_wants_to() {
    let rig = rig().await;
    let web = rig.client().named("web.opencmg.test");
    let seen_by_web = seen(&web.get("/app/x").await);
    assert_eq!(seen_by_web.fields["via"], "1.1 opencmg");
    assert!(
        seen_by_web.fields["client-cert"]
            .to_str()
            .unwrap()
            .starts_with(':')
    );
    assert!(seen_by_web.fields.contains_key("client-cert-chain"));
    let anonymous = rig.anonymous().named("web.opencmg.test");
    let request = with(
        "/app/x",
        &[("client-cert", ":AAAA:"), ("client_cert_chain", ":AAAA:")],
    );
    let seen_by_web = seen(&anonymous.send(request).await.unwrap());
    let named = |name: &&http::HeaderName| name.as_str().starts_with("client");
    assert_eq!(seen_by_web.fields.keys().find(named), None);
    let seen_by_mp = seen(&rig.client().get(&mutual("SMS_MP/x")).await);
    assert_eq!(seen_by_mp.fields.keys().find(named), None);
    rig.finish().await;
}

#[tokio::test]
async fn the_connection_point_is_told_the_role_of_a_root_publication() {
    let rig = rig().await;
    let at_root = rig.client().named(ROOT_HOST);
    let root = seen(&at_root.get("/sms_mp/x").await);
    assert_eq!(root.fields["opencmg-role"], MP.to_string());
    assert_eq!(root.uri, format!("https://{ROOT_HOST}/sms_mp/x"));
    let sup = seen(
        &rig.anonymous()
            .get(&server("ClientWebService/client.asmx"))
            .await,
    );
    assert!(
        !sup.fields.contains_key("opencmg-role"),
        "{SUP} is in the path"
    );
    rig.finish().await;
}

#[tokio::test]
async fn phrase_and_reason_of_an_answer_become_what_the_client_may_see() {
    let mut plan = Plan::new();
    plan.handler = answering(|incoming| async move {
        let mut answer = http::Response::new(body("no"));
        *answer.status_mut() = http::StatusCode::FORBIDDEN;
        let fields = answer.headers_mut();
        fields.insert(
            "opencmg-phrase",
            "CMGConnector_Clientcertificaterequired".parse().unwrap(),
        );
        fields.insert("opencmg-reason", "backend-answer".parse().unwrap());
        fields.insert(
            "proxy-status",
            "CMGConnector; error=x; details=\"inside\"".parse().unwrap(),
        );
        fields.insert("x-backend", "1".parse().unwrap());
        let _ = incoming.respond.send(answer).await;
    });
    let rig = plan.start().await;
    for (client, path, details) in [
        (rig.client(), mutual("SMS_MP/x"), true),
        (rig.anonymous(), server("Content/x"), false),
    ] {
        let answer = client.get(&path).await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.phrase, "CMGConnector_Clientcertificaterequired");
        assert_eq!(answer.headers["x-backend"], "1");
        assert!(
            !answer
                .headers
                .keys()
                .any(|name| name.as_str().starts_with("opencmg-"))
        );
        let status = answer.headers["proxy-status"].to_str().unwrap();
        assert_eq!(status.contains("inside"), details, "{status}");
    }
    rig.counts("opencmg_request_failures_total", "backend-answer", 2.0)
        .await;
    let mut h2 = rig.client().connect_h2().await.unwrap();
    let answer = h2
        .send(rig.client().addressed(get(&mutual("SMS_MP/x"))))
        .await
        .unwrap();
    assert!(
        !answer
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("opencmg-"))
    );
    rig.finish().await;
}

#[tokio::test]
async fn the_service_metadata_is_answered_by_the_gateway_itself() {
    let rig = rig().await;
    for prefix in ["CCM_Proxy_MutualAuth", "ccm_proxy_serverauth"] {
        let path = format!("/{prefix}/ServiceMetadata");
        let answer = rig.anonymous().get(&path).await;
        assert_eq!(answer.status, 200);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["service"], HOST);
        assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json["instance"], 0);
        let head = Request::head(&path).body(empty()).unwrap();
        let head = rig.anonymous().send(head).await.unwrap();
        assert_eq!(
            head.headers["content-length"],
            answer.body.len().to_string()
        );
        assert!(head.body.is_empty());
        let post = Request::post(&path).body(empty()).unwrap();
        let post = rig.anonymous().send(post).await.unwrap();
        assert_eq!(
            (post.status.as_u16(), &post.headers["allow"]),
            (405, &"GET, HEAD".parse().unwrap())
        );
    }
    rig.finish().await;
}
