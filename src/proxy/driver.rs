//! The loop of one client connection: its own end, and its end by distrust, drain, idleness, slowness or age.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::Shared;
use super::connection::Peer;
use super::streams::{Inbox, Streams};
use super::websocket::Relay;
use crate::drain::Draining;
use crate::identity::Live;
use crate::metrics::ByReason;
use crate::pki::CertificateFault;
use crate::reason::Reason;
use crate::tasks::Aside;

/// How long an HTTP/2 client has to acknowledge that no more requests are taken.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long a connection is idle before it gives back what it need not hold.
const REST: Duration = Duration::from_secs(2);

/// How a connection ended.
enum End {
    /// By itself.
    Over(hyper::Result<()>),
    /// Its certificate is not trusted any more.
    Distrusted(CertificateFault),
    /// A request head took too long.
    SlowHead,
    /// The client took nothing of any answer for too long.
    Stalled,
    /// The client sent more frames than their budgets allow.
    Flooded,
    /// The client took its answers too slowly.
    SlowTaker,
    /// It was wound up and did not close.
    Idle,
    /// The drain's deadline has passed.
    Forced,
}

/// The loop of one connection: its end by distrust, drain, idleness or age, and its own.
pub(super) struct Driver {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    live: Live,
    draining: Draining,
    http2: bool,
    max_age: Duration,
    wound_up: bool,
    hung_up: bool,
    /// How many bytes the client had sent when the connection was put to rest: as long as no more come, it rests.
    rests_at: Option<u64>,
    taking: Taking,
}

/// How much longer the client may take what there is for it more slowly than the least rate.
struct Taking {
    left_ms: u32,
    /// When, in the age of the connection, that was looked at last, and how much the client had taken by then.
    looked_ms: u32,
    taken: u64,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.metrics.connections_open.dec();
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// What a look at the clock came to.
enum Look {
    GoOn,
    Rest,
    WindUp,
    HangUp,
    End(End),
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, peer: Arc<Peer>, live: Live, http2: bool) -> Self {
        let max_age = shared.settings.max_age;
        shared.metrics.connections_open.inc();
        Self {
            draining: shared.draining.clone(),
            shared,
            peer,
            live,
            http2,
            max_age: max_age + max_age.mul_f64(0.1 * rand::random::<f64>()),
            wound_up: false,
            hung_up: false,
            rests_at: None,
            taking: Taking {
                left_ms: u32::MAX,
                looked_ms: 0,
                taken: 0,
            },
        }
    }

    /// The connection is boxed for itself: a future that pins what it was given holds it twice.
    pub(super) async fn drive<C: WindUp>(mut self, mut connection: Pin<Box<C>>) {
        let mut forced = self.draining.clone();
        let timer = sleep(self.next_look());
        tokio::pin!(timer);
        loop {
            // Most of this has a lock of its own, or one that all connections share.
            let told = Aside::new(async {
                tokio::select! {
                    biased;
                    fault = self.live.closed() => Look::End(End::Distrusted(fault)),
                    () = forced.forced() => Look::End(End::Forced),
                    () = self.draining.draining(), if !self.wound_up => Look::WindUp,
                    () = self.peer.activity.hung_up() => match self.peer.activity.ended() {
                        Some(Reason::StalledClient) => Look::End(End::Stalled),
                        Some(_) | None => Look::HangUp,
                    },
                }
            });
            // The arms that end the connection come first, so that its reason does not depend on chance.
            let look = tokio::select! {
                biased;
                look = told => look,
                () = &mut timer => self.look(),
                result = &mut connection => Look::End(self.over(result)),
            };
            match look {
                Look::GoOn => timer.as_mut().reset(Instant::now() + self.next_look()),
                Look::Rest => {
                    self.rests_at = Some(self.peer.activity.bytes_received());
                    connection.as_mut().rest();
                    timer.as_mut().reset(Instant::now() + self.next_look());
                }
                Look::WindUp => {
                    self.wound_up = true;
                    self.peer.activity.wind_up();
                    timer
                        .as_mut()
                        .reset(Instant::now() + self.shared.settings.drain_idle);
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
                        .reset(Instant::now() + self.shared.settings.drain_idle);
                    connection.as_mut().wind_up();
                }
                Look::End(end) => {
                    if matches!(end, End::Over(Ok(())))
                        && let Some(relay) = self.peer.take_relay()
                    {
                        // What is held across the wait is what every connection costs.
                        drop(end);
                        return Box::pin(self.relay(relay)).await;
                    }
                    self.note(&end);
                    return farewell(&self.shared, &self.peer, &end);
                }
            }
        }
    }

