//! Content of any size whose bytes follow from their offset, with ranges as a file server gives them
//! (RFC 9110 section 14) and `PROPFIND` as BITS asks for it (RFC 4918 section 9.1).

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::{Body, answer, full, method_not_allowed, not_found};

/// The boundary of `multipart/byteranges` answers.
pub const BOUNDARY: &str = "opencmg-byteranges-7MA4YWxk";

// Every content has the same date, so that answers are the same in each run.
const MODIFIED: &str = "Tue, 01 Sep 2026 08:00:00 GMT";
const MEDIA_TYPE: &str = "application/octet-stream";
const CHUNK: u64 = 64 << 10;
// More ranges than any client asks for at once; a longer list is answered with the whole.
const MOST_RANGES: usize = 64;

/// The bytes of every content from `start` on.
pub fn bytes_at(start: u64, length: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(length + 16);
    let mut word = start / 8;
    while out.len() < length + 8 {
        out.put_u64_le(mix(word));
        word += 1;
    }
    let skip = usize::try_from(start % 8).unwrap_or_default();
    out.freeze().slice(skip..skip + length)
}

// SplitMix64: cheap, and no two stretches look alike, so that a shifted or repeated block shows.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The size that a content's name ends in: `update-8388608.cab` has 8,388,608 bytes.
pub fn size_of(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.rsplit_once('-')?.1.parse().ok()
}

/// Answers `GET`, `HEAD` and `PROPFIND` for the content of a name; 404 if the name holds no size.
pub fn serve<B>(request: &Request<B>, name: &str) -> Response<Body> {
    let Some(size) = size_of(name) else {
        return not_found();
    };
    match request.method() {
        &Method::GET | &Method::HEAD => get(request, size),
        method if method.as_str() == "PROPFIND" => {
            let text = multistatus(request.uri().path(), name, size);
            let media_type = "text/xml; charset=utf-8";
            answer(StatusCode::MULTI_STATUS, media_type, text)
        }
        _ => method_not_allowed(),
    }
}

/// The body of the answer to a `PROPFIND` of one content.
pub fn multistatus(path: &str, name: &str, size: u64) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<D:multistatus xmlns:D=\"DAV:\"><D:response>\
         <D:href>{path}</D:href><D:propstat><D:status>HTTP/1.1 200 OK</D:status><D:prop>\
         <D:displayname>{name}</D:displayname><D:getcontentlength>{size}</D:getcontentlength>\
         <D:getlastmodified>{MODIFIED}</D:getlastmodified><D:resourcetype/></D:prop></D:propstat>\
         </D:response></D:multistatus>\r\n"
    )
}

/// The whole body of a `multipart/byteranges` answer; for comparison, so keep the ranges small.
pub fn multipart(ranges: &[Range<u64>], size: u64) -> Bytes {
    let mut out = BytesMut::new();
    for part in parts(ranges, size) {
        match part {
            Part::Text(text) => out.extend_from_slice(&text),
            Part::Content(range) => {
                let length = usize::try_from(range.end - range.start).unwrap_or_default();
                out.extend_from_slice(&bytes_at(range.start, length));
            }
        }
    }
    out.freeze()
}

fn get<B>(request: &Request<B>, size: u64) -> Response<Body> {
    let etag = format!("\"{size:x}\"");
    let headers = request.headers();
    let is = |name, value: &str| headers.get(name).is_some_and(|v| v == value);
    let mut response = if is(IF_NONE_MATCH, &etag) {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let same = !headers.contains_key(IF_RANGE) || is(IF_RANGE, &etag) || is(IF_RANGE, MODIFIED);
        let asked = headers.get(RANGE).filter(|_| same);
        match asked.and_then(|range| ranges_of(range.to_str().ok()?, size)) {
            None => whole(size),
            Some(ranges) => part_of(&ranges, size),
        }
    };
    let headers = response.headers_mut();
    set(headers, ETAG, &etag);
    set(headers, LAST_MODIFIED, MODIFIED);
    set(headers, ACCEPT_RANGES, "bytes");
    response
}

fn whole(size: u64) -> Response<Body> {
    generated(StatusCode::OK, MEDIA_TYPE, vec![Part::Content(0..size)])
}

