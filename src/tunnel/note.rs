//! Short exchanges of the tunnel's own: the gateway puts a JSON note, the connection point reads it.

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{window, wire};

/// A request of the gateway itself, not of a client. `service` becomes the authority.
fn own_request(service: &str, method: Method, path: &str) -> Option<Request<()>> {
    let uri = http::Uri::builder()
        .scheme("https")
        .authority(service)
        .path_and_query(path)
        .build()
        .ok()?;
    let request = Request::builder().method(method).uri(uri);
    request.version(Version::HTTP_2).body(()).ok()
}

/// Puts a note. Returns the answer's status, or `None` if none came; most callers do not mind.
pub(super) async fn put(
    mut sender: SendRequest<Bytes>,
    service: &str,
    path: &str,
    note: &impl Serialize,
) -> Option<StatusCode> {
    let json = Bytes::from(serde_json::to_vec(note).ok()?);
    let mut request = own_request(service, Method::PUT, path)?;
    let fields = request.headers_mut();
    fields.insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    fields.insert(CONTENT_LENGTH, json.len().into());
    let (response, mut body) = sender.send_request(request, false).ok()?;
    body.send_data(json, true).ok()?;
    Some(response.await.ok()?.status())
}

/// Asks for the stream of roles.
///
/// # Errors
/// HTTP/2's; `None` in its place if the service's name is no authority.
pub(super) async fn get_roles(
    mut sender: SendRequest<Bytes>,
    service: &str,
) -> Result<Response<RecvStream>, Option<h2::Error>> {
    let request = own_request(service, Method::GET, wire::ROLES_PATH).ok_or(None)?;
    let (response, _) = sender.send_request(request, true)?;
    Ok(response.await?)
}

/// Whether a head announces a stream of JSON lines.
pub(super) fn is_lines(status: StatusCode, fields: &HeaderMap) -> bool {
    let kind = fields.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    status.is_success() && kind.is_some_and(|kind| kind.starts_with(wire::ROLES_TYPE))
}

/// Reads a note.
///
/// # Errors
/// What is wrong with it, for the log.
pub(super) async fn read<T: DeserializeOwned>(mut body: RecvStream) -> Result<T, String> {
    let mut json = BytesMut::new();
    while let Some(data) = window::data(&mut body).await {
        let data = data.map_err(|error| error.to_string())?;
        if json.len() + data.len() > wire::NOTE_LIMIT {
            return Err(format!("is longer than {} bytes", wire::NOTE_LIMIT));
        }
        json.extend_from_slice(&data);
    }
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}
