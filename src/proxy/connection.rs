//! One client connection: who is at its other end, and the HTTP server that is put on its stream.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::uri::Authority;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, info};

use super::activity::Activity;
use super::driver::{Driver, Multiplexed};
use super::rate::Allowed;
use super::sleeper::Sleeper;
use super::stream::Stream;
use super::streams::{Inbox, Streams};
use super::websocket::Relay;
use super::{Proxy, Settings, Shared, request};
use crate::identity::{ClientCertificate, Identity, Live};
use crate::message::headers::ClientConnection;
use crate::tunnel::Granted;

/// What an HTTP/1.1 connection buffers at most in each direction.
const BUFFER: usize = 128 << 10;

/// What the window of a stream is not made smaller than: what there is before the client has heard of another
/// (RFC 9113 §6.9.2).
const LEAST_WINDOW: u32 = 64 << 10;

/// What one stream of an HTTP/2 connection buffers for its client before it takes another frame.
pub(super) const SEND_BUFFER: usize = 16 << 10;

/// Fields beyond which the parser itself gives up with a bare answer.
const PARSER_FIELDS: usize = 100;

/// A connection that finished its handshake and is for requests.
#[derive(Debug)]
pub struct Connection<IO> {
    /// The decrypted stream.
    pub stream: IO,
    /// Whether HTTP/2 was chosen.
    pub http2: bool,
    /// The client's address.
    pub remote: SocketAddr,
    /// The server name of the handshake.
    pub server_name: Option<String>,
    /// Whether the server name is not served without a verified certificate.
    pub certificate_required: bool,
    /// The client's certificate, and for how long it holds.
    pub live: Live,
}

/// Who is at the other end, as the requests of the connection see it.
#[derive(Debug)]
pub(super) struct Peer {
    /// What connection points are told of the connection.
    pub(super) origin: ClientConnection,
    pub(super) remote: SocketAddr,
    pub(super) server_name: Option<String>,
    pub(super) certificate_required: bool,
    pub(super) certificate: ClientCertificate,
    pub(super) activity: Arc<Activity>,
    /// What the windows of HTTP/2 let in before a request asks for it.
    windows: Option<Windows>,
    /// What the client may still send, where that is limited.
    pub(super) allowed: Option<Allowed>,
    /// What the first request was for, as mostly all are.
    pub(super) first: OnceLock<Authority>,
    /// What goes on when the connection is one of HTTP no more.
    relay: Mutex<Option<Box<Relay>>>,
}

/// The windows of one connection of HTTP/2.
#[derive(Debug)]
struct Windows {
    stream: Granted,
    connection: u32,
}

impl Windows {
    fn of(shared: &Shared) -> Self {
        let full = shared.settings.stream_window;
        Self {
            stream: shared.registry.budget().grant(full, LEAST_WINDOW),
            connection: shared.settings.connection_window,
        }
    }
}

impl Peer {
    /// What the connection may hold of one more request's body, in bytes. Of HTTP/1.1 that is next to nothing.
    pub(super) fn ahead(&self) -> u32 {
        self.windows.as_ref().map_or(0, |windows| {
            let share = windows.connection / self.activity.requests().max(1);
            share.min(windows.stream.bytes())
        })
    }

    /// Leaves what is to go on when the connection has become one of bytes.
    pub(super) fn leave(&self, relay: Box<Relay>) {
        self.activity.switch();
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = Some(relay);
    }

    /// What was left, if anything was.
    pub(super) fn take_relay(&self) -> Option<Box<Relay>> {
        let mut relay = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        relay.take()
    }

    /// The client, if its certificate was verified.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.certificate {
            ClientCertificate::Verified(identity) => Some(identity),
            ClientCertificate::Missing | ClientCertificate::Refused(_) => None,
        }
    }
}

