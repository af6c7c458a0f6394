//! The outer end: clients in, requests into tunnels.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::SendRequest;
use http::header::{CONNECTION, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opencmg::pieces::{ReadAhead, gather};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::body::{Received, Sending};
use super::late::late;
use crate::ends::{self, listen};
use crate::{BUFFER, CONNECTION_WINDOW, FRAME, Fault, SEND_BUFFER, STREAM_WINDOW};

type Tunnels = ends::Tunnels<SendRequest<Bytes>>;

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
    let (stream, push) = gather(acceptor.accept(ReadAhead::new(tcp)).await?);
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .handshake(stream)
        .await?;
    tunnels.add(sender);
    Ok(late(push, |cx| Pin::new(&mut connection).poll(cx)).await?)
}

async fn serve(tunnels: Arc<Tunnels>, acceptor: TlsAcceptor, tcp: TcpStream) -> Result<(), Fault> {
    let stream = TokioIo::new(acceptor.accept(ReadAhead::new(tcp)).await?);
    http1::Builder::new()
        .max_buf_size(BUFFER)
        .serve_connection(stream, service_fn(|request| forward(&tunnels, request)))
        .await?;
    Ok(())
}

/// The path of a request.
async fn forward(
    tunnels: &Tunnels,
    request: Request<Incoming>,
) -> Result<Response<Received>, Fault> {
    let (mut head, body) = request.into_parts();
    head.headers.remove(CONNECTION);
    let host = head.headers.remove(HOST).ok_or("no Host")?;
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(Authority::try_from(host.as_bytes())?);
    head.uri = Uri::from_parts(uri)?;
    head.version = Version::HTTP_2;
    let mut sender = tunnels.next()?;
    let empty = body.is_end_stream();
    let (mut response, stream) = sender.send_request(Request::from_parts(head, ()), empty)?;
    let mut sending = (!empty).then(|| Sending::new(body, stream));
    let response = poll_fn(|cx| {
        if let Some(some) = &mut sending
            && let Poll::Ready(_sent) = some.poll(cx)
        {
            sending = None;
        }
        Pin::new(&mut response).poll(cx)
    })
    .await?;
    let (head, stream) = response.into_parts();
    let body = Received::new(stream, &head.headers, sending);
    Ok(Response::from_parts(head, body))
}
