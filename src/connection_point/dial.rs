//! Dialling one gateway: TCP, an outbound proxy where there is one, TLS with the way that the network lets pass.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::settings::{GatewaySettings, OutboundProxy, Settings};
use crate::backend::read_password;
use crate::pieces::ReadAhead;
use crate::pki::{self, CertificateDer, KeyPair};
use crate::tls::{GatewayCertificateError, TunnelClientSettings, Way, tunnel_client};

/// Between two keep-alive probes of a silent tunnel, so that a firewall does not forget it.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// An outbound proxy's answer to CONNECT is longer than this only if it is none.
const PROXY_ANSWER_LIMIT: usize = 16 << 10;

/// A connection to a gateway.
pub(super) type Stream = TlsStream<ReadAhead<TcpStream>>;

/// Dials one gateway. Its certificates may be replaced while it is in use.
#[derive(Debug)]
pub(super) struct Dialer {
    gateway: GatewaySettings,
    proxy: Option<Proxy>,
    credentials: ArcSwap<Credentials>,
    // What got through last, where the way is open.
    by_server_name: AtomicBool,
    patience: Duration,
}

/// The TLS configuration of each way.
#[derive(Debug)]
pub(super) struct Credentials {
    by_alpn: Arc<rustls::ClientConfig>,
    by_server_name: Arc<rustls::ClientConfig>,
}

/// An outbound proxy with what authenticates to it.
#[derive(Debug)]
pub(super) struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl Credentials {
    /// Reads the certificates that the settings point to.
    ///
    /// # Errors
    /// What is wrong, with its key and file.
    pub(super) fn load(
        settings: &Settings,
        gateway: &GatewaySettings,
    ) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let key_pair = load_pair(settings).map_err(|fault| faults.push(fault)).ok();
        let ca = load_ca(gateway, &mut faults);
        let Some(key_pair) = key_pair.filter(|_| faults.is_empty()) else {
            return Err(faults);
        };
        let of = |way| {
            let settings = TunnelClientSettings {
                key_pair: key_pair.clone(),
                ca: ca.clone(),
                service_name: gateway.name.clone(),
                way,
            };
            tunnel_client(&settings)
                .map_err(|fault| vec![format!("gateway {}: {fault}", gateway.name)])
        };
        Ok(Self {
            by_alpn: of(Way::Alpn)?,
            by_server_name: of(Way::ServerName)?,
        })
    }
}

/// What gateways call this connection point; `None` if its certificate cannot be read.
pub(super) fn own_name(settings: &Settings) -> Option<String> {
    let leaf = load_pair(settings).ok()?.leaf().ok()?;
    leaf.dns_names.into_iter().next().or(leaf.common_name)
}

fn load_pair(settings: &Settings) -> Result<KeyPair, String> {
    let certificate =
        read(&settings.certificate).map_err(|fault| format!("certificate: {fault}"))?;
    let key = read(&settings.key).map_err(|fault| format!("key: {fault}"))?;
    let path = settings.certificate.display();
    pki::load_pem(&certificate, &key).map_err(|error| format!("certificate: {path}: {error}"))
}

/// Reads the CA certificates of a gateway; what is wrong is added to `faults`.
pub(super) fn load_ca(
    gateway: &GatewaySettings,
    faults: &mut Vec<String>,
) -> Vec<CertificateDer<'static>> {
    let mut all = Vec::new();
    for path in &gateway.ca {
        let certificates = read(path).and_then(|bytes| {
            pki::read_certificates(&bytes).map_err(|error| format!("{}: {error}", path.display()))
        });
        match certificates {
            Ok(certificates) => all.extend(certificates),
            Err(fault) => faults.push(format!("gateway {}: ca: {fault}", gateway.name)),
        }
    }
    all
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

impl Proxy {
    /// Reads what authenticates to the proxy of the settings, if there is one.
    ///
    /// # Errors
    /// What is wrong with the password.
    pub(super) fn load(settings: Option<&OutboundProxy>) -> Result<Option<Self>, String> {
        let Some(settings) = settings else {
            return Ok(None);
        };
        let authorization = match &settings.user {
            None => None,
            Some(user) => {
                let password = read_password(&settings.password)
                    .map_err(|fault| format!("outbound-proxy-{fault}"))?;
                // RFC 7617 §2.
                Some(format!(
                    "Basic {}",
                    STANDARD.encode(format!("{user}:{password}"))
                ))
            }
        };
        Ok(Some(Self {
            host: settings.url.host().to_owned(),
            port: settings.url.port(),
            authorization,
        }))
    }
}

