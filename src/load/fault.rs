//! Why a request of a load counts as failed.

use std::io;

/// What became of a request that was not answered well, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A connection that was to be held was closed by the server.
    Closed,
    /// No TCP connection came about.
    Connect,
    /// The answer is not HTTP.
    Malformed,
    /// The handshake was a full one where a resumed one was asked for.
    NotResumed,
    /// It was due, and no connection was free until the end.
    NotSent,
    /// The connection or the stream ended before an answer had begun.
    Reset,
    /// The body ended before it was whole.
    ShortBody,
    /// The status is 400 or above.
    Status,
    /// It took longer than allowed.
    Timeout,
    /// The TLS handshake failed.
    Tls,
}

impl Fault {
    /// The kind, as reports name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Connect => "connect",
            Self::Malformed => "malformed",
            Self::NotResumed => "not-resumed",
            Self::NotSent => "not-sent",
            Self::Reset => "reset",
            Self::ShortBody => "short-body",
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
        }
    }

    /// Whether the server cannot be reached, so that trying again at once is of no use.
    pub(super) fn is_of_dial(self) -> bool {
        matches!(self, Self::Connect | Self::Tls)
    }
}

// Before an answer has begun, every error of the connection is the same to a client.
impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Reset
    }
}
