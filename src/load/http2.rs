//! HTTP/2 as a load needs it.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::connection::Answer;
use super::fault::Fault;
use super::plan::Wire;
use crate::tasks::Tasks;

// Wide enough that the server is never held up by the client.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// A handle on a connection; clones share it.
#[derive(Clone)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    ended: tokio_util::sync::CancellationToken,
}

impl Http2 {
    pub(super) async fn start(
        stream: TlsStream<TcpStream>,
        drivers: &Tasks,
    ) -> Result<Self, Fault> {
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|_| Fault::Reset)?;
        let ended = tokio_util::sync::CancellationToken::new();
        let end = ended.clone().drop_guard();
        drivers.spawn(async move {
            // Its error is the error of the requests that were under way.
            let _ = connection.await;
            drop(end);
        });
        Ok(Self { sender, ended })
    }

    pub(super) async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| self.sender.poll_ready(cx)).await.is_ok()
    }

    pub(super) fn send(&mut self, wire: &Wire) -> Result<ResponseFuture, Fault> {
        let is_whole = wire.body.is_empty();
        let head = wire.http2.clone();
        let sent = self.sender.send_request(head, is_whole);
        let (answer, mut body) = sent.map_err(|_| Fault::Reset)?;
        if !is_whole {
            body.send_data(wire.body.clone(), true)
                .map_err(|_| Fault::Reset)?;
        }
        Ok(answer)
    }

    pub(super) async fn receive(answer: ResponseFuture) -> Result<Answer, Fault> {
        let answer = answer.await.map_err(|_| Fault::Reset)?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let mut received = 0;
        while let Some(data) = body.data().await {
            let data = data.map_err(|_| Fault::ShortBody)?;
            received += data.len() as u64;
            body.flow_control()
                .release_capacity(data.len())
                .map_err(|_| Fault::ShortBody)?;
        }
        Ok(Answer {
            status,
            received,
            is_reusable: true,
        })
    }

    pub(super) async fn closed(&mut self) {
        self.ended.cancelled().await;
    }
}
