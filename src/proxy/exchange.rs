//! One request from its head to the end of its answer: the only place that metrics and the access log hear of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Shared;
use super::activity::MOST;
use super::connection::Peer;
use crate::logging::Entry;
use crate::message::body::{BodyError, Meter};
use crate::message::headers::{self, RequestId};
use crate::message::refusal::{Hop, Refusal};
use crate::metrics::Finished;
use crate::reason::Reason;
use crate::routing::Published;
use crate::tunnel;

/// The guard of one request. Its drop counts it, whatever became of it.
#[derive(Debug)]
pub(super) struct Exchange {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    pub(super) id: RequestId,
    pub(super) began: Instant,
    method: Method,
    target: Uri,
    version: Version,
    route: Option<Arc<Published>>,
    /// Whether the request has a body.
    pub(super) has_body: bool,
    /// Whether the client takes trailers.
    pub(super) trailers: bool,
    upload: Option<Meter>,
    status: Option<u16>,
    reason: Option<Reason>,
    /// The connection point that answered.
    carrier: Option<Arc<str>>,
    sent: u64,
    complete: bool,
}

impl Exchange {
    /// Begins with the head of a request, and whether a body comes after it.
    pub(super) fn begin(
        shared: Arc<Shared>,
        peer: Arc<Peer>,
        request: &http::request::Parts,
        has_body: bool,
    ) -> Self {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        peer.activity
            .begin(has_body && request.version != Version::HTTP_2);
        Self {
            shared,
            peer,
            id: RequestId::random(),
            began: Instant::now(),
            method: request.method.clone(),
            target: request.uri.clone(),
            version: request.version,
            route: None,
            has_body,
            trailers: false,
            upload: None,
            status: None,
            reason: None,
            carrier: None,
            sent: 0,
            complete: false,
        }
    }

    /// Notes the endpoint, where it is counted from here on.
    pub(super) fn enter(&mut self, route: Arc<Published>) {
        route.metrics.begin();
        self.route = Some(route);
    }

    /// Notes how to look at the request body.
    pub(super) fn watch_upload(&mut self, meter: Meter) {
        if self.has_body && self.version != Version::HTTP_2 {
            self.peer.activity.watch_upload(meter.clone());
        }
        self.upload = Some(meter);
    }

    /// Why the request body failed, if it did: what fails behind it has this cause.
    pub(super) fn upload_fault(&self) -> Option<Reason> {
        self.upload.as_ref().and_then(Meter::fault)
    }

    /// Turns a refusal into the answer.
    pub(super) fn refuse(mut self, refusal: Refusal) -> Response<Answer> {
        let authenticated = self.peer.identity().is_some();
        tracing::debug!(
            request_id = self.id.as_str(),
            remote = %self.peer.remote,
            reason = %refusal.reason,
            detail = refusal.detail,
            "request refused"
        );
        self.reason = Some(refusal.reason);
        if refusal.close && self.version == Version::HTTP_2 {
            self.peer.activity.hang_up();
        }
        let response = refusal.into_response(Hop::Gateway, self.id.as_str(), authenticated);
        self.answer(response.map(Payload::Own))
    }

