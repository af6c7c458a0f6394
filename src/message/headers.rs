//! Header hygiene: what is taken out of a message, what is put in, and the names that are ours.
//!
//! Identity and forwarding fields of a client never pass, in whatever spelling a server behind us would accept:
//! names are compared with `_` read as `-`, since CGI and IIS make one of the two.

mod from_clients;
mod trailers;

use std::net::IpAddr;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, Entry};
use http::{HeaderMap, HeaderName, HeaderValue};

use self::from_clients::matches_dashed;
pub use self::trailers::strip_trailers;
use crate::role::RoleId;

/// The phrase of a refusal or of a backend's error on its way through the tunnel.
pub static PHRASE: HeaderName = HeaderName::from_static("opencmg-phrase");
/// The reason of a refusal on its way through the tunnel.
pub static REASON: HeaderName = HeaderName::from_static("opencmg-reason");
/// The role that the gateway resolved, for requests whose path does not name it.
pub static ROLE: HeaderName = HeaderName::from_static("opencmg-role");
/// The client connection that a request came over, for backends that authenticate connections.
pub static CONNECTION_ID: HeaderName = HeaderName::from_static("opencmg-connection");
/// The service that a request came through: what a loop is found by.
pub static SERVICE: HeaderName = HeaderName::from_static("opencmg-service");
/// The id of one request in the logs of every hop.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C trace context of vendors.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// RFC 7239.
pub static FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// RFC 9440 §2.2.
pub static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// RFC 9440 §2.3.
pub static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// The subject alone, for roles that want no more.
pub static CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("client-cert-subject");
/// RFC 9209.
pub static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Whether a name is of a field of one connection (RFC 9110 §7.6.1), besides those that `Connection` nominates, or of one
/// that speaks to the next proxy.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Fields that a `Connection` field cannot nominate: the message would mean something else without them.
const NEVER_NOMINATED: &[&str] = &[
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "host",
    "traceparent",
    "tracestate",
    "via",
];

/// Takes out of a client's request what must not pass: fields of the connection, every name that we set, and
/// the names by which other proxies speak to servers behind them. Crumbs of `Cookie` are joined (RFC 9113
/// §8.2.3). `TE: trailers` is kept.
pub fn strip_request(headers: &mut HeaderMap) {
    let trailers = trailers::are_wanted(headers);
    strip(headers, is_unwelcome);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
}

/// Takes out of a backend's answer what must not pass: fields of the connection, and those by which we speak ourselves
/// (`opencmg-*`, `Proxy-Status`, `X-Request-Id`).
pub fn strip_backend(headers: &mut HeaderMap) {
    strip(headers, |name| is_our_own(name) || is_our_word(name));
}

/// What passes to a client in some answers only.
#[derive(Clone, Copy, Debug)]
pub struct Passing {
    /// `Proxy-Status` and `X-Request-Id`: the answer is a refusal of the connection point.
    pub our_word: bool,
    /// The announcement of trailers: the client takes them.
    pub trailers: bool,
}

/// Takes out of an answer that came through a tunnel what must not pass to a client: fields of the connection,
/// `opencmg-*`, and what does not pass this time.
pub fn strip_response(headers: &mut HeaderMap, passing: Passing) {
    strip(headers, |name| {
        is_our_own(name)
            || (!passing.our_word && is_our_word(name))
            || (!passing.trailers && name == header::TRAILER.as_str())
    });
}

/// Takes out of a request what was meant for this hop, on its way to a backend: fields of the connection and `opencmg-*`,
/// but for the marks by which loops are found. `TE` is kept as it is.
pub fn strip_last_hop(headers: &mut HeaderMap) {
    let trailers = headers.remove(header::TE);
    strip(headers, |name| is_our_own(name) && name != SERVICE.as_str());
    if let Some(trailers) = trailers {
        headers.insert(header::TE, trailers);
    }
}

/// Takes the details out of `Proxy-Status`, for clients that are not authenticated.
pub fn hide_details(headers: &mut HeaderMap) {
    let Entry::Occupied(mut entry) = headers.entry(&PROXY_STATUS) else {
        return;
    };
    let text = entry.get().to_str().unwrap_or_default();
    let kept = text.split_once("; details=").map_or(text, |(kept, _)| kept);
    match HeaderValue::from_str(kept) {
        Ok(value) if !kept.is_empty() => drop(entry.insert(value)),
        Ok(_) | Err(_) => drop(entry.remove()),
    }
}

