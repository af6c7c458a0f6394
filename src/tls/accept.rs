//! One handshake: from the accepted socket to a stream whose purpose is known.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use super::server::ServerTls;
use super::settings::ClientCertificates;
use crate::pki::CertificateDer;
use crate::reason::Reason;

/// The kind of port that a connection came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The client port: clients, and tunnels by ALPN or server name.
    Client,
    /// A tunnel port: tunnels only, with any ALPN or none.
    Tunnel,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client's requests.
    Client {
        /// Whether HTTP/2 was chosen; HTTP/1.1 otherwise.
        http2: bool,
    },
    /// A tunnel.
    Tunnel,
}

/// A finished handshake.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The stream.
    pub stream: TlsStream<IO>,
    /// What it is for.
    pub purpose: Purpose,
    /// The server name that the client asked for, in lower case and without trailing dot.
    pub server_name: Option<String>,
    /// The certificates that the client presented in this handshake, or in the one that is resumed; leaf first.
    /// The client holds the key of the leaf; nothing else of it is verified, except for tunnels and names with
    /// [`super::OnBadClientCertificate::Alert`].
    pub presented: Vec<CertificateDer<'static>>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether the name asks for client certificates. With `Require`, requests without a verified one are to be refused.
    pub client_certificates: ClientCertificates,
}

/// Why a handshake failed. The peer was told by an alert and the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct AcceptError {
    /// The stable code.
    pub reason: Reason,
    /// What happened, for the log.
    pub detail: String,
}

impl ServerTls {
    /// Does the handshake of one connection. The caller sets the deadline.
    ///
    /// # Errors
    /// Why it failed. The alert has been written, and what the peer still sent was read for a moment, so that it sees
    /// the alert rather than a reset.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    #[allow(clippy::unused_async, reason = "filled in with the configurations")]
    pub async fn accept<IO>(&self, io: IO, port: Port) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let _ = (io, port);
        unimplemented!("ServerTls::accept")
    }
}
