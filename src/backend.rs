//! The leg from a connection point to its backends: HTTP/1.1 over pooled connections.
//!
//! A [`Backend`] is one server behind one role. It connects with native TLS, because IIS asks for client
//! certificates by renegotiation; keeps a bounded pool of idle connections; notices one that the server closed;
//! and says by [`Backend::health`] whether connections succeed. Used by `forward`. It decides no policy: which
//! request may come here, and what its answer looks like outside, is not its business.

mod answer;
mod base;
mod connection_auth;
mod dial;
mod exchange;
mod head;
mod health;
mod lease;
mod loan;
mod outflow;
mod pkcs8;
mod pool;
mod settings;
mod tls;

use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use http::header::EXPECT;
use http::{HeaderValue, Request, Response, StatusCode, request};
use http_body::Body;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use self::answer::Held;
use self::dial::Dialer;
use self::exchange::{Broken, Course, exchange};
use self::health::{FIRST_PAUSE, LONGEST_PAUSE, Reachability};
use self::lease::Lease;
use self::loan::{Loan, RequestBody};
use self::outflow::Outflow;
use self::pool::{Home, Pool};
use crate::allowance::Allowance;
use crate::message::body::BodyError;
use crate::message::headers::{Asked, Present};
use crate::message::websocket;
use crate::metrics::{ByReason, ByRole, Metrics};
use crate::reason::Reason;
use crate::role::{Health, RoleId};
use crate::tasks::Tasks;

pub use answer::AnswerBody;
pub use base::BaseUrl;
pub use connection_auth::NoChallengeLeft;
pub use exchange::OnContinue;
pub use settings::{BackendSettings, NameCheck, Password, is_pfx};
pub use tls::{client_certificates, read_password};

const CONTINUE: HeaderValue = HeaderValue::from_static("100-continue");

/// Why a backend gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable reason.
    pub reason: Reason,
    /// What happened, for logs.
    pub detail: String,
}

impl Failure {
    /// A failure with its reason and what happened.
    // Cold: what leads here is kept out of the way of requests that pass.
    #[cold]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Failure {}

/// What a request asks of the way to its backend.
#[derive(Clone, Default)]
pub struct Terms {
    /// The number of the endpoint within its role: a server may ask for a certificate at one and not at another.
    pub endpoint: usize,
    /// Whether the answer may take without end.
    pub long_poll: bool,
    /// Which client connection it came over, for roles with `connection-auth`.
    pub client: Option<String>,
    /// What to do when the server has said `100 Continue`.
    pub on_continue: Option<OnContinue>,
    /// Whether the request, a `GET` without a body, opens a WebSocket: it is answered with 101 and hyper's `OnUpgrade`
    /// among the extensions, or as any other.
    pub websocket: bool,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("endpoint", &self.endpoint)
            .field("long_poll", &self.long_poll)
            .finish_non_exhaustive()
    }
}

/// One backend and its connections. Clones are handles on the same backend; the last one closes the idle connections.
#[derive(Debug)]
pub struct Backend<B>(Arc<Inner<B>>);

impl<B> Clone for Backend<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<B> {
    settings: BackendSettings,
    host: HeaderValue,
    dialer: Dialer,
    pool: Arc<Pool<B>>,
    reachability: Reachability,
    permits: Arc<Semaphore>,
    tasks: Tasks,
    allowance: Allowance,
    open: Gauge,
    dials: Counter,
    metrics: Metrics,
}

