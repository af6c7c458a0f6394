//! What the head of a request to a backend must look like.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request};

use super::{Failure, connection_auth};
use crate::message::headers::{Asked, Present};
use crate::reason::Reason;

/// Sets what belongs to this hop; takes out credentials that would authenticate a shared connection.
pub(super) fn prepare(
    head: &mut request::Parts,
    has_body: bool,
    host: &HeaderValue,
    connection_auth: bool,
) {
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    let present = Present::of(headers);
    headers.insert(HOST, host.clone());
    if !connection_auth && present.has(Asked::Authorization) {
        connection_auth::strip_credentials(headers);
    }
    if present.has(Asked::Te) {
        // RFC 9110 §10.1.4: TE belongs to the connection.
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // http.sys answers 411 to a method that may have content and says nothing of its length.
    let never = [Method::GET, Method::HEAD, Method::OPTIONS];
    if !has_body && !never.contains(&head.method) && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if !has_body && present.has(Asked::Expect) {
        headers.remove(EXPECT);
    }
}

/// Compares the size of the head as HTTP/1.1 has it with a limit in bytes.
///
/// # Errors
/// [`Reason::BackendHeadTooLarge`] with both figures.
pub(super) fn check_size(head: &request::Parts, limit: usize) -> Result<(), Failure> {
    let path = head.uri.path_and_query();
    let path = path.map_or(1, |path| path.as_str().len());
    let line = head.method.as_str().len() + path + "  HTTP/1.1\r\n\r\n".len();
    let fields = head.headers.iter();
    let size = fields.fold(line, |size, (name, value)| {
        size + name.as_str().len() + value.len() + ": \r\n".len()
    });
    if size <= limit {
        return Ok(());
    }
    let detail = format!("the request head has {size} bytes, at most {limit} are sent");
    Err(Failure::new(Reason::BackendHeadTooLarge, detail))
}

/// Judges the status of an answer, of which the parser takes any three digits.
///
/// # Errors
/// [`Reason::BackendProtocol`] above 599 (RFC 9110 §15).
pub(super) fn check_status(status: StatusCode) -> Result<(), Failure> {
    match status.as_u16() {
        ..=599 => Ok(()),
        other => {
            let detail = format!("the answer has the status {other}, which there is not");
            Err(Failure::new(Reason::BackendProtocol, detail))
        }
    }
}

/// Judges what an answer says of where its body ends. The parser takes the first of two truths and hands the other on,
/// and loses a coding other than `chunked`; who is behind us must have one truth and all of the content. `present` is what
/// the head has.
///
/// # Errors
/// [`Reason::BackendProtocol`] if `Transfer-Encoding` is anything but one `chunked` (RFC 9112 §6.1), stands beside
/// `Content-Length` (§6.3, which takes it for an attack), or `Content-Length` is not one number.
pub(super) fn check_framing(headers: &HeaderMap, present: Present) -> Result<(), Failure> {
    let coded = present.has(Asked::TransferEncoding);
    let codings = coded.then(|| headers.get_all(TRANSFER_ENCODING).iter());
    let mut codings = codings.into_iter().flatten();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (coding, length) = (codings.next(), lengths.next());
    let is_number = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    let fault = if coding.is_some() && length.is_some() {
        "the answer has both Transfer-Encoding and Content-Length"
    } else if codings.next().is_some()
        || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        "the answer has a transfer coding other than chunked"
    } else if lengths.next().is_some() || length.is_some_and(|length| !is_number(length)) {
        "the answer's Content-Length is not one number"
    } else {
        return Ok(());
    };
    Err(Failure::new(Reason::BackendProtocol, fault))
}

/// Whether a request without a body may be sent twice (RFC 9110 §9.2.2, and `PROPFIND` of RFC 4918).
pub(super) fn can_repeat(method: &Method) -> bool {
    method.is_safe() || method.as_str() == "PROPFIND"
}

/// What `Content-Length` says, if it does.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
