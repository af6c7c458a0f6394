//! The internal base URL of a backend: scheme, host, port and path prefix, parsed once.

use std::fmt;
use std::net::IpAddr;

/// Where a backend is: `http[s]://host[:port][/prefix]`, without user, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    https: bool,
    host: String,
    port: u16,
    prefix: String,
}

impl BaseUrl {
    /// Parses a base URL; a trailing slash of the prefix is dropped, an IPv6 host is in brackets.
    ///
    /// Returns `None` for any other scheme, for a user, query or fragment, and for a prefix that is not plain
    /// ASCII path characters (letters, digits, `-._~/`).
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, prefix) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (host, port) = split_authority(authority)?;
        let port = port.unwrap_or(if https { 443 } else { 80 });
        let prefix = prefix.trim_end_matches('/');
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
        let dots = |segment: &str| segment == "." || segment == "..";
        if !prefix.bytes().all(plain) || prefix.contains("//") || prefix.split('/').any(dots) {
            return None;
        }
        Some(Self {
            https,
            host: host.to_ascii_lowercase(),
            port,
            prefix: prefix.to_owned(),
        })
    }

    /// Whether the scheme is https.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host name in lower case, or the address; without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, the scheme's own when the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path prefix: empty, or with a leading and without a trailing slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The `Host` field (RFC 9110 §7.2): the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == if self.https { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// What follows this base in an absolute URL, if that lies under it: empty, or `/…`, or `?…`.
    ///
    /// Scheme and host are compared without regard to case, the port by number, the prefix by whole segments
    /// without regard to case. A host of `also_host` counts as the base's own.
    pub fn strip<'u>(&self, url: &'u str, also_host: Option<&str>) -> Option<&'u str> {
        let (scheme, rest) = url.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = split_authority(authority)?;
        let own = host.eq_ignore_ascii_case(&self.host);
        let other = || {
            let (also, _) = split_authority(also_host?)?;
            Some(host.eq_ignore_ascii_case(also))
        };
        let port = port.unwrap_or(if https { 443 } else { 80 });
        let here = (own || other() == Some(true)) && https == self.https && port == self.port;
        if here { self.strip_path(path) } else { None }
    }

    /// What follows this base's prefix in an absolute path, if that lies under it.
    pub fn strip_path<'u>(&self, path: &'u str) -> Option<&'u str> {
        let head = path.get(..self.prefix.len())?;
        let rest = path.get(self.prefix.len()..)?;
        let whole = rest.is_empty() || rest.starts_with(['/', '?', '#']);
        (head.eq_ignore_ascii_case(&self.prefix) && whole).then_some(rest)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, after)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        let (host, after) = authority.split_at(end);
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if host.is_empty() || !host.bytes().all(name) {
            return None;
        }
        (host, after)
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        None => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|port| *port != 0)?;
            Some((host, Some(port)))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_has_scheme_host_port_and_prefix_only() {
        let base = BaseUrl::parse("https://MP.corp.example:8443/base/").unwrap();
        assert_eq!(base.to_string(), "https://mp.corp.example:8443/base");
        assert_eq!((base.host(), base.port()), ("mp.corp.example", 8443));
        let base = BaseUrl::parse("http://[::1]/").unwrap();
        assert_eq!((base.host(), base.port(), base.prefix()), ("::1", 80, ""));
        assert_eq!(base.authority(), "[::1]");
        for text in [
            "mp.corp.example",
            "ftp://mp",
            "http://",
            "http://user@mp/",
            "http://mp?x",
            "http://mp/a?x",
            "http://mp:0",
            "http://mp:x",
            "http://mp:99999",
            "http://mp/a/../b",
            "http://mp//a",
            "http://m p",
            "http://mp:80:80",
        ] {
            assert_eq!(BaseUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_url_lies_under_a_base_by_scheme_host_port_and_whole_segments() {
        let base = BaseUrl::parse("https://mp.corp.example/base").unwrap();
        let under = |url| base.strip(url, Some("alias.corp.example"));
        assert_eq!(under("https://MP.corp.example/Base/x?y"), Some("/x?y"));
        assert_eq!(under("https://mp.corp.example:443/base"), Some(""));
        assert_eq!(under("https://alias.corp.example/base/x"), Some("/x"));
        for url in [
            "http://mp.corp.example/base/x",
            "https://mp.corp.example:444/base/x",
            "https://mp.corp.example.evil.test/base/x",
            "https://mp.corp.example@evil.test/base/x",
            "https://mp.corp.example/basement",
            "https://mp.corp.example/",
            "//mp.corp.example/base/x",
        ] {
            assert_eq!(under(url), None, "{url}");
        }
    }
}
