//! A connection point in this process: how it gets through, what it changes live, and what it finds out before the start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opencmg::backend::{BackendSettings, BaseUrl, Password};
use opencmg::connection_point::{
    ConnectionPoint, GatewaySettings, Handle, OutboundProxy, Settings, Step, Verdict, preflight,
};
use opencmg::forward::RoleSettings;
use opencmg::metrics::{ByRole, Metrics};
use opencmg::pki::issue::{KeyAlgorithm, Leaf, Validity};
use opencmg::role::{Kind, RoleId, endpoints_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::backend_servers::{Ca, Server};
use crate::client::spawn;
use crate::world::{HOST, MANAGEMENT_POINT, Plan, World, eventually, mutual, now, within};

/// A world whose connection point has made room for one of the test's own.
async fn world() -> (World, Server) {
    let server = nginx("one").await;
    let plan = Plan::new().connection_point(&server.url("http"), &server.url("http"));
    let mut world = plan.start().await;
    world.connection_points[0].stop().await;
    (world, server)
}

async fn nginx(text: &str) -> Server {
    Server::nginx(&format!(
        "server {{ listen @ADDRESS@; location / {{ return 200 {text}; }} }}"
    ))
    .await
}

fn role(url: &str) -> RoleSettings {
    RoleSettings {
        backend: BackendSettings {
            id: RoleId::parse(MANAGEMENT_POINT).unwrap(),
            kind: Kind::ManagementPoint,
            url: BaseUrl::parse(url).unwrap(),
            ..BackendSettings::default()
        },
        endpoints: endpoints_of(Kind::ManagementPoint),
    }
}

fn settings(world: &World, address: SocketAddr, url: &str) -> Settings {
    let pki = &world.pki;
    Settings {
        certificate: pki.file("cp-1.pem"),
        key: pki.file("cp-1.key"),
        gateways: vec![GatewaySettings {
            name: HOST.to_owned(),
            addresses: vec![address.to_string()],
            ca: vec![pki.file("root.pem")],
            way: None,
        }],
        roles: vec![role(url)],
        ..Settings::default()
    }
}

/// A relay on the way to an address, which a closure may make stop a connection by its first bytes.
struct Way {
    address: SocketAddr,
    stopped: Arc<AtomicUsize>,
}

impl Way {
    /// What is stopped is closed.
    async fn start(to: SocketAddr, passes: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self::with(to, passes, false).await
    }

    /// What is stopped is swallowed: nobody ever answers.
    async fn swallowing(
        to: SocketAddr,
        passes: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::with(to, passes, true).await
    }

    async fn with(
        to: SocketAddr,
        passes: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
        swallows: bool,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicUsize::new(0));
        let (count, passes) = (stopped.clone(), Arc::new(passes));
        spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (count, passes) = (count.clone(), passes.clone());
                spawn(async move {
                    let mut first = vec![0; 4096];
                    let read = near.read(&mut first).await.unwrap_or(0);
                    if !passes(&first[..read]) {
                        count.fetch_add(1, Ordering::SeqCst);
                        while swallows && near.read(&mut first).await.is_ok_and(|read| read > 0) {}
                        return;
                    }
                    let mut far = TcpStream::connect(to).await.unwrap();
                    far.write_all(&first[..read]).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, stopped }
    }
}

/// An outbound proxy that asks for Basic authentication; tells what it was asked.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let tell = asked.clone();
        spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let tell = tell.clone();
                spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(near.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    // "user:secret"
                    let known = head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n");
                    tell.lock().unwrap().push(head);
                    if !known {
                        let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n";
                        near.write_all(answer.as_bytes()).await.unwrap();
                        return;
                    }
                    let mut far = TcpStream::connect(&target).await.unwrap();
                    let answer = "HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";
                    near.write_all(answer.as_bytes()).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, asked }
    }

    fn settings(&self, folder: &Path, password: &str) -> OutboundProxy {
        let file = folder.join("proxy.password");
        std::fs::write(&file, password).unwrap();
        OutboundProxy {
            url: BaseUrl::parse(&format!("http://{}", self.address)).unwrap(),
            user: Some("user".to_owned()),
            password: Some(Password::File(file)),
        }
    }
}

