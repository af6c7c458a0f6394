//! A world of real processes: gateway instances, connection points, and the PKI and files they run on.
//!
//! Every node runs the `opencmg` binary as an administrator would. [`World::finish`] ends each with SIGTERM and asserts that it
//! drains and exits 0; a world that is dropped unfinished kills its nodes.

use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opencmg::pki::Certificate;
use opencmg::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity, certificates_to_pem,
};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::relay::Relay;

pub const HOST: &str = "gw.opencmg.test";
pub const ROOT_HOST: &str = "mp.opencmg.test";
pub const MANAGEMENT_POINT: &str = "72057594037927937";
pub const SOFTWARE_UPDATE_POINT: &str = "72057594037927938";
pub const WEB: &str = "72057594037927939";

/// The path of a management point's endpoint for clients with a certificate.
pub fn mutual(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

/// What a client with a certificate may always ask a management point for: the list of its kind.
pub fn mp_list() -> String {
    mutual("SMS_MP/.sms_aut?MPLIST")
}

/// The path of a software update point's endpoint for clients without one.
pub fn server(rest: &str) -> String {
    format!("/CCM_Proxy_ServerAuth/{SOFTWARE_UPDATE_POINT}/{rest}")
}

/// What a world is made of, before it starts.
pub struct Plan {
    instances: usize,
    connection_points: Vec<ConnectionPointPlan>,
    gateway_extra: String,
    service_extra: String,
    connection_point_extra: String,
    revocation_extra: String,
    tunnels: usize,
}

struct ConnectionPointPlan {
    roles: String,
    /// What it dials in place of the instances.
    relay: Option<Arc<Relay>>,
}

/// A running world.
pub struct World {
    pub gateways: Vec<Node>,
    pub connection_points: Vec<Node>,
    pub pki: Pki,
    // Last, so that the nodes can still show their logs when they are dropped.
    pub dir: TempDir,
}

/// One process of the binary.
pub struct Node {
    pub name: String,
    /// Where a gateway serves clients; of a connection point, its administration port.
    pub address: SocketAddr,
    pub health: SocketAddr,
    pub admin: SocketAddr,
    config: PathBuf,
    environment: Vec<(String, String)>,
    role: &'static str,
    log: PathBuf,
    child: Option<Child>,
}

/// The certificate authorities of a world and where their files lie.
pub struct Pki {
    pub folder: PathBuf,
    pub root: Authority,
    pub intermediate: Authority,
    pub stranger: Authority,
    pub connection_points: Authority,
}

impl Plan {
    /// One gateway instance and no connection point yet.
    pub fn new() -> Self {
        Self {
            instances: 1,
            connection_points: Vec::new(),
            gateway_extra: String::new(),
            service_extra: String::new(),
            connection_point_extra: String::new(),
            revocation_extra: String::new(),
            tunnels: 2,
        }
    }

    /// How many gateway instances run.
    pub fn instances(mut self, instances: usize) -> Self {
        self.instances = instances;
        self
    }

    /// How many tunnels each connection point keeps to each instance.
    pub fn tunnels(mut self, tunnels: usize) -> Self {
        self.tunnels = tunnels;
        self
    }

    /// Adds a connection point that serves both ConfigMgr roles from these URLs.
    pub fn connection_point(self, management_point: &str, software_update_point: &str) -> Self {
        let roles = format!(
            "[[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nurl = \"{management_point}\"\n\
             [[role]]\nid = \"{SOFTWARE_UPDATE_POINT}\"\nkind = \"software-update-point\"\nurl = \"{software_update_point}\"\n"
        );
        self.connection_point_with(&roles)
    }

    /// Adds a connection point with these `[[role]]` tables.
    pub fn connection_point_with(mut self, roles: &str) -> Self {
        let plan = ConnectionPointPlan {
            roles: roles.to_owned(),
            relay: None,
        };
        self.connection_points.push(plan);
        self
    }

    /// Puts a relay between the last connection point and the first instance.
    pub fn through(mut self, relay: &Arc<Relay>) -> Self {
        self.connection_points.last_mut().unwrap().relay = Some(relay.clone());
        self
    }

    /// Adds lines to every `gateway.toml`, after its `[gateway]` table.
    pub fn gateway(mut self, lines: &str) -> Self {
        self.gateway_extra.push_str(lines);
        self
    }

    /// Adds lines to the end of `service.toml`.
    pub fn service(mut self, lines: &str) -> Self {
        self.service_extra.push_str(lines);
        self
    }

    /// Adds lines to the `[trust.revocation]` table of `service.toml`.
    pub fn revocation(mut self, lines: &str) -> Self {
        self.revocation_extra.push_str(lines);
        self
    }

    /// Adds lines to the `[connection-point]` table of every connection point.
    pub fn connection_points(mut self, lines: &str) -> Self {
        self.connection_point_extra.push_str(lines);
        self
    }

    /// Writes all files and starts all nodes; returns once every instance has a tunnel of every connection point.
    pub async fn start(self) -> World {
        let world = self.start_without_tunnels().await;
        for gateway in &world.gateways {
            gateway.has_tunnels(world.connection_points.len()).await;
        }
        world
    }

    /// Writes all files and starts all nodes; returns once every instance accepts.
    pub async fn start_without_tunnels(self) -> World {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::make(&dir.path().join("pki"), self.connection_points.len());
        self.write_service(dir.path());
        let mut gateways: Vec<_> = (0..self.instances)
            .map(|index| self.write_gateway(dir.path(), index))
            .collect();
        for gateway in &mut gateways {
            gateway.start();
        }
        for gateway in &gateways {
            gateway.accepts().await;
        }
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let mut connection_points = Vec::new();
        for (index, plan) in self.connection_points.iter().enumerate() {
            let dialled = match &plan.relay {
                Some(relay) => {
                    relay.retarget(addresses[0]);
                    vec![relay.address()]
                }
                None => addresses.clone(),
            };
            connection_points.push(self.write_connection_point(dir.path(), index, plan, &dialled));
        }
        for connection_point in &mut connection_points {
            connection_point.start();
        }
        World {
            dir,
            pki,
            gateways,
            connection_points,
        }
    }

    fn write_service(&self, dir: &Path) {
        let names: Vec<_> = (1..=self.connection_points.len())
            .map(|n| format!("\"cp-{n}\""))
            .collect();
        let listed: String = names
            .iter()
            .map(|name| format!("[[connection-point]]\nname = {name}\n"))
            .collect();
        let names = names.join(", ");
        let text = format!(
            "name = \"{HOST}\"\n\
             [[certificate]]\nfile = \"../pki/server.pfx\"\npassword-file = \"../pki/server.password\"\n\
             [trust]\nanchors = [\"../pki/root.pem\"]\nintermediates = [\"../pki/intermediate.pem\"]\n\
             [trust.revocation]\ncrls = [\"../pki/root.crl\", \"../pki/intermediate.crl\"]\n{}\
             [connection-points]\nca = [\"../pki/connection-point-ca.pem\"]\n{listed}\
             [[role]]\nid = \"{MANAGEMENT_POINT}\"\nkind = \"management-point\"\nroot-host = \"{ROOT_HOST}\"\nconnection-points = [{names}]\n\
             [[role]]\nid = \"{SOFTWARE_UPDATE_POINT}\"\nkind = \"software-update-point\"\nconnection-points = [{names}]\n{}",
            self.revocation_extra, self.service_extra
        );
        fs::create_dir_all(dir.join("service")).unwrap();
        fs::write(dir.join("service/service.toml"), text).unwrap();
    }

    /// The tests' lines; a test's clients send as fast as they can unless it says otherwise.
    fn gateway_lines(&self) -> String {
        let (lines, any) = (&self.gateway_extra, "[proxy]\nclient-rate = 0\n");
        match lines {
            _ if lines.contains("client-rate") => lines.clone(),
            _ if lines.contains("[proxy]\n") => lines.replacen("[proxy]\n", any, 1),
            _ => format!("{lines}{any}"),
        }
    }

    fn write_gateway(&self, dir: &Path, index: usize) -> Node {
        let [address, health, admin] = [(); 3].map(|()| free_address());
        let name = format!("gateway-{index}");
        let text = format!(
            "[gateway]\nstore = \"file:service\"\nindex = {index}\nlisten = [\"{address}\"]\n\
             health = \"{health}\"\nadmin = \"{admin}\"\n{}",
            self.gateway_lines()
        );
        Node::new(dir, name, "gateway", [address, health, admin], &text)
    }

    fn write_connection_point(
        &self,
        dir: &Path,
        index: usize,
        plan: &ConnectionPointPlan,
        addresses: &[SocketAddr],
    ) -> Node {
        let admin = free_address();
        let name = format!("cp-{}", index + 1);
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| format!("\"{address}\""))
            .collect();
        let text = format!(
            "[connection-point]\ncertificate = \"pki/{name}.pem\"\nkey = \"pki/{name}.key\"\nadmin = \"{admin}\"\n\
             tunnels = {}\n{}\n[[gateway]]\nname = \"{HOST}\"\naddresses = [{}]\nca = [\"pki/root.pem\"]\n{}",
            self.tunnels,
            self.connection_point_extra,
            addresses.join(", "),
            plan.roles
        );
        Node::new(dir, name, "connection-point", [admin; 3], &text)
    }
}

