//! The server's side of the BITS upload protocol ([MC-BUP]): sessions, and fragments in order.
//!
//! Sessions live in one table of one backend, so an upload whose fragments go to another backend fails, as it
//! does with two real management points. No I/O: a packet's head and body go in, the answer comes out.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::{Body, full};

/// The one protocol of BITS uploads that there is.
pub const PROTOCOL: &str = "{7df0354d-249b-430f-820d-3d2a9bef4931}";

// BG_E_SESSION_NOT_FOUND, and E_INVALIDARG; the context says that the fault is the server's own (5).
const SESSION_NOT_FOUND: &str = "0x8020001F";
const INVALID_ARGUMENT: &str = "0x80070057";
const CONTEXT_SERVER: &str = "0x5";

// Enough for any test; above it a new session is refused rather than an old one lost.
const MOST_SESSIONS: usize = 10_000;

/// The uploads under way and those that are complete.
#[derive(Default)]
pub struct Sessions {
    next: AtomicU64,
    table: Mutex<HashMap<String, Upload>>,
    stored: Mutex<HashMap<String, Stored>>,
}

#[derive(Default)]
struct Upload {
    path: String,
    received: u64,
    total: Option<u64>,
    digest: Sha256,
}

/// A complete upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its length in bytes.
    pub length: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal digits.
    pub sha256: String,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// Answers one packet of an upload to `path`.
    pub fn packet(&self, path: &str, head: &HeaderMap, body: &Bytes) -> Response<Body> {
        let field = |name| head.get(name).and_then(|value| value.to_str().ok());
        let kind = field("bits-packet-type").unwrap_or_default();
        let session = field("bits-session-id").unwrap_or_default();
        match kind.to_ascii_lowercase().as_str() {
            "ping" => ack(None),
            "create-session" => self.create(path, field("bits-supported-protocols")),
            "fragment" => self.fragment(session, field("content-range"), body),
            "close-session" => self.close(session),
            "cancel-session" => self.cancel(session),
            _ => fault(StatusCode::BAD_REQUEST, INVALID_ARGUMENT, 0),
        }
    }

    /// What was uploaded to a path, compared without regard to case.
    pub fn stored(&self, path: &str) -> Option<Stored> {
        lock(&self.stored).get(&path.to_ascii_lowercase()).cloned()
    }

    /// Keeps what was sent to a path in one piece.
    pub fn store(&self, path: &str, body: &Bytes) -> Stored {
        let stored = Stored {
            length: body.len() as u64,
            sha256: hex(&Sha256::digest(body)),
        };
        self.keep(path, stored.clone());
        stored
    }

    fn keep(&self, path: &str, stored: Stored) {
        let mut table = lock(&self.stored);
        if table.len() < MOST_SESSIONS {
            table.insert(path.to_ascii_lowercase(), stored);
        }
    }

    fn create(&self, path: &str, protocols: Option<&str>) -> Response<Body> {
        let known = |p: &str| p.to_ascii_lowercase().contains(PROTOCOL);
        if !protocols.is_some_and(known) {
            return fault(StatusCode::BAD_REQUEST, INVALID_ARGUMENT, 0);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("{{0c3c0000-0000-4000-8000-{number:012x}}}");
        let mut table = lock(&self.table);
        if table.len() >= MOST_SESSIONS {
            return fault(StatusCode::SERVICE_UNAVAILABLE, INVALID_ARGUMENT, 0);
        }
        let upload = Upload {
            path: path.to_owned(),
            ..Upload::default()
        };
        table.insert(id.clone(), upload);
        drop(table);
        let mut response = ack(Some(&id));
        let head = response.headers_mut();
        head.insert("bits-protocol", HeaderValue::from_static(PROTOCOL));
        head.insert("accept-encoding", HeaderValue::from_static("identity"));
        response
    }

    fn fragment(&self, session: &str, range: Option<&str>, body: &Bytes) -> Response<Body> {
        let mut table = lock(&self.table);
        let Some(upload) = table.get_mut(session) else {
            return fault(StatusCode::INTERNAL_SERVER_ERROR, SESSION_NOT_FOUND, 0);
        };
        let Some((first, last, total)) = range.and_then(content_range) else {
            return fault(StatusCode::BAD_REQUEST, INVALID_ARGUMENT, upload.received);
        };
        let long = last + 1 - first == body.len() as u64;
        let in_order = first <= upload.received && upload.total.is_none_or(|t| t == total);
        if !long || !in_order || last >= total {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            return fault(status, INVALID_ARGUMENT, upload.received);
        }
        // A fragment that is sent again after a lost answer overlaps what is here already.
        let known = upload.received - first;
        if let Some(fresh) = usize::try_from(known)
            .ok()
            .and_then(|skip| body.get(skip..))
        {
            upload.digest.update(fresh);
            upload.received += fresh.len() as u64;
        }
        upload.total = Some(total);
        let received = upload.received;
        drop(table);
        let mut response = ack(Some(session));
        let head = response.headers_mut();
        head.insert("bits-received-content-range", HeaderValue::from(received));
        response
    }

    fn close(&self, session: &str) -> Response<Body> {
        let mut table = lock(&self.table);
        let Some(upload) = table.get(session) else {
            return fault(StatusCode::INTERNAL_SERVER_ERROR, SESSION_NOT_FOUND, 0);
        };
        if upload.total.is_some_and(|total| total != upload.received) {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            return fault(status, INVALID_ARGUMENT, upload.received);
        }
        let upload = table.remove(session);
        drop(table);
        if let Some(upload) = upload {
            let stored = Stored {
                length: upload.received,
                sha256: hex(&upload.digest.finalize()),
            };
            self.keep(&upload.path, stored);
        }
        ack(Some(session))
    }

    fn cancel(&self, session: &str) -> Response<Body> {
        match lock(&self.table).remove(session) {
            Some(_) => ack(Some(session)),
            None => fault(StatusCode::INTERNAL_SERVER_ERROR, SESSION_NOT_FOUND, 0),
        }
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = BytesMut::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    String::from_utf8_lossy(&out).into_owned()
}

// A poisoned lock means that a test panicked while it held the table, which is whole nevertheless.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `bytes 0-1023/4096`.
fn content_range(field: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = field.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = total.trim().parse().ok()?;
    (first <= last).then_some((first, last, total))
}

fn ack(session: Option<&str>) -> Response<Body> {
    let mut response = Response::new(full(""));
    let head = response.headers_mut();
    head.insert("bits-packet-type", HeaderValue::from_static("Ack"));
    if let Some(Ok(id)) = session.map(HeaderValue::from_str) {
        head.insert("bits-session-id", id);
    }
    response
}

fn fault(status: StatusCode, error: &'static str, received: u64) -> Response<Body> {
    let mut response = ack(None);
    *response.status_mut() = status;
    let head = response.headers_mut();
    head.insert("bits-error-code", HeaderValue::from_static(error));
    let context = HeaderValue::from_static(CONTEXT_SERVER);
    head.insert("bits-error-context", context);
    head.insert("bits-received-content-range", HeaderValue::from(received));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sessions: &Sessions, fields: &[(&'static str, &str)], body: &[u8]) -> Response<Body> {
        let mut head = HeaderMap::new();
        for (name, value) in fields {
            head.insert(*name, value.parse().unwrap());
        }
        sessions.packet("/CCM_Incoming/a.xml", &head, &Bytes::copy_from_slice(body))
    }

    fn create(sessions: &Sessions) -> String {
        let fields = [
            ("bits-packet-type", "Create-Session"),
            ("bits-supported-protocols", PROTOCOL),
        ];
        let response = packet(sessions, &fields, b"");
        assert_eq!(response.status(), 200);
        response.headers()["bits-session-id"]
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn send(sessions: &Sessions, id: &str, range: &str, body: &[u8]) -> (u16, String) {
        let fields = [
            ("bits-packet-type", "Fragment"),
            ("bits-session-id", id),
            ("content-range", range),
        ];
        let response = packet(sessions, &fields, body);
        let received = &response.headers()["bits-received-content-range"];
        (
            response.status().as_u16(),
            received.to_str().unwrap().to_owned(),
        )
    }

    fn close(sessions: &Sessions, id: &str) -> u16 {
        let fields = [
            ("bits-packet-type", "Close-Session"),
            ("bits-session-id", id),
        ];
        packet(sessions, &fields, b"").status().as_u16()
    }

    #[test]
    fn an_upload_is_whole_once_its_session_is_closed() {
        let sessions = Sessions::default();
        let id = create(&sessions);
        assert_eq!(
            send(&sessions, &id, "bytes 0-2/5", b"abc"),
            (200, "3".into())
        );
        assert_eq!(close(&sessions, &id), 416);
        // The same fragment once more, longer than before.
        assert_eq!(
            send(&sessions, &id, "bytes 0-3/5", b"abcd"),
            (200, "4".into())
        );
        assert_eq!(send(&sessions, &id, "bytes 4-4/5", b"e"), (200, "5".into()));
        assert_eq!(close(&sessions, &id), 200);
        let stored = sessions.stored("/ccm_incoming/A.XML").unwrap();
        assert_eq!(stored, sessions.store("/other", &Bytes::from("abcde")));
        assert_eq!(close(&sessions, &id), 500);
    }

    #[test]
    fn a_gap_or_a_wrong_length_is_refused_with_what_has_come() {
        let sessions = Sessions::default();
        let id = create(&sessions);
        assert_eq!(send(&sessions, &id, "bytes 1-2/5", b"bc").0, 416);
        assert_eq!(send(&sessions, &id, "bytes 0-2/5", b"ab").0, 416);
        assert_eq!(send(&sessions, &id, "bytes 0-5/5", b"abcdef").0, 416);
        assert_eq!(send(&sessions, &id, "bytes zero", b"ab"), (400, "0".into()));
        assert_eq!(send(&sessions, "{other}", "bytes 0-1/5", b"ab").0, 500);
    }
}
