//! A connection on which bytes are said as they are, and all that comes back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::client::Client;
use crate::gateway::rig::{Handler, answering, body};

/// How long a gateway that should close may take.
const LONG: Duration = Duration::from_secs(10);

/// What the server of HTTP/1.1 writes by itself where it can make nothing of a head.
pub const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                        date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub status: u16,
    pub phrase: String,
    /// The field lines, in lower case.
    pub fields: Vec<String>,
    pub body: Vec<u8>,
    /// Whether the body ended as it was announced.
    pub whole: bool,
}

impl Said {
    /// Stands at the end of what was said if the gateway did not close in time.
    fn still_open() -> Self {
        Self {
            status: 0,
            phrase: "still open".to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
            whole: false,
        }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.fields
            .iter()
            .find_map(|line| line.strip_prefix(&prefix))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The statuses of answers.
pub fn statuses(said: &[Said]) -> Vec<u16> {
    said.iter().map(|said| said.status).collect()
}

/// Says bytes on a connection of its own and hears everything until the gateway closes it.
pub async fn talk(client: &Client, bytes: &[u8]) -> Vec<Said> {
    let mut tls = client.tls(&[b"http/1.1"]).await.unwrap();
    // A gateway that has heard enough may close while the rest is still on its way.
    let _ = tls.write_all(bytes).await;
    hear(&mut tls, false).await
}

/// Hears everything until the peer closes; `head` says that the answers are to HEAD.
pub async fn hear(stream: &mut (impl AsyncRead + Unpin), head: bool) -> Vec<Said> {
    let mut heard = Vec::new();
    let all = async {
        let mut some = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut some).await {
            heard.extend_from_slice(&some[..len]);
        }
    };
    let open = tokio::time::timeout(LONG, all).await.is_err();
    let mut said = parse(&heard, head);
    if open {
        said.push(Said::still_open());
    }
    said
}

/// Hears one answer on a connection that goes on; interim answers count.
pub async fn one(stream: &mut (impl AsyncRead + Unpin)) -> Said {
    let mut heard = Vec::new();
    let answer = async {
        loop {
            // Byte by byte, so that nothing of the next one is taken.
            heard.push(stream.read_u8().await.unwrap());
            let said = parse(&heard, false);
            if let Some(said) = said.into_iter().find(|said| said.whole) {
                return said;
            }
        }
    };
    crate::world::within(LONG, "an answer", answer).await
}

/// Takes answers apart.
pub fn parse(mut bytes: &[u8], head: bool) -> Vec<Said> {
    let mut all = Vec::new();
    while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        let mut lines = text.lines();
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ').skip(1);
        let mut said = Said {
            status: words.next().and_then(|code| code.parse().ok()).unwrap_or(0),
            phrase: words.next().unwrap_or_default().to_owned(),
            fields: lines.map(lower_name).collect(),
            body: Vec::new(),
            whole: true,
        };
        let bodiless = head || said.status < 200 || matches!(said.status, 204 | 304);
        if !bodiless {
            let taken = take_body(&mut said, bytes);
            bytes = &bytes[taken..];
        }
        all.push(said);
    }
    all
}

fn lower_name(line: &str) -> String {
    match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    }
}

/// Reads one body; returns how many bytes it took.
fn take_body(said: &mut Said, bytes: &[u8]) -> usize {
    if let Some(length) = said.field("content-length") {
        let length: usize = length.parse().unwrap();
        said.whole = bytes.len() >= length;
        let taken = length.min(bytes.len());
        said.body = bytes[..taken].to_vec();
        return taken;
    }
    if said.field("transfer-encoding") != Some("chunked") {
        said.body = bytes.to_vec();
        return bytes.len();
    }
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n");
        let size = line.and_then(|line| {
            let digits = std::str::from_utf8(&bytes[at..at + line]).ok()?;
            Some((line, usize::from_str_radix(digits, 16).ok()?))
        });
        let Some((line, size)) = size else {
            said.whole = false;
            return bytes.len();
        };
        at += line + 2;
        if size == 0 {
            return at + take_trailers(said, &bytes[at..]);
        }
        if bytes.len() < at + size + 2 {
            said.whole = false;
            return bytes.len();
        }
        said.body.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
    }
}

/// Trailers are shown among the fields, with a `~` before them.
fn take_trailers(said: &mut Said, bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let text = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        at += line + 2;
        if text.is_empty() {
            return at;
        }
        said.fields.push(format!("~{}", lower_name(&text)));
    }
    said.whole = false;
    at
}

/// A request that came through the tunnel whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<String>,
}

impl Forwarded {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What came through the tunnel whole.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Forwarded>>>);

impl Log {
    /// A handler that notes each request when it has come whole and answers 200 `ok`.
    pub fn handler(&self) -> Handler {
        let log = self.clone();
        answering(move |incoming| {
            let log = log.clone();
            async move {
                let (head, received) = incoming.request.into_parts();
                let mut respond = incoming.respond;
                if head.headers.contains_key("expect") {
                    respond.send_continue();
                }
                let Ok(received) = received.collect().await else {
                    return;
                };
                let text = |value: &http::HeaderValue| {
                    String::from_utf8_lossy(value.as_bytes()).into_owned()
                };
                let fields = head.headers.iter();
                let trailers = received.trailers().into_iter().flat_map(|all| all.keys());
                log.0.lock().unwrap().push(Forwarded {
                    method: head.method.to_string(),
                    target: head.uri.path_and_query().unwrap().to_string(),
                    fields: fields
                        .map(|(name, value)| (name.to_string(), text(value)))
                        .collect(),
                    trailers: trailers.map(ToString::to_string).collect(),
                    body: received.to_bytes().to_vec(),
                });
                let mut answer = Response::new(body("ok"));
                let length = http::HeaderValue::from_static("2");
                answer.headers_mut().insert("content-length", length);
                let _ = respond.send(answer).await;
            }
        })
    }

    /// Takes everything out.
    pub fn take(&self) -> Vec<Forwarded> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