    /// Goes on with a connection that has become one of bytes. A drain ends it, since nobody knows when it would end by
    /// itself, and so does its age.
    async fn relay(&mut self, relay: Box<Relay>) {
        let left = self.max_age.saturating_sub(self.peer.activity.age());
        let end = tokio::select! {
            biased;
            fault = self.live.closed() => End::Distrusted(fault),
            () = self.draining.draining() => End::Forced,
            () = sleep(left) => End::Over(Ok(())),
            result = relay.run() => {
                if let Err(error) = result {
                    debug!(remote = %self.peer.remote, %error, "a WebSocket broke");
                }
                End::Over(Ok(()))
            }
        };
        self.note(&end);
        farewell(&self.shared, &self.peer, &end);
    }

    /// A connection that ended by itself, by a write that had no end or by too many frames.
    fn over(&self, result: hyper::Result<()>) -> End {
        match (&result, self.peer.activity.ended()) {
            (Err(_), Some(Reason::StalledClient)) => End::Stalled,
            (Err(_), Some(Reason::TooManyFrames)) => End::Flooded,
            (Err(error), None) if given_up(error) == Some(h2::Reason::ENHANCE_YOUR_CALM) => {
                End::Flooded
            }
            _ => End::Over(result),
        }
    }

    /// Whether the client takes its answers too slowly. As with a body that it sends, only time counts in which there is
    /// something for it; it has `send_timeout` to begin with, earns time with every byte and never has more.
    fn takes_too_slowly(&mut self) -> bool {
        let (settings, activity) = (&self.shared.settings, &self.peer.activity);
        let (now, grace) = (millis(activity.age()), millis(settings.send_timeout));
        let next = Taking {
            left_ms: grace,
            looked_ms: now,
            taken: activity.bytes_taken(),
        };
        let before = std::mem::replace(&mut self.taking, next);
        let rate = settings.body_pace.least_rate;
        // Who has caught up since begins anew.
        let Some(pressing) = activity.pressing_for().filter(|_| rate > 0) else {
            return false;
        };
        let (since, pressing) = (now.saturating_sub(before.looked_ms), millis(pressing));
        let (left, waited) = match pressing < since {
            true => (grace, pressing),
            false => (before.left_ms.min(grace), since),
        };
        let bytes = self.taking.taken - before.taken;
        let earned = u32::try_from(bytes.saturating_mul(1_000) / rate).unwrap_or(u32::MAX);
        let left = left.saturating_add(earned).saturating_sub(waited);
        self.taking.left_ms = left.min(grace);
        left == 0
    }

    fn look(&mut self) -> Look {
        let slow = self.takes_too_slowly();
        let (settings, activity) = (&self.shared.settings, &self.peer.activity);
        let past = |time: Option<Duration>, limit| time.is_some_and(|time| time >= limit);
        if past(activity.head_for(), settings.head_timeout) {
            return Look::End(End::SlowHead);
        }
        if past(activity.stalled_for(), settings.send_timeout) {
            return Look::End(End::Stalled);
        }
        if slow {
            return Look::End(End::SlowTaker);
        }
        let limit = self.idle_limit();
        if past(activity.idle_for(), limit) {
            if self.hung_up {
                return Look::End(End::Idle);
            }
            if !self.wound_up && activity.pressing_for().is_none() {
                refused(&self.shared, Reason::Idle);
            }
            return Look::HangUp;
        }
        let age = activity.age();
        if age >= self.max_age && !self.wound_up {
            return Look::WindUp;
        }
        match !self.is_resting() && past(activity.resting_for(), REST) {
            true => Look::Rest,
            false => Look::GoOn,
        }
    }

    fn is_resting(&self) -> bool {
        self.rests_at == Some(self.peer.activity.bytes_received())
    }

