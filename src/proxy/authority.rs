//! Which server a request is for: the rules of `Host`, `:authority` and the TLS handshake's server name.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Uri, Version};

use super::connection::Peer;
use crate::message::refusal::Refusal;
use crate::reason::Reason;

/// Finds what a request is for. What the first request of a connection was for is remembered: the next ones say the same.
///
/// # Errors
/// As [`of`].
pub(super) fn addressed(peer: &Peer, head: &Parts) -> Result<Authority, Refusal> {
    let (uri, headers) = (&head.uri, &head.headers);
    let mut hosts = headers.get_all(HOST).iter();
    let named = match (uri.authority(), hosts.next(), hosts.next()) {
        (None, Some(only), None) => Some(only.as_bytes()),
        (Some(target), None, _) if is_plain_http2(head) => Some(target.as_str().as_bytes()),
        _ => None,
    };
    if let Some(first) = peer.first.get()
        && named == Some(first.as_str().as_bytes())
    {
        return Ok(first.clone());
    }
    if head.version == Version::HTTP_11 && !headers.contains_key(HOST) {
        // RFC 9112 §3.2: also where the target names the host itself.
        return Err(bad("the Host field is missing"));
    }
    let authority = of(uri, headers, peer.server_name.as_deref())?;
    // Only the first is kept.
    let _ = peer.first.set(authority.clone());
    Ok(authority)
}

/// Whether a request names its server as those of HTTP/2 do: by an `:authority` alone, for what the connection is
/// secured for.
fn is_plain_http2(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && head.uri.scheme() == Some(&Scheme::HTTPS)
}

/// Finds the one authority that a request names (RFC 9112 §3.2, RFC 9113 §8.3.1).
///
/// # Errors
/// `bad-host` if it is missing, empty, repeated, contradicts itself, holds user information or is not a host with an
/// optional port; `misdirected` (421) if the handshake was for another server, or the target's scheme is not `https`
/// (RFC 9110 §7.4): what was asked for is not what this connection is secured for.
fn of(uri: &Uri, headers: &HeaderMap, server_name: Option<&str>) -> Result<Authority, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let field = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(only), None) => Some(parse(only)?),
        (Some(_), Some(_)) => return Err(bad("the Host field is there more than once")),
    };
    let authority = match (uri.authority(), field) {
        (None, None) => return Err(bad("the Host field is missing")),
        (None, Some(field)) => field,
        (Some(target), field) => {
            let target = checked(target.clone())?;
            if field.is_some_and(|field| !is_same(&target, &field)) {
                return Err(bad("the target and the Host field name different hosts"));
            }
            target
        }
    };
    if let Some(scheme) = uri.scheme().filter(|scheme| **scheme != Scheme::HTTPS) {
        let detail = format!("the target's scheme is {scheme}, the connection is for https");
        return Err(Refusal::new(Reason::Misdirected).detail(detail));
    }
    match server_name {
        Some(name) if !name.eq_ignore_ascii_case(host_of(&authority)) => {
            let detail = format!("the handshake was for {name}, the request is for {authority}");
            Err(Refusal::new(Reason::Misdirected).detail(detail))
        }
        Some(_) | None => Ok(authority),
    }
}

/// The host of an authority without a trailing dot.
pub(super) fn host_of(authority: &Authority) -> &str {
    let host = authority.host();
    host.strip_suffix('.').unwrap_or(host)
}

fn parse(value: &HeaderValue) -> Result<Authority, Refusal> {
    let authority = Authority::try_from(value.as_bytes());
    checked(authority.map_err(|_| bad("the Host field is not a host name"))?)
}

fn checked(authority: Authority) -> Result<Authority, Refusal> {
    let host = authority.host();
    let name = host
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let address = host.starts_with('[') && host.ends_with(']');
    let rest = &authority.as_str()[host.len().min(authority.as_str().len())..];
    // RFC 3986 §3.2.3: digits. What parses a number takes a sign before them.
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = rest.strip_prefix(':').is_some_and(digits) && authority.port_u16().is_some();
    let port = rest.is_empty() || numbered;
    // A host that is not the start of the authority has user information before it.
    let whole = authority.as_str().starts_with(host) && !authority.as_str().contains('@');
    if host_of(&authority).is_empty() || !(name || address) || !port || !whole {
        return Err(bad("the Host field is not a host name"));
    }
    Ok(authority)
}

fn is_same(a: &Authority, b: &Authority) -> bool {
    let port = |authority: &Authority| authority.port_u16().unwrap_or(443);
    host_of(a).eq_ignore_ascii_case(host_of(b)) && port(a) == port(b)
}

fn bad(detail: &str) -> Refusal {
    Refusal::new(Reason::BadHost).detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(
        clippy::unwrap_in_result,
        reason = "what is unwrapped is the test's own"
    )]
    fn judge(uri: &str, hosts: &[&str], server_name: Option<&str>) -> Result<String, Reason> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            let value = HeaderValue::from_bytes(host.as_bytes()).expect("a field value");
            headers.append(HOST, value);
        }
        of(&uri.parse().expect("a URI"), &headers, server_name)
            .map(|authority| authority.to_string())
            .map_err(|refusal| refusal.reason)
    }

    #[test]
    fn exactly_one_host_is_needed() {
        let bad = Err(Reason::BadHost);
        assert_eq!(
            judge("/", &["gw.example"], None),
            Ok("gw.example".to_owned())
        );
        assert_eq!(judge("/", &[], None), bad);
        assert_eq!(judge("/", &["gw.example", "gw.example"], None), bad);
        for host in [
            "",
            " ",
            ".",
            "a b",
            "u@gw.example",
            "u:p@gw.example",
            "gw.example:",
            "gw.example:x",
            "gw.example:99999",
            "gw.example/x",
            "[::1",
            "a,b",
            "g\u{fc}",
            "a?b",
            ":443",
        ] {
            assert_eq!(judge("/", &[host], None), bad, "{host}");
        }
    }

    #[test]
    fn an_absolute_target_must_match_the_host() {
        let good = |target, host: &[&str]| judge(target, host, None).is_ok();
        assert!(good("https://gw.example/x", &["GW.example:443"]));
        assert!(good("https://gw.example/x", &[]));
        assert!(good("HTTPS://gw.example/x", &["gw.example"]));
        let scheme = |target| judge(target, &["gw.example"], Some("gw.example"));
        assert_eq!(scheme("http://gw.example/x"), Err(Reason::Misdirected));
        assert_eq!(scheme("ftp://gw.example/x"), Err(Reason::Misdirected));
        assert!(!good("https://gw.example/x", &["other.example"]));
        assert!(!good("https://gw.example:8443/x", &["gw.example"]));
        assert!(!good("https://u@gw.example/x", &["gw.example"]));
    }

    #[test]
    fn a_host_that_the_handshake_did_not_name_is_misdirected() {
        let judge = |host, name| judge("/", &[host], Some(name)).map(|_| ());
        assert_eq!(judge("gw.example", "gw.example"), Ok(()));
        assert_eq!(judge("GW.Example.:8443", "gw.example"), Ok(()));
        assert_eq!(
            judge("other.example", "gw.example"),
            Err(Reason::Misdirected)
        );
    }
}
