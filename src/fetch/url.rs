//! URLs of plain HTTP, and what a redirect makes of them.

use std::fmt;

use http::Uri;

use super::FetchError;

/// A URL of plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`FetchError::Url`] if it is of another scheme, has no host, or names a user.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let wrong = |what: &str| FetchError::Url(text.to_owned(), what.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => {}
            Some(_) => return Err(wrong("its scheme is not http")),
            None => return Err(wrong("it has no scheme")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it names a user"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(80),
            path: path.to_owned(),
        })
    }

    /// What a redirect from here means.
    pub(super) fn follow(&self, location: &str) -> Result<Self, FetchError> {
        let has_scheme = location.split_once(':').is_some_and(|(scheme, _)| {
            scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        if has_scheme {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("http://{rest}"));
        }
        let origin = format!("http://{}", self.authority());
        if location.starts_with('/') {
            return Self::parse(&format!("{origin}{location}"));
        }
        let path = self.path.split('?').next().unwrap_or_default();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        Self::parse(&format!("{origin}{folder}/{location}"))
    }

    /// Host and port as the Host field has them.
    pub(super) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            80 => host,
            port => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_plain_http_or_named_for_what_it_is() {
        let url = Url::parse("http://crl.test/a/b.crl?x").unwrap();
        assert_eq!(url.to_string(), "http://crl.test/a/b.crl?x");
        assert_eq!(
            Url::parse("HTTP://[::1]:8080").unwrap().to_string(),
            "http://[::1]:8080/"
        );
        for (wrong, what) in [
            ("https://crl.test/a", "scheme is not http"),
            ("file:///etc/passwd", ""),
            ("ldap:///cn=x", ""),
            ("http://user@crl.test/", "names a user"),
            ("crl.test/a", "no URL"),
            ("/a", "has no scheme"),
            ("", "no URL"),
        ] {
            let error = Url::parse(wrong).unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains("is allowed"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_redirect_is_followed_as_its_form_says() {
        let from = Url::parse("http://crl.test:81/a/b.crl").unwrap();
        for (location, to) in [
            ("http://other.test/x", "http://other.test/x"),
            ("//other.test/x", "http://other.test/x"),
            ("/x", "http://crl.test:81/x"),
            ("c.crl", "http://crl.test:81/a/c.crl"),
        ] {
            assert_eq!(from.follow(location).unwrap().to_string(), to);
        }
        for elsewhere in ["file:///etc/passwd", "https://crl.test/", "gopher://x/"] {
            from.follow(elsewhere).unwrap_err();
        }
    }
}
