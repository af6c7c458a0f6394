//! One request through a tunnel: picked, sent, and sent again where that is safe. No task of its own: the
//! request's body is pumped by whoever waits for the answer's head and then by whoever reads its body.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tokio::time::{Sleep, sleep};

use super::body::{Body, Rest};
use super::budget::Expected;
use super::link::{Lease, Link};
use super::registry::{Failure, Need, Registry};
use super::upload::Upload;
use super::{BodyError, wire};
use crate::metrics::ByRole;
use crate::reason::Reason;

/// How many tunnels one request is tried on at most: the first, and once more on another.
const TRIES: usize = 2;

/// How an attempt failed.
struct Lost {
    kind: Kind,
    failure: Failure,
}

impl Lost {
    #[cold]
    fn new(kind: Kind, reason: Reason, error: &h2::Error) -> Self {
        Self {
            kind,
            failure: Failure::new(reason, error.to_string()),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The peer has not looked at the request.
    NotProcessed,
    /// The connection broke; nobody knows what the peer did.
    Unknown,
    /// Nothing that another tunnel could mend.
    Final,
}

impl Failure {
    // Cold: what leads here is kept out of the way of requests that pass.
    #[cold]
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Sends a request; see [`Registry::send`].
pub(super) fn send<B>(
    registry: &Registry,
    need: Need,
    request: Request<B>,
) -> impl Future<Output = Result<Response<Body>, Failure>> + Send
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    // Before the async block, which would have room for the request and for its parts.
    let (mut parts, body) = request.into_parts();
    let upload = prepare(&mut parts, need)
        .and_then(|length| upload_of(body, length, &parts.method, need, registry));
    async move {
        let mut upload = upload?;
        let may_repeat = upload.is_none() && is_repeatable(&parts.method);
        let expect = || {
            let window = registry.settings().wire.stream_window;
            registry.budget().expect(window)
        };
        // Long polls are many, and few of them are answered at once.
        let mut expected = (!need.long_poll).then(expect);
        let mut tried: Vec<Arc<Link>> = Vec::new();
        let mut first: Option<Failure> = None;
        loop {
            let lease = match registry.pick(&need, &tried) {
                Ok(lease) => lease,
                Err(reason) => {
                    let nowhere = || Failure::new(reason, need.role.to_string());
                    return Err(first.unwrap_or_else(nowhere));
                }
            };
            if !tried.is_empty() {
                let retries = &registry.metrics().retries;
                retries.get_or_create(&ByRole::new(need.role)).inc();
            }
            let link = Arc::clone(&lease.link);
            let lost = match attempt(registry, &lease, &parts, &mut upload).await {
                Ok(response) => {
                    let expected = expected.take().unwrap_or_else(expect);
                    return Ok(received(registry, lease, response, upload, expected));
                }
                Err(lost) => lost,
            };
            tried.push(link);
            let again = tried.len() < TRIES
                && match lost.kind {
                    Kind::NotProcessed => upload.as_deref().is_none_or(Upload::can_start_again),
                    Kind::Unknown => may_repeat,
                    Kind::Final => false,
                };
            let failure = first.get_or_insert(lost.failure);
            if !again {
                return Err(failure.clone());
            }
        }
    }
}

/// The upload of a body, unless there is nothing to send. Boxed, since most requests have none.
fn upload_of<B>(
    body: B,
    length: Option<u64>,
    method: &Method,
    need: Need,
    registry: &Registry,
) -> Result<Option<Box<Upload<B>>>, Failure>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    if body.is_end_stream() {
        return match length {
            Some(1..) => {
                let detail = "the body is shorter than its Content-Length";
                Err(Failure::new(Reason::LengthMismatch, detail))
            }
            Some(0) | None => Ok(None),
        };
    }
    let mut upload = Upload::new(body, length, need, registry.budget());
    // WebSockets are many, and little is on its way in most of them.
    if *method != Method::CONNECT {
        upload.expect();
    }
    Ok(Some(Box::new(upload)))
}

/// Makes the head fit for HTTP/2 and returns its Content-Length.
fn prepare(parts: &mut Parts, need: Need) -> Result<Option<u64>, Failure> {
    if parts.uri.path().starts_with(wire::OWN_PREFIX) {
        // What the gateway itself says to connection points must not come from a client.
        let detail = "the path is kept for the gateway itself";
        return Err(Failure::new(Reason::UnknownEndpoint, detail));
    }
    parts.version = Version::HTTP_2;
    if need.expect_continue {
        let value = HeaderValue::from_static("100-continue");
        parts.headers.insert(EXPECT, value);
    }
    Ok(length_of(&parts.headers))
}

/// The Content-Length, if there is one that is a number.
pub(super) fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a request without body may be sent twice: the safe methods of RFC 9110 §9.2.1 that are in use here,
/// and PROPFIND (RFC 4918 §9.1).
fn is_repeatable(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) || method.as_str() == "PROPFIND"
}