impl Proxy {
    /// Serves the requests of one connection until it is over.
    ///
    /// The future is boxed: it is exactly as large as its version of HTTP needs, and the task around it stays small.
    pub fn serve<IO>(&self, connection: Connection<IO>) -> Pin<Box<dyn Future<Output = ()> + Send>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::clone(&self.0);
        let http2 = connection.http2;
        let certificate = connection.live.certificate();
        let peer = Arc::new(Peer {
            allowed: shared.clients.of(&certificate, connection.remote.ip()),
            origin: ClientConnection::new(rand::random(), connection.remote.ip()),
            first: OnceLock::new(),
            relay: Mutex::new(None),
            remote: connection.remote,
            server_name: connection.server_name,
            certificate_required: connection.certificate_required,
            certificate,
            activity: Arc::new(Activity::new()),
            windows: http2.then(|| Windows::of(&shared)),
        });
        greet(&peer);
        let activity = Arc::clone(&peer.activity);
        let window = peer.windows.as_ref().map(|windows| windows.stream.bytes());
        let timeout = shared.settings.send_timeout;
        let service = {
            let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
            service_fn(move |request| {
                let answer = request::answer(Arc::clone(&shared), Arc::clone(&peer), request);
                async move { Ok::<_, Infallible>(answer.await) }
            })
        };
        let driver = Driver::new(shared, peer, connection.live, http2);
        if let Some(window) = window {
            let inbox = Inbox::default();
            let stream = Stream::http2(connection.stream, activity, timeout);
            let server = http2_server(&self.0.settings, window, inbox.clone());
            let connection = server.serve_connection(TokioIo::new(stream), service);
            let streams = Streams::new(inbox);
            Box::pin(driver.drive(Box::pin(Multiplexed {
                connection,
                streams,
            })))
        } else {
            let allowance = self.0.registry.budget().allowance().clone();
            let stream = Stream::http1(connection.stream, activity, timeout, allowance);
            let server = http1_server(&self.0.settings);
            let connection = Sleeper::new(server, stream, service);
            Box::pin(driver.drive(Box::pin(connection)))
        }
    }
}

fn http1_server(settings: &Settings) -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        // Idle time and the time of a head are two things, and the driver tells them apart.
        .header_read_timeout(None)
        // The request path refuses what is above the setting; this is for what never gets there.
        .max_header_size(2 * settings.head_size)
        .max_buf_size(BUFFER);
    if settings.head_fields >= PARSER_FIELDS {
        server.max_headers(2 * settings.head_fields);
    }
    server
}

fn http2_server(settings: &Settings, window: u32, inbox: Inbox) -> http2::Builder<Inbox> {
    let mut server = http2::Builder::new(inbox);
    let list = u32::try_from(2 * settings.head_size).unwrap_or(u32::MAX);
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(list);
    server
}

fn greet(peer: &Peer) {
    match &peer.certificate {
        ClientCertificate::Verified(identity) => {
            debug!(remote = %peer.remote, client = identity.name, "client connected");
        }
        ClientCertificate::Missing => debug!(remote = %peer.remote, "client connected"),
        ClientCertificate::Refused(fault) => info!(
            remote = %peer.remote,
            reason = %fault.reason,
            certificate = fault.which,
            detail = fault.detail,
            "client certificate not accepted"
        ),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio_rustls::server::TlsStream;

    use super::*;
    use crate::pieces::ReadAhead;
    use crate::tls::{Accepted, LateTickets};

    type Io = TokioIo<Plain>;
    type Plain = Stream<Tls>;
    type Tls = Box<TlsStream<LateTickets<Tcp>>>;
    type Tcp = ReadAhead<tokio::net::TcpStream>;

    // What is measured is what a handshake leaves.
    const _: fn(Accepted<Tcp>) -> Tls = |accepted| accepted.stream;

    fn size<A, F, Fut>(_: F) -> usize
    where
        F: FnOnce(A) -> Fut,
    {
        size_of::<Fut>()
    }

    // What every open connection and every request costs before a byte is buffered. A larger figure is a decision, not
    // an accident. The server of HTTP/1.1 keeps the place of a request's future as long as the connection lives.
    #[test]
    fn the_futures_of_a_connection_and_of_a_request_stay_small() {
        let service = |_: http::Request<hyper::body::Incoming>| async {
            Ok::<_, Infallible>(http::Response::new(Empty::<bytes::Bytes>::new()))
        };
        let drive = size(|(driver, connection): (Driver, Plain)| {
            let server = http1::Builder::new();
            let sleeper = Sleeper::new(server, connection, service_fn(service));
            Driver::drive(driver, Box::pin(sleeper))
        });
        let http1 = size(|io: Io| {
            let server = http1::Builder::new();
            server
                .serve_connection(io, service_fn(service))
                .with_upgrades()
        });
        let http2 = size(|io: Io| {
            let inbox = Inbox::default();
            let server = http2::Builder::new(inbox.clone());
            let connection = server.serve_connection(io, service_fn(service));
            let streams = Streams::new(inbox);
            Multiplexed {
                connection,
                streams,
            }
        });
        let request = size(|(shared, peer, request)| request::answer(shared, peer, request));
        let tls = size_of::<TlsStream<LateTickets<Tcp>>>();
        let found = format!(
            "TLS {tls}, driver {drive}, HTTP/1.1 {http1}, HTTP/2 {http2}, place of a request {request}"
        );
        assert!((1_000..1_600).contains(&tls), "{found}");
        assert!((100..800).contains(&drive), "{found}");
        assert!((500..1_000).contains(&http1), "{found}");
        assert!((1_000..2_500).contains(&http2), "{found}");
        assert!((8..100).contains(&request), "{found}");
    }
}
