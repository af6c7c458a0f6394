//! Header hygiene: what is taken out of a message, what is put in, and the names that are ours.
//!
//! Identity and forwarding fields of a client never pass, in whatever spelling a server behind us would accept:
//! names are compared with whatever is neither letter nor digit read as `-`, since CGI makes `_` of all of it.

mod from_clients;
mod origin;
mod present;
mod suspects;
mod trailers;

use std::borrow::Cow;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, Entry};
use http::{HeaderMap, HeaderName, HeaderValue};

pub use self::origin::{
    ClientConnection, ORIGIN, Origin, REQUEST_ID, RequestId, TRACEPARENT, continue_trace,
};
pub use self::present::{Asked, Present};
pub use self::trailers::strip_trailers;
use crate::role::RoleId;

/// The phrase of a refusal or of a backend's error on its way through the tunnel.
pub static PHRASE: HeaderName = HeaderName::from_static("opencmg-phrase");
/// The reason of a refusal on its way through the tunnel.
pub static REASON: HeaderName = HeaderName::from_static("opencmg-reason");
/// The role that the gateway resolved, for requests whose path does not name it.
pub static ROLE: HeaderName = HeaderName::from_static("opencmg-role");
/// The service that a request came through: what a loop is found by.
pub static SERVICE: HeaderName = HeaderName::from_static("opencmg-service");
/// RFC 9440 §2.2.
pub static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// RFC 9440 §2.3.
pub static CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// The subject alone, for roles that want no more.
pub static CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("client-cert-subject");
/// RFC 9209.
pub static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Whether a name is of a field of one connection (RFC 9110 §7.6.1; `Close` is kept for it, §18.4), besides those that
/// `Connection` nominates, or of one that speaks to the next proxy.
fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

const HOP_BY_HOP: &[&str] = &[
    "close",
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

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
/// §8.2.3). `TE: trailers` is kept; returns whether that is there. `present` is what the head has.
pub fn strip_request(headers: &mut HeaderMap, present: Present) -> bool {
    let trailers = present.has(Asked::Te) && trailers::are_wanted(headers);
    strip(headers, suspects::contain, |name| {
        is_hop_by_hop(name) || from_clients::contains(name)
    });
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if present.has(Asked::Cookie) {
        join_cookies(headers);
    }
    trailers
}

/// Takes out of a backend's answer what must not pass: fields of the connection, and those by which we speak ourselves
/// (`opencmg-*`, `Proxy-Status`, `X-Request-Id`).
pub fn strip_backend(headers: &mut HeaderMap) {
    strip(headers, suspects::contain, |name| {
        is_hop_by_hop(name) || is_our_own(name) || is_our_word(name)
    });
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
    strip(headers, suspects::contain, |name| {
        is_hop_by_hop(name)
            || is_our_own(name)
            || (!passing.our_word && is_our_word(name))
            || (!passing.trailers && name == header::TRAILER.as_str())
    });
}

/// Takes out of a request what was meant for this hop, on its way to a backend: fields of the connection and `opencmg-*`,
/// but for the marks by which loops are found. `TE` is kept as it is.
pub fn strip_last_hop(headers: &mut HeaderMap) {
    strip(headers, suspects::contain, |name| {
        let kept = name == header::TE.as_str() || name == SERVICE.as_str();
        !kept && (is_hop_by_hop(name) || is_our_own(name))
    });
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

/// Whether a head has a field of ours.
pub fn has_our_own(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_our_own(name.as_str()))
}

/// Takes out what is unwelcome, in every spelling, with what a `Connection` field that goes nominates (RFC 9110 §7.6.1).
/// A length in another spelling than its own frames nothing here, and goes as well. Only names that are suspect, as they
/// are written, are looked at closely.
fn strip(
    headers: &mut HeaderMap,
    suspect: impl Fn(&str) -> bool,
    unwelcome: impl Fn(&str) -> bool,
) {
    // Mostly there is nothing, and one look at each name finds that out.
    let names = headers.keys().filter(|name| suspect(name.as_str()));
    let unwanted = |name: &&HeaderName| match dashed(name.as_str()) {
        Cow::Borrowed(name) => unwelcome(name),
        Cow::Owned(name) => name == "content-length" || unwelcome(&name),
    };
    let unwanted: Vec<HeaderName> = names.filter(unwanted).cloned().collect();
    debug_assert!(
        headers
            .keys()
            .map(HeaderName::as_str)
            .all(|name| suspect(name) || !unwelcome(&dashed(name))),
        "an unwelcome name is not suspect: {headers:?}"
    );
    if unwanted.contains(&header::CONNECTION) && nominates(headers) {
        for name in nominated(headers) {
            headers.remove(name);
        }
    }
    for name in unwanted {
        headers.remove(name);
    }
}

/// Whether `Connection` says more than whether it is kept, as it seldom does.
fn nominates(headers: &HeaderMap) -> bool {
    let said = |value: &HeaderValue| {
        let options = [&b"keep-alive"[..], b"close"];
        let said = value.as_bytes();
        options.iter().any(|one| said.eq_ignore_ascii_case(one))
    };
    !headers.get_all(header::CONNECTION).iter().all(said)
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let tokens = |value: &HeaderValue| -> Vec<HeaderName> {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .filter_map(|token| token.trim().parse().ok())
            .filter(|name: &HeaderName| {
                let name = dashed(name.as_str());
                !NEVER_NOMINATED.contains(&&*name) && !from_clients::contains(&name)
            })
            .collect()
    };
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .collect()
}

/// The bytes of names that stand for themselves: letters, digits and `-`.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        plain[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-';
        byte += 1;
    }
    plain
};

/// A name with `-` for every byte that is neither letter nor digit; borrowed if it is so written, as mostly all are.
fn dashed(name: &str) -> Cow<'_, str> {
    // No byte ends the loop early: names are short, and a branch for each costs more.
    let is_plain = |all, byte: u8| all & PLAIN[usize::from(byte)];
    match name.bytes().fold(true, is_plain) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")),
    }
}

/// The fields in which a refusal says what happened.
fn is_our_word(name: &str) -> bool {
    name == PROXY_STATUS.as_str() || name == REQUEST_ID.as_str()
}

fn is_our_own(name: &str) -> bool {
    name.starts_with("opencmg-")
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

/// The certificate fields of one client, each made when it is first needed.
#[derive(Clone, Debug)]
pub struct ClientCertFields {
    subject: String,
    chain: Vec<Bytes>,
    made: [OnceLock<Option<HeaderValue>>; 3],
}

/// By what they are made of, whether or not they are made.
impl PartialEq for ClientCertFields {
    fn eq(&self, other: &Self) -> bool {
        (&self.subject, &self.chain) == (&other.subject, &other.chain)
    }
}

impl Eq for ClientCertFields {}

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
