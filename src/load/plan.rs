//! What a load is: where to, what, how much, how long.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use rustls_pki_types::ServerName;

use crate::tls::LoadClient;

/// How connections and requests relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each connection sends one request after another.
    KeepAlive,
    /// Each request has a connection of its own, with a full handshake.
    Handshake,
    /// Each request has a connection of its own, with a resumed handshake.
    Resumed,
    /// Each connection sends one request and is held.
    Idle,
    /// Each connection holds requests that are answered late.
    Poll,
}

impl Mode {
    /// Whether connections are held, rather than requests sent at full rate: no warm-up, and the time begins once all are up.
    pub fn holds(self) -> bool {
        matches!(self, Self::Idle | Self::Poll)
    }
}

/// The version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// An `https` URL and the address that is dialled for it.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) uri: Uri,
    pub(super) name: ServerName<'static>,
    pub(super) address: SocketAddr,
}

impl Target {
    /// Reads a URL and resolves its host, or `connect` in its place.
    ///
    /// # Errors
    /// What is wrong with the URL, or that a name does not resolve.
    pub fn resolve(url: &str, connect: Option<&str>) -> Result<Self, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("the URL \"{url}\" cannot be read: {error}"))?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("the URL \"{url}\" is not https://HOST[:PORT]/PATH"));
        };
        let host = authority.host();
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("\"{host}\" is neither a name nor an address"))?;
        let dialled = match connect {
            Some(address) => address.to_owned(),
            None => format!("{host}:{}", authority.port_u16().unwrap_or(443)),
        };
        let address = dialled
            .to_socket_addrs()
            .map_err(|error| format!("\"{dialled}\" does not resolve: {error}"))?
            .next()
            .ok_or_else(|| format!("\"{dialled}\" resolves to nothing"))?;
        Ok(Self { uri, name, address })
    }
}

/// A load to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where requests go.
    pub target: Target,
    /// The TLS of every connection; its ALPN name must be that of the protocol, and its sessions those of the mode.
    pub tls: LoadClient,
    /// How connections and requests relate.
    pub mode: Mode,
    /// The version of HTTP.
    pub protocol: Protocol,
    /// Connections at once, at least 1.
    pub connections: usize,
    /// Requests at once per HTTP/2 connection, at least 1; HTTP/1.1 has 1.
    pub streams: usize,
    /// Threads, at least 1; each has a runtime of its own.
    pub threads: usize,
    /// Requests per second that fall due in all, whether earlier ones are answered or not. `None`: each waits for the one before.
    pub rate: Option<f64>,
    /// New connections per second at first, in all.
    pub dial_rate: Option<f64>,
    /// How long requests are counted, or connections held.
    pub duration: Duration,
    /// How long requests are sent before that.
    pub warm_up: Duration,
    /// How many requests are counted at most.
    pub requests: Option<u64>,
    /// How long a handshake may take, and an answer, that of a poll excepted.
    pub patience: Duration,
    /// The method.
    pub method: Method,
    /// Fields besides `Host` and `Content-Length`.
    pub fields: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The one request of a load, in the form that each protocol sends.
#[derive(Debug)]
pub(super) struct Wire {
    /// Head and body of HTTP/1.1.
    pub(super) http1: Bytes,
    /// The head of HTTP/2.
    pub(super) http2: Request<()>,
    /// The body of HTTP/2.
    pub(super) body: Bytes,
    /// Whether answers have no body whatever they announce.
    pub(super) is_head: bool,
}

impl Plan {
    /// How many requests are in flight at most.
    pub(super) fn lanes(&self) -> usize {
        self.connections * self.streams
    }

    pub(super) fn wire(&self) -> Result<Wire, String> {
        let uri = &self.target.uri;
        let mut http2 = Request::new(());
        *http2.method_mut() = self.method.clone();
        *http2.uri_mut() = uri.clone();
        *http2.headers_mut() = self.fields.clone();
        let has_body = !self.body.is_empty() || self.method == Method::POST;
        if has_body {
            let length = self.body.len().into();
            http2.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map(|authority| authority.as_str());
        let host = host.ok_or("the URL has no host")?;
        let mut http1 = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", self.method).into_bytes();
        for (name, value) in http2.headers() {
            http1.extend_from_slice(name.as_str().as_bytes());
            http1.extend_from_slice(b": ");
            http1.extend_from_slice(value.as_bytes());
            http1.extend_from_slice(b"\r\n");
        }
        http1.extend_from_slice(b"\r\n");
        http1.extend_from_slice(&self.body);
        Ok(Wire {
            http1: http1.into(),
            http2,
            body: self.body.clone(),
            is_head: self.method == Method::HEAD,
        })
    }
}
