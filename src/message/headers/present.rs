//! Which fields a head has, told by one look at each name: a look-up hashes the name that it is for, and mostly finds nothing.

use http::{HeaderMap, HeaderName};

/// Fields that a message has only now and then, and that are asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `Authorization`.
    Authorization,
    /// `BITS-Reply-URL` (MS-BPAU).
    BitsReplyUrl,
    /// `Content-Location`.
    ContentLocation,
    /// `Cookie`.
    Cookie,
    /// `Expect`.
    Expect,
    /// `Location`.
    Location,
    /// [`super::SERVICE`].
    Service,
    /// `TE`.
    Te,
    /// `traceparent`.
    Traceparent,
    /// `tracestate`.
    Tracestate,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Via`.
    Via,
    /// `WWW-Authenticate`.
    WwwAuthenticate,
}

/// What a head has of the fields that are [`Asked`] for. It holds as long as nothing puts one of them in: what is not there is
/// not looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present(u16);

const _: () = assert!(
    (Asked::WwwAuthenticate as u32) < u16::BITS,
    "a bit for each"
);

impl Present {
    /// Looks at every name.
    pub fn of(headers: &HeaderMap) -> Self {
        let bits = headers
            .keys()
            .filter_map(asked)
            .map(|asked| 1 << asked as u16);
        Self(bits.fold(0, |all, bit| all | bit))
    }

    /// Whether the field is there, once or more often.
    pub fn has(self, asked: Asked) -> bool {
        self.0 & (1 << asked as u16) != 0
    }
}

fn asked(name: &HeaderName) -> Option<Asked> {
    Some(match name.as_str() {
        "authorization" => Asked::Authorization,
        "bits-reply-url" => Asked::BitsReplyUrl,
        "content-location" => Asked::ContentLocation,
        "cookie" => Asked::Cookie,
        "expect" => Asked::Expect,
        "location" => Asked::Location,
        "opencmg-service" => Asked::Service,
        "te" => Asked::Te,
        "traceparent" => Asked::Traceparent,
        "tracestate" => Asked::Tracestate,
        "transfer-encoding" => Asked::TransferEncoding,
        "via" => Asked::Via,
        "www-authenticate" => Asked::WwwAuthenticate,
        _ => return None,
    })
}