/// Takes out what belongs to one connection, what its `Connection` field nominates (RFC 9110 §7.6.1), and what else is
/// unwelcome.
fn strip(headers: &mut HeaderMap, unwelcome: impl Fn(&str) -> bool) {
    if headers.contains_key(header::CONNECTION) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    // Mostly there is nothing, and one look at each name finds that out.
    let names = headers.keys();
    let unwanted = |name: &&HeaderName| is_hop_by_hop(name.as_str()) || unwelcome(name.as_str());
    let unwanted: Vec<HeaderName> = names.filter(unwanted).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let tokens = |value: &HeaderValue| -> Vec<HeaderName> {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .filter_map(|token| token.trim().parse().ok())
            .filter(|name: &HeaderName| {
                !NEVER_NOMINATED.contains(&name.as_str()) && !is_unwelcome(name.as_str())
            })
            .collect()
    };
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .collect()
}

fn is_unwelcome(name: &str) -> bool {
    from_clients::contains(name) || (name.contains('_') && is_set_with_dashes(name))
}

/// Names that may come from a client as they are, but not in another spelling.
fn is_set_with_dashes(name: &str) -> bool {
    ["content-length", "transfer-encoding"]
        .iter()
        .any(|ours| matches_dashed(name, ours))
}

/// The fields in which a refusal says what happened.
fn is_our_word(name: &str) -> bool {
    name == PROXY_STATUS.as_str() || name == REQUEST_ID.as_str()
}

fn is_our_own(name: &str) -> bool {
    name.starts_with('o') && matches_dashed(name, "opencmg-*")
}

fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(crumbs) = headers.entry(header::COOKIE) else {
        return;
    };
    if crumbs.iter().count() < 2 {
        return;
    }
    let joined: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(mut value) = HeaderValue::from_bytes(&joined.join(&b"; "[..])) {
        value.set_sensitive(true);
        headers.insert(header::COOKIE, value);
    }
}

/// The id of one request: 128 random bits as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// Makes a random id.
    pub fn random() -> Self {
        Self(hex(rand::random::<u128>().max(1)))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Sets `X-Request-Id`, whatever was there.
pub fn set_request_id(headers: &mut HeaderMap, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_bytes(&id.0) {
        headers.insert(&REQUEST_ID, unrepeated(value));
    }
}

/// Sets `traceparent`: a valid one is continued under a new parent id, else a trace of the request's id begins
/// and `tracestate` is dropped with the invalid one (W3C Trace Context §3.2, §3.3).
pub fn set_traceparent(headers: &mut HeaderMap, id: &RequestId) {
    let continued = {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => trace_of(only.as_bytes()),
            _ => None,
        }
    };
    if continued.is_none() {
        headers.remove(&TRACESTATE);
    }
    let (trace, flags) = continued.unwrap_or((id.0, *b"00"));
    let parent: [u8; 32] = hex(u128::from(rand::random::<u64>().max(1)));
    let mut value = *b"00-................................-................-..";
    value[3..35].copy_from_slice(&trace);
    value[36..52].copy_from_slice(&parent[16..]);
    value[53..].copy_from_slice(&flags);
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(&TRACEPARENT, unrepeated(value));
    }
}

