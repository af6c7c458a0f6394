//! `opencmg status`: what a running process says of itself, and what is said where none answers.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::pki::issue::{Leaf, Validity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::client::spawn;
use crate::world::{MANAGEMENT_POINT, Plan, eventually, now, within};

async fn status(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_opencmg"));
    command.arg("status").args(arguments).current_dir(folder);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within(Duration::from_secs(30), "a report", command.output());
    output.await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn status_tells_of_either_role_what_is_wrong_and_what_is_there() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .revocation("urls = [\"http://127.0.0.1:1/root.crl\"]\n")
        .start()
        .await;
    let folder = world.dir.path();
    world
        .pki
        .issue_server_as(&Leaf::server(&["*.opencmg.test"], Validity::days(now(), 6)));
    world.gateways[0].says("expires soon").await;
    world.gateways[0].says("a CRL cannot be fetched").await;

    let out = status(folder, &["--config", "gateway-0.toml"]).await;
    let told = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{told}{}", text(&out.stderr));
    for line in [
        "gateway gw.opencmg.test, instance 0: version ",
        "it takes work",
        "a CRL cannot be fetched (",
        "server \"CN=*.opencmg.test\" ends in ",
        "cp-1 (127.0.0.1:",
        " and 0 long polls under way, 2 roles",
        &format!("{MANAGEMENT_POINT} (management-point): served by 2 tunnels, of cp-1"),
        "revocation is checked",
        "CRL 01 of CN=OpenCMG Test Intermediate (key ",
        ": 0 revoked, ",
        "next update in ",
        "fetched from http://127.0.0.1:1/root.crl: failed ",
        &format!("admin: {}", world.gateways[0].admin),
    ] {
        assert!(told.contains(line), "{line} is missing:\n{told}");
    }
    let raw = status(folder, &["--config", "gateway-0.toml", "--json"]).await;
    let raw: serde_json::Value = serde_json::from_slice(&raw.stdout).unwrap();
    assert_eq!(raw["service"], "gw.opencmg.test");

    let out = status(folder, &["--config", "cp-1.toml"]).await;
    let told = text(&out.stdout);
    assert!(told.starts_with("connection point: version "), "{told}");
    assert!(told.contains("Needs attention\n  nothing\n"), "{told}");
    assert!(told.contains("gw.opencmg.test instance 0 ("), "{told}");
    assert!(
        told.contains(&format!("{MANAGEMENT_POINT}: healthy")),
        "{told}"
    );

    // A file that is wrong elsewhere still says where to ask; the wrong process is not taken for the right one.
    let file = folder.join("gateway-0.toml");
    let right = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{right}[nonsense]\n")).unwrap();
    let out = status(folder, &["--config", "gateway-0.toml"]).await;
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let other = world.connection_points[0].admin.to_string();
    let out = status(folder, &["--config", "gateway-0.toml", "--address", &other]).await;
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(said.contains("a connection point answers"), "{said}");
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn status_says_that_a_gateway_has_no_tunnel_left() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let mut world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    world.connection_points[0].stop().await;
    eventually("it is told", async || {
        let out = status(world.dir.path(), &["--config", "gateway-0.toml"]).await;
        text(&out.stdout)
            .contains("no connection point has a tunnel: every request is answered 503")
    })
    .await;
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn status_says_why_it_has_no_answer_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("gateway.toml", "[gateway]\nadmin = \"127.0.0.1:0\"\n");
    write("cp.toml", "[connection-point]\n");
    write("other.toml", "name = \"x\"\n");
    write(
        "service.toml",
        "[trust]\n[[connection-point]]\nname = \"cp-1\"\n",
    );
    write("open.toml", "[gateway]\nadmin = \"192.0.2.1:9440\"\n");
    let tells = async |arguments: &[&str], code: i32, said: &str| {
        let out = status(folder, arguments).await;
        let told = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(said), "{arguments:?}: {told}");
    };
    for (file, said) in [
        (
            "gateway.toml",
            "gateway.toml: gateway.admin: is any port that is free",
        ),
        (
            "cp.toml",
            "cp.toml: connection-point.admin: names no administration listener, and the process cannot be asked (\"127.0.0.1:9441\"",
        ),
        ("open.toml", "gateway.admin: is not a loopback address"),
        ("other.toml", "configures neither role"),
        (
            "service.toml",
            "service.toml: is a service definition, which configures no process (the gateway.toml of",
        ),
        ("absent.toml", "absent.toml"),
    ] {
        tells(&["--config", file], 78, said).await;
    }
    tells(&[], 64, "--config <FILE>").await;
    let nobody = "nothing answers at 127.0.0.1:1: the process is not running";
    for (address, said) in [
        ("127.0.0.1:1", nobody),
        ("a b", "a b is no address to ask at"),
        ("nowhere.invalid:1", "nowhere.invalid:1 cannot be resolved"),
    ] {
        tells(&["--address", address], 1, said).await;
    }
}

/// Takes one connection and answers its head with these bytes, or never.
async fn foreign(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = tcp.read(&mut head).await.unwrap();
        if let Some(answer) = answer {
            tcp.write_all(answer.as_bytes()).await.unwrap();
        }
        // Until the command goes.
        let _ = tcp.read(&mut head).await;
    });
    address
}

#[tokio::test]
async fn status_takes_no_foreign_answer_and_no_silence_for_a_status() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
            "its answer is no JSON",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "its answer is no status",
        ),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "was answered with 404",
        ),
        (
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            "it says that nothing has changed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            "its answer is larger",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", "was not answered well"),
    ];
    for (answer, said) in cases {
        let address = foreign(Some(answer)).await;
        let out = status(folder.path(), &["--address", &address]).await;
        let told = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}: {told}");
        let ours = told.contains("is no administration listener of opencmg");
        assert!(ours && told.contains(said), "{said}: {told}");
    }
    let address = foreign(None).await;
    let start = Instant::now();
    let out = status(folder.path(), &["--address", &address]).await;
    assert!(start.elapsed() < Duration::from_secs(15));
    let told = text(&out.stderr);
    assert!(
        told.contains(&format!("no answer of {address} within 5 s")),
        "{told}"
    );
    assert_eq!(out.status.code(), Some(1));
}
