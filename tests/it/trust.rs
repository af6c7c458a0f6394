//! Trust that changes while connections live: certificates, anchors and connection points replaced on disk.

use crate::served::is_served;
use std::fs;
use std::time::Duration;

use http::StatusCode;
use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::pki::issue::{Leaf, Validity, certificates_to_pem};

use rustls::pki_types::UnixTime;

use crate::world::{Node, Plan, SOFTWARE_UPDATE_POINT, World, eventually, mp_list, now, within};

/// What the design allows for a change on disk to be in force.
const IN_FORCE: Duration = Duration::from_secs(2);

async fn start() -> (World, BuiltIn) {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    (world, backend)
}

async fn finish(world: World, backend: BuiltIn) {
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_replaced_server_certificate_is_served_within_two_seconds_and_open_connections_live() {
    let (world, backend) = start().await;
    let client = world.client("pc-1");
    let mut open = client.connect().await.unwrap();
    assert!(is_served(&mut open).await);
    let shown = async || {
        let tls = client.tls(&[]).await.unwrap();
        tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    world.pki.issue_server();
    let change = eventually("the new certificate is shown", async || {
        shown().await != before
    });
    within(IN_FORCE, "the change", change).await;
    assert!(
        is_served(&mut open).await,
        "a connection that trust did not touch was harmed"
    );
    finish(world, backend).await;
}

#[tokio::test]
async fn a_replaced_anchor_closes_whom_it_verified_and_refuses_their_resumption() {
    let (world, backend) = start().await;
    let client = world.client("pc-1");
    let mut open = client.connect().await.unwrap();
    assert!(is_served(&mut open).await);
    world.pki.write(
        "root-of-servers.pem",
        fs::read(world.pki.file("root.pem")).unwrap(),
    );
    world.pki.write(
        "root.pem",
        certificates_to_pem(&[world.pki.stranger.certificate().clone()]),
    );
    let closed = eventually("the open connection is closed", async || {
        !is_served(&mut open).await
    });
    within(IN_FORCE, "the change", closed).await;
    // The same TLS configuration holds the session of the first connection and resumes it.
    let refused = client.get(&mp_list()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(refused.phrase, "CMGService_ClientCertificateUnknownIssuer");
    world.gateways[0].says("certificate-unknown-issuer").await;
    world.pki.write(
        "root.pem",
        certificates_to_pem(&[world.pki.root.certificate().clone()]),
    );
    let back = eventually("the anchor is back", async || {
        client.get(&mp_list()).await.status == StatusCode::OK
    });
    within(IN_FORCE, "the change back", back).await;
    finish(world, backend).await;
}

#[tokio::test]
async fn a_bad_set_changes_nothing_and_raises_the_metric() {
    let (world, backend) = start().await;
    let gateway = &world.gateways[0];
    let client = world.client("pc-1");
    let mut open = client.connect().await.unwrap();
    assert!(is_served(&mut open).await);
    world.pki.write("root.pem", "not a certificate");
    eventually("the metric is raised", async || {
        gateway.metric("opencmg_reloads_total", "refused").await >= 1.0
    })
    .await;
    assert!(is_served(&mut open).await);
    assert_eq!(
        client.get(&mp_list()).await.status,
        StatusCode::OK,
        "the last good set is not in force"
    );
    gateway.says("root.pem").await;

    // The two files changed for one another.
    let [root, intermediate] = [&world.pki.root, &world.pki.intermediate]
        .map(|authority| certificates_to_pem(&[authority.certificate().clone()]));
    world.pki.write("root.pem", &intermediate);
    world.pki.write("intermediate.pem", &root);
    gateway.says("is no root but issued by").await;
    gateway.says("is a root (list it as a trust anchor)").await;
    assert!(is_served(&mut open).await);
    finish(world, backend).await;
}

#[tokio::test]
async fn a_connection_point_taken_out_of_the_definition_loses_its_tunnels_within_two_seconds() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let plan = Plan::new()
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let world = plan.start().await;
    let file = world.dir.path().join("service/service.toml");
    let text = fs::read_to_string(&file).unwrap();
    let without = text
        .replace("[[connection-point]]\nname = \"cp-2\"\n", "")
        .replace("[\"cp-1\", \"cp-2\"]", "[\"cp-1\"]");
    assert_ne!(text, without);
    fs::write(&file, without).unwrap();
    let gone = eventually("the tunnels of cp-2 are closed", async || {
        world.gateways[0].tunnel_names().await.len() == 1
    });
    within(IN_FORCE, "the change", gone).await;
    world.connection_points[1]
        .says("connection-point-removed")
        .await;
    assert_eq!(
        world.client("pc-1").get(&mp_list()).await.status,
        StatusCode::OK
    );
    finish(world, backend).await;
}

#[tokio::test]
async fn a_refused_certificate_is_named_in_the_log_and_in_the_phrase() {
    let (world, backend) = start().await;
    let ago = |hours: u64| {
        UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() - hours * 3600))
    };
    let past = Validity {
        not_before: ago(48),
        not_after: ago(1),
    };
    let pki = &world.pki;
    pki.issue(&pki.intermediate, "late", &Leaf::client("late.corp", past));
    pki.issue(
        &pki.intermediate,
        "server-only",
        &Leaf::server(&["pc-3"], Validity::days(now(), 9)),
    );
    for (name, phrase) in [
        ("late", "CMGService_ClientCertificateExpired"),
        ("stranger", "CMGService_ClientCertificateUnknownIssuer"),
        ("server-only", "CMGService_ClientCertificateWrongUsage"),
    ] {
        let answer = world.client(name).get(&mp_list()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_eq!(answer.phrase, phrase);
        assert_eq!(answer.headers["connection"], "close");
    }
    world.gateways[0].says("late.corp").await;
    finish(world, backend).await;
}

/// The first line of a node's log with a word in it, without its time and with what differs from run to run masked.
async fn line(node: &Node, word: &str) -> String {
    node.says(word).await;
    let log = node.log();
    let line = log.lines().find(|line| line.contains(word)).unwrap();
    let mask = |word: &str| match word.split_once('=') {
        Some((key @ ("remote" | "address"), _)) => format!("{key}=ADDRESS"),
        Some((key @ "next", _)) => format!("{key}=TIME"),
        Some(_) | None => word.to_owned(),
    };
    let words: Vec<_> = line.split_whitespace().skip(1).map(mask).collect();
    words.join(" ")
}

#[tokio::test]
async fn a_connection_point_that_may_not_come_in_is_told_why() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let plan = Plan::new()
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let mut world = plan.start().await;
    world.connection_points[0].stop().await;
    let pki = &world.pki;
    let days = Validity::days(now(), 9);

    pki.issue(
        &pki.connection_points,
        "cp-1",
        &Leaf::connection_point("cp-9", days),
    );
    world.connection_points[0].start();
    assert_eq!(
        line(&world.gateways[0], "cp-9").await,
        "WARN opencmg::tunnel::accept: a tunnel is refused connection_point=cp-9 remote=ADDRESS \
         reason=unknown-connection-point"
    );
    assert_eq!(
        line(&world.connection_points[0], "unknown-connection-point").await,
        "ERROR opencmg::tunnel::supervisor: the gateway refuses this connection point until an administrator \
         changes it gateway=gw.opencmg.test address=ADDRESS reason=unknown-connection-point next=TIME"
    );
    world.connection_points[0].stop().await;

    let pki = &world.pki;
    pki.issue(&pki.stranger, "cp-1", &Leaf::connection_point("cp-1", days));
    world.connection_points[0].start();
    assert_eq!(
        line(&world.gateways[0], "tunnel-not-authenticated").await,
        "WARN opencmg::listener: a tunnel is refused remote=ADDRESS reason=tunnel-not-authenticated \
         detail=\"certificate-unknown-issuer: certificate \\\"CN=cp-1\\\" is issued by \\\"CN=Stranger Root\\\", \
         which is no trust anchor or intermediate here and was not presented\""
    );
    assert_eq!(
        line(&world.connection_points[0], "connection-point CA").await,
        "WARN opencmg::tunnel::supervisor: a tunnel is lost gateway=gw.opencmg.test address=ADDRESS \
         reason=tunnel-lost detail=the gateway refuses this connection point: its certificate does not chain to \
         the service's connection-point CA (TLS alert UnknownCA) next=TIME"
    );
    world.connection_points[0].stop().await;
    finish(world, backend).await;
}

#[tokio::test]
async fn a_role_that_a_connection_point_may_not_serve_is_ignored_and_told() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let plan = Plan::new()
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let mut world = plan.start().await;
    world.connection_points[1].stop().await;
    let file = world.dir.path().join("service/service.toml");
    let text = fs::read_to_string(&file).unwrap();
    let (head, last) = text
        .rsplit_once("connection-points = [\"cp-1\", \"cp-2\"]")
        .unwrap();
    fs::write(&file, format!("{head}connection-points = [\"cp-1\"]{last}")).unwrap();
    let gateway = &world.gateways[0];
    eventually("the change is in force", async || {
        gateway.metric("opencmg_reloads_total", "applied").await >= 1.0
    })
    .await;
    world.connection_points[1].start();
    let told = format!(
        "connection point \"cp-2\" publishes role {SOFTWARE_UPDATE_POINT}, \
         which the service definition does not let it serve: ignored"
    );
    assert_eq!(
        line(&world.gateways[0], "publishes role").await,
        format!("WARN opencmg::tunnel::accept: {told} reason=\"role-not-allowed\"")
    );
    assert_eq!(
        world.gateways[0].tunnel_names().await.len(),
        2,
        "its other role is served on"
    );
    finish(world, backend).await;
}
