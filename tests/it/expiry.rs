//! What expires: the standing alert of running processes, and `opencmg expiring`.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::pki::UnixTime;
use opencmg::pki::issue::{Leaf, RevocationList, Validity};

use crate::world::{Plan, World, eventually, now};

fn expiring(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencmg"));
    command
        .arg("expiring")
        .args(arguments)
        .current_dir(world.dir.path());
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server's certificate that ends so many days from now, and began before.
fn server(days: u64) -> Leaf {
    Leaf::server(&["*.opencmg.test"], Validity::days(now(), days))
}

#[tokio::test]
async fn what_expires_soon_is_a_standing_alert_until_it_is_renewed() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let [gateway, connection_point] = [&world.gateways[0], &world.connection_points[0]];
    let alerts = async |node: &crate::world::Node| {
        let status: serde_json::Value = serde_json::from_str(&node.status().await).unwrap();
        status["alerts"].as_array().unwrap().clone()
    };
    assert!(alerts(gateway).await.is_empty());
    assert!(alerts(connection_point).await.is_empty());
    assert_eq!(gateway.metric("opencmg_expiry_alert_days", "").await, 0.0);

    world.pki.issue_server_as(&server(6));
    gateway.says("expires soon").await;
    let log = gateway.log();
    let line = log
        .lines()
        .find(|line| line.contains("expires soon"))
        .unwrap();
    assert!(
        line.contains("use=\"server\"")
            && ["days=5 ", "days=6 "]
                .iter()
                .any(|days| line.contains(days)),
        "{line}"
    );
    assert!(
        line.contains("clients and connection points refuse the gateway"),
        "{line}"
    );
    let standing = alerts(gateway).await;
    assert_eq!(standing.len(), 1, "{standing:?}");
    assert_eq!(standing[0]["alert"], "expiring");
    assert_eq!(standing[0]["name"], "\"CN=*.opencmg.test\"");
    assert_eq!(
        gateway
            .metric("opencmg_expiry_alert_days", "use=\"server\"")
            .await,
        7.0
    );

    let leaf = Leaf::connection_point("cp-1", Validity::days(now(), 1));
    world.pki.issue(&world.pki.connection_points, "cp-1", &leaf);
    connection_point.says("expires within a day").await;
    assert_eq!(alerts(connection_point).await[0]["use"], "connection-point");

    world.pki.issue_server();
    eventually("the alert is over", async || {
        alerts(gateway).await.is_empty()
    })
    .await;
    gateway.says("expires no time soon any more").await;
    assert_eq!(
        gateway.log().matches("expires soon").count(),
        1,
        "it is told once"
    );
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn expiring_lists_everything_of_either_role_that_ends_with_days_and_what_breaks() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let out = expiring(&world, &["--config", "service/service.toml"]);
    let listed = text(&out.stdout);
    assert!(out.status.success(), "{listed}{}", text(&out.stderr));
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].starts_with(" days  ends "), "{listed}");
    let uses: Vec<_> = lines[1..]
        .iter()
        .map(|line| line.split_whitespace().nth(4).unwrap())
        .collect();
    assert_eq!(
        uses,
        [
            "crl",
            "crl",
            "server",
            "server",
            "trust-anchor",
            "intermediate",
            "connection-point-ca"
        ],
        "{listed}"
    );
    assert!(
        ["   89  20", "   90  20"]
            .iter()
            .any(|days| lines[3].starts_with(days)),
        "{listed}"
    );
    assert!(lines[3].ends_with("server               \"CN=*.opencmg.test\"; clients and connection points refuse the gateway"), "{listed}");

    let out = expiring(&world, &["--config", "cp-1.toml"]);
    let listed = text(&out.stdout);
    assert!(out.status.success(), "{listed}{}", text(&out.stderr));
    assert!(
        listed.contains("connection-point     \"CN=cp-1\"; gateways refuse this connection point"),
        "{listed}"
    );
    assert!(listed.contains("gateway-ca "), "{listed}");

    let out = expiring(
        &world,
        &["--config", "service/service.toml", "--within", "30"],
    );
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        text(&out.stdout).lines().count(),
        3,
        "the header and two CRLs: {}",
        text(&out.stdout)
    );

    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn expiring_lists_what_has_ended_though_no_gateway_would_load_it() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let past = Validity {
        not_before: at(now().as_secs() - 9 * 86_400),
        not_after: at(now().as_secs() - 86_500),
    };
    world.pki.issue_server_as(&Leaf {
        validity: past,
        ..server(1)
    });
    let list = RevocationList::empty(9, past);
    let der = world.pki.intermediate.revoke(&list).unwrap();
    world.pki.write("intermediate.crl", der);
    let out = expiring(&world, &["--config", "gateway-0.toml"]);
    let listed = text(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{listed}");
    let ended = listed
        .lines()
        .filter(|line| line.starts_with("   -2  20"))
        .count();
    assert_eq!(ended, 2, "{listed}");
    assert!(
        text(&out.stderr).starts_with("note: "),
        "{}",
        text(&out.stderr)
    );
    assert!(
        text(&out.stderr).contains("expired at"),
        "{}",
        text(&out.stderr)
    );

    // A list that was followed by another is not in force, wherever it still lies.
    world.pki.revoke(&world.pki.intermediate, "next", 10, &[]);
    let file = world.dir.path().join("service/service.toml");
    let definition = std::fs::read_to_string(&file).unwrap();
    let both = definition.replace(
        "\"../pki/intermediate.crl\"",
        "\"../pki/intermediate.crl\", \"../pki/next.crl\"",
    );
    assert_ne!(both, definition);
    std::fs::write(&file, both).unwrap();
    let out = expiring(&world, &["--config", "gateway-0.toml"]);
    let listed = text(&out.stdout);
    let ended = listed
        .lines()
        .filter(|line| line.starts_with("   -2  20"))
        .count();
    assert_eq!(ended, 1, "the server's certificate alone: {listed}");

    let out = expiring(&world, &["--config", "absent.toml"]);
    assert_eq!(out.status.code(), Some(78));
    world.finish().await;
    backend.stop().await;
}
