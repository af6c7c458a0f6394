//! One HTTP/1.1 connection to a backend in the hands of one request.
//!
//! The connection is driven by a task of its own. Whoever holds the [`Lease`] may send on it; dropping the lease
//! closes the socket at once, [`Lease::retire`] closes it in order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use super::Failure;
use super::dial::Connection;
use super::loan::RequestBody;
use super::outflow::{FULL, Outflow, Watched};
use crate::message::body::BodyError;
use crate::reason::Reason;
use crate::tasks::Tasks;

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
    end: Option<oneshot::Sender<()>>,
    outflow: Arc<Outflow>,
    used: bool,
    asked: u64,
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    /// Speaks HTTP/1.1 on a connection, driven by a task of `tasks` and counted in `open`.
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
        let (end, ended) = oneshot::channel();
        let counted = Counted::new(open);
        tasks.spawn(async move {
            let _counted = counted;
            let connection = connection.with_upgrades();
            tokio::pin!(connection);
            tokio::select! {
                biased;
                _ = &mut connection => (),
                ended = ended => {
                    if ended.is_ok() {
                        let _ = tokio::time::timeout(CLOSE_TIME, connection).await;
                    }
                }
            }
        });
        Ok(Self {
            sender,
            end: Some(end),
            outflow,
            used: false,
            asked: 0,
        })
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

    /// Whether the server has closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
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
        let ready = tokio::time::timeout(READY_TIME, self.sender.ready()).await;
        matches!(ready, Ok(Ok(())))
    }

    /// Closes it in order.
    pub(super) fn retire(mut self) {
        if let Some(end) = self.end.take() {
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
