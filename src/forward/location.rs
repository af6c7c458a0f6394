//! URLs in answers: what points under a backend's base is mapped to its external form, what points elsewhere is found.

use crate::backend::BaseUrl;

/// The place of one request, inside and outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'r> {
    /// The backend's base.
    pub(super) base: &'r BaseUrl,
    /// The `Host` field sent to the backend, if it is not the base's own.
    pub(super) host: Option<&'r str>,
    /// The authority that the client asked for.
    pub(super) authority: &'r str,
    /// What stands before the endpoint outside; empty at the root of a host.
    pub(super) outside: &'r str,
    /// The request's path and query from the endpoint on.
    pub(super) rest: &'r str,
}

impl Place<'_> {
    /// The external form of a URL reference (RFC 3986 §4.1) in an answer, in the form it had: absolute stays absolute,
    /// a path stays a path. `None` if it points outside the base.
    pub(super) fn map(&self, reference: &str) -> Option<String> {
        if !reference.bytes().all(|byte| byte.is_ascii_graphic()) || reference.contains('\\') {
            return None;
        }
        if has_scheme(reference) {
            let rest = self.base.strip(reference, self.host)?;
            return Some(format!("https://{}{}", self.authority, self.under(rest)?));
        }
        if let Some(network) = reference.strip_prefix("//") {
            let scheme = if self.base.is_https() {
                "https"
            } else {
                "http"
            };
            let absolute = format!("{scheme}://{network}");
            let rest = self.base.strip(&absolute, self.host)?;
            return Some(format!("//{}{}", self.authority, self.under(rest)?));
        }
        if reference.starts_with('/') {
            return self.under(self.base.strip_path(reference)?);
        }
        // Relative to the request, whose path has the same shape on both sides.
        let path = self.rest.split('?').next().unwrap_or_default();
        let depth = path.matches('/').count().saturating_sub(1);
        stays_within(reference, depth).then(|| reference.to_owned())
    }

    fn under(&self, rest: &str) -> Option<String> {
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        stays_within(path.trim_start_matches('/'), 0).then(|| format!("{}{rest}", self.outside))
    }
}

/// Whether the dots of a relative path climb no higher than `depth` levels.
fn stays_within(reference: &str, depth: usize) -> bool {
    let path = reference.split(['?', '#']).next().unwrap_or_default();
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    let mut depth = depth;
    for segment in decoded.split(|byte| *byte == b'/') {
        match segment {
            b".." => match depth.checked_sub(1) {
                Some(higher) => depth = higher,
                None => return false,
            },
            b"." => {}
            _ => depth += 1,
        }
    }
    true
}

/// RFC 3986 §3.1.
fn has_scheme(reference: &str) -> bool {
    let Some(colon) = reference.find(':') else {
        return false;
    };
    let scheme = &reference[..colon];
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_in_result, reason = "tests may panic")]
mod tests {
    use super::*;

    fn map(base: &str, outside: &str, reference: &str) -> Option<String> {
        let base = BaseUrl::parse(base).unwrap();
        let place = Place {
            base: &base,
            host: None,
            authority: "gw.example:8443",
            outside,
            rest: "/SMS_MP/a/b?c",
        };
        place.map(reference)
    }

    #[test]
    fn what_points_under_the_base_gets_its_external_form() {
        let outside = "/CCM_Proxy_MutualAuth/5";
        let base = "http://mp.corp.example";
        for (reference, mapped) in [
            (
                "http://mp.corp.example/SMS_MP/x?y#z",
                "https://gw.example:8443/CCM_Proxy_MutualAuth/5/SMS_MP/x?y#z",
            ),
            (
                "HTTP://MP.corp.example:80/x",
                "https://gw.example:8443/CCM_Proxy_MutualAuth/5/x",
            ),
            (
                "//mp.corp.example/x",
                "//gw.example:8443/CCM_Proxy_MutualAuth/5/x",
            ),
            ("/SMS_MP/x", "/CCM_Proxy_MutualAuth/5/SMS_MP/x"),
            ("x", "x"),
            ("../x", "../x"),
            ("?q", "?q"),
        ] {
            assert_eq!(
                map(base, outside, reference).as_deref(),
                Some(mapped),
                "{reference}"
            );
        }
        let root = map(base, "", "http://mp.corp.example/SMS_MP/x");
        assert_eq!(root.as_deref(), Some("https://gw.example:8443/SMS_MP/x"));
        let prefixed = map("http://mp.corp.example/base", outside, "/base/x");
        assert_eq!(prefixed.as_deref(), Some("/CCM_Proxy_MutualAuth/5/x"));
    }

    #[test]
    fn what_points_elsewhere_is_found() {
        for reference in [
            "https://mp.corp.example/SMS_MP/x",
            "http://mp.corp.example:8080/x",
            "http://other.corp.example/x",
            "http://mp.corp.example.evil.test/x",
            "http://mp.corp.example@evil.test/x",
            "//other/x",
            "/\\other/x",
            "/../x",
            "/a/%2e%2e/../x",
            "../../../../x",
            "javascript:alert(1)",
            "http://",
            "a b",
        ] {
            let outside = "/CCM_Proxy_MutualAuth/5";
            assert_eq!(
                map("http://mp.corp.example", outside, reference),
                None,
                "{reference}"
            );
        }
        let outside = "/CCM_Proxy_MutualAuth/5";
        assert_eq!(
            map("http://mp.corp.example/base", outside, "/other/x"),
            None
        );
    }
}