/// Runs a connection point and waits for its tunnel.
async fn started(world: &World, settings: Settings, metrics: Metrics) -> (Handle, JoinHandle<()>) {
    let connection_point = ConnectionPoint::build(settings, metrics).await.unwrap();
    let handle = connection_point.handle();
    let running = spawn(connection_point.run());
    world.gateways[0].has_tunnels(1).await;
    (handle, running)
}

/// Runs a connection point, waits for its tunnel, asks the management point, changes it, and drains it.
async fn serves(world: &World, settings: Settings, expected: &str) {
    let (handle, running) = started(world, settings, Metrics::new()).await;
    let answer = world.client("pc-1").get(&mutual("SMS_MP/x")).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (200, expected.as_bytes())
    );
    handle.drain();
    within(Duration::from_secs(10), "it drains", running)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_network_that_denies_unknown_alpn_names_is_passed_by_the_server_name() {
    let (world, server) = world().await;
    let denies = |first: &[u8]| !first.windows(4).any(|bytes| bytes == b"\x03rh2");
    let way = Way::start(world.gateways[0].address, denies).await;
    let settings = settings(&world, way.address, &server.url("http"));
    let verdicts = preflight(&settings).await;
    let alpn = verdicts
        .iter()
        .find(|verdict| verdict.step == Step::Alpn)
        .unwrap();
    assert!(
        alpn.ok && alpn.what.contains("by server name (ALPN h2)"),
        "{alpn}"
    );
    assert!(alpn.advice.contains("way = \"server-name\""), "{alpn}");
    serves(&world, settings, "one").await;
    assert!(way.stopped.load(Ordering::SeqCst) > 1);
    world.finish().await;
}

#[tokio::test]
async fn a_network_that_swallows_unknown_alpn_names_is_passed_by_the_server_name() {
    let (world, server) = world().await;
    let denies = |first: &[u8]| !first.windows(4).any(|bytes| bytes == b"\x03rh2");
    let way = Way::swallowing(world.gateways[0].address, denies).await;
    let mut settings = settings(&world, way.address, &server.url("http"));
    settings.tunnel.dial_timeout = Duration::from_secs(2);
    serves(&world, settings, "one").await;
    assert!(way.stopped.load(Ordering::SeqCst) > 0);
    world.finish().await;
}

#[tokio::test]
async fn an_outbound_proxy_is_asked_with_its_password() {
    let (world, server) = world().await;
    let proxy = Proxy::start().await;
    let address = world.gateways[0].address;
    let with = |password| Settings {
        outbound_proxy: Some(proxy.settings(world.dir.path(), password)),
        ..settings(&world, address, &server.url("http"))
    };
    let verdicts = preflight(&with("wrong")).await;
    let refused = &verdicts[0];
    assert_eq!((refused.step, refused.ok), (Step::OutboundProxy, false));
    assert!(
        refused.what.contains("407 Proxy Authentication Required"),
        "{refused}"
    );
    serves(&world, with("secret"), "one").await;
    let asked = proxy.asked.lock().unwrap().last().unwrap().clone();
    assert!(
        asked.starts_with(&format!(
            "CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n"
        )),
        "{asked}"
    );
    world.finish().await;
}

