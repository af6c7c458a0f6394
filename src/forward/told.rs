//! What is told of one request when it is over: metrics and the log, in one place, once.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use crate::message::headers::{Origin, RequestId};
use crate::message::refusal::Refusal;
use crate::metrics::{EndpointMetrics, Finished};
use crate::reason::Reason;

/// The account of one request; its drop is where it is told.
#[derive(Debug)]
pub(super) struct Told {
    id: Option<RequestId>,
    method: Method,
    uri: Uri,
    started: Instant,
    metrics: Option<Arc<EndpointMetrics>>,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    detail: String,
    bytes: u64,
}

impl Told {
    /// Begins the account of a request.
    pub(super) fn new<B>(request: &Request<B>, origin: Option<&Origin>) -> Self {
        Self {
            id: origin.map(|origin| origin.id),
            method: request.method().clone(),
            uri: request.uri().clone(),
            started: Instant::now(),
            metrics: None,
            status: None,
            reason: Some(Reason::ClientGone),
            detail: String::new(),
            bytes: 0,
        }
    }

    /// The request's id, as the gateway gave it.
    pub(super) fn id(&self) -> &str {
        self.id.as_ref().map_or("", RequestId::as_str)
    }

    /// The path that the gateway asked for.
    pub(super) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The endpoint is known.
    pub(super) fn resolved(&mut self, metrics: &Arc<EndpointMetrics>) {
        metrics.begin();
        self.metrics = Some(Arc::clone(metrics));
    }

    /// The head of an answer is there; `reason` is given where it is an error.
    pub(super) fn answered(&mut self, status: StatusCode, reason: Option<Reason>) {
        self.status = Some(status);
        self.reason = reason;
    }

    /// There is a refusal in place of an answer.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.status = Some(refusal.status());
        self.reason = Some(refusal.reason);
        self.detail.clone_from(&refusal.detail);
    }

    /// The answer was sent whole.
    pub(super) fn sent(mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// The request ended early.
    pub(super) fn failed(mut self, reason: Reason, when: &str) {
        self.reason = Some(reason);
        when.clone_into(&mut self.detail);
    }

    #[cold]
    fn tell_forwarded(&self, status: Option<u16>, duration: Duration) {
        tracing::debug!(
            request_id = self.id(),
            method = %self.method,
            path = self.path(),
            status,
            bytes = self.bytes,
            duration_ms = millis(duration),
            "forwarded"
        );
    }

    #[cold]
    fn tell_failed(&self, reason: Reason, status: Option<u16>, duration: Duration) {
        tracing::info!(
            request_id = self.id(),
            method = %self.method,
            path = self.path(),
            status,
            %reason,
            detail = self.detail,
            duration_ms = millis(duration),
            "not forwarded, or answered with an error"
        );
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let status = self.status.map(|status| status.as_u16());
        if let Some(metrics) = &self.metrics {
            metrics.bytes_out.inc_by(self.bytes);
            metrics.finish(Finished {
                status,
                reason: self.reason,
                duration,
            });
        }
        match self.reason {
            None if tracing::enabled!(tracing::Level::DEBUG) => {
                self.tell_forwarded(status, duration);
            }
            None => {}
            Some(reason) => self.tell_failed(reason, status, duration),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
