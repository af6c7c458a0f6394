//! `opencmg load` as whoever measures meets it: the real binary against a real world, and against servers that fail as told.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use opencmg::cli::builtin::{BuiltIn, MPLIST, Options};
use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity};
use opencmg::tasks::Tasks;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::backend::{Backend, answer};
use crate::world::{HOST, Plan, World, eventually, mutual, now};

const MPLIST_PATH: &str = "SMS_MP/.sms_aut?MPLIST";

/// A load of a path against the first gateway of a world, as `pc-1`.
fn load(world: &World, path: &str, arguments: &str) -> Command {
    let folder = &world.pki.folder;
    let mut command = load_from(folder, world.gateways[0].address, path, arguments);
    command
        .arg("--certificate")
        .arg(folder.join("pc-1.pem"))
        .arg("--key")
        .arg(folder.join("pc-1.key"));
    command
}

fn load_from(folder: &Path, address: SocketAddr, path: &str, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opencmg"));
    command
        .args(["load", &format!("https://{HOST}{path}"), "--json"])
        .args(["--connect", &address.to_string(), "--ca"])
        .arg(folder.join("root.pem"))
        .args(arguments.split_whitespace())
        .stderr(Stdio::inherit());
    if !arguments.contains("--warm-up") {
        command.args(["--warm-up", "0s"]);
    }
    command
}

/// Runs a load to its end; returns its report and whether it exited 0.
async fn run(mut command: Command) -> (Value, bool) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report = text.lines().last().unwrap_or_default();
    let report = serde_json::from_str(report).unwrap_or_else(|_| panic!("no report: {text:?}"));
    (report, output.status.success())
}

/// A load that holds connections. Dropping it kills it.
struct Holding {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Holding {
    /// Starts one and waits until it says how many it holds.
    fn start(mut command: Command) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        (Self { child, lines }, line)
    }

    /// Ends it with Ctrl-C and returns its report.
    fn interrupt(mut self) -> Value {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        self.report()
    }

    /// Waits for its end and returns its report.
    fn report(&mut self) -> Value {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text:?}"))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // It has ended already unless an assertion failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn world() -> (World, BuiltIn) {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let world = Plan::new().connection_point(&url, &url).start().await;
    (world, backend)
}