    /// When the clock is looked at next.
    fn next_look(&self) -> Duration {
        let idle = self.peer.activity.idle_for();
        let next = self.idle_limit().saturating_sub(idle.unwrap_or_default());
        let next = next.min(self.period());
        let rest = match idle.and_then(|idle| REST.checked_sub(idle)) {
            Some(rest) if !self.http2 => rest,
            Some(_) | None => Duration::MAX,
        };
        next.min(rest)
            .min(self.pending())
            .max(Duration::from_millis(1))
    }

    /// How long what has begun already may still take: a head that arrives, an answer that is not taken.
    fn pending(&self) -> Duration {
        let (settings, activity) = (&self.shared.settings, &self.peer.activity);
        let left = |since: Option<Duration>, limit: Duration| {
            since.map_or(Duration::MAX, |since| limit.saturating_sub(since))
        };
        let head = left(activity.head_for(), settings.head_timeout);
        head.min(left(activity.stalled_for(), settings.send_timeout))
    }

    /// How long nothing needs a look at the clock.
    fn period(&self) -> Duration {
        let settings = &self.shared.settings;
        let left = match self.wound_up {
            true => Duration::MAX,
            false => self.max_age.saturating_sub(self.peer.activity.age()),
        };
        settings.head_timeout.min(settings.send_timeout).min(left)
    }

    fn idle_limit(&self) -> Duration {
        let settings = &self.shared.settings;
        match (self.hung_up, self.http2, self.wound_up) {
            // What is buffered of the last answer still goes out; then the connection ends by itself.
            (true, false, _) => settings.send_timeout,
            // The client was told and has to say that it heard.
            (true, true, _) => FAREWELL,
            (false, _, true) => settings.drain_idle,
            (false, _, false) => settings.idle_timeout,
        }
    }

    /// Requests that are dropped with the connection have this reason.
    fn note(&self, end: &End) {
        match end {
            End::Distrusted(fault) => self.peer.activity.set_ended(fault.reason),
            End::Forced => self.peer.activity.set_ended(Reason::Draining),
            End::SlowHead | End::SlowTaker => {
                self.peer.activity.set_ended(Reason::ClientTooSlow);
            }
            End::Stalled => self.peer.activity.set_ended(Reason::StalledClient),
            End::Flooded => self.peer.activity.set_ended(Reason::TooManyFrames),
            End::Over(_) | End::Idle => {}
        }
    }
}

/// A server connection that can be told what its driver decides.
pub(super) trait WindUp: Future<Output = hyper::Result<()>> {
    /// To take no more requests.
    fn wind_up(self: Pin<&mut Self>);

    /// To give back what it need not hold while nothing is going on.
    fn rest(self: Pin<&mut Self>);
}

pin_project! {
    /// An HTTP/2 connection with its streams.
    pub(super) struct Multiplexed<C> {
        #[pin]
        pub(super) connection: C,
        pub(super) streams: Streams,
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

    // Its state, the compression tables and the windows, is shared with the client.
    fn rest(self: Pin<&mut Self>) {}
}

fn refused(shared: &Shared, reason: Reason) {
    let refused = &shared.metrics.connections_refused;
    refused.get_or_create(&ByReason::new(reason)).inc();
}

fn farewell(shared: &Shared, peer: &Peer, end: &End) {
    let refused = |reason| refused(shared, reason);
    let remote = peer.remote;
    match end {
        End::Over(Ok(())) => debug!(
            %remote,
            received = peer.activity.bytes_received(),
            sent = peer.activity.bytes_sent(),
            "client connection over"
        ),
        End::Over(Err(error)) => {
            if error.is_parse() || given_up(error).is_some() {
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
        End::Stalled => {
            refused(Reason::StalledClient);
            debug!(%remote, "client connection closed: the client takes nothing");
        }
        End::Flooded => {
            refused(Reason::TooManyFrames);
            debug!(%remote, "client connection closed: more frames than their budgets allow");
        }
        End::SlowTaker => {
            refused(Reason::ClientTooSlow);
            debug!(%remote, "client connection closed: the client takes its answer too slowly");
        }
        End::Idle => debug!(%remote, "client connection closed: idle"),
        End::Forced => {
            refused(Reason::Draining);
            debug!(%remote, "client connection closed: the drain is over");
        }
    }
}

/// Why the parser of HTTP/2 closed the connection, if it was its doing.
fn given_up(error: &hyper::Error) -> Option<h2::Reason> {
    let cause = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    let ours = cause.is_go_away() && cause.is_library();
    cause.reason().filter(|_| ours)
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
