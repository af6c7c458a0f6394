//! What becomes of a backend's answer on its way out, and the body that a tunnel gets.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;

use super::location::Place;
use super::websocket::Switched;
use crate::backend::{self, NoChallengeLeft};
use crate::message::body::BodyError;
use crate::message::headers::{self, Asked, Present};
use crate::message::refusal::{Refusal, phrase_of_backend};
use crate::reason::Reason;
use crate::tunnel;

/// The body of an answer: a backend's, or our own.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// As it comes from the backend.
    Backend(backend::AnswerBody<tunnel::Body>),
    /// What the backend says on a WebSocket.
    Switched(Switched),
    /// Of a refusal.
    Own(Full<Bytes>),
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Backend(body) => Pin::new(body).poll_frame(cx),
            Self::Switched(body) => body.poll(cx),
            Self::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Backend(body) => body.is_end_stream(),
            Self::Switched(_) => false,
            Self::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Backend(body) => body.size_hint(),
            Self::Switched(_) => SizeHint::default(),
            Self::Own(body) => body.size_hint(),
        }
    }
}

/// Fields that hold a URL of the backend besides `Location`.
const URLS: [(Asked, HeaderName); 2] = [
    (Asked::ContentLocation, header::CONTENT_LOCATION),
    (
        Asked::BitsReplyUrl,
        HeaderName::from_static("bits-reply-url"),
    ),
];

/// Makes a backend's head fit to leave: its URLs mapped, our fields set, those of the connection removed. Returns the
/// reason that it was given, if it is an error.
///
/// # Errors
/// [`Reason::BackendRedirect`] for a redirect that leads outside the backend's base.
pub(super) fn clean(
    head: &mut response::Parts,
    place: &Place<'_>,
) -> Result<Option<Reason>, Refusal> {
    headers::strip_backend(&mut head.headers);
    let present = Present::of(&head.headers);
    if present.has(Asked::Location) {
        map_location(head, place)?;
    }
    for (asked, name) in URLS {
        if present.has(asked) {
            map_url(&mut head.headers, &name, place);
        }
    }
    let phrase = head.extensions.remove::<ReasonPhrase>();
    let status = head.status;
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(None);
    }
    let phrase = phrase_of_backend(status, phrase.as_ref().map(ReasonPhrase::as_bytes));
    if let Ok(phrase) = HeaderValue::try_from(phrase) {
        head.headers.insert(&headers::PHRASE, phrase);
    }
    let reason = match head.extensions.remove::<NoChallengeLeft>() {
        Some(NoChallengeLeft) => Reason::ConnectionAuth,
        None => Reason::BackendAnswer,
    };
    head.headers
        .insert(&headers::REASON, HeaderValue::from_static(reason.as_str()));
    Ok(Some(reason))
}

fn map_location(head: &mut response::Parts, place: &Place<'_>) -> Result<(), Refusal> {
    let Some(location) = head.headers.get(header::LOCATION) else {
        return Ok(());
    };
    let mapped = location.to_str().ok().and_then(|text| place.map(text));
    match mapped.and_then(|text| HeaderValue::try_from(text).ok()) {
        Some(mapped) => {
            head.headers.insert(header::LOCATION, mapped);
        }
        None if head.status.is_redirection() => {
            let to = String::from_utf8_lossy(location.as_bytes()).into_owned();
            return Err(Refusal::new(Reason::BackendRedirect).detail(format!("to {to}")));
        }
        // It tells of a place that the client cannot reach.
        None => {
            head.headers.remove(header::LOCATION);
        }
    }
    Ok(())
}

fn map_url(fields: &mut HeaderMap, name: &HeaderName, place: &Place<'_>) {
    let Some(value) = fields.get(name) else {
        return;
    };
    let mapped = value.to_str().ok().and_then(|text| place.map(text));
    match mapped.and_then(|text| HeaderValue::try_from(text).ok()) {
        Some(mapped) => fields.insert(name, mapped),
        None => fields.remove(name),
    };
}
