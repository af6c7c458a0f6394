//! The path of one request.
//!
//! [`answer`] is the outer function: it opens the exchange and turns whatever refusal comes out into the one answer.
//! [`forward`] is the inner one: each line is a step, and a step that refuses returns.

use std::future::Future;
use std::hash::Hasher;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, EXPECT, MAX_FORWARDS, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;

use super::answer::{Answer, Payload};
use super::authorise::{Credentials, authorise};
use super::connection::Peer;
use super::exchange::Exchange;
use super::websocket::Opening;
use super::{Shared, authority, metadata};
use crate::message::body::{BodyError, Guarded};
use crate::message::headers::{Asked, Passing, Present};
use crate::message::refusal::Refusal;
use crate::message::{headers, path};
use crate::reason::Reason;
use crate::role::Scheme;
use crate::routing::{Published, Route, Way};
use crate::tunnel::{self, Need};

/// About how many fields are set by us.
const OURS: usize = 8;

/// Answers one request, whatever becomes of it.
///
/// Boxed: the server of HTTP/1.1 keeps the place of this future as long as the connection lives, and most connections are
/// idle most of the time.
pub(super) fn answer(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Pin<Box<impl Future<Output = Response<Answer>> + Send>> {
    // Before the async block, which would have room for the request and for its parts.
    let (head, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let exchange = Exchange::begin(Arc::clone(&shared), Arc::clone(&peer), &head, has_body);
    let mut exchange = Box::new(exchange);
    Box::pin(async move {
        match forward(&shared, &peer, &mut exchange, head, body).await {
            Ok(response) => exchange.answer(response),
            Err(refusal) => exchange.refuse(refusal),
        }
    })
}

async fn forward(
    shared: &Shared,
    peer: &Peer,
    exchange: &mut Exchange,
    mut head: Parts,
    body: Incoming,
) -> Result<Response<Payload>, Refusal> {
    // Taken first: it is this request's, whatever refuses it.
    let fragment = head.version != Version::HTTP_2 && peer.activity.take_fragment();
    // What costs nothing comes first, so that a flood of nonsense costs nothing.
    check_load(shared)?;
    check_client(peer, exchange)?;
    check_method(&head.method)?;
    check_fields(shared, &head)?;
    check_framing(&head, exchange.has_body)?;
    let authority = authority::addressed(peer, &head)?;
    check_target(&head, fragment)?;
    let present = Present::of(&head.headers);
    if present.has(Asked::Expect) {
        check_expectation(&head.headers)?;
    }

    // Only what is published is reachable; the rest is not told apart.
    let routes = shared.routes.load();
    let route = routes.resolve(authority::host_of(&authority), target(&head.uri));
    let (published, way) = match route.ok_or_else(|| Refusal::new(Reason::UnknownEndpoint))? {
        Route::Endpoint(published, way) => (Arc::clone(published), way),
        Route::Metadata => {
            return metadata::answer(&head.method, routes.service_name(), shared.instance);
        }
    };
    let mark = routes.mark().cloned();
    drop(routes);
    if present.has(Asked::Service) {
        check_loop(&head.headers, mark.as_ref())?;
    }
    exchange.enter(Arc::clone(&published));

    // Who may: the credentials before the method, so that strangers learn no more than that they are strangers.
    let credentials = Credentials {
        certificate: &peer.certificate,
        required: peer.certificate_required,
    };
    authorise(&credentials, published.endpoint.scheme, way).await?;
    check_allowed(&published, &head.method)?;
    if head.method == Method::OPTIONS && is_last_hop(&mut head.headers) {
        return Ok(options(&published));
    }
    check_rate(&published, way, peer)?;
    let opening = match published.endpoint.websocket {
        true => Opening::take(&mut head, exchange.has_body)?,
        false => None,
    };

    // What: the body within its limit, the header fields cleaned and ours set.
    check_length(&published, &body)?;
    let need = need_of(&published, peer, &mut head, present, &body);
    let limit = published.endpoint.body_limit;
    let body = Guarded::new(body, limit, shared.settings.body_pace);
    exchange.watch_upload(body.meter());
    let mark = mark.as_ref();
    exchange.trailers = rewrite(&mut head, present, &published, way, peer, exchange, mark);
    readdress(&mut head, authority)?;

    if let Some(opening) = opening {
        // Boxed: every request would have the place of what few ask for.
        return Box::pin(opening.open(shared, peer, need, head, published)).await;
    }

    // Where: a tunnel; then its answer's head, cleaned, and its body as it comes.
    let sent = send(shared, need, Request::from_parts(head, body)).await;
    let response = sent.map_err(|refusal| match exchange.upload_fault() {
        Some(cause) => Refusal::new(cause).detail(refusal.detail),
        None => refusal,
    })?;
    Ok(receive(response, &published, peer, exchange.trailers))
}

fn check_load(shared: &Shared) -> Result<(), Refusal> {
    if shared.requests.load(Ordering::Relaxed) <= shared.settings.requests {
        return Ok(());
    }
    Err(Refusal::new(Reason::Overloaded).retry_for_room())
}

/// Whoever sends more than one client's share waits, whatever he asks for.
fn check_client(peer: &Peer, exchange: &Exchange) -> Result<(), Refusal> {
    let Some(allowed) = &peer.allowed else {
        return Ok(());
    };
    allowed
        .take(exchange.began)
        .map_err(|wait| Refusal::new(Reason::RateLimited).retry_after(wait))
}

/// A connection point's backend may be this very service, by mistake.
fn check_loop(headers: &HeaderMap, mark: Option<&HeaderValue>) -> Result<(), Refusal> {
    match mark.is_some_and(|mark| headers::came_through(headers, mark)) {
        true => Err(Refusal::new(Reason::Loop)),
        false => Ok(()),
    }
}

/// What no endpoint takes, whatever is published.
fn check_method(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::CONNECT => Err(Refusal::new(Reason::ConnectRefused)),
        _ => Ok(()),
    }
}

/// The size of a head and the number of its fields; and RFC 9113 §8.2.1, of which the parser of HTTP/2 leaves this to us:
/// no value begins or ends with a blank.
fn check_fields(shared: &Shared, head: &Parts) -> Result<(), Refusal> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut size = target(&head.uri).len();
    if size > shared.settings.target_size {
        return Err(Refusal::new(Reason::TargetTooLong).detail(format!("{size} bytes")));
    }
    for (name, value) in &head.headers {
        size += name.as_str().len() + value.len() + 4;
        let bytes = value.as_bytes();
        if blank(bytes.first()) || blank(bytes.last()) {
            let detail = format!("a blank begins or ends the field {name}");
            return Err(Refusal::new(Reason::BadRequest).detail(detail));
        }
    }
    if size > shared.settings.head_size || head.headers.len() > shared.settings.head_fields {
        let detail = format!("{} fields, {size} bytes", head.headers.len());
        return Err(Refusal::new(Reason::HeadTooLarge).detail(detail));
    }
    Ok(())
}

