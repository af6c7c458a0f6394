//! One client connection: who is at its other end, and the loop that drives it to its end.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::activity::Activity;
use super::stream::Stream;
use super::streams::{Inbox, Streams};
use super::{Proxy, Settings, Shared, request};
use crate::drain::Draining;
use crate::identity::{ClientCertificate, Identity, Live};
use crate::message::headers::ClientCertFields;
use crate::metrics::ByReason;
use crate::pki::CertificateFault;
use crate::reason::Reason;

/// What an HTTP/1.1 connection buffers at most in each direction.
const BUFFER: usize = 128 << 10;

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
    /// What the connection is called towards connection points.
    pub(super) id: Option<HeaderValue>,
    pub(super) remote: SocketAddr,
    pub(super) server_name: Option<String>,
    pub(super) certificate_required: bool,
    pub(super) certificate: ClientCertificate,
    pub(super) fields: Option<ClientCertFields>,
    pub(super) activity: Arc<Activity>,
}

impl Peer {
    /// The client, if its certificate was verified.
    pub(super) fn identity(&self) -> Option<&Arc<Identity>> {
        match &self.certificate {
            ClientCertificate::Verified(identity) => Some(identity),
            ClientCertificate::Missing | ClientCertificate::Refused(_) => None,
        }
    }
}

/// How a connection ended.
enum End {
    /// By itself.
    Over(hyper::Result<()>),
    /// Its certificate is not trusted any more.
    Distrusted(CertificateFault),
    /// A request head took too long.
    SlowHead,
    /// It was wound up and did not close.
    Idle,
    /// The drain's deadline has passed.
    Forced,
}

impl Proxy {
    /// Serves the requests of one connection until it is over.
    pub async fn serve<IO>(&self, connection: Connection<IO>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Connection {
            stream,
            http2,
            remote,
            server_name,
            certificate_required,
            live,
        } = connection;
        let shared = Arc::clone(&self.0);
        let id = format!("{:016x}", rand::random::<u64>());
        let peer = Arc::new(Peer {
            id: HeaderValue::try_from(id).ok(),
            remote,
            server_name,
            certificate_required,
            fields: fields_of(&live),
            certificate: live.certificate(),
            activity: Arc::new(Activity::new()),
        });
        greet(&peer);
        let activity = Arc::clone(&peer.activity);
        let stream = Stream::new(stream, Arc::clone(&activity), shared.settings.send_timeout);
        let service = {
            let (shared, peer) = (Arc::clone(&shared), Arc::clone(&peer));
            service_fn(move |request| {
                let answer = request::answer(Arc::clone(&shared), Arc::clone(&peer), request);
                async move { Ok::<_, Infallible>(answer.await) }
            })
        };
        shared.metrics.connections_open.inc();
        let driver = Driver::new(&shared, &activity, live, http2);
        let end = if http2 {
            let inbox = Inbox::default();
            let connection = http2_server(&shared.settings, inbox.clone())
                .serve_connection(TokioIo::new(stream), service);
            let streams = Streams::new(inbox);
            driver
                .drive(Multiplexed {
                    connection,
                    streams,
                })
                .await
        } else {
            let server = http1_server(&shared.settings);
            driver
                .drive(server.serve_connection(TokioIo::new(stream), service))
                .await
        };
        shared.metrics.connections_open.dec();
        farewell(&shared, &peer, &end);
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

fn http2_server(settings: &Settings, inbox: Inbox) -> http2::Builder<Inbox> {
    let mut server = http2::Builder::new(inbox);
    let list = u32::try_from(2 * settings.head_size).unwrap_or(u32::MAX);
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams)
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(list);
    server
}

fn fields_of(live: &Live) -> Option<ClientCertFields> {
    match live.certificate() {
        ClientCertificate::Verified(identity) => {
            let (subject, chain) = (identity.subject.clone(), identity.chain.clone());
            Some(ClientCertFields::new(subject, chain))
        }
        ClientCertificate::Missing | ClientCertificate::Refused(_) => None,
    }
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

fn farewell(shared: &Shared, peer: &Peer, end: &End) {
    let refused = |reason| {
        let refused = &shared.metrics.connections_refused;
        refused.get_or_create(&ByReason::new(reason)).inc();
    };
    let remote = peer.remote;
    match end {
        End::Over(Ok(())) => debug!(
            %remote,
            received = peer.activity.bytes_received(),
            sent = peer.activity.bytes_sent(),
            "client connection over"
        ),
        End::Over(Err(error)) => {
            if error.is_parse() {
                refused(Reason::BadRequest);
            }
            debug!(%remote, error = %Causes(error), "client connection broke");
        }
        End::Distrusted(fault) => {
            refused(fault.reason);
            info!(
                %remote,
                reason = %fault.reason,
                certificate = fault.which,
                detail = fault.detail,
                "client connection closed: its certificate is not trusted any more"
            );
        }
        End::SlowHead => {
            refused(Reason::ClientTooSlow);
            debug!(%remote, "client connection closed: its request head took too long");
        }
        End::Idle => debug!(%remote, "client connection closed: idle"),
        End::Forced => {
            refused(Reason::Draining);
            debug!(%remote, "client connection closed: the drain is over");
        }
    }
}

struct Causes<'a>(&'a hyper::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// A server connection that can be told to take no more requests.
trait WindUp: Future<Output = hyper::Result<()>> {
    fn wind_up(self: Pin<&mut Self>);
}

impl<I, S> WindUp for http1::Connection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: 'static,
    <S::ResBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn wind_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

pin_project! {
    /// An HTTP/2 connection with its streams.
    struct Multiplexed<C> {
        #[pin]
        connection: C,
        streams: Streams,
    }
}

impl<C: Future> Future for Multiplexed<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.project();
        let result = this.connection.poll(cx);
        if result.is_pending() {
            this.streams.poll(cx);
        }
        result
    }
}

