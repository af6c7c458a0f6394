//! The names that a client may not send: ours, and those by which other proxies tell a server behind them who the
//! client is and what it asked for.
//!
//! A server inside believes such a field because only its proxy can reach it, and we are that proxy. A field that
//! changes the method would also pass by the methods that an endpoint allows.

/// In lower case, with `-` for all that is neither letter nor digit; a trailing `*` stands for any ending, also for none.
pub(super) const NAMES: &[&str] = &[
    "cf-*", // Cloudflare: address, country, user and certificate of the client
    "client-cert*",
    "client-ip",
    "fastly-*",
    "forwarded*",      // RFC 7239, and `Forwarded-For`
    "front-end-https", // ISA and TMG in front of IIS
    "opencmg-*",       // between gateway and connection point
    "proxy",           // becomes HTTP_PROXY in a CGI program (CVE-2016-5385 and others)
    "proxy-client-*",  // WebLogic
    "proxy-status",    // RFC 9209
    "remote-*",        // becomes REMOTE_USER and REMOTE_ADDR where CGI's names are read loosely
    "ssl-client-*",    // nginx, Apache
    "true-client-ip",  // Akamai
    "wl-proxy-*",      // WebLogic: address and certificate
    "x-amzn-mtls-*",   // certificate, from AWS' load balancer
    "x-amzn-oidc-*",   // user, from AWS' load balancer
    "x-appengine-*",
    "x-arr-*",          // IIS' own proxy: certificate and TLS
    "x-auth-request-*", // oauth2-proxy: user
    "x-azure-*",        // Front Door: address
    "x-client-cert*",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-*", // Envoy: address, path, deadline
    "x-forwarded*",
    "x-goog-authenticated-*",
    "x-goog-iap-*",
    "x-host",
    "x-http-method*", // and `X-HTTP-Method-Override`
    "x-method-override",
    "x-ms-client-principal*", // user, from Azure's application hosting
    "x-original-*",           // URL, URI, host, method: IIS, nginx
    "x-originating-ip",
    "x-real-ip",
    "x-remote-*", // user, groups, address
    "x-request-id",
    "x-rewrite-url", // IIS
    "x-scheme",
    "x-ssl-*", // HAProxy: certificate
    "x-tls-*",
    "x-url-scheme",
];

/// Whether a name, written as those of the list, is one that no client may send.
pub(super) fn contains(name: &str) -> bool {
    // What a request holds mostly begins otherwise: few of the list, or none, are compared.
    let first = |name: &str| name.as_bytes().first().copied();
    let letter = first(name);
    let from = NAMES.partition_point(|pattern| first(pattern) < letter);
    let same = NAMES[from..].iter();
    same.take_while(|pattern| first(pattern) == letter)
        .any(|pattern| matches(name, pattern))
}

fn matches(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_list_is_found_and_few_others_are() {
        for pattern in NAMES {
            let names = match pattern.strip_suffix('*') {
                Some(stem) => vec![stem.to_owned(), format!("{stem}z"), format!("{stem}-z")],
                None => vec![(*pattern).to_owned()],
            };
            for name in names {
                assert!(contains(&name), "{name}");
            }
            if !pattern.ends_with('*') {
                assert!(!contains(&format!("{pattern}z")), "{pattern}z");
            }
            assert!(!contains(&pattern[..pattern.len() - 2]), "{pattern}");
        }
    }

    #[test]
    fn the_list_is_in_order_and_fit_to_be_compared() {
        assert!(NAMES.is_sorted());
        for pattern in NAMES {
            let stem = pattern.strip_suffix('*').unwrap_or(pattern);
            let fit = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(stem.bytes().all(fit) && !stem.starts_with('-'), "{pattern}");
        }
    }
}
