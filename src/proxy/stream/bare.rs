//! The parser's own refusals, put into our words.
//!
//! The server of HTTP/1.1 answers a head that it cannot parse by itself, with a status and nothing else. What is written
//! while nothing of an answer is on its way can be nothing else, and which of its refusals it is, its bytes say.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;

use crate::message::headers::{self, RequestId};
use crate::message::refusal::{Hop, Refusal};
use crate::reason::Reason;

/// What the parser's answers begin with.
const BEGIN: &[u8] = b"HTTP/1.1 4";

/// The fields of the parser's answers, before the date.
const FIELDS: &[u8] = b"\r\nconnection: close\r\ncontent-length: 0\r\ndate: ";

/// What a write consists of if it is the parser's own refusal, in our words.
pub(super) fn reworded(written: &[u8]) -> Option<Vec<u8>> {
    if !written.starts_with(BEGIN) {
        return None;
    }
    let end = written.windows(2).position(|pair| pair == b"\r\n")?;
    let date = written[end..].strip_prefix(FIELDS)?;
    if date.len() != "Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n".len() {
        return None;
    }
    let refusal = match &written[..end] {
        b"HTTP/1.1 400 Bad Request" => Refusal::new(Reason::BadRequest),
        b"HTTP/1.1 414 URI Too Long" => {
            Refusal::new(Reason::HeadTooLarge).with_status(StatusCode::URI_TOO_LONG)
        }
        b"HTTP/1.1 431 Request Header Fields Too Large" => Refusal::new(Reason::HeadTooLarge),
        _ => return None,
    };
    let id = RequestId::random();
    tracing::debug!(
        request_id = id.as_str(),
        reason = %refusal.reason,
        "request head refused by the parser"
    );
    let response = refusal.into_response(Hop::Gateway, id.as_str(), false);
    Some(text(response))
}

/// An answer as HTTP/1.1 writes it; its body is whole.
fn text(response: Response<Full<Bytes>>) -> Vec<u8> {
    let (head, mut body) = response.into_parts();
    let length = body.size_hint().exact().unwrap_or_default();
    let mut text = b"HTTP/1.1 ".to_vec();
    text.extend_from_slice(head.status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(phrase(&head.headers));
    for (name, value) in &head.headers {
        if *name != headers::PHRASE && *name != headers::REASON {
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
        }
    }
    text.extend_from_slice(format!("\r\ncontent-length: {length}\r\n\r\n").as_bytes());
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    let frame = std::pin::Pin::new(&mut body).poll_frame(&mut cx);
    if let std::task::Poll::Ready(Some(Ok(frame))) = frame
        && let Ok(data) = frame.into_data()
    {
        text.extend_from_slice(&data);
    }
    text
}

fn phrase(fields: &HeaderMap) -> &[u8] {
    fields
        .get(&headers::PHRASE)
        .map_or(b"", |value| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_parser_is_reworded() {
        let bare = |status: &str| {
            let fields = String::from_utf8_lossy(FIELDS).into_owned();
            format!("HTTP/1.1 {status}{fields}Wed, 25 Nov 2026 16:46:19 GMT\r\n\r\n")
        };
        let refused = bare("431 Request Header Fields Too Large");
        let text = String::from_utf8(reworded(refused.as_bytes()).unwrap()).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 431 CMGService_RequestHeaderTooLarge\r\n"),
            "{text}"
        );
        assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
        assert!(!text.contains("opencmg-"), "{text}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        assert!(body.contains("\"reason\":\"head-too-large\""), "{body}");
        for other in [
            &bare("400 CMGService_BadHost"),
            &bare("200 OK"),
            &format!("{}x", bare("400 Bad Request")),
            "HTTP/1.1 400 Bad Request",
            "",
        ] {
            assert_eq!(reworded(other.as_bytes()), None);
        }
    }
}
