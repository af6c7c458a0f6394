//! The built-in management point: MP list, site signing certificate, policy, messages, uploads, long polls.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::bits::Sessions;
use super::{Body, answer, content, full, lower_segments, method_not_allowed, not_found, read};
use crate::units;

/// The body of the answer to `.sms_aut?MPLIST` and its variants.
pub const MPLIST: &str = "<MPList><MP Name=\"MP1.CORP.OPENCMG.TEST\" FQDN=\"mp1.corp.opencmg.test\">\
<Version>9128</Version><Capabilities SchemaVersion=\"1.0\"><Property Name=\"SSL\" Version=\"1\"/>\
<Property Name=\"SSLState\" Value=\"31\"/></Capabilities></MP></MPList>\r\n";

/// The body of the answer to `.sms_aut?SITESIGNCERT`: a shape, not a certificate.
pub const SITESIGNCERT: &str = "<SiteSigningCert>308202F6308201DEA00302010202100A0B0C0D0E0F1011121314\
1516171819300D06092A864886F70D01010B0500</SiteSigningCert>\r\n";

// The longest hold that a request may ask for.
const MOST_HOLD: Duration = Duration::from_secs(3600);

/// The body of the answer to `.sms_pol?` with a policy id: XML that names the policy.
pub fn policy(id: &str) -> String {
    let id: String = id
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "{}-.:".contains(*c))
        .collect();
    format!(
        "<?xml version=\"1.0\"?>\r\n<Policy PolicyID=\"{id}\" PolicyVersion=\"1.00\"><PolicyRule \
         PolicyRuleID=\"{{1}}\"><PolicyAction PolicyActionType=\"WMI-XML\"/></PolicyRule></Policy>\r\n"
    )
}

#[derive(Debug)]
pub(super) struct ManagementPoint {
    hold: Duration,
    sessions: Sessions,
}

impl ManagementPoint {
    pub(super) fn new(hold: Duration) -> Self {
        Self {
            hold,
            sessions: Sessions::default(),
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let segments = lower_segments(request.uri().path());
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["sms_mp" | "sms_mp_tokenauth", ".sms_aut"] => authority(&request),
            ["sms_mp" | "sms_mp_tokenauth", ".sms_pol"] => policy_of(&request),
            ["ccm_system" | "ccm_system_tokenauth", "request"] => message(request).await,
            ["ccm_incoming", ..] => self.incoming(request).await,
            ["bgb", ..] => self.long_poll(request).await,
            ["ccm_client", .., name] => content::serve(&request, name),
            ["ccm_sts"] => answer(StatusCode::OK, "application/json", "{\"token\":\"\"}\r\n"),
            _ => not_found(),
        }
    }

    /// `BITS_POST` is a packet of an upload, `PUT` and `CCM_POST` a whole one; `GET` tells what was uploaded.
    async fn incoming(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let stored = match head.method.as_str() {
            "BITS_POST" => {
                return match read(body).await {
                    Ok(body) => self.sessions.packet(path, &head.headers, &body),
                    Err(response) => response,
                };
            }
            "PUT" | "CCM_POST" => match read(body).await {
                Ok(body) => self.sessions.store(path, &body),
                Err(response) => return response,
            },
            "GET" | "HEAD" => match self.sessions.stored(path) {
                Some(stored) => stored,
                None => return not_found(),
            },
            _ => return method_not_allowed(),
        };
        let text = format!("{} {}\r\n", stored.length, stored.sha256);
        answer(StatusCode::OK, "text/plain", text)
    }

    /// Holds the request, and then says that there is nothing new.
    async fn long_poll(&self, request: Request<Incoming>) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        if let Err(response) = read(request.into_body()).await {
            return response;
        }
        let asked = query
            .split('&')
            .find_map(|pair| units::parse_duration(pair.strip_prefix("hold=")?));
        tokio::time::sleep(asked.unwrap_or(self.hold).min(MOST_HOLD)).await;
        answer(
            StatusCode::OK,
            "text/xml",
            "<BgbResponse Type=\"NoTask\"/>\r\n",
        )
    }
}

fn authority(request: &Request<Incoming>) -> Response<Body> {
    if !is_read(request.method()) {
        return method_not_allowed();
    }
    let query = request.uri().query().unwrap_or_default();
    let query = query.to_ascii_uppercase();
    if query.starts_with("MPLIST") {
        answer(StatusCode::OK, "text/xml", MPLIST)
    } else if query.starts_with("SITESIGNCERT") {
        answer(StatusCode::OK, "text/xml", SITESIGNCERT)
    } else {
        not_found()
    }
}

fn policy_of(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().query() {
        Some(id) if is_read(request.method()) => {
            answer(StatusCode::OK, "application/octet-stream", policy(id))
        }
        Some(_) => method_not_allowed(),
        None => not_found(),
    }
}

/// Answers a message with itself, in the media type that it came with.
async fn message(request: Request<Incoming>) -> Response<Body> {
    if !matches!(request.method().as_str(), "CCM_POST" | "POST") {
        return method_not_allowed();
    }
    let (head, body) = request.into_parts();
    let body: Bytes = match read(body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let mut response = Response::new(full(body));
    let media_type = head.headers.get(CONTENT_TYPE).cloned();
    let default = HeaderValue::from_static("application/octet-stream");
    let media_type = media_type.unwrap_or(default);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