impl<B> Backend<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// Builds a backend; nothing is dialled yet. Its connections are looked after by tasks of `tasks` while no request holds
    /// them, and hold no more of the bodies of requests than the `allowance`.
    ///
    /// # Errors
    /// Every fault of the files that the settings point to, each beginning with its key.
    pub fn build(
        settings: BackendSettings,
        metrics: &Metrics,
        tasks: &Tasks,
        allowance: &Allowance,
    ) -> Result<Self, Vec<String>> {
        let role = ByRole::new(settings.id);
        let dialer = Dialer::build(&settings)?;
        let host = settings.host.clone();
        let host = host.unwrap_or_else(|| settings.url.authority());
        let host = HeaderValue::try_from(host)
            .map_err(|_| vec!["host: cannot stand in a header field".to_owned()])?;
        let pool = Pool::new(
            settings.idle_connections,
            settings.idle_timeout,
            tasks.clone(),
            metrics.backend_idle.get_or_create(&role).clone(),
        );
        Ok(Self(Arc::new(Inner {
            host,
            dialer,
            pool: Arc::new(pool),
            reachability: Reachability::new(),
            permits: Arc::new(Semaphore::new(settings.capacity as usize)),
            tasks: tasks.clone(),
            allowance: allowance.clone(),
            open: metrics.backend_connections.get_or_create(&role).clone(),
            dials: metrics.backend_dials.get_or_create(&role).clone(),
            metrics: metrics.clone(),
            settings,
        })))
    }

    /// The role that it serves.
    pub fn role(&self) -> RoleId {
        self.0.settings.id
    }

    /// How it is reached.
    pub fn settings(&self) -> &BackendSettings {
        &self.0.settings
    }

    /// Whether it can be reached, as far as the last connections told.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.reachability.watch()
    }

    /// Connects once and closes again, for a check before the first request.
    ///
    /// # Errors
    /// Why the connection could not be made.
    pub async fn probe(&self) -> Result<(), Failure> {
        self.0.dialer.dial().await.map(drop)
    }

    /// Sends a request and returns the head of its answer; the body follows as it comes.
    ///
    /// The URI is the internal path and query. `Host` is set here; `Expect` is added where the server may ask for a
    /// certificate first. Credentials and challenges that would authenticate a shared connection are taken out, with
    /// [`NoChallengeLeft`] among the extensions of an answer that had no other. A request that broke on a used
    /// connection before any answer goes out once more on a fresh one if nothing can have been done about it.
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// Why there is no answer; the reason of the request's own body, if that failed.
    pub fn send(
        &self,
        request: Request<B>,
        terms: Terms,
    ) -> impl Future<Output = Result<Response<AnswerBody<B>>, Failure>> + Send {
        self.0.send(request, terms).inspect_err(|failure| {
            let label = ByReason::new(failure.reason);
            self.0.metrics.backend_failures.get_or_create(&label).inc();
        })
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    fn send(
        self: &Arc<Self>,
        request: Request<B>,
        terms: Terms,
    ) -> impl Future<Output = Result<Response<AnswerBody<B>>, Failure>> + Send {
        // Before the async block, which would have room for the request and for its parts.
        let (mut head, body) = request.into_parts();
        let loan = (!body.is_end_stream()).then(|| Loan::new(body, head::length(&head.headers)));
        async move {
            let permit = self.admit()?;
            self.prepare(&mut head, loan.is_some());
            let accept = terms.websocket.then(|| websocket::ask(&mut head.headers));
            head::check_size(&head, self.settings.head_limit)?;
            // A body can only be untouched where it is held back.
            let repeatable = match &loan {
                None => head::can_repeat(&head.method),
                Some(_) => self.dialer.has_certificate(),
            };
            let mut fresh = false;
            loop {
                let (mut lease, home) = self.connection(&terms, fresh).await?;
                fresh = true;
                let used = lease.is_used();
                let again = (used && repeatable).then(|| head.clone());
                let sent = self.attempt(&mut lease, head, loan.as_ref(), &terms).await;
                let broken = match sent {
                    Ok(answer) => {
                        let held = Box::new(Held {
                            lease,
                            home,
                            loan,
                            permit,
                        });
                        return self.receive(answer, &terms, held, accept.as_ref());
                    }
                    Err(broken) => broken,
                };
                let untouched = loan.as_ref().is_none_or(|loan| !loan.is_touched());
                match (broken, again) {
                    (Broken::Unsent(unsent, _), _) if used => head = *unsent,
                    (Broken::Lost(_), Some(again)) if untouched => head = again,
                    (broken, _) => return Err(broken.into()),
                }
            }
        }
    }

    fn prepare(&self, head: &mut request::Parts, has_body: bool) {
        let connection_auth = self.settings.connection_auth;
        head::prepare(head, has_body, &self.host, connection_auth);
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| {
            let capacity = self.settings.capacity;
            let detail = format!("{capacity} requests are under way to this backend");
            Failure::new(Reason::Overloaded, detail)
        })
    }

    /// A connection for one request, and where it goes afterwards.
    async fn connection(
        self: &Arc<Self>,
        terms: &Terms,
        fresh: bool,
    ) -> Result<(Lease<B>, Home<B>), Failure> {
        if !self.settings.connection_auth {
            let home = Home::Pool(Arc::clone(&self.pool));
            let idle = if fresh { None } else { self.pool.take().await };
            return match idle {
                Some(lease) => Ok((lease, home)),
                None => Ok((Box::pin(self.dial()).await?, home)),
            };
        }
        let Some(client) = &terms.client else {
            return Ok((Box::pin(self.dial()).await?, Home::None));
        };
        let Some(mut place) = self.pool.pinned(client).await else {
            let detail = "too many clients have a connection of their own";
            return Err(Failure::new(Reason::Overloaded, detail));
        };
        if let Some(mut lease) = place.take()
            && !fresh
            && !lease.is_closed()
            && lease.is_usable().await
        {
            return Ok((lease, Home::Pinned(place)));
        }
        Ok((Box::pin(self.dial()).await?, Home::Pinned(place)))
    }

    async fn dial(self: &Arc<Self>) -> Result<Lease<B>, Failure> {
        match self.dialer.dial().await {
            Ok(connection) => {
                self.reachability.connected();
                self.dials.inc();
                let outflow = Outflow::new(self.allowance.clone());
                Lease::new(connection, outflow, &self.tasks, &self.open).await
            }
            Err(failure) => {
                if self.reachability.failed() {
                    self.tasks.spawn(heal(Arc::downgrade(self)));
                }
                Err(failure)
            }
        }
    }

    fn attempt<'e>(
        &self,
        lease: &'e mut Lease<B>,
        mut head: request::Parts,
        loan: Option<&'e Loan<B>>,
        terms: &Terms,
    ) -> impl Future<Output = Result<Response<hyper::body::Incoming>, Broken>> + Send + use<'e, B>
    {
        // A server that renegotiates cannot do so while a body is coming in.
        let held_back =
            loan.is_some() && self.dialer.has_certificate() && lease.is_first_body(terms.endpoint);
        if held_back {
            head.headers.insert(EXPECT, CONTINUE);
        }
        let body = loan.map_or(RequestBody::Empty, |loan| {
            loan.lend(!held_back, lease.outflow())
        });
        let timeout = self.settings.response_timeout;
        let course = Course {
            loan,
            held_back,
            response_timeout: (!terms.long_poll).then_some(timeout),
            progress_timeout: self.settings.progress_timeout,
            on_continue: terms.on_continue.clone(),
        };
        exchange(lease, Request::from_parts(head, body), course)
    }

    fn receive(
        &self,
        answer: Response<hyper::body::Incoming>,
        terms: &Terms,
        held: Box<Held<B>>,
        accept: Option<&HeaderValue>,
    ) -> Result<Response<AnswerBody<B>>, Failure> {
        let (mut head, incoming) = answer.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS
            && accept.is_some_and(|accept| websocket::is_accepted(&head.headers, accept))
        {
            return Ok(Response::from_parts(
                head,
                AnswerBody::switched(incoming, held),
            ));
        }
        if head.status.is_informational() {
            // 101 is all that hyper hands on, and it is none to what was asked.
            let detail = format!("{} to a request that did not ask for it", head.status);
            return Err(Failure::new(Reason::BackendProtocol, detail));
        }
        head::check_status(head.status)?;
        let present = Present::of(&head.headers);
        head::check_framing(&head.headers, present)?;
        if !self.settings.connection_auth
            && present.has(Asked::WwwAuthenticate)
            && connection_auth::strip_challenges(&mut head.headers)
        {
            head.extensions.insert(NoChallengeLeft);
        }
        let timeout = self.settings.progress_timeout;
        let body = AnswerBody::new(incoming, timeout, terms.long_poll, held);
        Ok(Response::from_parts(head, body))
    }
}

/// Tries to connect until that succeeds or nobody needs this backend any more.
async fn heal<B>(backend: Weak<Inner<B>>)
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let Some(backend) = backend.upgrade() else {
            return;
        };
        if backend.dialer.dial().await.is_ok() {
            backend.reachability.probed();
            backend.reachability.connected();
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
