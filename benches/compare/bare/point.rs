//! The inner end: tunnels out, requests to the backend.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::ends::{self, dial};
use crate::{
    CONNECTION_WINDOW, FIELD_TABLE, FRAME, Fault, SEND_BUFFER, STREAM_WINDOW, STREAMS, pki,
};

type Backend = ends::Backend<Incoming>;

/// A body of the backend; its connection is idle once it has been read.
struct Answered {
    body: Incoming,
    lent: Option<(Arc<Backend>, SendRequest<Incoming>)>,
}

/// Keeps the tunnels without end.
pub(crate) async fn run(
    folder: &Path,
    gateway: SocketAddr,
    address: SocketAddr,
    tunnels: usize,
) -> Result<(), Fault> {
    dial(folder, gateway, tunnels, Backend::new(address)?, serve).await
}

async fn serve(
    backend: Arc<Backend>,
    connector: TlsConnector,
    tcp: TcpStream,
) -> Result<(), Fault> {
    let stream = connector
        .connect(ServerName::try_from(pki::HOST)?, tcp)
        .await?;
    let service = service_fn(|request| forward(Arc::clone(&backend), request));
    http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .header_table_size(FIELD_TABLE)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// The path of a request.
async fn forward(
    backend: Arc<Backend>,
    mut request: Request<Incoming>,
) -> Result<Response<Answered>, Fault> {
    let path = request.uri().path_and_query().ok_or("no path")?.clone();
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, backend.host.clone());
    let mut sender = take(&backend).await?;
    let mut response = sender.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    *response.version_mut() = Version::HTTP_2;
    let mut lent = Some((backend, sender));
    if response.body().is_end_stream()
        && let Some((backend, sender)) = lent.take()
    {
        backend.give(sender);
    }
    Ok(response.map(|body| Answered { body, lent }))
}

impl Body for Answered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let over = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if over && let Some((backend, sender)) = self.lent.take() {
            backend.give(sender);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn take(backend: &Backend) -> Result<SendRequest<Incoming>, Fault> {
    while let Some(mut sender) = backend.pop() {
        if sender.ready().await.is_ok() {
            return Ok(sender);
        }
    }
    backend.connect().await
}
