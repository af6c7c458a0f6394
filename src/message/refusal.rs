//! The one place where a reason becomes an answer: status, phrase, `Proxy-Status`, problem document.
//!
//! The ConfigMgr client logs only status and phrase, so the phrase names the hop that refused
//! (`CMGService_…` the gateway, `CMGConnector_…` the connection point) and what it refused.

mod answers;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use self::answers::answer;
use super::headers;
use crate::reason::Reason;

/// The longest phrase handed on, in bytes.
const MAX_PHRASE: usize = 120;

/// Who refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// The gateway.
    Gateway,
    /// The connection point.
    ConnectionPoint,
}

impl Hop {
    /// What its phrases begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Gateway => "CMGService_",
            Self::ConnectionPoint => "CMGConnector_",
        }
    }

    fn proxy_name(self) -> &'static str {
        match self {
            Self::Gateway => "CMGService",
            Self::ConnectionPoint => "CMGConnector",
        }
    }
}

/// A request that is refused, until it is answered.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The stable reason.
    pub reason: Reason,
    /// What happened, for the log and for authenticated clients.
    pub detail: String,
    /// A status that stands in for the reason's own.
    pub status: Option<StatusCode>,
    /// What `Allow` lists.
    pub allow: Vec<Method>,
    /// What `Retry-After` says, rounded up to seconds, at least one: at 0 everyone would be back at once.
    pub retry_after: Option<Duration>,
    /// Whether the client's connection is closed after the answer.
    pub close: bool,
}

impl Refusal {
    /// A refusal as its reason has it.
    // Cold: what leads here is kept out of the way of requests that pass.
    #[cold]
    pub fn new(reason: Reason) -> Self {
        Self {
            reason,
            detail: String::new(),
            status: None,
            allow: Vec::new(),
            retry_after: None,
            close: answer(reason).close,
        }
    }

    /// Adds what happened.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Says which methods the resource takes.
    pub fn allow(mut self, methods: &[Method]) -> Self {
        self.allow = methods.to_vec();
        self
    }

    /// Says when to come again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Says when to come again to who found no room: with 503 `overloaded` that is the same wherever it comes from.
    pub fn retry_for_room(self) -> Self {
        self.retry_around(Duration::from_secs(5))
    }

    /// Says when to come again: up to twice the mean, so that those who were told do not all come back at once.
    pub fn retry_around(self, mean: Duration) -> Self {
        self.retry_after(mean.mul_f64(2.0 * rand::random::<f64>()))
    }

