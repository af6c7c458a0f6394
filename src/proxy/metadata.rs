//! What the gateway says of itself under `…/ServiceMetadata`.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, header};
use http_body_util::Full;
use serde::Serialize;

use super::answer::Payload;
use crate::message::refusal::Refusal;
use crate::reason::Reason;

#[derive(Serialize)]
struct Metadata<'a> {
    service: &'a str,
    version: &'a str,
    instance: u16,
}

/// Answers with service name, version and instance.
///
/// # Errors
/// `method-not-allowed` for anything but GET and HEAD.
pub(super) fn answer(
    method: &Method,
    service: &str,
    instance: u16,
) -> Result<Response<Payload>, Refusal> {
    let methods = [Method::GET, Method::HEAD];
    if !methods.contains(method) {
        return Err(Refusal::new(Reason::MethodNotAllowed).allow(&methods));
    }
    let metadata = Metadata {
        service,
        version: env!("CARGO_PKG_VERSION"),
        instance,
    };
    let mut body = serde_json::to_vec(&metadata).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Payload::Own(Full::new(Bytes::from(body))));
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
