//! One HTTP/1.1 connection to a backend in the hands of one request.
//!
//! Whoever holds the [`Lease`] may send on the connection, and drives it: a task of its own would have to be woken, and wake,
//! for each step of each request. Dropping the lease closes the socket at once, [`Lease::retire`] closes it in order.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;
use tokio::task::coop;

use super::Failure;
use super::dial::Connection;
use super::loan::RequestBody;
use super::outflow::{FULL, Outflow, Watched};
use crate::message::body::BodyError;
use crate::reason::Reason;
use crate::tasks::Tasks;
use crate::timer::Timer;

/// The largest head of an answer: four times what IIS and nginx send at most by default.
const ANSWER_HEAD_LIMIT: usize = 64 << 10;

/// How long an orderly close may take (TLS' close_notify).
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// How long a connection that has just been given back may need to become ready.
const READY_TIME: Duration = Duration::from_millis(50);

/// The right to send on one connection.
#[derive(Debug)]
pub(super) struct Lease<B> {
    sender: http1::SendRequest<RequestBody<B>>,
    driver: Driver,
    outflow: Arc<Outflow>,
    tasks: Tasks,
    /// What requests wait for at most, one after the other.
    timer: Timer,
    used: bool,
    asked: u64,
}

/// Who drives a connection.
enum Driver {
    /// Whoever holds the lease.
    Holder(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// A task of its own, which closes it in order when it is told to, and at once when this is dropped.
    Task(oneshot::Sender<()>),
    /// Nobody: it is over.
    Nobody,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holder(_) => "Holder",
            Self::Task(_) => "Task",
            Self::Nobody => "Nobody",
        })
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// Speaks HTTP/1.1 on a connection, which is counted in `open`; `tasks` is for what outlives a lease.
    ///
    /// # Errors
    /// [`Reason::BackendUnreachable`], which hyper never gives here.
    pub(super) async fn new(
        connection: Connection,
        outflow: Arc<Outflow>,
        tasks: &Tasks,
        open: &Gauge,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(ANSWER_HEAD_LIMIT)
            .max_buf_size(FULL)
            .handshake(TokioIo::new(Watched {
                io: connection,
                outflow: Arc::clone(&outflow),
            }))
            .await
            .map_err(|error| Failure::new(Reason::BackendUnreachable, error.to_string()))?;
        let counted = Counted::new(open);
        let driven = Box::pin(async move {
            let _counted = counted;
            // What an error means is told to whoever waits for an answer.
            let _ = connection.with_upgrades().await;
        });
        Ok(Self {
            sender,
            driver: Driver::Holder(driven),
            outflow,
            tasks: tasks.clone(),
            timer: Timer::default(),
            used: false,
            asked: 0,
        })
    }
}

impl<B> Lease<B> {
    /// Drives the connection, and polls what comes out of it: `poll` is called before and after.
    pub(super) fn poll_driven<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !matches!(self.driver, Driver::Holder(_)) {
            return poll(cx);
        }
        // What nothing but the connection makes ready, which goes on here only, need wake nobody.
        let mut unheard = Context::from_waker(Waker::noop());
        if let Poll::Ready(found) = poll(&mut unheard) {
            return Poll::Ready(found);
        }
        if !self.drive(cx) {
            return poll(cx);
        }
        let polled = poll(&mut unheard);
        if polled.is_pending() && !coop::has_budget_remaining() {
            // It may be ready and say otherwise, since it is another task's turn.
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Drives the connection, if that is the holder's part, as far as it goes at this moment; returns whether it goes on.
    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let over = match &mut self.driver {
            Driver::Holder(driven) => driven.as_mut().poll(cx).is_ready(),
            Driver::Task(_) => return true,
            Driver::Nobody => return false,
        };
        if over {
            self.driver = Driver::Nobody;
        }
        !over
    }

    /// The timer of whatever is waited for.
    pub(super) fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// Lets the connection be driven by a task of its own as long as it lives: it goes on while nobody polls what comes out
    /// of it.
    pub(super) fn drive_apart(&mut self) {
        let driven = match std::mem::replace(&mut self.driver, Driver::Nobody) {
            Driver::Holder(driven) => driven,
            other @ (Driver::Task(_) | Driver::Nobody) => {
                self.driver = other;
                return;
            }
        };
        let (end, ended) = oneshot::channel();
        self.driver = Driver::Task(end);
        self.tasks.spawn(async move {
            let mut driven = driven;
            tokio::select! {
                biased;
                () = &mut driven => (),
                ended = ended => {
                    if ended.is_ok() {
                        let _ = tokio::time::timeout(CLOSE_TIME, driven).await;
                    }
                }
            }
        });
    }

    /// The sender, for one request; from here on the connection counts as used.
    pub(super) fn sender(&mut self) -> &mut http1::SendRequest<RequestBody<B>> {
        self.used = true;
        &mut self.sender
    }

    /// What waits in it of bodies.
    pub(super) fn outflow(&self) -> &Arc<Outflow> {
        &self.outflow
    }

    /// Whether a request went over it before.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// Whether this is the first body for an endpoint on this connection; remembers that it was asked.
    ///
    /// Endpoints beyond the 64th always count as the first.
    pub(super) fn is_first_body(&mut self, endpoint: usize) -> bool {
        let bit = u32::try_from(endpoint)
            .ok()
            .and_then(|shift| 1u64.checked_shl(shift))
            .unwrap_or(0);
        let first = self.asked & bit == 0;
        self.asked |= bit;
        first
    }

    /// Whether the server has closed it, as far as anybody has looked.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Looks whether the server has closed it.
    pub(super) fn look(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop())) && !self.is_closed()
    }

    /// Whether a request can go out on it at this moment.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether a request can go out on it now; waits a moment for one that was given back just now.
    pub(super) async fn is_usable(&mut self) -> bool {
        if self.is_ready() {
            return true;
        }
        let ready = poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        });
        matches!(tokio::time::timeout(READY_TIME, ready).await, Ok(Ok(())))
    }

    /// Closes it in order.
    pub(super) fn retire(mut self) {
        self.drive_apart();
        if let Driver::Task(end) = self.driver {
            // A task that has ended needs no word.
            let _ = end.send(());
        }
    }
}

/// Counts an open connection while it lives.
struct Counted(Gauge);

impl Counted {
    fn new(open: &Gauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
