//! Trailer sections: who wants them, and what may stand in one.

use http::{HeaderMap, header};

use super::from_clients;

/// Fields that mean something before the body or not at all (RFC 9110 §6.5.1): framing, routing, authentication,
/// conditions, control, and what says how the body is to be read. Without those of [`super::is_hop_by_hop`].
const FORBIDDEN: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "trailer",
    "vary",
    "via",
    "www-authenticate",
];

/// Whether a request says that its sender takes trailers (RFC 9110 §10.1.4).
pub(super) fn are_wanted(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',')
            .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// Takes out of a trailer section what may not stand in one, and what a client may not set at all: a server that
/// merges the section with the head must not learn from it what the head could not say.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let any = |_: &str| true;
    super::strip(trailers, any, |name| {
        super::is_hop_by_hop(name)
            || FORBIDDEN.binary_search(&name).is_ok()
            || from_clients::contains(name)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_head_may_not_stand_behind_the_body() {
        assert!(FORBIDDEN.is_sorted());
        let mut trailers = HeaderMap::new();
        for name in FORBIDDEN.iter().chain(&[
            "transfer-encoding",
            "te",
            "connection",
            "content_length",
            "opencmg-role",
            "x-forwarded-for",
            "client_cert",
        ]) {
            trailers.append(*name, header::HeaderValue::from_static("1"));
        }
        trailers.append("x-sum", header::HeaderValue::from_static("1"));
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
    }
}
