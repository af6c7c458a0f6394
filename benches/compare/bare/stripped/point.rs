//! The inner end: tunnels out, requests to the backend.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::HOST;
use http::{Request, Uri, Version};
use http_body::Body as _;
use hyper::client::conn::http1::SendRequest;
use opencmg::pieces::{ReadAhead, gather};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::{Received, Sending};
use super::late::late;
use crate::ends::{self, dial};
use crate::{
    CONNECTION_WINDOW, FIELD_TABLE, FRAME, Fault, SEND_BUFFER, STREAM_WINDOW, STREAMS, pki,
};

type Backend = ends::Backend<Received>;

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
        .connect(ServerName::try_from(pki::HOST)?, ReadAhead::new(tcp))
        .await?;
    let (stream, push) = gather(stream);
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(STREAMS)
        .header_table_size(FIELD_TABLE)
        .handshake::<_, Bytes>(stream);
    let mut handshake = pin!(handshake);
    let mut connection = poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        push.push(cx);
        polled
    })
    .await?;
    late(push, |cx| {
        while let Some(accepted) = ready!(connection.poll_accept(cx)) {
            let (request, respond) = accepted?;
            let backend = Arc::clone(&backend);
            // A request that fails drops its stream, which resets it.
            crate::spawn(async move { drop(forward(&backend, request, respond).await) });
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// The path of a request.
async fn forward(
    backend: &Arc<Backend>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), Fault> {
    let (mut head, stream) = request.into_parts();
    head.uri = Uri::from(head.uri.path_and_query().ok_or("no path")?.clone());
    head.version = Version::HTTP_11;
    head.headers.insert(HOST, backend.host.clone());
    let body = Received::new(stream, &head.headers, None);
    let mut sender = take(backend).await?;
    let response = sender.send_request(Request::from_parts(head, body)).await?;
    let (mut head, body) = response.into_parts();
    head.headers.remove(http::header::CONNECTION);
    head.version = Version::HTTP_2;
    let empty = body.is_end_stream();
    let stream = respond.send_response(http::Response::from_parts(head, ()), empty)?;
    if !empty {
        let mut sending = Sending::new(body, stream);
        if !poll_fn(|cx| sending.poll(cx)).await {
            return Ok(());
        }
    }
    give(backend, sender).await;
    Ok(())
}

async fn take(backend: &Backend) -> Result<SendRequest<Received>, Fault> {
    while let Some(sender) = backend.pop() {
        if sender.is_ready() {
            return Ok(sender);
        }
    }
    backend.connect().await
}

async fn give(backend: &Backend, mut sender: SendRequest<Received>) {
    if sender.is_ready() || sender.ready().await.is_ok() {
        backend.give(sender);
    }
}