fn part_of(ranges: &[Range<u64>], size: u64) -> Response<Body> {
    match ranges {
        [] => {
            let text = "no such range\n";
            let mut response = answer(StatusCode::RANGE_NOT_SATISFIABLE, "text/plain", text);
            set(
                response.headers_mut(),
                CONTENT_RANGE,
                &format!("bytes */{size}"),
            );
            response
        }
        [range] => {
            let part = vec![Part::Content(range.clone())];
            let mut response = generated(StatusCode::PARTIAL_CONTENT, MEDIA_TYPE, part);
            set(
                response.headers_mut(),
                CONTENT_RANGE,
                &content_range(range, size),
            );
            response
        }
        several => {
            let media_type = format!("multipart/byteranges; boundary={BOUNDARY}");
            let parts = parts(several, size);
            generated(StatusCode::PARTIAL_CONTENT, &media_type, parts)
        }
    }
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn generated(status: StatusCode, media_type: &str, parts: Vec<Part>) -> Response<Body> {
    let body = Generated {
        parts,
        next: 0,
        offset: 0,
    };
    let length = body.left();
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    set(response.headers_mut(), CONTENT_TYPE, media_type);
    set(response.headers_mut(), CONTENT_LENGTH, &length.to_string());
    response
}

fn set(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The satisfiable ranges of a `Range` field; `None` when the field is to be ignored.
fn ranges_of(field: &str, size: u64) -> Option<Vec<Range<u64>>> {
    let list = field.strip_prefix("bytes=")?;
    let mut ranges = Vec::new();
    for spec in list.split(',') {
        let (first, last) = spec.trim().split_once('-')?;
        let range = if first.is_empty() {
            size.saturating_sub(last.parse().ok()?)..size
        } else {
            let first = first.parse::<u64>().ok()?;
            let end = match last {
                "" => size,
                last => last.parse::<u64>().ok()?.checked_add(1)?.min(size),
            };
            first..end
        };
        if range.start < range.end {
            ranges.push(range);
        }
    }
    (ranges.len() <= MOST_RANGES).then_some(ranges)
}

fn parts(ranges: &[Range<u64>], size: u64) -> Vec<Part> {
    let mut parts = Vec::with_capacity(ranges.len() * 2 + 1);
    for range in ranges {
        let head = format!(
            "\r\n--{BOUNDARY}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Range: {}\r\n\r\n",
            content_range(range, size)
        );
        parts.push(Part::Text(head.into()));
        parts.push(Part::Content(range.clone()));
    }
    parts.push(Part::Text(format!("\r\n--{BOUNDARY}--\r\n").into()));
    parts
}

enum Part {
    Text(Bytes),
    Content(Range<u64>),
}

/// A body made while it is sent, one chunk at a time.
struct Generated {
    parts: Vec<Part>,
    next: usize,
    /// How far the current stretch of content has been sent.
    offset: u64,
}

impl Generated {
    fn left(&self) -> u64 {
        let length = |part: &Part| match part {
            Part::Text(text) => text.len() as u64,
            Part::Content(range) => range.end - range.start,
        };
        self.parts[self.next..].iter().map(length).sum::<u64>() - self.offset
    }
}

impl http_body::Body for Generated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            let chunk = match this.parts.get(this.next) {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => {
                    this.next += 1;
                    text.clone()
                }
                Some(Part::Content(range)) => {
                    let start = range.start + this.offset;
                    let length = CHUNK.min(range.end - start);
                    this.offset += length;
                    if start + length == range.end {
                        this.next += 1;
                        this.offset = 0;
                    }
                    bytes_at(start, usize::try_from(length).unwrap_or_default())
                }
            };
            if !chunk.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_stretch_of_content_is_the_same_as_in_the_whole() {
        let whole = bytes_at(0, 4096);
        for (start, length) in [(0, 1), (7, 9), (8, 8), (1000, 2000), (4095, 1), (5, 0)] {
            let stretch = bytes_at(start as u64, length);
            assert_eq!(stretch, whole.slice(start..start + length), "{start}");
        }
    }

    #[tokio::test]
    async fn ranges_are_answered_as_a_file_server_does() {
        let ask = async |range: &str| {
            let request = Request::get("/Content/u-1000.cab").header(RANGE, range);
            let response = serve(&request.body(()).unwrap(), "u-1000.cab");
            let (head, body) = response.into_parts();
            let media_type = head.headers[CONTENT_TYPE].clone();
            let bytes = body.collect().await.unwrap().to_bytes();
            (head.status.as_u16(), media_type, bytes)
        };

        assert_eq!(ask("bytes=0-9").await.2, bytes_at(0, 10));
        assert_eq!(ask("bytes=990-").await.2, bytes_at(990, 10));
        assert_eq!(ask("bytes=-10").await.2, bytes_at(990, 10));
        assert_eq!(ask("bytes=990-5000").await.2, bytes_at(990, 10));
        assert_eq!(ask("bytes=0-9").await.0, 206);
        assert_eq!(ask("bytes=1000-").await.0, 416);
        assert_eq!(ask("lines=0-9").await.0, 200);
        assert_eq!(ask("bytes=9-x").await.2.len(), 1000);

        let (status, media_type, body) = ask("bytes=0-3,100-199").await;
        assert_eq!(status, 206);
        let expected = format!("multipart/byteranges; boundary={BOUNDARY}");
        assert_eq!(media_type, expected.as_str());
        assert_eq!(body, multipart(&[0..4, 100..200], 1000));
    }

    #[test]
    fn the_announced_length_is_the_length_sent() {
        let parts = parts(&[0..CHUNK + 1, 5..6], CHUNK * 2);
        let body = Generated {
            parts,
            next: 0,
            offset: 0,
        };
        let announced = body.left();
        let sent = futures_util::FutureExt::now_or_never(body.collect())
            .unwrap()
            .unwrap();
        assert_eq!(announced, sent.to_bytes().len() as u64);
    }
}
