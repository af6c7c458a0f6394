//! The built-in software update point: SOAP services, self-update files and update content.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};

use super::bits::hex;
use super::{Body, answer, content, lower_segments, method_not_allowed, not_found, read};

const SOAP: &str = "text/xml; charset=utf-8";

pub(super) async fn answer_to(request: Request<Incoming>) -> Response<Body> {
    let segments = lower_segments(request.uri().path());
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [
            "clientwebservice" | "simpleauthwebservice" | "reportingwebservice",
            _,
            ..,
        ] => soap(request).await,
        ["selfupdate", "wuident.cab"] => {
            answer(StatusCode::OK, "application/octet-stream", "MSCF ident\r\n")
        }
        ["selfupdate" | "content", .., name] => content::serve(&request, name),
        _ => not_found(),
    }
}

async fn soap(request: Request<Incoming>) -> Response<Body> {
    if request.method() != http::Method::POST {
        return method_not_allowed();
    }
    let (head, body) = request.into_parts();
    let action = head
        .headers
        .get("soapaction")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    match read(body).await {
        Ok(body) => answer(StatusCode::OK, SOAP, soap_answer(action, &body)),
        Err(response) => response,
    }
}

/// The body of the answer to a SOAP request: it names the action, and the length and digest of what came in.
pub fn soap_answer(action: &str, body: &Bytes) -> String {
    let name = action.trim_matches('"').rsplit('/').next();
    let name: String = name
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let (length, sha256) = (body.len(), hex(&Sha256::digest(body)));
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><soap:Envelope \
         xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body><{name}Response>\
         <Received Length=\"{length}\" Sha256=\"{sha256}\"/></{name}Response></soap:Body></soap:Envelope>"
    )
}