impl World {
    /// Starts the gateway of another service on the same PKI, with a `service.toml` of the test's own.
    pub async fn other_service(&self, definition: &str) -> Node {
        let dir = self.dir.path();
        fs::create_dir_all(dir.join("other")).unwrap();
        fs::write(dir.join("other/service.toml"), definition).unwrap();
        let [address, health, admin] = [(); 3].map(|()| free_address());
        let text = format!(
            "[gateway]\nstore = \"file:other\"\nlisten = [\"{address}\"]\n\
             health = \"{health}\"\nadmin = \"{admin}\"\n"
        );
        let name = "other-0".to_owned();
        let mut node = Node::new(dir, name, "gateway", [address, health, admin], &text);
        node.start();
        node.accepts().await;
        node
    }

    /// A client with the certificate of a name in the PKI's folder, for example `pc-1`.
    pub fn client(&self, name: &str) -> Client {
        let [chain, key] = ["pem", "key"].map(|end| self.pki.file(&format!("{name}.{end}")));
        Client::new(
            self.gateways[0].address,
            HOST,
            &self.pki.file("root.pem"),
            Some((&chain, &key)),
        )
    }

    /// A client without a certificate.
    pub fn anonymous(&self) -> Client {
        Client::new(
            self.gateways[0].address,
            HOST,
            &self.pki.file("root.pem"),
            None,
        )
    }

