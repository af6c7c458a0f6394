//! What an administrator sees of a request: access log, metrics and health, with one request id on all hops.

use std::fs;
use std::path::Path;

use http::StatusCode;
use opencmg::cli::builtin::{BuiltIn, Options};

use crate::backend::{self, Backend};
use crate::client::get;
use crate::world::{Plan, World, eventually, mutual, now, plain_get};

#[tokio::test]
async fn one_request_is_one_line_one_count_and_one_id_on_all_hops() {
    let backend = Backend::start(async |request: http::Request<hyper::body::Incoming>| {
        let field = |name| request.headers()[name].to_str().unwrap().to_owned();
        backend::answer(
            200,
            format!("{} {}", field("x-request-id"), field("traceparent")),
        )
    })
    .await;
    let log = "[log.access]\nfile = \"access.json\"\nformat = \"json\"\n";
    let plan = Plan::new()
        .gateway(log)
        .gateway("[log]\nlevel = \"debug\"\n");
    let world = plan
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let gateway = &world.gateways[0];
    let client = world.client("pc-1");
    let spoofed = http::Request::get(mutual("SMS_MP/.sms_aut?MPLIST"))
        .header("x-request-id", "spoofed")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body(crate::client::empty())
        .unwrap();
    let answer = client.send(spoofed).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    let (id, trace) = body.split_once(' ').unwrap();
    assert_ne!(id, "spoofed");
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
        "{trace}"
    );
    assert!(
        !trace.contains("b7ad6b7169203331"),
        "the parent is not the gateway: {trace}"
    );

    let line = access_line(&world.dir.path().join("access.json"), id).await;
    assert_eq!(line["request_id"], id);
    assert_eq!(line["method"], "GET");
    assert_eq!(line["status"], 200);
    assert_eq!(line["client"], "pc-1");
    assert_eq!(line["endpoint"], "SMS_MP");
    assert_eq!(line["bytes_out"], body.len());
    assert_eq!(line["connection_point"], "cp-1");

    let of_endpoint = "endpoint=\"SMS_MP\"";
    assert_eq!(
        gateway.metric("opencmg_requests_total", of_endpoint).await,
        1.0
    );
    let sent = gateway
        .metric("opencmg_sent_bytes_total", of_endpoint)
        .await;
    assert_eq!(sent, body.len() as f64);
    assert_eq!(
        gateway
            .metric("opencmg_requests_in_flight", of_endpoint)
            .await,
        0.0
    );
    assert_eq!(gateway.metric("opencmg_revocation_checked", "").await, 1.0);
    let made = "opencmg_crl_this_update_seconds";
    let age = now().as_secs() as f64 - gateway.metric(made, "CN=OpenCMG Test Root").await;
    assert!((0.0..7_200.0).contains(&age), "{age}");

    assert_a_refusal_is_counted(&world).await;
    world.finish().await;
}

#[tokio::test]
async fn health_means_accepting_and_readiness_a_tunnel() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let mut world = plan.start().await;
    let health = world.gateways[0].health;
    assert_eq!(plain_get(health, "/healthz").await.0, 200);
    assert_eq!(plain_get(health, "/readyz").await.0, 200);
    world.connection_points[0].stop().await;
    eventually("not ready without a tunnel", async || {
        plain_get(health, "/readyz").await.0 == 503
    })
    .await;
    assert_eq!(plain_get(health, "/healthz").await.0, 200);
    world.connection_points[0].start();
    world.gateways[0].has_tunnels(1).await;
    assert_eq!(plain_get(health, "/readyz").await.0, 200);
    let client = world.client("pc-1");
    assert_eq!(
        client
            .send(get(&mutual("SMS_MP/.sms_aut?MPLIST")))
            .await
            .unwrap()
            .status,
        200
    );
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_hangup_reloads_and_reopens_the_logs() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let log = "[log.access]\nfile = \"access.log\"\n";
    let plan = Plan::new()
        .gateway(log)
        .connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let client = world.client("pc-1");
    let file = world.dir.path().join("access.log");
    client.get(&mutual("SMS_MP/.sms_aut?MPLIST")).await;
    eventually("the first line", async || {
        fs::read_to_string(&file).is_ok_and(|t| !t.is_empty())
    })
    .await;
    fs::rename(&file, world.dir.path().join("access.1")).unwrap();
    world.gateways[0].signal("HUP");
    eventually("a line in the new file", async || {
        client.get(&mutual("SMS_MP/.sms_aut?MPLIST")).await;
        fs::read_to_string(&file).is_ok_and(|text| text.contains("SMS_MP"))
    })
    .await;
    world.finish().await;
    backend.stop().await;
}

/// The line of the access log that has a text, once it is written.
async fn access_line(file: &Path, text: &str) -> serde_json::Value {
    let mut lines = String::new();
    eventually("the line is written", async || {
        lines = fs::read_to_string(file).unwrap_or_default();
        lines.contains(text)
    })
    .await;
    let line = lines.lines().find(|line| line.contains(text)).unwrap();
    serde_json::from_str(line).unwrap()
}

async fn assert_a_refusal_is_counted(world: &World) {
    let gateway = &world.gateways[0];
    let refused = world.anonymous().get(&mutual("SMS_MP/x")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let reason = "reason=\"certificate-missing\"";
    eventually("the refusal is counted by its reason", async || {
        gateway
            .metric("opencmg_request_failures_total", reason)
            .await
            == 1.0
    })
    .await;
}
