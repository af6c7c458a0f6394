//! The opening of a WebSocket: `Upgrade` on HTTP/1.1 (RFC 6455 §4), extended CONNECT in the tunnel (RFC 8441).
//!
//! Each leg over HTTP/1.1 has a key of its own, so that an answer is known to be one to what was asked there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TE,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha1::{Digest, Sha1};

/// The name in `Upgrade` and in `:protocol`.
pub const PROTOCOL: &str = "websocket";

/// RFC 6455 §1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request over HTTP/1.1 asks for a WebSocket and nothing else.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let (Some(only), None) = (upgrades.next(), upgrades.next()) else {
        return false;
    };
    let is_token = |token: &str| token.trim().eq_ignore_ascii_case("upgrade");
    let mut connection = headers.get_all(CONNECTION).iter();
    only.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes())
        && connection.any(|value| {
            value
                .to_str()
                .is_ok_and(|text| text.split(',').any(is_token))
        })
}

/// Takes the key out of an opening; returns what accepts it.
///
/// # Errors
/// The version is not 13, or the key is not 16 bytes in base64 (RFC 6455 §4.2.1).
pub fn take_key(headers: &mut HeaderMap) -> Result<HeaderValue, &'static str> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err("a WebSocket of a version other than 13");
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) if STANDARD.decode(key).is_ok_and(|key| key.len() == 16) => key.clone(),
        _ => return Err("the key of a WebSocket is not 16 bytes in base64"),
    };
    headers.remove(SEC_WEBSOCKET_KEY);
    Ok(accept_of(&key))
}

/// Makes a head one that asks for a WebSocket, with a key of its own; returns what accepts that.
pub fn ask(headers: &mut HeaderMap) -> HeaderValue {
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let key = HeaderValue::try_from(key).unwrap_or_else(|_| HeaderValue::from_static(""));
    let accept = accept_of(&key);
    headers.remove(TE);
    headers.insert(SEC_WEBSOCKET_KEY, key);
    set_upgrade(headers);
    accept
}

/// Whether a 101 is the one to what was asked with [`ask`] (RFC 6455 §4.1).
pub fn is_accepted(headers: &HeaderMap, accept: &HeaderValue) -> bool {
    is_asked_for(headers) && headers.get(SEC_WEBSOCKET_ACCEPT) == Some(accept)
}

/// Makes the head of an answer the 101 that accepts a key.
pub fn accept(headers: &mut HeaderMap, accept: HeaderValue) {
    headers.remove(CONTENT_LENGTH);
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    set_upgrade(headers);
}

fn set_upgrade(headers: &mut HeaderMap) {
    let mut set = |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
    set(UPGRADE, PROTOCOL);
    set(CONNECTION, "Upgrade");
}

fn accept_of(key: &HeaderValue) -> HeaderValue {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(MAGIC);
    let accept = HeaderValue::try_from(STANDARD.encode(hash.finalize()));
    accept.unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_key_of_the_standard_is_accepted_with_its_answer() {
        let mut headers = opening(&[
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        let accept = take_key(&mut headers).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!headers.contains_key("sec-websocket-key"));
        for fields in [
            &[
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "AAAA"),
            ][..],
            &[
                ("sec-websocket-version", "8"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
            &[("sec-websocket-version", "13")],
        ] {
            assert!(take_key(&mut opening(fields)).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn an_answer_is_one_to_what_was_asked_or_none() {
        let mut asked = HeaderMap::new();
        let wanted = ask(&mut asked);
        assert!(is_asked_for(&asked));
        let mut answer = HeaderMap::new();
        accept(&mut answer, wanted.clone());
        assert!(is_accepted(&answer, &wanted));
        assert!(!is_accepted(&answer, &ask(&mut HeaderMap::new())));
        answer.remove(UPGRADE);
        assert!(!is_accepted(&answer, &wanted));
    }

    #[test]
    fn an_upgrade_to_something_else_is_none() {
        let asked = |upgrade: &str, connection: &str| {
            is_asked_for(&opening(&[
                ("upgrade", upgrade),
                ("connection", connection),
            ]))
        };
        assert!(asked("WebSocket", "keep-alive, Upgrade"));
        assert!(!asked("websocket, h2c", "upgrade"));
        assert!(!asked("h2c", "upgrade"));
        assert!(!asked("websocket", "close"));
        assert!(!is_asked_for(&opening(&[("upgrade", "websocket")])));
    }
}
