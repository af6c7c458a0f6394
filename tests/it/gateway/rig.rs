//! One gateway in this process, one supervisor that dials it, and a closure that answers what comes through.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use opencmg::drain::Drain;
use opencmg::gateway::{Addresses, Definition, Gateway, Handle, Settings};
use opencmg::message::body::BodyError;
use opencmg::message::headers::{CertificateFields, Origin, Present};
use opencmg::metrics::Metrics;
use opencmg::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity, certificates_to_pem,
};
use opencmg::pki::{self, KeyPair};
use opencmg::proxy;
use opencmg::revocation;
use opencmg::role::{Endpoint, Health, Kind, PublishedRole, RoleId, Scheme, endpoints_of};
use opencmg::routing::RoleSettings;
use opencmg::tasks::Tasks;
use opencmg::tls::{self, NameSettings, ServerSettings, TunnelClientSettings, Way};
use opencmg::tunnel::{Budget, BudgetSettings, Incoming, Random, Supervisor, SupervisorSettings};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::io::InspectReader;

use crate::client::{Client, spawn};
use crate::world::{eventually, now, within};

pub const HOST: &str = "gw.opencmg.test";
pub const ROOT_HOST: &str = "mp.opencmg.test";
pub const MP: RoleId = RoleId::new(72_057_594_037_927_937);
pub const SUP: RoleId = RoleId::new(72_057_594_037_927_938);
pub const WEB: RoleId = RoleId::new(72_057_594_037_927_939);

pub type Handler = Arc<dyn Fn(Incoming) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What the gateway sent through each tunnel, inside TLS.
pub type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// A path of the management point for clients with a certificate.
pub fn mutual(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MP}/{rest}")
}

/// A path of the software update point for clients without one.
pub fn server(rest: &str) -> String {
    format!("/CCM_Proxy_ServerAuth/{SUP}/{rest}")
}

/// What a rig is made of.
pub struct Plan {
    pub settings: Settings,
    pub definition: Definition,
    pub handler: Handler,
    pki: Pki,
}

/// A running gateway with its tunnels.
pub struct Rig {
    pub addresses: Addresses,
    pub handle: Handle,
    pub metrics: Metrics,
    pub pki: Pki,
    pub definition: Definition,
    pub heard: Heard,
    run: JoinHandle<()>,
    supervisor: Drain,
    supervised: JoinHandle<()>,
}

/// The certificate authorities of a rig, and the files of its clients.
pub struct Pki {
    pub dir: TempDir,
    pub root: Authority,
    pub intermediate: Authority,
    pub stranger: Authority,
    connection_points: Authority,
}

/// A CRL with nothing on it.
pub fn crl(authority: &Authority) -> Arc<pki::Crl> {
    let list = RevocationList::empty(1, Validity::days(now(), 7));
    let der = authority.revoke(&list).unwrap();
    Arc::new(pki::Crl::read(&der, &[authority.certificate().clone()]).unwrap())
}

impl Plan {
    /// A management point, a software update point and a web service, echoed by [`echo`].
    pub fn new() -> Self {
        let pki = Pki::make();
        let definition = pki.definition();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let proxy = proxy::Settings {
            // Clients of tests keep their connections open to no purpose.
            drain_idle: Duration::from_millis(50),
            client_rate: 0,
            ..proxy::Settings::default()
        };
        let settings = Settings {
            proxy,
            listen: vec![any],
            health: Some(any),
            admin: Some(any),
            drain_deadline: Duration::from_secs(10),
            ..Settings::default()
        };
        Self {
            settings,
            definition,
            handler: answering(echo),
            pki,
        }
    }

    /// Starts gateway and supervisor; returns once a tunnel serves.
    pub async fn start(self) -> Rig {
        let metrics = Metrics::new();
        let definition = Arc::new(self.definition.clone());
        let gateway = Gateway::bind(self.settings, definition, metrics.clone()).await;
        let gateway = gateway.unwrap();
        let addresses = gateway.addresses().clone();
        let handle = gateway.handle();
        let registry = gateway.registry().clone();
        let run = spawn(gateway.run());
        let supervisor = Drain::new();
        let heard = Heard::default();
        let supervised = self
            .pki
            .supervise(&addresses, self.handler, &supervisor, &heard);
        eventually("a tunnel serves all roles", async || {
            registry.view().iter().any(|tunnel| tunnel.roles.len() == 3)
        })
        .await;
        Rig {
            addresses,
            handle,
            metrics,
            pki: self.pki,
            definition: self.definition,
            heard,
            run,
            supervisor,
            supervised,
        }
    }
}

impl Rig {
    /// A client with a certificate from the intermediate.
    pub fn client(&self) -> Client {
        self.client_of("pc-1")
    }