/// A world whose backend answers a request once the gate lets it, except under `/SMS_MP/`.
async fn gated_world() -> (World, Backend, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let backend = Backend::start(move |request| {
        let held = Arc::clone(&held);
        async move {
            if !request.uri().path().contains("SMS_MP") {
                held.acquire().await.unwrap().forget();
            }
            answer(200, "late")
        }
    })
    .await;
    let url = backend.url();
    let world = Plan::new().connection_point(&url, &url).start().await;
    (world, backend, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_loop_counts_what_the_gateway_counts() {
    let (world, backend) = world().await;
    let path = mutual(MPLIST_PATH);
    let mut expected = 0;
    for arguments in [
        "--requests 300 --connections 8",
        "--requests 300 --connections 8 --threads 2",
        "--requests 300 --connections 2 --http2 --streams 4",
        "--requests 300 --connections 2 --http2 --streams 4 --tls-group x25519mlkem768",
    ] {
        let (report, is_well) = run(load(&world, &path, arguments)).await;
        expected += 300;
        assert!(is_well);
        assert_eq!(report["requests"], 300, "{arguments}: {report}");
        assert_eq!(report["statuses"], json!({ "200": 300 }));
        assert_eq!(report["failures"], json!({}));
        assert_eq!(report["received_bytes"], 300 * MPLIST.len());
        let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
        assert!(0.0 < latency("min") && latency("min") <= latency("p50"));
        assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
        let counted = world.gateways[0].metric("opencmg_requests_total", "SMS_MP");
        assert_eq!(counted.await as u64, expected, "{arguments}");
        assert_eq!(backend.requests(), expected, "{arguments}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_whole_and_as_the_fields_say() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let backend = Backend::start(move |request| {
        let kept = Arc::clone(&kept);
        async move {
            let (head, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.unwrap();
            let field = head.headers["x-kind"].to_str().unwrap().to_owned();
            let length = body.to_bytes().len();
            kept.lock()
                .unwrap()
                .push((head.method.to_string(), field, length));
            answer(200, "")
        }
    })
    .await;
    let url = backend.url();
    let world = Plan::new().connection_point(&url, &url).start().await;
    let path = mutual("CCM_System/request");
    for protocol in ["", "--http2"] {
        let arguments = format!("--requests 3 --body 300KiB --method CCM_POST {protocol}");
        let mut command = load(&world, &path, &arguments);
        command.args(["--header", "X-Kind: of some kind"]);
        let (report, _) = run(command).await;
        assert_eq!(report["statuses"], json!({ "200": 3 }), "{report}");
        assert_eq!(report["sent_bytes"], 3 * 300 * 1024);
    }
    let expected = ("CCM_POST".to_owned(), "of some kind".to_owned(), 300 << 10);
    assert_eq!(*seen.lock().unwrap(), vec![expected; 6]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_full_or_resumed_as_asked_for() {
    let (world, _backend) = world().await;
    let path = mutual(MPLIST_PATH);
    for protocol in ["", "--http2"] {
        let arguments = format!("--requests 40 --connections 4 --mode handshake {protocol}");
        let (report, _) = run(load(&world, &path, &arguments)).await;
        assert_eq!(report["statuses"], json!({ "200": 40 }), "{report}");
        assert_eq!(
            [&report["connected"], &report["resumed"]],
            [&json!(40), &json!(0)]
        );
        let arguments = format!("--requests 40 --connections 4 --mode resumed {protocol}");
        let (report, _) = run(load(&world, &path, &arguments)).await;
        assert_eq!(report["statuses"], json!({ "200": 40 }), "{report}");
        assert_eq!(report["failures"], json!({}));
        // Each of the four lanes begins with a full one, which does not count.
        assert_eq!(
            [&report["connected"], &report["resumed"]],
            [&json!(44), &json!(40)]
        );
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_counts_latency_from_when_a_request_was_due() {
    let (world, backend, gate) = gated_world().await;
    let path = mutual("CCM_System/request");
    // All of them are due within a millisecond, over one connection, on which the first waits for the gate.
    let command = load(&world, &path, "--requests 100 --rate 100000");
    let running = run(command);
    let watch = async {
        eventually("the first request has come", async || backend.seen() == 1).await;
        let since = Instant::now();
        for _ in 0..50 {
            let other = world.client("pc-2").get(&mutual(MPLIST_PATH)).await;
            assert_eq!(other.status, 200);
        }
        let held = since.elapsed().as_micros() as f64;
        gate.add_permits(100);
        held
    };
    let ((report, _), held) = tokio::join!(running, watch);
    assert_eq!(report["requests"], 100, "{report}");
    let latency = |name: &str| report["latency_us"][name].as_f64().unwrap();
    assert!(latency("min") >= held, "{held} {report}");
    assert!(
        latency("p99") > latency("min"),
        "each waited for those before it"
    );
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_held_until_the_time_is_over_or_the_server_closes() {
    let (mut world, _backend) = world().await;
    let path = mutual(MPLIST_PATH);
    for protocol in ["", "--http2"] {
        let arguments = format!("--connections 20 --mode idle --duration 5min {protocol}");
        let command = load(&world, &path, &arguments);
        let (holding, line) = tokio::task::spawn_blocking(|| Holding::start(command))
            .await
            .unwrap();
        assert_eq!(line, "holding 20\n");
        let open = world.gateways[0].metric("opencmg_connections_open", "");
        assert_eq!(open.await as u64, 20);
        let report = tokio::task::spawn_blocking(|| holding.interrupt())
            .await
            .unwrap();
        assert_eq!(report["statuses"], json!({ "200": 20 }), "{report}");
        assert_eq!(report["failures"], json!({}));
        eventually("the connections are closed", async || {
            world.gateways[0]
                .metric("opencmg_connections_open", "")
                .await
                == 0.0
        })
        .await;
    }
    let command = load(
        &world,
        &path,
        "--connections 5 --mode idle --duration 5min --dial-rate 1000",
    );
    let (mut holding, line) = tokio::task::spawn_blocking(|| Holding::start(command))
        .await
        .unwrap();
    assert_eq!(line, "holding 5\n");
    world.gateways[0].stop().await;
    let report = tokio::task::spawn_blocking(move || holding.report())
        .await
        .unwrap();
    assert_eq!(report["failures"], json!({ "closed": 5 }), "{report}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_are_held_and_sent_again_when_they_are_answered() {
    let (world, backend, gate) = gated_world().await;
    let path = mutual("BGB/handler.ashx");
    for protocol in ["", "--http2 --streams 5"] {
        let connections = if protocol.is_empty() { 10 } else { 2 };
        let arguments =
            format!("--connections {connections} --mode poll --duration 5min {protocol}");
        let before = backend.seen();
        let command = load(&world, &path, &arguments);
        let (holding, line) = tokio::task::spawn_blocking(|| Holding::start(command))
            .await
            .unwrap();
        assert_eq!(line, "holding 10\n");
        eventually("all polls are held", async || backend.seen() == before + 10).await;
        gate.add_permits(4);
        eventually("those answered are sent again", async || {
            backend.seen() == before + 14
        })
        .await;
        let report = tokio::task::spawn_blocking(|| holding.interrupt())
            .await
            .unwrap();
        assert_eq!(report["statuses"], json!({ "200": 4 }), "{report}");
        assert_eq!(report["failures"], json!({}));
    }
    world.finish().await;
}

/// A TLS server that answers each request with the same bytes and closes, with a PKI of its own.
struct Scripted {
    address: SocketAddr,
    folder: TempDir,
    _tasks: Tasks,
}

impl Scripted {
    async fn start(script: &'static [u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = || Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let validity = Validity::days(now(), 1);
        let root = Authority::root("Root", key(), validity).unwrap();
        fs::write(folder.path().join("root.pem"), root.to_pem()).unwrap();
        let pair = root
            .issue(&Leaf::server(&[HOST], validity), &key())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(pair.chain, pair.key)
            .unwrap();
        config.send_tls13_tickets = 0;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let owner = tasks.clone();
        tasks.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let accepting = acceptor.accept(tcp);
                owner.spawn(async move {
                    // A client that goes is nothing to a script.
                    let Ok(stream) = accepting.await else { return };
                    let mut stream = tokio::io::BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {}
                    let _ = stream.write_all(script).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self {
            address,
            folder,
            _tasks: tasks,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_counted_by_its_kind() {
    for (script, arguments, kind) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "",
            "short-body",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
            "",
            "short-body",
        ),
        ("SSH-2.0-OpenSSH\r\n", "", "malformed"),
        ("", "", "reset"),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnone",
            "",
            "status",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "--mode resumed",
            "not-resumed",
        ),
    ] {
        let server = Scripted::start(script.as_bytes()).await;
        let arguments = format!("--requests 3 {arguments}");
        let command = load_from(server.folder.path(), server.address, "/", &arguments);
        let (report, is_well) = run(command).await;
        assert_eq!(
            report["failures"],
            json!({ kind: 3 }),
            "{script:?}: {report}"
        );
        assert_eq!(report["requests"], 3);
        assert_eq!(report["latency_us"]["max"], 0.0);
        assert!(!is_well, "nothing was answered well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_believed_or_does_not_answer_is_a_failure() {
    let (world, _backend, _gate) = gated_world().await;
    let path = mutual("CCM_System/request");
    let late = load(&world, &path, "--requests 2 --timeout 100ms");
    let (report, _) = run(late).await;
    assert_eq!(report["failures"], json!({ "timeout": 2 }), "{report}");

    let address = world.gateways[0].address;
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("root.pem"), world.pki.stranger.to_pem()).unwrap();
    let unbelieving = load_from(other.path(), address, &path, "--requests 2");
    let (report, _) = run(unbelieving).await;
    assert_eq!(report["failures"], json!({ "tls": 2 }), "{report}");

    let nobody = crate::world::free_address();
    let command = load_from(&world.pki.folder, nobody, &path, "--requests 2");
    let (report, _) = run(command).await;
    assert_eq!(report["failures"], json!({ "connect": 2 }), "{report}");

    let anonymous = load_from(&world.pki.folder, address, &path, "--requests 2");
    let (report, _) = run(anonymous).await;
    assert_eq!(report["failures"], json!({ "status": 2 }), "{report}");
    assert_eq!(report["statuses"], json!({ "403": 2 }));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_trailers_are_counted_and_a_warm_up_is_not() {
    let script = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
        Connection: close\r\n\r\n4;a=b\r\nfour\r\n6\r\nsixsix\r\n0\r\nTrailer: t\r\n\r\n";
    let server = Scripted::start(script).await;
    let folder = server.folder.path();
    let command = load_from(folder, server.address, "/", "--requests 5");
    let (report, _) = run(command).await;
    assert_eq!(report["received_bytes"], 50, "{report}");
    assert_eq!(report["failures"], json!({}));
    let arguments = "--requests 5 --warm-up 100ms";
    let command = load_from(folder, server.address, "/", arguments);
    let (report, _) = run(command).await;
    assert_eq!(report["requests"], 5, "{report}");
    assert!(report["warm_up_requests"].as_u64().unwrap() > 0, "{report}");
    assert!(report["seconds"].as_f64().unwrap() < 5.0, "{report}");
}