impl<I, S> WindUp for Multiplexed<http2::Connection<I, S, Inbox>>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S::ResBody: http_body::Body + 'static,
    <S::ResBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Inbox: hyper::rt::bounds::Http2ServerConnExec<S::Future, S::ResBody>,
{
    fn wind_up(self: Pin<&mut Self>) {
        self.project().connection.graceful_shutdown();
    }
}

/// The loop of one connection: its end by distrust, drain, idleness or age, and its own.
struct Driver<'a> {
    settings: &'a Settings,
    activity: &'a Activity,
    live: Live,
    draining: Draining,
    http2: bool,
    max_age: Duration,
    wound_up: bool,
    hung_up: bool,
}

/// What a look at the clock came to.
enum Look {
    GoOn(Duration),
    WindUp,
    HangUp,
    End(End),
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Shared, activity: &'a Activity, live: Live, http2: bool) -> Self {
        let max_age = shared.settings.max_age;
        Self {
            settings: &shared.settings,
            activity,
            live,
            draining: shared.draining.clone(),
            http2,
            max_age: max_age + max_age.mul_f64(0.1 * rand::random::<f64>()),
            wound_up: false,
            hung_up: false,
        }
    }

    async fn drive<C: WindUp>(mut self, connection: C) -> End {
        tokio::pin!(connection);
        let mut forced = self.draining.clone();
        let first = self.idle_limit().min(self.settings.head_timeout);
        let timer = sleep(first.min(self.max_age));
        tokio::pin!(timer);
        loop {
            // The arms that end the connection come first, so that its reason does not depend on chance.
            let look = tokio::select! {
                biased;
                fault = self.live.closed() => Look::End(End::Distrusted(fault)),
                () = forced.forced() => Look::End(End::Forced),
                () = self.draining.draining(), if !self.wound_up => Look::WindUp,
                () = self.activity.hung_up() => Look::HangUp,
                () = &mut timer => self.look(),
                result = &mut connection => Look::End(End::Over(result)),
            };
            match look {
                Look::GoOn(until) => timer.as_mut().reset(Instant::now() + until),
                Look::WindUp => {
                    self.wound_up = true;
                    self.activity.wind_up();
                    timer
                        .as_mut()
                        .reset(Instant::now() + self.settings.drain_idle);
                    // HTTP/2 says that no more requests are taken; HTTP/1.1 can say so with an answer only.
                    if self.http2 {
                        self.hung_up = true;
                        connection.as_mut().wind_up();
                    }
                }
                Look::HangUp => {
                    self.hung_up = true;
                    timer
                        .as_mut()
                        .reset(Instant::now() + self.settings.drain_idle);
                    connection.as_mut().wind_up();
                }
                Look::End(end) => {
                    self.note(&end);
                    return end;
                }
            }
        }
    }

    fn look(&self) -> Look {
        let limit = self.idle_limit();
        if !self.http2
            && self
                .activity
                .head_for()
                .is_some_and(|time| time >= self.settings.head_timeout)
        {
            return Look::End(End::SlowHead);
        }
        match self.activity.idle_for() {
            Some(idle) if idle >= limit && self.hung_up => return Look::End(End::Idle),
            Some(idle) if idle >= limit => return Look::HangUp,
            Some(_) | None => {}
        }
        let age = self.activity.age();
        if age >= self.max_age && !self.wound_up {
            return Look::WindUp;
        }
        let idle = self.activity.idle_for().unwrap_or_default();
        let next = limit.saturating_sub(idle).min(self.settings.head_timeout);
        let left = match self.wound_up {
            true => next,
            false => next.min(self.max_age - age),
        };
        Look::GoOn(left.max(Duration::from_millis(1)))
    }

    fn idle_limit(&self) -> Duration {
        match self.wound_up || self.hung_up {
            true => self.settings.drain_idle,
            false => self.settings.idle_timeout,
        }
    }

    /// Requests that are dropped with the connection have this reason.
    fn note(&self, end: &End) {
        match end {
            End::Distrusted(fault) => self.activity.set_ended(fault.reason),
            End::Forced => self.activity.set_ended(Reason::Draining),
            End::SlowHead => self.activity.set_ended(Reason::ClientTooSlow),
            End::Over(_) | End::Idle => {}
        }
    }
}