    /// A client with the certificate of a name.
    pub fn client_of(&self, name: &str) -> Client {
        let [chain, key] = ["pem", "key"].map(|end| self.pki.file(&format!("{name}.{end}")));
        let root = self.pki.file("root.pem");
        Client::new(self.addresses.client[0], HOST, &root, Some((&chain, &key)))
    }

    /// A client without a certificate.
    pub fn anonymous(&self) -> Client {
        Client::new(
            self.addresses.client[0],
            HOST,
            &self.pki.file("root.pem"),
            None,
        )
    }

    /// The sum of a metric over the series whose labels contain a text.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric has a value.
    pub async fn counts(&self, name: &str, labels: &str, value: f64) {
        eventually(&format!("{name}{{{labels}}} is {value}"), async || {
            self.metric(name, labels) == value
        })
        .await;
    }

    /// Closes every tunnel.
    pub async fn cut_tunnels(&mut self) {
        self.supervisor.force();
        let supervised = &mut self.supervised;
        within(Duration::from_secs(10), "the supervisor ends", async {
            let _ = supervised.await;
        })
        .await;
        self.counts("opencmg_tunnels", "", 0.0).await;
    }

    /// Drains the gateway and asserts that it ends.
    pub async fn finish(self) {
        self.handle.drain();
        within(Duration::from_secs(20), "the gateway drains", self.run)
            .await
            .unwrap();
        self.supervisor.force();
    }
}

impl Pki {
    fn make() -> Self {
        let long = Validity::days(now(), 365);
        let key = || Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let root = Authority::root("Root", key(), long).unwrap();
        let pki = Self {
            dir: tempfile::tempdir().unwrap(),
            intermediate: Authority::intermediate(&root, "Intermediate", key(), long).unwrap(),
            root,
            stranger: Authority::root("Stranger Root", key(), long).unwrap(),
            connection_points: Authority::root("Connection Points", key(), long).unwrap(),
        };
        let root = certificates_to_pem(&[pki.root.certificate().clone()]);
        std::fs::write(pki.file("root.pem"), root).unwrap();
        pki.issue(&pki.intermediate, "pc-1", &Leaf::client("pc-1", long));
        pki.issue(&pki.stranger, "stranger", &Leaf::client("stranger", long));
        pki
    }

    /// A file of a client.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues a certificate and writes `NAME.pem` and `NAME.key`.
    pub fn issue(&self, authority: &Authority, name: &str, leaf: &Leaf) -> KeyPair {
        let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let pair = authority.issue(leaf, &key).unwrap();
        std::fs::write(
            self.file(&format!("{name}.pem")),
            certificates_to_pem(&pair.chain),
        )
        .unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.to_pem()).unwrap();
        pair
    }

    fn definition(&self) -> Definition {
        let leaf = Leaf::server(&["*.opencmg.test"], Validity::days(now(), 90));
        let name = NameSettings {
            key_pairs: vec![self.issue(&self.intermediate, "server", &leaf)],
            ..NameSettings::default()
        };
        Definition {
            name: HOST.to_owned(),
            tls: ServerSettings {
                names: vec![name],
                strict_sni: false,
                tunnel_server_name: format!("tunnel.{HOST}"),
            },
            anchors: vec![self.root.certificate().clone()],
            intermediates: vec![self.intermediate.certificate().clone()],
            limits: pki::Limits::default(),
            revocation: pki::Policy::default(),
            crls: [&self.root, &self.intermediate].map(crl).to_vec(),
            fetching: revocation::Settings::default(),
            notes: Vec::new(),
            connection_point_ca: vec![self.connection_points.certificate().clone()],
            connection_points: vec!["cp-1".to_owned()],
            roles: roles(),
        }
    }

    /// Dials the gateway and serves its requests.
    fn supervise(
        &self,
        addresses: &Addresses,
        handler: Handler,
        drain: &Drain,
        heard: &Heard,
    ) -> JoinHandle<()> {
        let leaf = Leaf::connection_point("cp-1", Validity::days(now(), 90));
        let tls = tls::tunnel_client(&TunnelClientSettings {
            key_pair: self.issue(&self.connection_points, "cp-1", &leaf),
            ca: vec![self.root.certificate().clone()],
            service_name: HOST.to_owned(),
            way: Way::Alpn,
        });
        let connector = TlsConnector::from(tls.unwrap());
        let heard = heard.clone();
        let dial = move |address: String| {
            let (connector, heard) = (connector.clone(), heard.clone());
            async move {
                let tcp = TcpStream::connect(address).await?;
                let name = ServerName::try_from(Way::Alpn.server_name(HOST)).unwrap();
                let tls = connector.connect(name, tcp).await?;
                let tunnel = {
                    let mut all = heard.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                Ok(InspectReader::new(tls, move |bytes: &[u8]| {
                    heard.lock().unwrap()[tunnel].extend_from_slice(bytes);
                }))
            }
        };
        let published = [MP, SUP, WEB].map(|id| PublishedRole {
            id,
            health: Health::Healthy,
            capacity: 1000,
        });
        let (keep, roles) = watch::channel(Arc::new(published.to_vec()));
        let settings = SupervisorSettings {
            gateway: HOST.to_owned(),
            addresses: vec![addresses.client[0].to_string()],
            ..SupervisorSettings::default()
        };
        let metrics = Metrics::new();
        let budget = Budget::new(BudgetSettings::default(), metrics.clone());
        let supervisor = Supervisor::new(settings, budget, metrics, Random::seeded(1));
        let draining = drain.watch();
        spawn(async move {
            let tasks = Tasks::new();
            let handle = move |incoming| handler(incoming);
            supervisor
                .run(dial, roles, handle, tasks.clone(), draining)
                .await;
            tasks.abort();
            drop(keep);
        })
    }
}

