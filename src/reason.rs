//! The closed list of reasons: why a request, certificate or tunnel was refused.
//!
//! A reason is a label in metrics and logs, travels across the tunnel in `opencmg-reason`, and is listed in
//! the README. What a client sees of it is decided in `message::refusal`. Rank 0: imports nothing of this crate.

use std::fmt;

/// Whose doing a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client sent what is not allowed, or went away.
    Client,
    /// The gateway itself.
    Gateway,
    /// The way between gateway and connection point.
    Tunnel,
    /// The connection point itself.
    ConnectionPoint,
    /// The backend, or the way to it.
    Backend,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $side:ident, $what:literal;)+) => {
        /// Why something was refused. The text form is kebab-case and stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $what] $variant,)+ }

        impl Reason {
            /// Every reason, in the order of the README's table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable short code.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whose doing it is.
            pub fn side(self) -> Side {
                match self { $(Self::$variant => Side::$side,)+ }
            }

            /// One sentence for people.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)+ }
            }
        }
    };
}

reasons! {
    BadRequest = "bad-request", Client, "The request is not well-formed HTTP.";
    BadHost = "bad-host", Client, "The Host field is missing, repeated or not a host name.";
    BadPath = "bad-path", Client, "The target holds a dot segment, a backslash, an encoded separator, a control byte, a broken encoding or a fragment.";
    Misdirected = "misdirected", Client, "The request names another server than the TLS handshake did, or another scheme than https.";
    UnknownEndpoint = "unknown-endpoint", Client, "No published endpoint has this path.";
    MethodNotAllowed = "method-not-allowed", Client, "The endpoint does not take this method.";
    BodyTooLarge = "body-too-large", Client, "The request body is larger than the endpoint's limit.";
    HeadTooLarge = "head-too-large", Client, "The request head is larger than the limit.";
    TargetTooLong = "target-too-long", Client, "The path and query of the request are longer than the limit.";
    BadExpect = "bad-expect", Client, "The Expect field asks for something other than 100-continue.";
    LengthMismatch = "length-mismatch", Client, "The body is shorter or longer than its Content-Length.";
    ConnectRefused = "connect-refused", Client, "CONNECT is not served here.";
    ClientTooSlow = "client-too-slow", Client, "The client sent its request, or took its answer, more slowly than is allowed.";
    Idle = "idle", Client, "The connection carried no request for the time allowed.";
    ClientGone = "client-gone", Client, "The client went away before its answer was complete.";
    TooManyFrames = "too-many-frames", Client, "The client sent more HTTP/2 frames of a kind that carries nothing than its budget allows.";
    RateLimited = "rate-limited", Client, "The client sent more requests than its rate allows.";
    InvalidToken = "invalid-token", Client, "The endpoint needs a token, and none that is valid was sent.";
    CertificateMissing = "certificate-missing", Client, "The endpoint needs a client certificate, and none was sent.";
    CertificateExpired = "certificate-expired", Client, "A certificate of the client's chain has expired.";
    CertificateNotYetValid = "certificate-not-yet-valid", Client, "A certificate of the client's chain is not valid yet.";
    CertificateUnknownIssuer = "certificate-unknown-issuer", Client, "No path leads from the client's certificate to a trust anchor.";
    CertificateWrongUsage = "certificate-wrong-usage", Client, "The client's certificate is not meant for client authentication.";
    CertificateInvalid = "certificate-invalid", Client, "A certificate of the client's chain breaks a rule of its issuer or of X.509.";
    CertificateRevoked = "certificate-revoked", Client, "A certificate of the client's chain was revoked.";
    RevocationUnknown = "revocation-unknown", Gateway, "No CRL is at hand that says whether a certificate of the client's chain was revoked.";
    CrlStale = "crl-stale", Gateway, "The CRL that speaks of a certificate of the client's chain is too old to be believed.";
    HandshakeFailed = "handshake-failed", Client, "The TLS handshake failed.";
    HandshakeTimeout = "handshake-timeout", Client, "The TLS handshake did not finish in time.";
    UnknownServerName = "unknown-server-name", Client, "The TLS handshake named a server that is not served here.";
    BadProxyHeader = "bad-proxy-header", Client, "A trusted source did not begin with a PROXY protocol v2 header.";
    TooManyConnections = "too-many-connections", Gateway, "The limit on connections is reached.";
    Overloaded = "overloaded", Gateway, "The limit on requests in flight is reached, or there was no memory for an upload that stood still; `CMGConnector_Overloaded` if the connection point says so.";
    Draining = "draining", Gateway, "The instance is draining.";
    Loop = "loop", Gateway, "The request has been sent on by this service before.";
    InternalError = "internal-error", Gateway, "A fault of our own.";
    NoTunnel = "no-tunnel", Tunnel, "No connection point that may serve the role has a live tunnel.";
    TunnelsFull = "tunnels-full", Tunnel, "Every tunnel that may serve the role has all its streams in use.";
    TunnelLost = "tunnel-lost", Tunnel, "The tunnel broke while the request was under way.";
    StalledClient = "stalled-client", Tunnel, "The client took no byte of its answer for too long, or while memory was short.";
    TunnelNotAuthenticated = "tunnel-not-authenticated", Tunnel, "The tunnel's certificate does not chain to the connection-point CA.";
    UnknownConnectionPoint = "unknown-connection-point", Tunnel, "The service definition does not list a connection point of this name.";
    ConnectionPointRemoved = "connection-point-removed", Tunnel, "The connection point was taken out of the service definition.";
    TooManyTunnels = "too-many-tunnels", Tunnel, "The connection point has as many tunnels as an instance takes from it.";
    RoleNotAllowed = "role-not-allowed", Tunnel, "The connection point published a role that it may not serve.";
    TunnelSilent = "tunnel-silent", Tunnel, "The tunnel's peer answered no PING in time.";
    TunnelProtocol = "tunnel-protocol", Tunnel, "The tunnel's peer broke the protocol.";
    TunnelTooOld = "tunnel-too-old", Tunnel, "The tunnel reached its maximum age and is replaced.";
    UnknownRole = "unknown-role", ConnectionPoint, "The connection point's own file does not publish this role, endpoint or method.";
    BackendUnreachable = "backend-unreachable", Backend, "No connection to the backend could be made.";
    BackendCertificate = "backend-certificate", Backend, "The backend's certificate was not accepted.";
    BackendTimeout = "backend-timeout", Backend, "The backend did not answer in time.";
    BackendBroken = "backend-broken", Backend, "The backend closed the connection before its answer was complete.";
    BackendRedirect = "backend-redirect", Backend, "The backend redirected to a place outside what is published.";
    BackendHeadTooLarge = "backend-head-too-large", Backend, "The request head is larger than the backend takes.";
    BackendProtocol = "backend-protocol", Backend, "The backend's answer is not well-formed HTTP.";
    BackendAnswer = "backend-answer", Backend, "The backend itself answered with an error.";
    ConnectionAuth = "connection-auth", Backend, "The backend offers only authentication that is bound to a connection.";
}

impl Reason {
    /// The reason of a short code, if it is one of ours.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Side {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
            Self::Tunnel => "tunnel",
            Self::ConnectionPoint => "connection-point",
            Self::Backend => "backend",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_by_its_code_and_codes_are_unique() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("no-such-reason"), None);
    }
}
