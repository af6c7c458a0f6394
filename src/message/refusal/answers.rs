//! The table from reason to answer.

use http::StatusCode;

use crate::reason::Reason;

/// What a reason is to a client.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status, unless the refusal brings its own.
    pub(super) status: StatusCode,
    /// What the phrase says after the name of the hop.
    pub(super) words: &'static str,
    /// The registered `Proxy-Status` error (RFC 9209 §2.3).
    pub(super) error: &'static str,
    /// Whether the connection is closed: it cannot be used further, or a new one may find a better place.
    pub(super) close: bool,
}

/// The answer of a reason.
///
/// Reasons that no client can be told (a failed handshake, a tunnel's refusal) have an answer as well: it is what
/// the access log says.
#[rustfmt::skip]
pub(super) fn answer(reason: Reason) -> Answer {
    use Reason as R;
    let (status, words, error, close) = match reason {
        R::BadRequest => (400, "BadRequest", "http_request_error", true),
        R::BadHost => (400, "BadHost", "http_request_error", true),
        R::BadPath => (400, "BadPath", "http_request_error", false),
        R::Misdirected => (421, "Misdirected", "http_request_denied", false),
        R::UnknownEndpoint => (404, "UnknownEndpoint", "destination_not_found", false),
        R::MethodNotAllowed => (405, "MethodNotAllowed", "http_request_denied", false),
        R::BodyTooLarge => (413, "RequestEntityTooLarge", "http_request_denied", true),
        R::HeadTooLarge => (431, "RequestHeaderTooLarge", "http_request_denied", true),
        R::TargetTooLong => (414, "RequestUriTooLong", "http_request_denied", true),
        R::BadExpect => (417, "ExpectationFailed", "http_request_denied", true),
        R::LengthMismatch => (400, "LengthMismatch", "http_request_error", true),
        R::ConnectRefused => (405, "ConnectRefused", "http_request_denied", true),
        R::ClientTooSlow => (408, "RequestTimeout", "http_request_error", true),
        R::Idle => (408, "Idle", "http_request_error", true),
        R::ClientGone => (499, "ClientGone", "http_request_error", true),
        R::TooManyFrames => (400, "TooManyFrames", "http_protocol_error", true),
        R::RateLimited => (429, "TooManyRequests", "http_request_denied", false),
        R::InvalidToken => (401, "Invalid_Token", "http_request_denied", false),
        R::CertificateMissing => (403, "ClientCertificateMissing", "http_request_denied", true),
        R::CertificateExpired => (403, "ClientCertificateExpired", "http_request_denied", true),
        R::CertificateNotYetValid => (403, "ClientCertificateNotYetValid", "http_request_denied", true),
        R::CertificateUnknownIssuer => (403, "ClientCertificateUnknownIssuer", "http_request_denied", true),
        R::CertificateWrongUsage => (403, "ClientCertificateWrongUsage", "http_request_denied", true),
        R::CertificateInvalid => (403, "ClientCertificateInvalid", "http_request_denied", true),
        R::CertificateRevoked => (403, "ClientCertificateRevoked", "http_request_denied", true),
        R::RevocationUnknown => (403, "ClientCertificateRevocationUnknown", "http_request_denied", true),
        R::CrlStale => (403, "ClientCertificateCrlStale", "http_request_denied", true),
        R::HandshakeFailed => (400, "HandshakeFailed", "tls_protocol_error", true),
        R::HandshakeTimeout => (408, "HandshakeTimeout", "connection_timeout", true),
        R::UnknownServerName => (421, "UnknownServerName", "http_request_denied", true),
        R::BadProxyHeader => (400, "BadProxyHeader", "http_request_error", true),
        R::TooManyConnections => (503, "TooManyConnections", "connection_limit_reached", true),
        R::Overloaded => (503, "Overloaded", "connection_limit_reached", false),
        R::Draining => (503, "Draining", "proxy_internal_response", true),
        R::Loop => (502, "LoopDetected", "proxy_loop_detected", false),
        R::InternalError => (500, "InternalError", "proxy_internal_error", true),
        R::NoTunnel => (503, "NoTunnel", "destination_unavailable", true),
        R::TunnelsFull => (503, "TunnelsFull", "connection_limit_reached", false),
        R::TunnelLost => (502, "TunnelLost", "connection_terminated", false),
        R::StalledClient => (503, "StalledClient", "connection_write_timeout", true),
        R::TunnelNotAuthenticated => (403, "TunnelNotAuthenticated", "tls_certificate_error", true),
        R::UnknownConnectionPoint => (403, "UnknownConnectionPoint", "http_request_denied", true),
        R::ConnectionPointRemoved => (403, "ConnectionPointRemoved", "http_request_denied", true),
        R::TooManyTunnels => (503, "TooManyTunnels", "connection_limit_reached", true),
        R::RoleNotAllowed => (403, "RoleNotAllowed", "http_request_denied", false),
        R::TunnelSilent => (502, "TunnelSilent", "connection_timeout", false),
        R::TunnelProtocol => (502, "TunnelProtocol", "http_protocol_error", false),
        R::TunnelTooOld => (503, "TunnelTooOld", "connection_terminated", false),
        R::UnknownRole => (404, "UnknownRole", "destination_not_found", false),
        R::BackendUnreachable => (502, "BackendUnreachable", "destination_unavailable", false),
        R::BackendCertificate => (502, "BackendCertificate", "tls_certificate_error", false),
        R::BackendTimeout => (504, "BackendTimeout", "http_response_timeout", false),
        R::BackendBroken => (502, "BackendBroken", "http_response_incomplete", false),
        R::BackendRedirect => (502, "Redirect", "proxy_internal_response", false),
        R::BackendHeadTooLarge => (431, "RequestHeaderTooLarge", "http_request_denied", false),
        R::BackendProtocol => (502, "BackendProtocol", "http_protocol_error", false),
        R::BackendAnswer => (502, "BackendAnswer", "proxy_internal_response", false),
        R::ConnectionAuth => (502, "ConnectionAuth", "proxy_internal_response", false),
    };
    Answer {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        words,
        error,
        close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_refusing_status_and_words_that_a_status_line_takes() {
        for reason in Reason::ALL {
            let answer = answer(*reason);
            assert!((400..600).contains(&answer.status.as_u16()), "{reason}");
            assert!(
                answer
                    .words
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                "{reason}"
            );
        }
    }
}
