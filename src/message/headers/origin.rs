//! What a request is called, and which client it comes from: `X-Request-Id`, `traceparent` and `Forwarded`.
//!
//! Each of them differs from request to request or from client to client, so that a tunnel's HTTP/2 could not keep them in
//! its table. Through a tunnel all go as one short field, [`ORIGIN`], and the connection point writes them out.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Asked, Present};

/// Id of the request, which begins with that of the client's connection, and address of the client, on their way through a
/// tunnel. HTTP/2 codes each character of it on both sides: it is short.
pub static ORIGIN: HeaderName = HeaderName::from_static("opencmg-origin");
/// The id of one request in the logs of every hop.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C trace context of vendors.
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// RFC 7239.
static FORWARDED: HeaderName = HeaderName::from_static("forwarded");

const DIGITS: usize = 32;
const OF_CONNECTION: usize = 16;
const TRACE: usize = 55;

/// The id of one request: 128 random bits as 32 lower-case hexadecimal digits, the first half of which all requests of one
/// connection have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; DIGITS]);

impl RequestId {
    /// Makes a random id, for what is no request of a known connection.
    pub fn random() -> Self {
        Self(hex(rand::random::<u128>().max(1).to_be_bytes()))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What all requests of one client connection have in common.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    id: [u8; OF_CONNECTION],
    /// The client's address behind a blank.
    client: String,
}

impl ClientConnection {
    /// A connection that was given a number, of the client at an address.
    pub fn new(number: u64, client: IpAddr) -> Self {
        Self {
            id: hex(number.to_be_bytes()),
            client: format!(" {}", client.to_canonical()),
        }
    }

    /// Makes the id of one of its requests.
    pub fn request_id(&self) -> RequestId {
        let mut id = [0; DIGITS];
        let (of_connection, own) = id.split_at_mut(OF_CONNECTION);
        of_connection.copy_from_slice(&self.id);
        own.copy_from_slice(&random_digits());
        RequestId(id)
    }

    /// Sets [`ORIGIN`] for one of its requests, whatever was there.
    pub fn set_origin(&self, headers: &mut HeaderMap, id: &RequestId) {
        let value = [&id.0[..], self.client.as_bytes()].concat();
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(&ORIGIN, unrepeated(value));
        }
    }
}

/// What [`ORIGIN`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The id of the request.
    pub id: RequestId,
    value: HeaderValue,
}

impl Origin {
    /// Takes the field out and reads it; `None` if it is not there or not of its form.
    pub fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(&ORIGIN)?;
        let (id, rest) = value.as_bytes().split_first_chunk::<DIGITS>()?;
        let is_whole = id.iter().all(u8::is_ascii_hexdigit) && rest.first() == Some(&b' ');
        let id = RequestId(*id);
        is_whole.then_some(Self { id, value })
    }

    /// The id of the client's connection.
    pub fn connection(&self) -> &str {
        &self.id.as_str()[..OF_CONNECTION]
    }

    /// Writes out `X-Request-Id`, `Forwarded` (RFC 7239), and `traceparent` where the client's is not continued.
    ///
    /// `host` is an authority that was checked already: host name or address, with or without a port; `present` is what the
    /// head has.
    pub fn write_out(&self, headers: &mut HeaderMap, host: &str, present: Present) {
        headers.reserve(3);
        // One piece of memory for all: a head that is kept for a second try shares it.
        let mut text = BytesMut::with_capacity(self.value.len() + host.len() + OF_FORM);
        text.extend_from_slice(&self.id.0);
        insert(headers, &REQUEST_ID, text.split().freeze());
        write_forwarded(&mut text, self.client(), host);
        insert(headers, &FORWARDED, text.split().freeze());
        if !present.has(Asked::Traceparent) {
            // A trace whose id is the request's, and whose first parent is the end of it.
            let trace = trace_value(&self.id.0, &self.id.0[16..], *b"00");
            text.extend_from_slice(&trace);
            insert(headers, &TRACEPARENT, text.freeze());
        }
    }

    fn client(&self) -> &str {
        let text = self.value.to_str().unwrap_or_default();
        text.get(DIGITS + 1..).unwrap_or_default()
    }
}

/// What the fields that are written out have besides the id of the request, the client and the host.
const OF_FORM: usize = 96;

fn insert(headers: &mut HeaderMap, name: &HeaderName, value: Bytes) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(name, value);
    }
}

/// The value of `Forwarded`: what we saw ourselves; nothing that came before is kept.
fn write_forwarded(text: &mut BytesMut, client: &str, host: &str) {
    // A token needs no quotes, but an address or an authority may hold a colon or brackets.
    let (open, close) = match client.contains(':') {
        true => ("for=\"[", "]\";host=\""),
        false => ("for=", ";host=\""),
    };
    for part in [open, client, close, host, "\";proto=https"] {
        text.extend_from_slice(part.as_bytes());
    }
}

/// Continues a valid `traceparent` under a new parent id. An invalid one is dropped, and `tracestate` with it (W3C Trace
/// Context §3.2, §3.3): the connection point begins a trace of the request's id. `present` is what the head has.
pub fn continue_trace(headers: &mut HeaderMap, present: Present) {
    if !present.has(Asked::Traceparent) && !present.has(Asked::Tracestate) {
        return;
    }
    let continued = {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (None, _) => None,
            (Some(only), None) => trace_of(only.as_bytes()),
            (Some(_), Some(_)) => None,
        }
    };
    match continued {
        Some((trace, flags)) => {
            let value = trace_value(&trace, &random_digits(), flags);
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert(&TRACEPARENT, unrepeated(value));
            }
        }
        None => {
            headers.remove(&TRACEPARENT);
            headers.remove(&TRACESTATE);
        }
    }
}

fn trace_value(trace: &[u8; DIGITS], parent: &[u8], flags: [u8; 2]) -> [u8; TRACE] {
    let mut value = *b"00-................................-................-..";
    value[3..35].copy_from_slice(trace);
    value[36..52].copy_from_slice(parent);
    value[53..].copy_from_slice(&flags);
    value
}

/// A value that no other request has: HTTP/2 keeps it out of its table (RFC 7541 §6.2.3), where it would only push out what
/// comes again.
fn unrepeated(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// The trace id and flags of a valid `traceparent`; of a later version, the part that is known is read.
fn trace_of(value: &[u8]) -> Option<([u8; DIGITS], [u8; 2])> {
    let (known, rest) = value.split_at_checked(55)?;
    let version = &known[..2];
    let (trace, parent, flags) = (&known[3..35], &known[36..52], &known[53..55]);
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let fields = [version, trace, parent, flags].into_iter().all(is_hex);
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let length = match version {
        b"ff" => false,
        b"00" => rest.is_empty(),
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    (dashes && fields && length && !zero(trace) && !zero(parent))
        .then(|| Some((trace.try_into().ok()?, flags.try_into().ok()?)))
        .flatten()
}

/// 64 random bits that are not all zero.
fn random_digits() -> [u8; 16] {
    hex(rand::random::<u64>().max(1).to_be_bytes())
}

/// The digits of bytes; `DIGITS` is twice `BYTES`.
fn hex<const BYTES: usize, const DIGITS: usize>(bytes: [u8; BYTES]) -> [u8; DIGITS] {
    std::array::from_fn(|at| {
        let byte = bytes[at / 2];
        let digit = if at % 2 == 0 { byte >> 4 } else { byte & 0xf };
        b"0123456789abcdef"[usize::from(digit)]
    })
}