    /// Drains every node with SIGTERM and asserts that each ends well.
    pub async fn finish(mut self) {
        for node in self.connection_points.iter_mut().chain(&mut self.gateways) {
            node.stop().await;
        }
    }
}

impl Node {
    fn new(
        dir: &Path,
        name: String,
        role: &'static str,
        [address, health, admin]: [SocketAddr; 3],
        text: &str,
    ) -> Self {
        let config = dir.join(format!("{name}.toml"));
        fs::write(&config, text).unwrap();
        let log = dir.join(format!("{name}.log"));
        Self {
            name,
            address,
            health,
            admin,
            config,
            environment: Vec::new(),
            role,
            log,
            child: None,
        }
    }

    /// Sets a variable of the environment in which the process is started next.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process.
    pub fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_opencmg"))
            .args([self.role, "--config"])
            .arg(&self.config)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends a signal by its name, for example `HUP`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Ends the process at once, as a power cut would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends SIGTERM and asserts that the process drains and exits 0; of a node that is down already, nothing.
    pub async fn stop(&mut self) {
        if self.child.is_some() {
            self.signal("TERM");
            self.exits().await;
        }
    }

    /// Waits for the process to exit 0.
    pub async fn exits(&mut self) {
        let mut child = self.child.take().unwrap();
        let mut status = None;
        eventually(&format!("{} exits", self.name), async || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(
            status.unwrap().success(),
            "{} ended with {status:?}:\n{}",
            self.name,
            self.log()
        );
    }

    /// What the process wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the process has written a text.
    pub async fn says(&self, text: &str) {
        eventually(&format!("{} says {text}", self.name), async || {
            self.log().contains(text)
        })
        .await;
    }

    /// Waits until `/healthz` says that the instance accepts.
    pub async fn accepts(&self) {
        let what = format!("{} accepts", self.name);
        eventually(&what, async || {
            plain_get(self.health, "/healthz").await.0 == 200
        })
        .await;
    }

    /// Waits until the instance has a tunnel of this many connection points.
    pub async fn has_tunnels(&self, connection_points: usize) {
        let what = format!(
            "{} has tunnels of {connection_points} connection points",
            self.name
        );
        eventually(&what, async || {
            self.tunnel_names().await.len() == connection_points
        })
        .await;
    }

    /// The names of the connection points that have a live tunnel with published roles here.
    pub async fn tunnel_names(&self) -> std::collections::BTreeSet<String> {
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&self.status().await) else {
            return std::collections::BTreeSet::new();
        };
        let tunnels = status["tunnels"].as_array().cloned().unwrap_or_default();
        let serves = |tunnel: &&serde_json::Value| {
            tunnel["roles"]
                .as_array()
                .is_some_and(|roles| !roles.is_empty())
                && tunnel["draining"] != true
        };
        let name = |tunnel: &serde_json::Value| {
            tunnel["connection_point"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        tunnels.iter().filter(serves).map(name).collect()
    }

    /// The administration port's `/status`.
    pub async fn status(&self) -> String {
        plain_get(self.admin, "/status").await.1
    }

    /// The sum of a metric over its labels, of those lines that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = plain_get(self.admin, "/metrics").await.1;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(label)
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// A field of `/proc/<pid>/status` in KiB, for example `VmHWM`.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The descriptors that the process holds.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            if std::thread::panicking() {
                eprintln!("---- {}\n{}", self.name, self.log());
            }
        }
    }
}