fn roles() -> Vec<RoleSettings> {
    let role = |id, kind| RoleSettings {
        id,
        kind,
        endpoints: endpoints_of(kind),
        connection_points: vec!["cp-1".to_owned()],
        root_host: None,
        via: false,
        client_certificate: CertificateFields::None,
        rate_per_address: None,
    };
    let web = Endpoint {
        name: "app".to_owned(),
        scheme: Scheme::Public,
        methods: vec![http::Method::GET, http::Method::POST],
        body_limit: 1000,
        long_poll: false,
        sticky: false,
        websocket: false,
    };
    vec![
        RoleSettings {
            root_host: Some(ROOT_HOST.to_owned()),
            ..role(MP, Kind::ManagementPoint)
        },
        role(SUP, Kind::SoftwareUpdatePoint),
        RoleSettings {
            endpoints: vec![web],
            root_host: Some("web.opencmg.test".to_owned()),
            via: true,
            client_certificate: CertificateFields::Chain,
            ..role(WEB, Kind::Web)
        },
    ]
}

/// A handler from an async closure.
pub fn answering<F, Fut>(answer: F) -> Handler
where
    F: Fn(Incoming) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |incoming| Box::pin(answer(incoming)))
}

/// A plan whose answers to the paths that `is_held` names say `late`, each when it is released; others come at once.
pub fn holding(is_held: fn(&str) -> bool) -> (Plan, Arc<Notify>) {
    let mut plan = Plan::new();
    let release = Arc::new(Notify::new());
    let held = release.clone();
    plan.handler = answering(move |incoming| {
        let held = held.clone();
        async move {
            if is_held(incoming.request.uri().path()) {
                held.notified().await;
                let _ = incoming.respond.send(Response::new(body("late"))).await;
            } else {
                echo(incoming).await;
            }
        }
    });
    (plan, release)
}

/// A body for answers.
pub fn body(bytes: impl Into<Bytes>) -> impl http_body::Body<Data = Bytes, Error = BodyError> {
    Full::new(bytes.into()).map_err(|never| match never {})
}

/// Answers with what came: the request as JSON (method, URI, fields, length of the body), its origin written out.
pub async fn echo(incoming: Incoming) {
    let (mut head, received) = incoming.request.into_parts();
    let host = head.uri.authority().unwrap().as_str();
    let origin = Origin::take(&mut head.headers).unwrap();
    let present = Present::of(&head.headers);
    origin.write_out(&mut head.headers, host, present);
    let mut respond = incoming.respond;
    if head.headers.contains_key("expect") {
        respond.send_continue();
    }
    let Ok(received) = received.collect().await else {
        return;
    };
    let fields: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| [name.as_str(), value.to_str().unwrap_or("?")])
        .collect();
    let seen = serde_json::json!({
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "fields": fields,
        "length": received.to_bytes().len(),
    });
    let _ = respond.send(Response::new(body(seen.to_string()))).await;
}

/// What [`echo`] saw.
#[derive(Debug)]
pub struct Seen {
    pub method: String,
    pub uri: String,
    pub fields: HeaderMap,
    pub length: u64,
}

/// Reads an answer of [`echo`].
pub fn seen(answer: &crate::client::Answer) -> Seen {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let mut fields = HeaderMap::new();
    for field in json["fields"].as_array().unwrap() {
        let name: http::HeaderName = field[0].as_str().unwrap().parse().unwrap();
        fields.append(name, field[1].as_str().unwrap().parse().unwrap());
    }
    Seen {
        method: json["method"].as_str().unwrap().to_owned(),
        uri: json["uri"].as_str().unwrap().to_owned(),
        fields,
        length: json["length"].as_u64().unwrap(),
    }
}