#[tokio::test]
async fn roles_change_while_it_runs_and_a_bad_change_changes_nothing() {
    let (world, server) = world().await;
    let other = nginx("two").await;
    let address = world.gateways[0].address;
    let before = settings(&world, address, &server.url("http"));
    let (handle, running) = started(&world, before.clone(), Metrics::new()).await;
    let client = world.client("pc-1");
    assert_eq!(client.get(&mutual("SMS_MP/x")).await.body, "one");

    let mut bad = before.clone();
    bad.roles[0].backend.ca = vec![PathBuf::from("/no/such.pem")];
    bad.roles[0].backend.url = BaseUrl::parse("https://localhost").unwrap();
    let faults = handle.apply(&bad).unwrap_err();
    assert!(
        faults[0].contains("/no/such.pem: cannot be read"),
        "{faults:?}"
    );
    assert_eq!(client.get(&mutual("SMS_MP/x")).await.body, "one");

    let mut changed = before;
    changed.roles = vec![role(&other.url("http"))];
    handle.apply(&changed).unwrap();
    assert_eq!(client.get(&mutual("SMS_MP/x")).await.body, "two");
    handle.drain();
    within(Duration::from_secs(10), "it drains", running)
        .await
        .unwrap();
    world.finish().await;
}

#[tokio::test]
async fn its_idle_connections_end_with_it_whoever_has_its_handle() {
    let (world, server) = world().await;
    let settings = settings(&world, world.gateways[0].address, &server.url("http"));
    let metrics = Metrics::new();
    let (handle, running) = started(&world, settings, metrics.clone()).await;
    let answer = world.client("pc-1").get(&mutual("SMS_MP/x")).await;
    assert_eq!(answer.body, "one");
    let role = ByRole::new(RoleId::parse(MANAGEMENT_POINT).unwrap());
    let open = || metrics.backend_connections.get_or_create(&role).get();
    assert_eq!(open(), 1);
    handle.drain();
    within(Duration::from_secs(10), "it drains", running)
        .await
        .unwrap();
    assert_eq!(open(), 0);
    drop(handle);
    world.finish().await;
}

#[tokio::test]
async fn another_address_of_a_gateway_takes_the_place_of_the_old_one_live() {
    let (world, server) = world().await;
    let address = world.gateways[0].address;
    let way = Way::start(address, |_| true).await;
    let before = settings(&world, address, &server.url("http"));
    let connection_point = ConnectionPoint::build(before.clone(), Metrics::new())
        .await
        .unwrap();
    let handle = connection_point.handle();
    let running = spawn(connection_point.run());
    eventually("a tunnel is up", async || handle.is_ready()).await;
    handle
        .apply(&settings(&world, way.address, &server.url("http")))
        .unwrap();
    let remote = way.address.to_string();
    eventually("only the new way is in use", async || {
        let tunnels = handle.tunnels();
        !tunnels.is_empty() && tunnels.iter().all(|tunnel| tunnel.remote == remote)
    })
    .await;
    eventually("requests pass", async || {
        world.client("pc-1").get(&mutual("SMS_MP/x")).await.body == "one"
    })
    .await;
    handle.drain();
    within(Duration::from_secs(10), "it drains", running)
        .await
        .unwrap();
    world.finish().await;
}

#[tokio::test]
async fn the_check_before_the_start_finds_nothing_wrong_where_nothing_is() {
    let (world, server) = world().await;
    let settings = settings(&world, world.gateways[0].address, &server.url("http"));
    let verdicts = preflight(&settings).await;
    let steps: Vec<_> = verdicts
        .iter()
        .map(|verdict| (verdict.step, verdict.ok))
        .collect();
    let expected = [
        Step::Dns,
        Step::Tcp,
        Step::Tls,
        Step::Alpn,
        Step::Clock,
        Step::Authorisation,
        Step::Backend,
        Step::BackendCertificate,
    ];
    let text: Vec<_> = verdicts.iter().map(Verdict::to_string).collect();
    assert_eq!(steps, expected.map(|step| (step, true)), "{text:#?}");
    assert!(
        text[3].ends_with("the tunnel is taken by ALPN (ALPN d587c9a5)"),
        "{}",
        text[3]
    );
    assert!(
        text[5].contains("instance 0 of gw.opencmg.test takes this connection point"),
        "{}",
        text[5]
    );
    world.finish().await;
}

