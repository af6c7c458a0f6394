//! Connections of a load: dialled, used for one request after another, closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::client::ResponseFuture;
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fault::Fault;
use super::http1::Http1;
use super::http2::Http2;
use super::plan::{Protocol, Wire};
use crate::tasks::Tasks;

/// A whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Bytes of the body.
    pub(super) received: u64,
    /// Whether the connection takes another request.
    pub(super) is_reusable: bool,
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) address: SocketAddr,
    pub(super) name: ServerName<'static>,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) protocol: Protocol,
    pub(super) patience: Duration,
    /// The owner of what drives HTTP/2 connections.
    pub(super) drivers: Tasks,
}

/// A connection that is up, and how it came up.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) is_resumed: bool,
}

pub(super) enum Connection {
    Http1(Box<Http1>),
    Http2(Http2),
}

/// A request whose answer has not been read.
pub(super) enum Sent {
    Http1,
    Http2(ResponseFuture),
}

impl Dialer {
    pub(super) async fn dial(&self) -> Result<Dialled, Fault> {
        timeout(self.patience, self.connect())
            .await
            .unwrap_or(Err(Fault::Timeout))
    }

    async fn connect(&self) -> Result<Dialled, Fault> {
        let tcp = TcpStream::connect(self.address)
            .await
            .map_err(|_| Fault::Connect)?;
        tcp.set_nodelay(true).map_err(|_| Fault::Connect)?;
        let stream: TlsStream<TcpStream> = TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.name.clone(), tcp)
            .await
            .map_err(|_| Fault::Tls)?;
        let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let connection = match self.protocol {
            Protocol::Http1 => Connection::Http1(Box::new(Http1::new(stream))),
            Protocol::Http2 => Connection::Http2(Http2::start(stream, &self.drivers).await?),
        };
        Ok(Dialled {
            connection,
            is_resumed,
        })
    }
}

impl Connection {
    /// Whether a request can be sent; one that the server has taken leave of cannot.
    pub(super) async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(connection) => connection.is_ready().await,
        }
    }

    /// Sends the request whole.
    pub(super) async fn send(&mut self, wire: &Wire) -> Result<Sent, Fault> {
        match self {
            Self::Http1(connection) => {
                connection.send(wire).await?;
                Ok(Sent::Http1)
            }
            Self::Http2(connection) => connection.send(wire).map(Sent::Http2),
        }
    }

    /// Reads the answer to the end of its body.
    pub(super) async fn receive(&mut self, sent: Sent, wire: &Wire) -> Result<Answer, Fault> {
        match (self, sent) {
            (Self::Http1(connection), _) => connection.receive(wire.is_head).await,
            (Self::Http2(_), Sent::Http2(answer)) => Http2::receive(answer).await,
            (Self::Http2(_), Sent::Http1) => Err(Fault::Malformed),
        }
    }

    pub(super) async fn exchange(&mut self, wire: &Wire) -> Result<Answer, Fault> {
        let sent = self.send(wire).await?;
        self.receive(sent, wire).await
    }

    /// Returns when the server closes a connection on which nothing is asked.
    pub(super) async fn closed(&mut self) {
        match self {
            Self::Http1(connection) => connection.closed().await,
            Self::Http2(connection) => connection.closed().await,
        }
    }

    /// Takes leave of the server.
    pub(super) async fn close(self) {
        match self {
            Self::Http1(connection) => connection.close().await,
            // What drives the connection takes leave once the last handle is gone.
            Self::Http2(_) => {}
        }
    }
}
