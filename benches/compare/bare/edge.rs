//! The outer end: clients in, requests into tunnels.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::header::{CONNECTION, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::ends::{self, listen};
use crate::{BUFFER, CONNECTION_WINDOW, FRAME, Fault, SEND_BUFFER, STREAM_WINDOW};

type Tunnels = ends::Tunnels<SendRequest<Incoming>>;

/// Serves clients and tunnels without end.
pub(crate) async fn run(
    folder: &Path,
    clients: SocketAddr,
    tunnels: SocketAddr,
) -> Result<(), Fault> {
    listen(folder, [clients, tunnels], take_tunnel, serve).await
}

async fn take_tunnel(
    tunnels: Arc<Tunnels>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
) -> Result<(), Fault> {
    let stream = TokioIo::new(acceptor.accept(tcp).await?);
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .handshake(stream)
        .await?;
    tunnels.add(sender);
    Ok(connection.await?)
}

async fn serve(tunnels: Arc<Tunnels>, acceptor: TlsAcceptor, tcp: TcpStream) -> Result<(), Fault> {
    let stream = TokioIo::new(acceptor.accept(tcp).await?);
    http1::Builder::new()
        .max_buf_size(BUFFER)
        .serve_connection(stream, service_fn(|request| forward(&tunnels, request)))
        .await?;
    Ok(())
}

/// The path of a request.
async fn forward(
    tunnels: &Tunnels,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, Fault> {
    request.headers_mut().remove(CONNECTION);
    let host = request.headers_mut().remove(HOST).ok_or("no Host")?;
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(Authority::try_from(host.as_bytes())?);
    *request.uri_mut() = Uri::from_parts(uri)?;
    *request.version_mut() = Version::HTTP_2;
    let mut sender = tunnels.next()?;
    Ok(sender.send_request(request).await?)
}