/// One attempt on one tunnel. The upload is left as far as it has come.
async fn attempt<B>(
    registry: &Registry,
    lease: &Lease,
    parts: &Parts,
    upload: &mut Option<Box<Upload<B>>>,
) -> Result<Response<RecvStream>, Lost>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let head = Request::from_parts(parts.clone(), ());
    let mut sender = lease.link.sender.clone();
    if parts.method == Method::CONNECT && !sender.is_extended_connect_protocol_enabled() {
        // RFC 8441 §3: it must not even be asked.
        let failure = Failure::new(Reason::TunnelProtocol, "the peer takes no WebSocket");
        let kind = Kind::Final;
        return Err(Lost { kind, failure });
    }
    let body = upload.as_mut().filter(|upload| !upload.is_empty());
    let (response, stream) = sender
        .send_request(head, body.is_none())
        .map_err(|error| unsent(&error))?;
    drop(sender);
    match body {
        Some(body) => body.start(stream),
        None => drop(stream),
    }
    let gated = upload.as_ref().is_some_and(|upload| upload.gated);
    let gate = gated.then(|| sleep(registry.settings().continue_wait));
    let answered = answer(response, upload, gate).await;
    if answered.is_err()
        && let Some(upload) = upload
    {
        upload.reset(h2::Reason::CANCEL);
    }
    answered
}

/// Waits for the answer's head and pumps the body meanwhile.
async fn answer<B>(
    mut response: ResponseFuture,
    upload: &mut Option<Box<Upload<B>>>,
    gate: Option<Sleep>,
) -> Result<Response<RecvStream>, Lost>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let mut gate = pin!(gate);
    poll_fn(|cx| {
        if let Some(upload) = upload.as_mut().filter(|upload| !upload.is_sent()) {
            if let Some(wait) = gate.as_mut().as_pin_mut()
                && is_open(&mut response, wait, cx)
            {
                upload.gated = false;
                gate.set(None);
            }
            if let Poll::Ready(Err(error)) = upload.poll_send(cx) {
                return Poll::Ready(Err(Lost {
                    kind: Kind::Final,
                    failure: Failure::new(error.reason, error.detail),
                }));
            }
        }
        Pin::new(&mut response)
            .poll(cx)
            .map_err(|error| unanswered(&error))
    })
    .await
}

/// Whether the body may be read: a 100 has come, or was waited for long enough.
fn is_open(response: &mut ResponseFuture, wait: Pin<&mut Sleep>, cx: &mut Context<'_>) -> bool {
    while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
        if interim.status() == StatusCode::CONTINUE {
            return true;
        }
    }
    wait.poll(cx).is_ready()
}

fn received<B>(
    registry: &Registry,
    lease: Lease,
    response: Response<RecvStream>,
    upload: Option<Box<Upload<B>>>,
    expected: Expected,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let unsent = upload.filter(|upload| !upload.is_sent());
    let rest = unsent.map(|mut upload| -> Box<dyn Rest> {
        upload.forget();
        upload
    });
    let (parts, stream) = response.into_parts();
    let length = length_of(&parts.headers);
    let body = Body::of_answer(stream, length, registry.budget(), expected);
    Response::from_parts(parts, body.carry(lease, rest))
}

/// What it means that a request could not be handed to HTTP/2.
fn unsent(error: &h2::Error) -> Lost {
    let connection = error.is_io() || error.is_go_away() || error.is_reset();
    let (kind, reason) = if connection {
        (Kind::NotProcessed, Reason::TunnelLost)
    } else {
        (Kind::Final, Reason::InternalError)
    };
    Lost::new(kind, reason, error)
}

/// What it means that a request that was sent gets no answer.
fn unanswered(error: &h2::Error) -> Lost {
    // RFC 9113 §6.8, §8.7: a stream above the GOAWAY's number and a refused one were not processed.
    let above = error.is_go_away() && error.is_remote();
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let (kind, reason) = if above || refused {
        (Kind::NotProcessed, Reason::TunnelLost)
    } else if error.is_io() || error.is_go_away() {
        (Kind::Unknown, Reason::TunnelLost)
    } else if error.is_reset() && !error.is_remote() {
        (Kind::Final, Reason::TunnelProtocol)
    } else if error.reason() == Some(h2::Reason::INTERNAL_ERROR) {
        // So the connection point says that its answer broke off, if it does so before the head is on its way.
        (Kind::Final, Reason::BackendBroken)
    } else {
        (Kind::Final, Reason::TunnelLost)
    };
    Lost::new(kind, reason, error)
}