/// RFC 9112 §6.1: `chunked` is the one coding that is understood. What is forwarded is the content without it, so any
/// other would be lost on the way. The parser has refused a coding that does not end in `chunked`, has let `chunked` win
/// over Content-Length, and closes after the answer then.
fn check_framing(head: &Parts, has_body: bool) -> Result<(), Refusal> {
    if !has_body {
        return Ok(());
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err(Refusal::new(Reason::BadRequest)
            .with_status(StatusCode::NOT_IMPLEMENTED)
            .detail("a transfer coding other than chunked")),
    }
}

/// The path rule, and for HTTP/1.1 that there was no fragment, which the parser cuts off.
fn check_target(head: &Parts, fragment: bool) -> Result<(), Refusal> {
    let fault = match fragment {
        true => Some("a fragment is not part of a request"),
        false => path::check(target(&head.uri)).err().map(|fault| fault.0),
    };
    fault.map_or(Ok(()), |fault| {
        Err(Refusal::new(Reason::BadPath).detail(fault))
    })
}

/// RFC 9110 §10.1.1: the one expectation there is.
fn check_expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut all = headers.get_all(EXPECT).iter();
    let known = all.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    known
        .then_some(())
        .ok_or_else(|| Refusal::new(Reason::BadExpect))
}