/// A value that no other client has: HTTP/2 keeps it out of its table (RFC 7541 §6.2.3), where it would only push out what
/// comes again.
pub fn unrepeated(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// The trace id and flags of a valid `traceparent`; of a later version, the part that is known is read.
fn trace_of(value: &[u8]) -> Option<([u8; 32], [u8; 2])> {
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

fn hex(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (index, digit) in digits.iter_mut().enumerate() {
        let nibble = (number >> (4 * (31 - index))) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    digits
}

/// The value of `Forwarded` (RFC 7239): what we saw ourselves; nothing that came before is kept.
///
/// `host` is an authority that was checked already: host name or address, with or without a port.
pub fn forwarded(client: IpAddr, host: &str) -> Option<HeaderValue> {
    let node = match client.to_canonical() {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    // A token needs no quotes, but an authority may hold a colon or brackets.
    let value = HeaderValue::try_from(format!("{node};host=\"{host}\";proto=https")).ok()?;
    Some(unrepeated(value))
}

/// Sets `opencmg-role`, by which the connection point knows the role of a request whose path does not name it.
pub fn set_role(headers: &mut HeaderMap, role: RoleId) {
    if let Ok(value) = HeaderValue::try_from(role.to_string()) {
        headers.insert(&ROLE, value);
    }
}

/// Whether a request was sent on before by the service of this mark.
pub fn came_through(headers: &HeaderMap, mark: &HeaderValue) -> bool {
    let same = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(mark.as_bytes());
    headers
        .get_all(&SERVICE)
        .iter()
        .any(|value| value.as_bytes().split(|byte| *byte == b',').any(same))
}

/// Marks a request as sent on by a service, besides those that sent it on before.
///
/// `before` is the field as it came, since [`strip_request`] takes it out.
pub fn set_service(headers: &mut HeaderMap, before: Option<HeaderValue>, mark: &HeaderValue) {
    let both = before.and_then(|before| {
        let both = [before.as_bytes(), b", ", mark.as_bytes()].concat();
        HeaderValue::from_bytes(&both).ok()
    });
    headers.insert(&SERVICE, both.unwrap_or_else(|| mark.clone()));
}

/// Appends us to `Via` (RFC 9110 §7.6.3), or takes the field out for roles that want none: IIS stops
/// compressing where it sees one.
pub fn set_via(headers: &mut HeaderMap, wanted: bool, received: http::Version) {
    if !wanted {
        headers.remove(header::VIA);
        return;
    }
    let value = match received {
        http::Version::HTTP_2 => "2 opencmg",
        http::Version::HTTP_10 => "1.0 opencmg",
        _ => "1.1 opencmg",
    };
    headers.append(header::VIA, HeaderValue::from_static(value));
}

/// How much of a verified client certificate a role is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateFields {
    /// Nothing.
    #[default]
    None,
    /// `Client-Cert-Subject` alone.
    Subject,
    /// `Client-Cert` (RFC 9440 §2.2).
    Leaf,
    /// `Client-Cert` and `Client-Cert-Chain` (RFC 9440 §2.3).
    Chain,
}

impl CertificateFields {
    /// The words of the configuration.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("subject", Self::Subject),
        ("leaf", Self::Leaf),
        ("chain", Self::Chain),
    ];
}

/// The certificate fields of one connection, each made when it is first needed.
#[derive(Debug)]
pub struct ClientCertFields {
    subject: String,
    chain: Vec<Bytes>,
    made: [OnceLock<Option<HeaderValue>>; 3],
}

impl ClientCertFields {
    /// Fields of a verified chain: its leaf's subject, and its certificates in DER, leaf first.
    pub fn new(subject: String, chain: Vec<Bytes>) -> Self {
        Self {
            subject,
            chain,
            made: Default::default(),
        }
    }

    /// Sets the fields that a role is told.
    pub fn set(&self, headers: &mut HeaderMap, fields: CertificateFields) {
        let [subject, leaf, issuers] = &self.made;
        let mut put = |name: &HeaderName, value: Option<&HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        };
        match fields {
            CertificateFields::None => {}
            CertificateFields::Subject => {
                let made = subject.get_or_init(|| value(&display_string(&self.subject)));
                put(&CLIENT_CERT_SUBJECT, made.as_ref());
            }
            CertificateFields::Leaf | CertificateFields::Chain => {
                let made = leaf.get_or_init(|| value(&byte_sequences(self.chain.get(..1)?)));
                put(&CLIENT_CERT, made.as_ref());
            }
        }
        if fields == CertificateFields::Chain && self.chain.len() > 1 {
            let made = issuers.get_or_init(|| value(&byte_sequences(self.chain.get(1..)?)));
            put(&CLIENT_CERT_CHAIN, made.as_ref());
        }
    }
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// A list of structured-field byte sequences (RFC 9651 §3.3.5).
fn byte_sequences(certificates: &[Bytes]) -> String {
    let items: Vec<_> = certificates
        .iter()
        .map(|der| format!(":{}:", STANDARD.encode(der)))
        .collect();
    items.join(", ")
}

/// A structured-field display string (RFC 9651 §3.3.8), which holds any text.
fn display_string(text: &str) -> String {
    let mut out = String::from("%\"");
    for byte in text.bytes() {
        match byte {
            b'%' | b'"' | 0..=0x1f | 0x7f..=0xff => out.push_str(&format!("%{byte:02x}")),
            _ => out.push(char::from(byte)),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