impl Dialer {
    /// A dialer of one gateway. Where two ways are open, half of `patience`, what one dial may take, is for the first.
    pub(super) fn new(
        gateway: GatewaySettings,
        proxy: Option<Proxy>,
        credentials: Credentials,
        patience: Duration,
    ) -> Self {
        Self {
            gateway,
            proxy,
            credentials: ArcSwap::from_pointee(credentials),
            by_server_name: AtomicBool::new(false),
            patience,
        }
    }

    /// Takes over the certificates of another dialer for the next dials.
    pub(super) fn take_credentials(&self, other: &Self) {
        self.credentials.store(other.credentials.load_full());
    }

    /// Dials one address, `host:port`.
    ///
    /// # Errors
    /// What went wrong, worded for an administrator; a [`GatewayCertificateError`] is kept inside.
    pub(super) async fn dial(&self, address: &str) -> io::Result<Stream> {
        match self.gateway.way {
            Some(way) => self.dial_by(way, address).await,
            None => self.dial_by_either(address).await,
        }
    }

    /// Tries the way that got through last, then the other.
    async fn dial_by_either(&self, address: &str) -> io::Result<Stream> {
        let by_server_name = self.by_server_name.load(Ordering::Relaxed);
        let (first, second) = if by_server_name {
            (Way::ServerName, Way::Alpn)
        } else {
            (Way::Alpn, Way::ServerName)
        };
        // A firewall may swallow what it does not know: the other way must still have its turn.
        let tcp = self.connect(address).await?;
        let tried = timeout(self.patience / 2, self.tls(first, tcp)).await;
        let silent = |_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the TLS handshake is not answered",
            ))
        };
        let error = match tried.unwrap_or_else(silent) {
            Ok(stream) => return Ok(stream),
            // Another way leads to the same certificate.
            Err(error) if GatewayCertificateError::find(&error).is_some() => return Err(error),
            Err(error) => error,
        };
        match self.dial_by(second, address).await {
            Ok(stream) => {
                self.by_server_name
                    .store(!by_server_name, Ordering::Relaxed);
                Ok(stream)
            }
            Err(_) => Err(error),
        }
    }

    /// Dials by one way.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub(super) async fn dial_by(&self, way: Way, address: &str) -> io::Result<Stream> {
        let tcp = self.connect(address).await?;
        self.tls(way, tcp).await
    }

    /// A TCP connection to an address, through the outbound proxy where there is one.
    ///
    /// # Errors
    /// What went wrong, with whom.
    pub(super) async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let tcp = match &self.proxy {
            None => TcpStream::connect(address)
                .await
                .map_err(|error| about(error, format!("connecting to {address}")))?,
            Some(proxy) => proxy.connect(address).await?,
        };
        // A socket that cannot be tuned still carries a tunnel.
        let _ = tcp.set_nodelay(true);
        let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
        let _ = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keep_alive);
        Ok(tcp)
    }

    /// TLS by one way on a connection.
    ///
    /// # Errors
    /// What went wrong; the peer that knows no tunnels is told by its ALPN.
    pub(super) async fn tls(&self, way: Way, tcp: TcpStream) -> io::Result<Stream> {
        let credentials = self.credentials.load_full();
        let config = match way {
            Way::Alpn | Way::Port => &credentials.by_alpn,
            Way::ServerName => &credentials.by_server_name,
        };
        let name = ServerName::try_from(way.server_name(&self.gateway.name))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, ReadAhead::new(tcp))
            .await?;
        if stream.get_ref().1.alpn_protocol().is_none() && way != Way::Port {
            let what = "the peer took none of the tunnel's ALPN names (RFC 7301)";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, what));
        }
        Ok(stream)
    }
}

impl Proxy {
    async fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let (host, port) = (self.host.as_str(), self.port);
        let mut tcp = TcpStream::connect((host, port)).await.map_err(|error| {
            about(
                error,
                format!("connecting to the outbound proxy {host}:{port}"),
            )
        })?;
        let authorization = self.authorization.as_ref();
        let authorization = authorization.map_or_else(String::new, |value| {
            format!("Proxy-Authorization: {value}\r\n")
        });
        let request =
            format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{authorization}\r\n");
        tcp.write_all(request.as_bytes()).await?;
        let status = read_status(&mut tcp).await?;
        let code = status.split(' ').nth(1).unwrap_or_default();
        if code.starts_with('2') {
            return Ok(tcp);
        }
        let what =
            format!("the outbound proxy {host}:{port} does not connect to {address}: {status}");
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, what))
    }
}

/// Reads the head of an answer to its end, and not a byte further; returns its first line.
async fn read_status(tcp: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= PROXY_ANSWER_LIMIT {
            let what = "the outbound proxy's answer has no end";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let byte = tcp.read_u8().await;
        head.push(byte.map_err(|error| about(error, "the outbound proxy's answer".to_owned()))?);
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.lines().next().unwrap_or_default().to_owned())
}

fn about(error: io::Error, what: String) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