fn check_allowed(published: &Published, method: &Method) -> Result<(), Refusal> {
    match published.endpoint.allows(method) {
        true => Ok(()),
        false => {
            let methods = &published.endpoint.methods;
            Err(Refusal::new(Reason::MethodNotAllowed).allow(methods))
        }
    }
}

/// Counts `Max-Forwards` down (RFC 9110 §7.6.2); returns whether the request may go no further. A value that is no number
/// counts as none.
fn is_last_hop(headers: &mut HeaderMap) -> bool {
    let left = headers
        .get(MAX_FORWARDS)
        .and_then(|value| value.to_str().ok());
    match left.and_then(|left| left.parse::<u64>().ok()) {
        None => false,
        Some(0) => true,
        Some(left) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            false
        }
    }
}

/// What the gateway itself says to `OPTIONS`.
fn options(published: &Published) -> Response<Payload> {
    let methods: Vec<_> = published
        .endpoint
        .methods
        .iter()
        .map(Method::as_str)
        .collect();
    let mut response = Response::new(Payload::Own(Full::default()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::try_from(methods.join(", ")) {
        response.headers_mut().insert(ALLOW, allow);
    }
    response
}

/// Endpoints whose backend judges are open to strangers up to it; who has proven an identity is none.
fn check_rate(published: &Published, way: Way, peer: &Peer) -> Result<(), Refusal> {
    let open = way != Way::Mutual && published.endpoint.scheme == Scheme::Backend;
    match &published.rate {
        Some(rate) if open && peer.identity().is_none() => rate
            .take(peer.remote.ip())
            .map_err(|wait| Refusal::new(Reason::RateLimited).retry_after(wait)),
        Some(_) | None => Ok(()),
    }
}

/// A body that announces too much is refused before any of it is taken.
fn check_length(published: &Published, body: &Incoming) -> Result<(), Refusal> {
    let announced = body.size_hint().lower();
    let limit = published.endpoint.body_limit;
    if announced > limit {
        let detail = format!("{announced} bytes announced, {limit} allowed");
        return Err(Refusal::new(Reason::BodyTooLarge).detail(detail));
    }
    Ok(())
}

fn need_of(
    published: &Published,
    peer: &Peer,
    head: &mut Parts,
    present: Present,
    body: &Incoming,
) -> Need {
    let expects = present.has(Asked::Expect);
    // RFC 9110 §10.1.1: an expectation in a request of HTTP/1.0, or without a body, is ignored.
    let expect_continue = expects && head.version != Version::HTTP_10 && !body.is_end_stream();
    if expects && !expect_continue {
        head.headers.remove(EXPECT);
    }
    Need {
        role: published.role,
        sticky: published.endpoint.sticky.then(|| stickiness(peer)),
        long_poll: published.endpoint.long_poll,
        expect_continue,
        ahead: peer.ahead(),
    }
}

/// The same number for one client at every instance.
fn stickiness(peer: &Peer) -> u64 {
    // FNV-1a: std's hashers may differ between versions, and instances are upgraded one by one.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    match peer.identity() {
        Some(identity) => hash.write(identity.fingerprint.as_bytes()),
        None => hash.write(peer.remote.ip().to_canonical().to_string().as_bytes()),
    }
    hash.finish()
}

/// Makes the fields that the connection point is sent; returns whether the client takes trailers.
fn rewrite(
    head: &mut Parts,
    present: Present,
    published: &Published,
    way: Way,
    peer: &Peer,
    exchange: &Exchange,
    mark: Option<&HeaderValue>,
) -> bool {
    let fields = &mut head.headers;
    let service = present.has(Asked::Service);
    let before = service.then(|| fields.remove(&headers::SERVICE)).flatten();
    let trailers = headers::strip_request(fields, present);
    fields.reserve(OURS);
    if let Some(mark) = mark {
        headers::set_service(fields, before, mark);
    }
    // Its place is taken by `:authority`.
    fields.remove(http::header::HOST);
    headers::continue_trace(fields, present);
    peer.origin.set_origin(fields, &exchange.id);
    if published.via || present.has(Asked::Via) {
        headers::set_via(fields, published.via, head.version);
    }
    if way == Way::Root {
        headers::set_role(fields, published.role);
    }
    if let Some(identity) = peer.identity() {
        identity.fields.set(fields, published.client_certificate);
    }
    trailers
}

/// Makes the rest of the head that the connection point is sent.
fn readdress(head: &mut Parts, authority: Authority) -> Result<(), Refusal> {
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.scheme = Some(UriScheme::HTTPS);
    uri.authority = Some(authority);
    head.uri = Uri::from_parts(uri)
        .map_err(|error| Refusal::new(Reason::BadPath).detail(error.to_string()))?;
    head.version = Version::HTTP_2;
    head.extensions.clear();
    Ok(())
}

/// Sends a request into a tunnel; what may wait without end is told to come again when the instance drains.
pub(super) async fn send<B>(
    shared: &Shared,
    need: Need,
    request: Request<B>,
) -> Result<Response<tunnel::Body>, Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    let sent = match need.long_poll {
        false => shared.registry.send(need, request).await,
        // What may wait without end would hold the drain up: it is told to come again, to another instance.
        true => {
            let mut draining = shared.draining.clone();
            let sent = Box::pin(shared.registry.send(need, request));
            tokio::select! {
                biased;
                () = draining.draining() => {
                    let mean = shared.settings.drain_retry_after;
                    return Err(Refusal::new(Reason::Draining).retry_around(mean));
                }
                sent = sent => sent,
            }
        }
    };
    sent.map_err(|failure| {
        let refusal = Refusal::new(failure.reason).detail(failure.detail);
        if failure.reason == Reason::TunnelsFull {
            refusal.retry_around(Duration::from_secs(2))
        } else if failure.reason == Reason::Overloaded {
            refusal.retry_for_room()
        } else {
            refusal
        }
    })
}

