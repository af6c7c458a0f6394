//! A client of the gateway: real TLS with or without a certificate, HTTP/1.1 or HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub type Body = BoxBody<Bytes, io::Error>;

/// Where and as whom to connect. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: Arc<rustls::ClientConfig>,
    gateway: SocketAddr,
    host: String,
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub phrase: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// One connection to the gateway.
pub enum Connection {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

impl Client {
    /// A client that trusts `root` and shows `certificate` (chain and key files), if given.
    pub fn new(
        gateway: SocketAddr,
        host: &str,
        root: &Path,
        certificate: Option<(&Path, &Path)>,
    ) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(root).unwrap())
            .unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
        let tls = match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_file_iter(chain)
                    .unwrap()
                    .map(Result::unwrap);
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(chain.collect(), key).unwrap()
            }
        };
        Self {
            tls: Arc::new(tls),
            gateway,
            host: host.to_owned(),
        }
    }

    /// The same client at another gateway instance.
    pub fn at(&self, gateway: SocketAddr) -> Self {
        Self {
            gateway,
            ..self.clone()
        }
    }

    /// The same client at another host name of the gateway.
    pub fn named(&self, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            ..self.clone()
        }
    }

    /// Changes the TLS configuration, for example its versions or its resumption.
    pub fn with_tls(mut self, change: impl FnOnce(&mut rustls::ClientConfig)) -> Self {
        change(Arc::make_mut(&mut self.tls));
        self
    }

    /// Its TLS configuration, for a load of its own.
    pub fn configuration(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// A TLS connection that offers these ALPN names.
    pub async fn tls(&self, alpn: &[&[u8]]) -> io::Result<TlsStream<TcpStream>> {
        let mut tls = self.tls.clone();
        if !alpn.is_empty() {
            Arc::make_mut(&mut tls).alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        }
        let tcp = TcpStream::connect(self.gateway).await?;
        tcp.set_nodelay(true)?;
        // What many stalled uploads leave in the kernel would be taken from every connection of the machine.
        SockRef::from(&tcp).set_send_buffer_size(256 << 10)?;
        let name = ServerName::try_from(self.host.clone()).unwrap();
        TlsConnector::from(tls).connect(name, tcp).await
    }

    /// An HTTP/1.1 connection.
    pub async fn connect(&self) -> io::Result<Connection> {
        let io = TokioIo::new(self.tls(&[b"http/1.1"]).await?);
        let (send, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
        spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection::H1(send))
    }

    /// An HTTP/2 connection.
    pub async fn connect_h2(&self) -> io::Result<Connection> {
        let io = TokioIo::new(self.tls(&[b"h2"]).await?);
        let executor = TokioExecutor::new();
        let (send, connection) = http2::handshake(executor, io)
            .await
            .map_err(io::Error::other)?;
        spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection::H2(send))
    }

    /// One request on a connection of its own, its answer read to the end.
    pub async fn send(&self, request: Request<Body>) -> io::Result<Answer> {
        self.connect().await?.send(self.addressed(request)).await
    }

    /// One `GET` on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(get(path)).await.unwrap()
    }

    /// Fills in the `Host` field of a request whose target is a path.
    pub fn addressed(&self, mut request: Request<Body>) -> Request<Body> {
        let host = self.host.parse().unwrap();
        request
            .headers_mut()
            .entry(http::header::HOST)
            .or_insert(host);
        request
    }
}

impl Connection {
    /// Sends a request; the body of the answer is not read yet.
    pub async fn start(&mut self, mut request: Request<Body>) -> io::Result<Response<Incoming>> {
        match self {
            Self::H1(send) => {
                send.ready().await.map_err(io::Error::other)?;
                send.send_request(request).await.map_err(io::Error::other)
            }
            Self::H2(send) => {
                into_h2(&mut request);
                send.ready().await.map_err(io::Error::other)?;
                send.send_request(request).await.map_err(io::Error::other)
            }
        }
    }

    /// Puts a request on its way over HTTP/2; the future is its answer's head.
    pub async fn start_later(
        &mut self,
        mut request: Request<Body>,
    ) -> io::Result<impl Future<Output = hyper::Result<Response<Incoming>>> + Send + 'static> {
        let Self::H2(send) = self else {
            return Err(io::Error::other("not HTTP/2"));
        };
        into_h2(&mut request);
        send.ready().await.map_err(io::Error::other)?;
        Ok(send.send_request(request))
    }

    /// Sends a request and reads its answer to the end.
    pub async fn send(&mut self, request: Request<Body>) -> io::Result<Answer> {
        read(self.start(request).await?).await
    }
}

// HTTP/2 carries the host in `:authority`, which hyper takes from the URI.
fn into_h2(request: &mut Request<Body>) {
    if let Some(host) = request.headers_mut().remove(http::header::HOST) {
        let uri = format!("https://{}{}", host.to_str().unwrap(), request.uri());
        *request.uri_mut() = uri.parse().unwrap();
    }
}

/// Reads an answer to its end.
pub async fn read(response: Response<Incoming>) -> io::Result<Answer> {
    let (head, body) = response.into_parts();
    let phrase = match head.extensions.get::<ReasonPhrase>() {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => head
            .status
            .canonical_reason()
            .unwrap_or_default()
            .to_owned(),
    };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Answer {
        status: head.status,
        phrase,
        headers: head.headers,
        body,
    })
}

/// A `GET` without a body.
pub fn get(path: &str) -> Request<Body> {
    Request::get(path).body(empty()).unwrap()
}

/// A body of no bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Spawns a task of a test; it ends with the test's runtime.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    #[allow(
        clippy::disallowed_methods,
        reason = "the runtime of a test ends with the test"
    )]
    tokio::spawn(task)
}

/// Spawns tasks of a test that run at once; returns what all of them returned, or panics with the first that did.
pub fn spawn_all<T: Send + 'static>(
    tasks: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> impl Future<Output = Vec<T>> {
    let mut all = tokio::task::JoinSet::new();
    let mut count = 0;
    for (index, task) in tasks.into_iter().enumerate() {
        all.spawn(async move { (index, task.await) });
        count += 1;
    }
    async move {
        let mut ended: Vec<_> = (0..count).map(|_| None).collect();
        while let Some(one) = all.join_next().await {
            let (index, value) = one.unwrap();
            ended[index] = Some(value);
        }
        ended.into_iter().flatten().collect()
    }
}
