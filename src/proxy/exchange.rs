//! One request from its head to the end of its answer: the only place that metrics and the access log hear of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Shared;
use super::activity::{MOST, MUCH};
use super::answer::{Answer, Payload};
use super::connection::{Peer, SEND_BUFFER};
use crate::logging::Entry;
use crate::message::body::Meter;
use crate::message::headers::{self, RequestId};
use crate::message::refusal::{Hop, Refusal};
use crate::metrics::Finished;
use crate::reason::Reason;
use crate::routing::Published;

/// The guard of one request. Its drop counts it, whatever became of it.
#[derive(Debug)]
pub(super) struct Exchange {
    shared: Arc<Shared>,
    pub(super) peer: Arc<Peer>,
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
    pub(super) sent: u64,
    /// The last part of the answer that was handed on.
    last: u64,
    pub(super) complete: bool,
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
            id: peer.origin.request_id(),
            shared,
            peer,
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
            last: 0,
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
    pub(super) fn refuse(mut self: Box<Self>, refusal: Refusal) -> Response<Answer> {
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
    pub(super) fn answer(mut self: Box<Self>, response: Response<Payload>) -> Response<Answer> {
        let (mut head, payload) = response.into_parts();
        self.status = Some(head.status.as_u16());
        if let Payload::Tunnel(body) = &payload {
            self.carrier = body.connection_point().cloned();
        }
        let phrase = match headers::has_our_own(&head.headers) {
            true => self.take_our_own(&mut head.headers),
            false => None,
        };
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
        let payload = match bodiless {
            true => Payload::Own(Full::default()),
            false => payload,
        };
        Response::from_parts(head, Answer::new(payload, expected, self))
    }

    /// Takes our fields out: the reason is the request's, the phrase is returned.
    fn take_our_own(&mut self, fields: &mut HeaderMap) -> Option<ReasonPhrase> {
        if let Some(reason) = fields.remove(&headers::REASON) {
            let reason = reason.to_str().ok().and_then(Reason::parse);
            self.reason = self.reason.or(reason);
        }
        let phrase = fields.remove(&headers::PHRASE)?;
        ReasonPhrase::try_from(phrase.as_bytes()).ok()
    }

    /// What waits for the client counts in the budget of the process.
    pub(super) fn offered(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        self.last = bytes as u64;
        let activity = &self.peer.activity;
        let budget = self.shared.registry.budget();
        let much = budget.allowance().reduced(MUCH).unwrap_or(MUCH as usize);
        if activity.offered(bytes, much as u64) {
            activity.count(budget.count(activity, MOST));
        }
    }

    /// What the server of the connection may still hold of this answer: of HTTP/2 that is one stream's.
    fn unsent_at_most(&self) -> u64 {
        match self.version {
            Version::HTTP_2 => self.sent.min(self.last + SEND_BUFFER as u64),
            _ => self.sent,
        }
    }

    /// While windows are small the server of the connection, too, is to hold little. That of HTTP/2 holds a frame and
    /// little more of each stream: to wait for each other's would hold up those that flow.
    pub(super) fn is_held_up(&self, cx: &Context<'_>) -> bool {
        let reduced = self.shared.registry.budget().allowance().reduced(MUCH);
        reduced.is_some_and(|much| {
            self.version != Version::HTTP_2 && self.peer.activity.holds_up(much as u64, cx)
        })
    }

    pub(super) fn fail(&mut self, reason: Reason) {
        self.reason = self.reason.or(Some(reason));
        // The end of this body is known and told, however it was.
        self.complete = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete {
            self.peer.activity.withdrawn(self.unsent_at_most());
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