    /// Puts another status in place of the reason's own.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| answer(self.reason).status)
    }

    /// The phrase of the answer.
    pub fn phrase(&self, hop: Hop) -> String {
        format!("{}{}", hop.prefix(), answer(self.reason).words)
    }

    /// Makes the answer.
    ///
    /// Phrase and reason are the fields `opencmg-phrase` and `opencmg-reason`; the gateway's last step turns
    /// them into what the client may see. The detail is told only to an authenticated client.
    pub fn into_response(
        self,
        hop: Hop,
        request_id: &str,
        authenticated: bool,
    ) -> Response<Full<Bytes>> {
        let body = self.problem(request_id, authenticated);
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.status();
        self.set_headers(response.headers_mut(), hop, request_id, authenticated);
        response
    }

    fn set_headers(&self, fields: &mut HeaderMap, hop: Hop, request_id: &str, authenticated: bool) {
        let mut put = |name: &http::HeaderName, text: String| {
            if let Ok(value) = HeaderValue::try_from(text) {
                fields.insert(name, value);
            }
        };
        put(&headers::PHRASE, self.phrase(hop));
        put(&headers::REQUEST_ID, request_id.to_owned());
        put(
            &headers::PROXY_STATUS,
            self.proxy_status(hop, authenticated),
        );
        if let Some(after) = self.retry_after {
            put(&header::RETRY_AFTER, seconds(after).to_string());
        }
        if self.status() == StatusCode::METHOD_NOT_ALLOWED || !self.allow.is_empty() {
            let names: Vec<_> = self.allow.iter().map(Method::as_str).collect();
            put(&header::ALLOW, names.join(", "));
        }
        let fixed = |fields: &mut HeaderMap, name, text| {
            fields.insert(name, HeaderValue::from_static(text));
        };
        fixed(fields, headers::REASON.clone(), self.reason.as_str());
        fixed(fields, header::CONTENT_TYPE, "application/problem+json");
        fixed(fields, header::CACHE_CONTROL, "no-store");
        if self.status() == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2: a 401 names a challenge.
            fixed(
                fields,
                header::WWW_AUTHENTICATE,
                "Bearer error=\"invalid_token\"",
            );
        }
        if self.close {
            fixed(fields, header::CONNECTION, "close");
        }
    }

    /// RFC 9209 §2: who, the registered error, and for authenticated clients the detail.
    fn proxy_status(&self, hop: Hop, authenticated: bool) -> String {
        let error = answer(self.reason).error;
        let mut text = format!("{}; error={error}", hop.proxy_name());
        if authenticated && !self.detail.is_empty() {
            let detail: String = self
                .detail
                .chars()
                .map(|c| {
                    if c == ' ' || c.is_ascii_graphic() {
                        c
                    } else {
                        '?'
                    }
                })
                .flat_map(|c| {
                    ['"', '\\']
                        .contains(&c)
                        .then_some('\\')
                        .into_iter()
                        .chain([c])
                })
                .take(512)
                .collect();
            // A cut between a backslash and what it escapes would leave the string open.
            let whole = detail.len() < 512;
            if whole {
                text.push_str(&format!("; details=\"{detail}\""));
            }
        }
        text
    }

    /// RFC 9457.
    fn problem(&self, request_id: &str, authenticated: bool) -> Bytes {
        let status = self.status();
        let detail = match authenticated && !self.detail.is_empty() {
            true => self.detail.as_str(),
            false => self.reason.what(),
        };
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Refused"),
            "status": status.as_u16(),
            "detail": detail,
            "reason": self.reason.as_str(),
            "request-id": request_id,
        });
        let mut text = problem.to_string();
        text.push('\n');
        Bytes::from(text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.is_empty() {
            true => write!(f, "{}", self.reason),
            false => write!(f, "{}: {}", self.reason, self.detail),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<super::body::BodyError> for Refusal {
    fn from(error: super::body::BodyError) -> Self {
        Self::new(error.reason).detail(error.detail)
    }
}

/// The phrase of a backend's answer: ours, and its own without spaces.
///
/// Only visible ASCII of the backend's phrase is kept; an empty one is replaced by the status' own.
pub fn phrase_of_backend(status: StatusCode, reason_phrase: Option<&[u8]>) -> String {
    let visible = |phrase: &[u8]| -> String {
        let bytes = phrase.iter().filter(|byte| byte.is_ascii_graphic());
        bytes.take(MAX_PHRASE).copied().map(char::from).collect()
    };
    let own = reason_phrase
        .map(visible)
        .filter(|phrase| !phrase.is_empty());
    let words = own.unwrap_or_else(|| match status.canonical_reason() {
        Some(phrase) => visible(phrase.as_bytes()),
        None => status.as_str().to_owned(),
    });
    format!("{}{words}", Hop::ConnectionPoint.prefix())
}

fn seconds(duration: Duration) -> u64 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    whole.max(1)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn problem_of(response: Response<Full<Bytes>>) -> serde_json::Value {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn the_phrase_names_the_hop_and_what_it_refused() {
        let phrase = |reason, hop| Refusal::new(reason).phrase(hop);
        assert_eq!(
            phrase(Reason::CertificateExpired, Hop::Gateway),
            "CMGService_ClientCertificateExpired"
        );
        assert_eq!(
            phrase(Reason::InvalidToken, Hop::Gateway),
            "CMGService_Invalid_Token"
        );
        assert_eq!(
            phrase(Reason::BackendRedirect, Hop::ConnectionPoint),
            "CMGConnector_Redirect"
        );
    }

    #[test]
    fn a_backends_phrase_is_ours_and_its_own_without_spaces() {
        let of = |status: u16, phrase: Option<&str>| {
            let status = StatusCode::from_u16(status).unwrap();
            phrase_of_backend(status, phrase.map(str::as_bytes))
        };
        assert_eq!(
            of(403, Some("Client certificate required")),
            "CMGConnector_Clientcertificaterequired"
        );
        assert_eq!(of(401, None), "CMGConnector_Unauthorized");
        assert_eq!(of(500, Some(" ")), "CMGConnector_InternalServerError");
        assert_eq!(of(599, None), "CMGConnector_599");
        assert_eq!(of(400, Some("a\u{e4}\tb")), "CMGConnector_ab");
        assert!(of(400, Some(&"x".repeat(5000))).len() < 200);
    }

    #[tokio::test]
    async fn the_detail_is_told_to_authenticated_clients_only() {
        let refusal = Refusal::new(Reason::NoTunnel).detail("role \"5\" at cp-1");
        let told = refusal.clone().into_response(Hop::Gateway, "id", true);
        assert_eq!(
            told.headers()["proxy-status"],
            "CMGService; error=destination_unavailable; details=\"role \\\"5\\\" at cp-1\""
        );
        assert_eq!(problem_of(told).await["detail"], "role \"5\" at cp-1");

        let untold = refusal.into_response(Hop::Gateway, "id", false);
        assert_eq!(
            untold.headers()["proxy-status"],
            "CMGService; error=destination_unavailable"
        );
        assert_eq!(untold.headers()["connection"], "close");
        let problem = problem_of(untold).await;
        assert_eq!(problem["detail"], Reason::NoTunnel.what());
        assert_eq!(problem["reason"], "no-tunnel");
        assert_eq!(problem["request-id"], "id");
        assert_eq!(problem["status"], 503);
    }

    #[test]
    fn nobody_is_told_to_come_again_at_once() {
        for (after, said) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (10_000, "10")] {
            let response = Refusal::new(Reason::Draining)
                .retry_after(Duration::from_millis(after))
                .into_response(Hop::Gateway, "id", false);
            assert_eq!(response.headers()["retry-after"], said, "{after} ms");
        }
    }

    #[test]
    fn an_answer_says_which_methods_pass_and_when_to_come_again() {
        let response = Refusal::new(Reason::MethodNotAllowed)
            .allow(&[Method::GET, Method::HEAD])
            .retry_after(Duration::from_millis(1500))
            .into_response(Hop::Gateway, "id", false);
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
        assert_eq!(response.headers()["retry-after"], "2");
        let unauthorized =
            Refusal::new(Reason::InvalidToken).into_response(Hop::Gateway, "id", false);
        assert_eq!(
            unauthorized.headers()["www-authenticate"],
            "Bearer error=\"invalid_token\""
        );
    }
}
