//! A listener that does nothing but TLS and trust, the PKI it runs on, and the clients that meet it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use opencmg::identity::{ClientCertificate, Trust};
use opencmg::metrics::Metrics;
use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity};
use opencmg::pki::{Anchors, CertificateDer, CertificateFault, KeyPair, Limits, UnixTime, Usage};
use opencmg::tasks::Tasks;
use opencmg::tls::{
    AcceptError, Accepted, NameSettings, Port, Purpose, ServerSettings, ServerTls, VerifyFn,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Pki {
    pub root: Authority,
    pub issuing: Authority,
    pub stranger: Authority,
    pub connection_points: Authority,
}

pub fn year() -> Validity {
    Validity::days(UnixTime::now(), 365)
}

pub fn key(algorithm: KeyAlgorithm) -> Key {
    Key::generate(algorithm).unwrap()
}

impl Pki {
    pub fn new() -> Self {
        let root = |name| Authority::root(name, key(KeyAlgorithm::EcdsaP256), year()).unwrap();
        let trusted = root("Root");
        Self {
            issuing: trusted
                .intermediate("Issuing", key(KeyAlgorithm::EcdsaP256), year())
                .unwrap(),
            root: trusted,
            stranger: root("Stranger"),
            connection_points: root("Connection Points"),
        }
    }

    pub fn server(&self, names: &[&str], algorithm: KeyAlgorithm) -> KeyPair {
        self.issuing
            .issue(&Leaf::server(names, year()), &key(algorithm))
            .unwrap()
    }

    pub fn client(&self, name: &str) -> KeyPair {
        let leaf = Leaf::client(name, year());
        self.issuing
            .issue(&leaf, &key(KeyAlgorithm::EcdsaP256))
            .unwrap()
    }

    pub fn connection_point(&self) -> KeyPair {
        let leaf = Leaf::connection_point("cp-1.test", year());
        self.connection_points
            .issue(&leaf, &key(KeyAlgorithm::EcdsaP256))
            .unwrap()
    }

    pub fn anchors(&self, intermediates: &[&Authority]) -> Anchors {
        anchors(&[&self.root], intermediates)
    }
}

pub fn anchors(roots: &[&Authority], intermediates: &[&Authority]) -> Anchors {
    let ders = |list: &[&Authority]| {
        list.iter()
            .map(|ca| ca.certificate().clone())
            .collect::<Vec<_>>()
    };
    Anchors::build(&ders(roots), &ders(intermediates), Limits::MAX).unwrap()
}

/// What the server found out about a connection.
#[derive(Clone, Debug)]
pub struct Said {
    pub purpose: Purpose,
    pub http2: Option<bool>,
    pub server_name: Option<String>,
    pub resumed: bool,
    pub identity: Option<String>,
    pub fault: Option<CertificateFault>,
}

/// What a client saw, and what the server said of it.
#[derive(Debug)]
pub struct Seen {
    pub said: Said,
    pub shown: Vec<CertificateDer<'static>>,
    pub group: Option<NamedGroup>,
}

pub struct Server {
    pub address: SocketAddr,
    pub tunnel_address: SocketAddr,
    pub trust: Trust,
    tls: Arc<ArcSwap<ServerTls>>,
    said: tokio::sync::Mutex<mpsc::UnboundedReceiver<Result<Said, AcceptError>>>,
    tasks: Tasks,
}

impl Server {
    /// A server whose service name is `gw.test`.
    pub async fn start(pki: &Pki, names: Vec<NameSettings>, strict_sni: bool) -> Self {
        let (tls, clients, points) = built(pki, names, strict_sni);
        let tls = Arc::new(ArcSwap::from_pointee(tls));
        let (tasks, (report, said)) = (Tasks::new(), mpsc::unbounded_channel());
        let mut addresses = Vec::new();
        for port in [Port::Client, Port::Tunnel] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let (tls, report, spawner) = (Arc::clone(&tls), report.clone(), tasks.clone());
            let (clients, points) = (clients.clone(), points.clone());
            tasks.spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let (tls, report) = (tls.load_full(), report.clone());
                    let (clients, points) = (clients.clone(), points.clone());
                    spawner.spawn(async move {
                        match tls.accept(socket, port).await {
                            Ok(accepted) => say(accepted, &clients, &points, &report).await,
                            Err(error) => report.send(Err(error)).unwrap_or_default(),
                        }
                    });
                }
            });
        }
        Self {
            address: addresses[0],
            tunnel_address: addresses[1],
            trust: clients,
            tls,
            said: tokio::sync::Mutex::new(said),
            tasks,
        }
    }

    pub fn rebuild(&self, names: Vec<NameSettings>) {
        let rebuilt = self.tls.load().rebuild(&settings(names, true)).unwrap();
        self.tls.store(Arc::new(rebuilt));
    }

    /// Connects, reads what the server says until it closes, and returns it.
    pub async fn connect(&self, offer: &Offer) -> io::Result<Seen> {
        let mut stream = self.open(offer).await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        assert_eq!(text, b"said\n");
        let session = stream.get_ref().1;
        let shown = session
            .peer_certificates()
            .unwrap()
            .iter()
            .map(|der| der.clone().into_owned())
            .collect();
        let group = session
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        let said = self
            .next()
            .await
            .expect("a handshake that both sides finished");
        Ok(Seen { said, shown, group })
    }

    /// Does the handshake as a client.
    pub async fn open(&self, offer: &Offer) -> io::Result<TlsStream<TcpStream>> {
        let address = if offer.tunnel_port {
            self.tunnel_address
        } else {
            self.address
        };
        offer.open(address).await
    }

    /// The next handshake that failed.
    pub async fn failure(&self) -> AcceptError {
        self.next().await.expect_err("a handshake that failed")
    }

    pub async fn next(&self) -> Result<Said, AcceptError> {
        let mut said = self.said.lock().await;
        let next = tokio::time::timeout(Duration::from_secs(20), said.recv());
        next.await.expect("the server saw a connection").unwrap()
    }

    pub async fn stop(self) {
        self.tasks.abort();
        self.tasks.join().await;
        assert_eq!(self.trust.live(), 0);
    }
}

