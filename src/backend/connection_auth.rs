//! NTLM and Negotiate, which authenticate a connection and not a request (RFC 4559 §6, MS-NTHT).
//!
//! On a shared connection they would lend one client's identity to the next, so that neither credentials nor
//! challenges of theirs meet the pool.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};

/// Mark of an answer whose every challenge was one of these schemes and is taken out.
#[derive(Clone, Copy, Debug)]
pub struct NoChallengeLeft;

/// Takes out credentials that would authenticate the connection.
pub(super) fn strip_credentials(headers: &mut HeaderMap) {
    let bound = |value: &HeaderValue| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        is_bound(first_word(text.trim_start()))
    };
    if headers.get_all(AUTHORIZATION).iter().any(bound) {
        headers.remove(AUTHORIZATION);
    }
}

/// Takes out challenges that would authenticate the connection; true if some were there and none is left.
pub(super) fn strip_challenges(headers: &mut HeaderMap) -> bool {
    let texts: Vec<String> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    let kept: Vec<String> = texts.iter().map(|text| unbound(text)).collect();
    if kept == texts {
        return false;
    }
    headers.remove(WWW_AUTHENTICATE);
    for text in kept.iter().filter(|text| !text.is_empty()) {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    !headers.contains_key(WWW_AUTHENTICATE)
}

/// The challenges of one field line that are not bound to a connection (RFC 9110 §11.6.1); the line as it is if all are.
fn unbound(line: &str) -> String {
    let mut kept = Vec::new();
    let mut dropping = false;
    let mut dropped = false;
    for item in split_list(line) {
        // A parameter has its `=` in the first word, a scheme has not.
        let word = first_word(item);
        if !word.contains('=') {
            dropping = is_bound(word);
        }
        dropped |= dropping;
        if !dropping && !item.is_empty() {
            kept.push(item);
        }
    }
    if dropped {
        kept.join(", ")
    } else {
        line.to_owned()
    }
}

fn is_bound(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("ntlm") || scheme.eq_ignore_ascii_case("negotiate")
}

fn first_word(text: &str) -> &str {
    text.split([' ', '\t']).next().unwrap_or_default()
}

/// Splits at commas outside quoted strings.
fn split_list(line: &str) -> Vec<&str> {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    let mut items = Vec::new();
    for (index, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                items.push(line[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    items.push(line[start..].trim());
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(lines: &[&str]) -> (Vec<String>, bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(line).unwrap());
        }
        let none_left = strip_challenges(&mut headers);
        let left = headers.get_all(WWW_AUTHENTICATE).iter();
        (
            left.map(|v| v.to_str().unwrap().to_owned()).collect(),
            none_left,
        )
    }

    #[test]
    fn challenges_bound_to_a_connection_are_taken_out_and_others_stay() {
        assert_eq!(stripped(&["Negotiate", "NTLM"]), (vec![], true));
        assert_eq!(stripped(&["negotiate, ntlm"]), (vec![], true));
        let (left, none) =
            stripped(&["NTLM, Basic realm=\"a, NTLM\", charset=\"UTF-8\", Negotiate YII="]);
        assert_eq!(left, ["Basic realm=\"a, NTLM\", charset=\"UTF-8\""]);
        assert!(!none);
        let (left, none) = stripped(&["Bearer realm=\"x\"", "NTLM"]);
        assert_eq!(left, ["Bearer realm=\"x\""]);
        assert!(!none);
        assert_eq!(stripped(&[]), (vec![], false));
    }

    #[test]
    fn credentials_bound_to_a_connection_are_taken_out_and_others_stay() {
        for (value, kept) in [
            ("NTLM TlRMTVNTUAAB", false),
            ("negotiate YII=", false),
            ("Bearer abc", true),
            ("Basic NTLM", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            strip_credentials(&mut headers);
            assert_eq!(headers.contains_key(AUTHORIZATION), kept, "{value}");
        }
    }
}