#[tokio::test]
async fn the_check_tells_who_inspects_and_why_the_gateway_refuses() {
    let (world, server) = world().await;
    let address = world.gateways[0].address;
    let good = settings(&world, address, &server.url("http"));
    let find = async |settings: Settings, step: Step| {
        let verdicts = preflight(&settings).await;
        verdicts
            .into_iter()
            .find(|verdict| verdict.step == step)
            .unwrap()
    };

    let mut other_ca = good.clone();
    let stranger = world.pki.file("stranger-root.pem");
    std::fs::write(&stranger, world.pki.stranger.to_pem()).unwrap();
    other_ca.gateways[0].ca = vec![stranger];
    let tls = find(other_ca, Step::Tls).await;
    assert!(
        !tls.ok && tls.advice.contains("OpenCMG Test Intermediate"),
        "{tls}"
    );
    assert!(tls.advice.contains("inspects TLS"), "{tls}");

    world.pki.issue_connection_point("cp-9");
    let mut unlisted = good.clone();
    unlisted.certificate = world.pki.file("cp-9.pem");
    unlisted.key = world.pki.file("cp-9.key");
    let refused = find(unlisted, Step::Authorisation).await;
    assert!(!refused.ok, "{refused}");
    assert_eq!(
        refused.what,
        format!("{address}: the gateway refuses \"cp-9\": unknown-connection-point")
    );
    assert_eq!(
        refused.advice,
        "list it in the gateway's service.toml: [[connection-point]] name = \"cp-9\""
    );

    let leaf = Leaf::connection_point("cp-1", Validity::days(now(), 30));
    world.pki.issue(&world.pki.stranger, "impostor", &leaf);
    let mut impostor = good;
    impostor.certificate = world.pki.file("impostor.pem");
    impostor.key = world.pki.file("impostor.key");
    let refused = find(impostor, Step::Authorisation).await;
    assert!(
        !refused.ok && refused.what.contains("connection-point CA"),
        "{refused}"
    );
    world.finish().await;
}

#[tokio::test]
async fn the_check_recognises_a_backend_that_asks_for_a_certificate_late() {
    let ca = Ca::new();
    let (certificate, key) = ca.localhost(KeyAlgorithm::Rsa2048);
    let server = Server::apache(&format!(
        "SSLEngine on\nSSLProtocol TLSv1.2\nSSLCertificateFile {}\nSSLCertificateKeyFile {}\n\
         SSLCACertificateFile {}\n<Location /SMS_MP>\nSSLVerifyClient require\n</Location>",
        certificate.display(),
        key.display(),
        ca.pem().display()
    ))
    .await;
    let leaf = Leaf::client("cp-1", Validity::days(now(), 30));
    let (certificate, key) = ca.issue("client", KeyAlgorithm::EcdsaP256, &leaf);
    let mut without = role(&server.url("https"));
    without.backend.ca = vec![ca.pem()];
    let mut with = without.clone();
    with.backend.certificate = Some(certificate);
    with.backend.key = Some(key);
    let mut unknown = without.clone();
    let stranger = Ca::new();
    unknown.backend.ca = vec![stranger.pem()];
    let verdicts = preflight(&Settings {
        roles: vec![without, with, unknown],
        ..Settings::default()
    })
    .await;
    let text: Vec<_> = verdicts.iter().map(Verdict::to_string).collect();
    let found: Vec<_> = verdicts
        .iter()
        .map(|verdict| (verdict.step, verdict.ok))
        .collect();
    let expected = [
        (Step::Backend, true),
        (Step::BackendCertificate, false),
        (Step::Backend, true),
        (Step::BackendCertificate, true),
        (Step::Backend, false),
    ];
    assert_eq!(found, expected, "{text:#?}");
    assert!(
        verdicts[1].advice.contains("set certificate and key"),
        "{text:#?}"
    );
    assert!(verdicts[4].what.contains("unknown issuer"), "{text:#?}");
}