/// TLS whose service name is `gw.test`, and the trust in clients and in connection points that it judges by.
pub fn built(pki: &Pki, names: Vec<NameSettings>, strict_sni: bool) -> (ServerTls, Trust, Trust) {
    let clients = Trust::new(pki.anchors(&[]), Usage::Client, Metrics::new());
    let cp_anchors = anchors(&[&pki.connection_points], &[]);
    let points = Trust::new(cp_anchors, Usage::ConnectionPoint, Metrics::new());
    let verify = |trust: &Trust| -> VerifyFn {
        let trust = trust.clone();
        Arc::new(move |presented| trust.verify(presented).map(drop))
    };
    let settings = settings(names, strict_sni);
    let tls = ServerTls::build(&settings, verify(&clients), verify(&points)).unwrap();
    (tls, clients, points)
}

fn settings(names: Vec<NameSettings>, strict_sni: bool) -> ServerSettings {
    ServerSettings {
        names,
        strict_sni,
        tunnel_server_name: "tunnel.gw.test".to_owned(),
    }
}

async fn say(
    accepted: Accepted<TcpStream>,
    clients: &Trust,
    points: &Trust,
    report: &mpsc::UnboundedSender<Result<Said, AcceptError>>,
) {
    let (trust, http2) = match accepted.purpose {
        Purpose::Client { http2 } => (clients, Some(http2)),
        Purpose::Tunnel => (points, None),
    };
    let live = trust.admit(accepted.presented());
    let fault = match live.certificate() {
        ClientCertificate::Refused(fault) => Some(fault),
        ClientCertificate::Missing | ClientCertificate::Verified(_) => None,
    };
    let said = Said {
        purpose: accepted.purpose,
        http2,
        server_name: accepted.server_name,
        resumed: accepted.resumed,
        identity: live.identity().map(|identity| identity.name.clone()),
        fault,
    };
    // Before the client reads of it, so that whoever asks next asks of this connection.
    report.send(Ok(said)).ok();
    let mut stream = accepted.stream;
    // A client that fails afterwards has closed already.
    stream.write_all(b"said\n").await.ok();
    stream.shutdown().await.ok();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest))
        .await
        .ok();
}

/// What a client offers. Clones share their sessions.
#[derive(Clone)]
pub struct Offer {
    asked: String,
    config: Arc<ClientConfig>,
    pair: Option<KeyPair>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
    tunnel_port: bool,
}

impl Offer {
    pub fn to(asked: &str) -> Self {
        Self {
            asked: asked.to_owned(),
            config: client_config(None, &[], rustls::ALL_VERSIONS),
            pair: None,
            alpn: Vec::new(),
            versions: rustls::ALL_VERSIONS.to_vec(),
            tunnel_port: false,
        }
        .alpn(&[b"h2", b"http/1.1"])
    }

    pub fn alpn(mut self, names: &[&[u8]]) -> Self {
        self.alpn = names.iter().map(|name| name.to_vec()).collect();
        self.build()
    }

    pub fn with(mut self, pair: &KeyPair) -> Self {
        self.pair = Some(pair.clone());
        self.build()
    }

    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self.build()
    }

    pub fn tunnel_port(mut self) -> Self {
        self.tunnel_port = true;
        self
    }

    pub fn config(mut self, config: Arc<ClientConfig>) -> Self {
        self.config = config;
        self
    }

    /// The configuration of this offer with another way to answer the request for a certificate.
    pub fn with_resolver(
        &self,
        resolver: Arc<dyn rustls::client::ResolvesClientCert>,
    ) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = resolver;
        Arc::new(config)
    }

    /// Does the handshake as a client of this address.
    pub async fn open(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(self.asked.clone()).unwrap();
        TlsConnector::from(Arc::clone(&self.config))
            .connect(name, socket)
            .await
    }

    fn build(mut self) -> Self {
        self.config = client_config(self.pair.as_ref(), &self.alpn, &self.versions);
        self
    }
}

fn client_config(
    pair: Option<&KeyPair>,
    alpn: &[Vec<u8>],
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match pair.cloned() {
        Some(pair) => builder.with_client_auth_cert(pair.chain, pair.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.to_vec();
    Arc::new(config)
}

/// Takes any server certificate, so that a test can see which one is shown.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The alert that a client was sent.
pub fn alert_of(error: &io::Error) -> Option<AlertDescription> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::AlertReceived(alert) = tls {
        return Some(*alert);
    }
    None
}

/// Runs `openssl s_client` until the server closes; everything it printed.
pub async fn openssl(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args([
        "30",
        "openssl",
        "s_client",
        "-ign_eof",
        "-connect",
        &server.address.to_string(),
    ]);
    command.args(arguments).stdin(Stdio::null());
    let out = tokio::task::spawn_blocking(move || command.output().expect("openssl is installed"));
    let out = out.await.unwrap();
    server.next().await.ok();
    [out.stdout, out.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat()
}