    /// Hands an answer to the client: what travelled in our fields becomes what the client may see.
    pub(super) fn answer(mut self, response: Response<Payload>) -> Response<Answer> {
        let (mut head, payload) = response.into_parts();
        self.status = Some(head.status.as_u16());
        if let Payload::Tunnel(body) = &payload {
            self.carrier = body.connection_point().cloned();
        }
        if let Some(reason) = head.headers.remove(&headers::REASON) {
            let reason = reason.to_str().ok().and_then(Reason::parse);
            self.reason = self.reason.or(reason);
        }
        let phrase = head.headers.remove(&headers::PHRASE);
        let phrase = phrase.and_then(|value| ReasonPhrase::try_from(value.as_bytes()).ok());
        let last = self.peer.activity.is_winding_up();
        if self.version == Version::HTTP_2 {
            head.headers.remove(header::CONNECTION);
        } else {
            if let Some(phrase) = phrase {
                head.extensions.insert(phrase);
            }
            if last && head.status != StatusCode::SWITCHING_PROTOCOLS {
                head.headers
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        head.version = self.version;
        let bodiless = self.method == Method::HEAD || matches!(head.status.as_u16(), 204 | 304);
        if self.method == Method::HEAD {
            keep_length(&mut head.headers, &payload);
        }
        let expected = content_length(&head.headers);
        let body = Answer {
            payload: if bodiless {
                Payload::Own(Full::default())
            } else {
                payload
            },
            expected,
            pressing: false,
            exchange: self,
        };
        Response::from_parts(head, body.settled())
    }

    /// What waits for the client counts in the budget of the process.
    fn offered(&self, bytes: usize) {
        let activity = &self.peer.activity;
        if activity.offered(bytes) {
            let budget = self.shared.registry.budget();
            activity.count(budget.count(activity, MOST));
        }
    }

    fn fail(&mut self, reason: Reason) {
        self.reason = self.reason.or(Some(reason));
        // The end of this body is known and told, however it was.
        self.complete = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete {
            self.peer.activity.withdrawn(self.sent);
            let cause = self.peer.activity.ended().unwrap_or(Reason::ClientGone);
            let own = self.reason.or_else(|| self.upload_fault());
            self.reason = own.or(Some(cause));
        }
        let now = Instant::now();
        let finished = Finished {
            status: self.status,
            reason: self.reason,
            duration: now.duration_since(self.began),
        };
        let received = self.upload.as_ref().map_or(0, Meter::bytes);
        let metrics = match &self.route {
            Some(route) => &route.metrics,
            None => {
                self.shared.unrouted.begin();
                &self.shared.unrouted
            }
        };
        metrics.bytes_in.inc_by(received);
        metrics.bytes_out.inc_by(self.sent);
        metrics.finish(finished);
        if self.shared.access.is_on() {
            self.record(finished, received);
        }
        let unread = self.has_body && !self.upload.as_ref().is_some_and(Meter::is_ended);
        self.peer.activity.leave_unread(unread);
        self.peer.activity.end(now);
        self.shared.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Exchange {
    fn record(&self, finished: Finished, received: u64) {
        let role = self.route.as_ref().map(|route| route.role.to_string());
        let endpoint = self
            .route
            .as_ref()
            .map(|route| route.endpoint.name.as_str());
        let path = self
            .target
            .path_and_query()
            .map_or("", |path| path.as_str());
        self.shared.access.record(&Entry {
            time: OffsetDateTime::now_utc() - finished.duration,
            request_id: self.id.as_str(),
            remote: self.peer.remote.ip(),
            client: self.peer.identity().map(|identity| identity.name.as_str()),
            endpoint: role.as_deref().zip(endpoint),
            method: self.method.as_str(),
            path,
            status: finished.status,
            reason: finished.reason,
            bytes_in: received,
            bytes_out: self.sent,
            duration: finished.duration,
            connection_point: self.carrier.as_deref(),
        });
    }
}

/// Where the bytes of an answer come from.
#[derive(Debug)]
pub(super) enum Payload {
    /// From the gateway itself.
    Own(Full<Bytes>),
    /// From a backend, through a tunnel.
    Tunnel(tunnel::Body),
}

/// The body of an answer, which ends its exchange.
#[derive(Debug)]
pub struct Answer {
    payload: Payload,
    /// What Content-Length announces; the server stops asking when it has so much.
    expected: Option<u64>,
    /// Whether it is the client's turn: there is something for it, or nobody has asked yet.
    pressing: bool,
    exchange: Exchange,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.press(false);
    }
}

impl Answer {
    /// Notes that nothing more will come, once that is so.
    fn settled(mut self) -> Self {
        self.settle();
        self.press(!self.exchange.complete);
        self
    }

    fn press(&mut self, pressing: bool) {
        let activity = &self.exchange.peer.activity;
        match (self.pressing, pressing) {
            (false, true) => activity.press(),
            (true, false) => activity.release(),
            // The head came just before the first of the body.
            (true, true) if self.exchange.sent == 0 => {}
            (true, true) => activity.asked(),
            (false, false) => {}
        }
        self.pressing = pressing;
    }

    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.payload {
            Payload::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Payload::Tunnel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn settle(&mut self) {
        let whole = self
            .expected
            .is_some_and(|expected| self.exchange.sent >= expected);
        self.exchange.complete |= whole || self.payload_ended();
    }

    fn payload_ended(&self) -> bool {
        match &self.payload {
            Payload::Own(body) => body.is_end_stream(),
            Payload::Tunnel(body) => body.is_end_stream(),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = this.poll_payload(cx);
        this.press(polled.is_ready());
        let mut frame = ready!(polled);
        if let Some(Ok(last)) = &mut frame
            && let Some(trailers) = last.trailers_mut()
        {
            headers::strip_trailers(trailers);
            if !this.exchange.trailers || trailers.is_empty() {
                frame = None;
            }
        }
        match &frame {
            None => this.exchange.complete = true,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.exchange.sent += bytes as u64;
                this.exchange.offered(bytes);
                this.settle();
            }
            Some(Err(error)) => {
                let cause = this.exchange.upload_fault().unwrap_or(error.reason);
                this.exchange.fail(cause);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.payload_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Own(body) => body.size_hint(),
            Payload::Tunnel(body) => body.size_hint(),
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// An answer to HEAD says how long the body would be.
fn keep_length(headers: &mut HeaderMap, payload: &Payload) {
    if let Payload::Own(body) = payload
        && let Some(length) = body.size_hint().exact()
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}
