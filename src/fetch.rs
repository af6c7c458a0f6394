//! Outbound HTTP with limits: what a gateway fetches from places that certificates and settings name.
//!
//! One `GET` at a time over plain HTTP: a CRL is signed, and one that needed TLS could not be had before a CRL. The name of
//! a server is resolved once and the connection is made to an address of that answer, so that a name cannot mean one thing
//! when it is judged and another when it is dialled; the same at each redirect. Addresses inside the network are refused
//! unless they are allowed. Time and size are bounded, and the memory of all bodies together. Rank 3.

mod address;
mod body;
mod error;
mod url;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::body::Room;
use crate::units::Network;

pub use body::Body;
pub use error::FetchError;
pub use url::Url;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// How long one address may take to accept, so that another of the same host still has time.
const CONNECT: Duration = Duration::from_secs(5);

/// The limits of one fetch, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time for all of it, redirects among it.
    pub timeout: Duration,
    /// The largest body, in bytes.
    pub max_bytes: u64,
    /// Addresses inside the network that may be dialled nevertheless.
    pub allow: Vec<Network>,
    /// An HTTP proxy, which then resolves the names.
    pub proxy: Option<Url>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60), // 50 MB at 1 MB/s
            max_bytes: 128 << 20,             // a million entries with reasons, twice
            allow: Vec::new(),
            proxy: None,
        }
    }
}

/// What a server said of a body, to ask whether it still holds (RFC 9110 §13.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// What a fetch brought.
#[derive(Debug)]
pub enum Fetched {
    /// What is known still holds.
    Unchanged,
    /// Another body.
    Changed {
        /// The body, whole.
        body: Body,
        /// What to ask with next time.
        validators: Validators,
    },
}

/// Fetches a URL, or learns that what is known of it still holds.
///
/// A large body waits, for at most as long as a fetch may take, until no other large one is held, and is then asked for
/// once more.
///
/// # Errors
/// Why it cannot be had, as the end of a sentence that begins with the URL.
///
/// # Cancel safety
/// Dropping the future ends the fetch.
pub async fn get(limits: &Limits, url: &str, known: &Validators) -> Result<Fetched, FetchError> {
    let mut room = Room::default();
    match in_time(limits, url, known, &mut room).await {
        // Its connection is gone: what waits holds nothing, and its server is not kept waiting with it.
        Err(FetchError::Crowded(_)) => {}
        outcome => return outcome,
    }
    let crowded = FetchError::Crowded(limits.timeout);
    let turn = timeout(limits.timeout, room.wait());
    turn.await.map_err(|_| crowded)?;
    in_time(limits, url, known, &mut room).await
}

async fn in_time(
    limits: &Limits,
    url: &str,
    known: &Validators,
    room: &mut Room,
) -> Result<Fetched, FetchError> {
    let slow = FetchError::Slow(limits.timeout);
    let followed = timeout(limits.timeout, follow(limits, url, known, room));
    followed.await.unwrap_or(Err(slow))
}

enum Step {
    Done(Fetched),
    Elsewhere(String),
}

async fn follow(
    limits: &Limits,
    url: &str,
    known: &Validators,
    room: &mut Room,
) -> Result<Fetched, FetchError> {
    let mut url = Url::parse(url)?;
    for _ in 0..=MAX_REDIRECTS {
        match step(limits, &url, known, room).await? {
            Step::Done(fetched) => return Ok(fetched),
            Step::Elsewhere(location) => url = url.follow(&location)?,
        }
    }
    Err(FetchError::Redirects(MAX_REDIRECTS))
}

/// One request on one connection.
async fn step(
    limits: &Limits,
    url: &Url,
    known: &Validators,
    room: &mut Room,
) -> Result<Step, FetchError> {
    let tcp = connect(limits, url).await?;
    let broken = |error: hyper::Error| FetchError::Broken(words_of(&error));
    let handshake = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(tcp));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let request = request(url, known, limits.proxy.is_some())?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        judge(response, limits, room).await
    };
    // The connection is driven beside the exchange, in this task, and ends with it.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let mut over = false;
    loop {
        tokio::select! {
            biased;
            step = &mut exchange => return step,
            _ = &mut connection, if !over => over = true,
        }
    }
}

async fn connect(limits: &Limits, url: &Url) -> Result<TcpStream, FetchError> {
    let addresses = match &limits.proxy {
        // The proxy stands where the administrator put it; what is behind it, it resolves.
        Some(proxy) => {
            address::judge_literal(url, &limits.allow)?;
            address::resolve(proxy).await?
        }
        None => address::permitted(url, address::resolve(url).await?, &limits.allow)?,
    };
    let mut last = None;
    for address in addresses.into_iter().take(4) {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = Some(format!("{address}: {error}")),
            Err(_) => last = Some(format!("{address}: it does not accept")),
        }
    }
    Err(FetchError::Unreachable(last.unwrap_or_default()))
}

fn request(
    url: &Url,
    known: &Validators,
    through_proxy: bool,
) -> Result<Request<Empty<Bytes>>, FetchError> {
    let target = match through_proxy {
        true => url.to_string(),
        false => url.path.clone(),
    };
    let agent = concat!("opencmg/", env!("CARGO_PKG_VERSION"));
    let mut request = Request::get(target)
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, agent)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close");
    for (name, value) in [
        (header::IF_NONE_MATCH, &known.etag),
        (header::IF_MODIFIED_SINCE, &known.last_modified),
    ] {
        if let Some(value) = value.as_deref().and_then(|v| HeaderValue::from_str(v).ok()) {
            request = request.header(name, value);
        }
    }
    let request = request.body(Empty::new());
    request.map_err(|error| FetchError::Url(url.to_string(), error.to_string()))
}

async fn judge(
    response: Response<Incoming>,
    limits: &Limits,
    room: &mut Room,
) -> Result<Step, FetchError> {
    let (head, body) = response.into_parts();
    match head.status {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED => return Ok(Step::Done(Fetched::Unchanged)),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {
            let location = text(&head.headers, &header::LOCATION);
            return location.map(Step::Elsewhere).ok_or(FetchError::NoLocation);
        }
        other => return Err(FetchError::Status(other)),
    }
    let validators = Validators {
        etag: text(&head.headers, &header::ETAG),
        last_modified: text(&head.headers, &header::LAST_MODIFIED),
    };
    let body = body::read(body, limits, room).await?;
    Ok(Step::Done(Fetched::Changed { body, validators }))
}

fn text(fields: &HeaderMap, name: &HeaderName) -> Option<String> {
    const LONGEST: usize = 1024; // what is kept, and sent again
    let value = fields.get(name)?.to_str().ok()?;
    (value.len() <= LONGEST).then(|| value.to_owned())
}

/// An error with what caused it.
fn words_of(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

#[cfg(test)]
mod tests;
