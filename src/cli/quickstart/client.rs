//! A client as `--once` needs it: HTTP/1.1 over TLS to one address under any name, and honest about `100 Continue`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http1;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use crate::tasks::Tasks;

type Body = UnsyncBoxBody<Bytes, Infallible>;

// A request of `--once` is answered within seconds or something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// One client: a TLS configuration with or without a certificate, and the connection that it keeps.
pub(super) struct Client {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    tasks: Tasks,
    kept: Option<(String, http1::SendRequest<Body>)>,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) phrase: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether `100 Continue` came before the answer.
    pub(super) continued: bool,
}

impl Client {
    pub(super) fn new(address: SocketAddr, tls: Arc<rustls::ClientConfig>, tasks: Tasks) -> Self {
        Self {
            address,
            tls,
            tasks,
            kept: None,
        }
    }

    /// Sends a request to `host` and reads the answer whole.
    ///
    /// A body announced with `Expect: 100-continue` is sent once the 100 has come, and not at all without it.
    pub(super) async fn send(
        &mut self,
        host: &str,
        request: Request<Bytes>,
    ) -> anyhow::Result<Answer> {
        let what = format!("{} {}", request.method(), request.uri());
        tokio::time::timeout(PATIENCE, self.exchange(host, request))
            .await
            .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
            .and_then(|answer| answer)
            .with_context(|| what)
    }

    async fn exchange(&mut self, host: &str, request: Request<Bytes>) -> anyhow::Result<Answer> {
        let mut sender = self.connection(host).await?;
        let go_on = Arc::new(Notify::new());
        let mut request = prepare(host, request, &go_on)?;
        let (seen, mut was_seen) = tokio::sync::watch::channel(false);
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                seen.send_replace(true);
                go_on.notify_one();
            }
        });
        let response = sender.send_request(request).await.context("no answer")?;
        let continued = *was_seen.borrow_and_update();
        let answer = read(response, continued).await?;
        self.kept = Some((host.to_owned(), sender));
        Ok(answer)
    }

    async fn connection(&mut self, host: &str) -> anyhow::Result<http1::SendRequest<Body>> {
        if let Some((name, mut sender)) = self.kept.take()
            && name == host
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("no connection to {}", self.address))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .context("no TLS session")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn(async move {
            // What becomes of the connection shows in the answer, or in its absence.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

fn prepare(
    host: &str,
    request: Request<Bytes>,
    go_on: &Arc<Notify>,
) -> anyhow::Result<Request<Body>> {
    let (mut head, bytes) = request.into_parts();
    head.headers.insert(header::HOST, host.parse()?);
    let body = if head.headers.contains_key(header::EXPECT) {
        head.headers
            .insert(header::CONTENT_LENGTH, bytes.len().into());
        let go_on = go_on.clone();
        let late = futures_util::stream::once(async move {
            go_on.notified().await;
            Ok(Frame::data(bytes))
        });
        StreamBody::new(late).boxed_unsync()
    } else {
        Full::new(bytes).boxed_unsync()
    };
    Ok(Request::from_parts(head, body))
}

async fn read(
    response: Response<hyper::body::Incoming>,
    continued: bool,
) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let phrase = head.extensions.get::<ReasonPhrase>();
    let phrase = phrase.map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
    let body = body.collect().await.context("the answer broke off")?;
    Ok(Answer {
        status: head.status,
        phrase: phrase.unwrap_or_default(),
        headers: head.headers,
        body: body.to_bytes(),
        continued,
    })
}
