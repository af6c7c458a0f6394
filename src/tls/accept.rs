//! One handshake: from the accepted socket to a stream whose purpose is known.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{AlertDescription, HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::server::{Choice, ServerTls};
use super::settings::ClientCertificates;
use super::tickets::LateTickets;
use super::verifier::{Found, fault_of};
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
    /// The stream. Tickets go out with what is first written to it. Boxed, since it is moved often and large.
    pub stream: Box<TlsStream<LateTickets<IO>>>,
    /// What it is for.
    pub purpose: Purpose,
    /// The server name that the client asked for, in lower case and without trailing dot.
    pub server_name: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether the name asks for client certificates. With `Require`, requests without a verified one are to be refused.
    pub client_certificates: ClientCertificates,
}

impl<IO> Accepted<IO> {
    /// The certificates that the client presented in this handshake, or in the one that is resumed; leaf first.
    /// The client holds the key of the leaf; nothing else of it is verified, except for tunnels and names with
    /// [`super::OnBadClientCertificate::Alert`].
    pub fn presented(&self) -> &[CertificateDer<'static>] {
        let (_, session) = self.stream.get_ref();
        session.peer_certificates().unwrap_or_default()
    }
}

/// Why a handshake failed. The peer was told by an alert and the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct AcceptError {
    /// The stable code; `client-gone` for a peer that closed the connection, which is what port probes do.
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
    pub async fn accept<IO>(&self, io: IO, port: Port) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = hello(LateTickets::new(io)).await?;
        let found = Found::default();
        let choice = self.choose(&start.client_hello(), port, &found);
        match choice {
            Ok(choice) => shake_hands(start, choice, found).await,
            Err(error) => Err(turn_away(start.io, error).await),
        }
    }
}

// Each step is a future of its own, so that what only one of them needs takes no place beside the others.

/// Reads the client's hello.
async fn hello<IO>(io: LateTickets<IO>) -> Result<StartHandshake<LateTickets<IO>>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), io);
    match (&mut acceptor).await {
        Ok(start) => Ok(start),
        Err(error) => Err(end(acceptor.take_io(), AcceptError::of(&error)).await),
    }
}

/// Ends a connection whose client asks for what is not served.
async fn turn_away<IO>(mut io: LateTickets<IO>, error: AcceptError) -> AcceptError
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // If it cannot be written, the peer is gone and needs no alert.
    let _ = io.write_all(&plain_alert(error.reason)).await;
    end(Some(io), error).await
}

/// Does what comes after the hello.
async fn shake_hands<IO>(
    start: StartHandshake<LateTickets<IO>>,
    choice: Choice,
    found: Found,
) -> Result<Accepted<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match answered(start, &choice).into_fallible().await {
        Ok(stream) => Ok(accepted(Box::new(stream), choice)),
        Err((error, io)) => {
            let error = AcceptError::of_certificate(&error, &found, choice.tunnel);
            Err(end(Some(io), error).await)
        }
    }
}

/// The handshake with the server's flight in it, which is not sent yet.
fn answered<IO>(
    start: StartHandshake<LateTickets<IO>>,
    choice: &Choice,
) -> tokio_rustls::Accept<LateTickets<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut last_word = false;
    let note = |session: &mut ServerConnection| last_word = client_has_last_word(session);
    let mut accept = start.into_stream_with(choice.config.clone(), note);
    if last_word && let Some(io) = accept.get_mut() {
        io.hold();
    }
    accept
}

/// Whether what the server writes after its flight are tickets, or the alert that ends the handshake: not in TLS 1.2, nor
/// where the client has to say hello again.
fn client_has_last_word(session: &ServerConnection) -> bool {
    let once = matches!(
        session.handshake_kind(),
        Some(HandshakeKind::Full | HandshakeKind::Resumed)
    );
    once && session.protocol_version() == Some(ProtocolVersion::TLSv1_3)
}

fn accepted<IO>(mut stream: Box<TlsStream<LateTickets<IO>>>, choice: Choice) -> Accepted<IO> {
    stream.get_mut().0.end_handshake();
    let session = stream.get_ref().1;
    let purpose = if choice.tunnel {
        Purpose::Tunnel
    } else {
        let http2 = session.alpn_protocol() == Some(b"h2");
        Purpose::Client { http2 }
    };
    Accepted {
        purpose,
        server_name: choice.server_name,
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        client_certificates: choice.client_certificates,
        stream,
    }
}

/// Ends a connection whose handshake failed: our side is closed, and what the peer has under way is read, since
/// closing a socket with unread data makes TCP reset it, and the peer would lose the alert.
async fn end<IO>(io: Option<IO>, error: AcceptError) -> AcceptError
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Longer than a round trip to any client.
    const LINGER: Duration = Duration::from_secs(1);
    /// A first request with its head.
    const MOST: u64 = 64 << 10;
    if let (Some(mut io), false) = (io, error.reason == Reason::ClientGone) {
        let linger = async {
            io.shutdown().await?;
            tokio::io::copy(&mut io.take(MOST), &mut tokio::io::sink()).await
        };
        // However it ends, the connection is closed.
        let _ = tokio::time::timeout(LINGER, linger).await;
    }
    error
}

/// An alert before any key is agreed on (RFC 8446 §6): fatal, and `unrecognized_name` or `internal_error`.
fn plain_alert(reason: Reason) -> [u8; 7] {
    let alert = if reason == Reason::UnknownServerName {
        AlertDescription::UnrecognisedName
    } else {
        AlertDescription::InternalError
    };
    [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, u8::from(alert)]
}

impl AcceptError {
    /// What a failed handshake says, if it was not the peer's certificate.
    fn of(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let (reason, detail) = match tls {
            Some(rustls::Error::AlertReceived(alert)) => (
                Reason::HandshakeFailed,
                format!("the client refused it: {alert:?}"),
            ),
            Some(rustls::Error::NoCertificatesPresented) => (
                Reason::CertificateMissing,
                "the client presented no certificate".to_owned(),
            ),
            Some(other) => match fault_of(other) {
                Some(fault) => (fault.reason, fault.to_string()),
                None => (Reason::HandshakeFailed, other.to_string()),
            },
            None => (
                Reason::ClientGone,
                format!("the client went away during the handshake: {error}"),
            ),
        };
        Self { reason, detail }
    }

    /// What a failed handshake says, with the words of the judge if it was one.
    fn of_certificate(error: &io::Error, found: &Found, tunnel: bool) -> Self {
        let mut said = Self::of(error);
        let judged = found.take();
        let certificate = judged.is_some() || said.reason == Reason::CertificateMissing;
        if let Some(fault) = judged {
            said.detail = fault.to_string();
            said.reason = fault.reason;
        }
        if tunnel && certificate {
            said.reason = Reason::TunnelNotAuthenticated;
        }
        said
    }
}