impl Pki {
    fn make(folder: &Path, connection_points: usize) -> Self {
        fs::create_dir_all(folder).unwrap();
        let long = Validity::days(now(), 365);
        let key = || Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let root = Authority::root("OpenCMG Test Root", key(), long).unwrap();
        let intermediate =
            Authority::intermediate(&root, "OpenCMG Test Intermediate", key(), long).unwrap();
        let stranger = Authority::root("Stranger Root", key(), long).unwrap();
        let of_connection_points = Authority::root("Connection Points", key(), long).unwrap();
        let pki = Self {
            folder: folder.to_owned(),
            root,
            intermediate,
            stranger,
            connection_points: of_connection_points,
        };
        pki.write(
            "root.pem",
            certificates_to_pem(&[pki.root.certificate().clone()]),
        );
        pki.write(
            "intermediate.pem",
            certificates_to_pem(&[pki.intermediate.certificate().clone()]),
        );
        let ca = pki.connection_points.certificate().clone();
        pki.write("connection-point-ca.pem", certificates_to_pem(&[ca]));
        pki.revoke(&pki.root, "root", 1, &[]);
        pki.revoke(&pki.intermediate, "intermediate", 1, &[]);
        pki.issue_server();
        for name in ["pc-1", "pc-2"] {
            pki.issue(&pki.intermediate, name, &Leaf::client(name, long));
        }
        pki.issue(&pki.stranger, "stranger", &Leaf::client("stranger", long));
        for n in 1..=connection_points {
            pki.issue_connection_point(&format!("cp-{n}"));
        }
        pki
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file of the folder whole: never half a file is seen.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let new = self.file(&format!("{name}.new"));
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.file(name)).unwrap();
    }

    /// The serial number of the certificate in `NAME.pem`.
    pub fn serial(&self, name: &str) -> String {
        let file = fs::read(self.file(&format!("{name}.pem"))).unwrap();
        let chain = opencmg::pki::read_certificates(&file).unwrap();
        Certificate::parse(&chain[0]).unwrap().serial
    }

    /// Writes `NAME.crl`: an authority's CRL of a number, in force for a week, with the certificates of these files.
    pub fn revoke(&self, authority: &Authority, name: &str, number: u64, revoked: &[&str]) {
        let list = RevocationList {
            revoked: revoked.iter().map(|name| self.serial(name)).collect(),
            ..RevocationList::empty(number, Validity::days(now(), 7))
        };
        let crl = authority.revoke(&list).unwrap();
        self.write(&format!("{name}.crl"), crl);
    }

    /// Issues the server's certificate anew.
    pub fn issue_server(&self) {
        self.issue_server_as(&Leaf::server(
            &["*.opencmg.test"],
            Validity::days(now(), 90),
        ));
    }

    /// Issues the server's certificate anew, as it is given.
    pub fn issue_server_as(&self, leaf: &Leaf) {
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let pair = self.intermediate.issue(leaf, &key).unwrap();
        let pfx = opencmg::pki::issue::to_pfx(&pair, "server", "secret").unwrap();
        self.write("server.password", "secret");
        self.write("server.pfx", pfx);
    }

    /// Issues a certificate and writes `NAME.pem` and `NAME.key`.
    pub fn issue(&self, authority: &Authority, name: &str, leaf: &Leaf) {
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let pair = authority.issue(leaf, &key).unwrap();
        self.write(&format!("{name}.pem"), certificates_to_pem(&pair.chain));
        self.write(&format!("{name}.key"), key.to_pem());
    }

    /// Issues a connection point's certificate.
    pub fn issue_connection_point(&self, name: &str) {
        let leaf = Leaf::connection_point(name, Validity::days(now(), 90));
        self.issue(&self.connection_points, name, &leaf);
    }
}

/// The time as certificates have it.
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

/// Waits until a condition holds; fails with `what` after 30 s.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(Duration::from_secs(30), what, async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            if holds().await {
                return;
            }
        }
    })
    .await;
}

/// Waits for a future; fails with `what` after the time.
pub async fn within<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(time, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {time:?}: {what}"),
    }
}

/// One `GET` over plain HTTP; status 0 if nobody answers.
pub async fn plain_get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = async {
        let mut tcp = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        tcp.read_to_end(&mut bytes).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = answer.await.unwrap_or_default();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, body.to_owned())
}

/// A loopback address whose port is free, below the range from which the system takes its own.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 18_000 + u16::try_from(std::process::id() % 50).unwrap() * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 9_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