/// The answer of a tunnel as the client is to see it.
pub(super) fn receive(
    response: Response<tunnel::Body>,
    published: &Published,
    peer: &Peer,
    trailers: bool,
) -> Response<Payload> {
    let mut response = response.map(Payload::Tunnel);
    let fields = response.headers_mut();
    let ours = headers::has_our_own(fields);
    let mut take = |name| ours.then(|| fields.remove(name)).flatten();
    let [phrase, reason] = [&headers::PHRASE, &headers::REASON].map(&mut take);
    let passing = Passing {
        our_word: reason.is_some(),
        trailers,
    };
    headers::strip_response(fields, passing);
    if reason.is_some() && peer.identity().is_none() {
        headers::hide_details(fields);
    }
    if let Some(phrase) = phrase {
        fields.insert(&headers::PHRASE, phrase);
    }
    if let Some(reason) = reason {
        fields.insert(&headers::REASON, reason);
    }
    if published.via {
        headers::set_via(fields, true, Version::HTTP_2);
    }
    response
}

/// The path and query of a target; `*` for that form.
fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("", |target| target.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Forwarded = (
        &'static Shared,
        &'static Peer,
        &'static mut Exchange,
        Parts,
        Incoming,
    );

    fn size<A, Fut>(_: impl FnOnce(A) -> Fut) -> usize {
        size_of::<Fut>()
    }

    // What every request takes of memory while it waits, besides what `answer` takes. A larger figure is a decision, not
    // an accident.
    #[test]
    fn the_future_of_a_request_under_way_stays_small() {
        let found = size(|(shared, peer, exchange, head, body): Forwarded| {
            forward(shared, peer, exchange, head, body)
        });
        assert!((500..2_600).contains(&found), "{found}");
    }
}
