//! What is fetched, and within which limits.

use std::path::PathBuf;
use std::time::Duration;

use crate::fetch::{Limits, Url};
use crate::settings::Reader;
use crate::units::Network;

const SECOND: Duration = Duration::from_secs(1);

/// What belongs to one process: where lists are kept over restarts, and the way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// The folder in which lists are kept; none are without it.
    pub cache: Option<PathBuf>,
    /// The HTTP proxy that they are fetched through.
    pub proxy: Option<Url>,
}

impl Local {
    /// Reads `crl-cache` and `crl-proxy`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let proxy = "the URL of an HTTP proxy such as \"http://proxy.contoso.com:3128\"";
        Self {
            cache: reader.optional_path("crl-cache"),
            proxy: match reader.has("crl-proxy") {
                true => reader.parsed("crl-proxy", proxy, |text| Url::parse(text).ok()),
                false => {
                    reader.optional_text("crl-proxy");
                    None
                }
            },
        }
    }
}

/// What all instances of a service share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether anything is fetched at all.
    pub on: bool,
    /// URLs of lists of the configured CAs.
    pub urls: Vec<String>,
    /// Whether the distribution points of certificates are followed.
    pub discover: bool,
    /// How long a client's first request may wait for a list that is fetched for the first time.
    pub hold: Duration,
    /// The longest time between two looks at a list that is not stale.
    pub refresh: Duration,
    /// The limits of a fetch; the proxy is the process's own.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            on: true,
            urls: Vec::new(),
            discover: true,
            hold: 5 * SECOND, // what a person waits for, and every client's time-out allows
            refresh: 4 * 3600 * SECOND, // a look costs one small request; a revocation in haste is seen the same day
            limits: Limits::default(),
        }
    }
}

impl Settings {
    /// Nothing is fetched.
    pub fn off() -> Self {
        Self {
            on: false,
            ..Self::default()
        }
    }

    /// Whether anything is fetched.
    pub(super) fn fetches(&self) -> bool {
        self.on
    }

    /// Reads `urls`, `discover`, `hold`, `refresh`, `fetch-timeout`, `max-size` and `allow-addresses`; `on` says whether
    /// CRLs are looked at.
    pub fn read(reader: &Reader<'_>, on: bool) -> Self {
        let default = Self::default();
        let url = |text: &str| Url::parse(text).ok().map(|_| text.to_owned());
        Self {
            on,
            urls: reader.parsed_list(
                "urls",
                "a URL of plain HTTP such as \"http://crl.contoso.com/ca.crl\"",
                url,
            ),
            discover: reader.boolean("discover", default.discover),
            hold: reader.duration("hold", default.hold, Duration::ZERO..=30 * SECOND),
            refresh: reader.duration(
                "refresh",
                default.refresh,
                60 * SECOND..=7 * 86_400 * SECOND,
            ),
            limits: Limits {
                timeout: reader.duration(
                    "fetch-timeout",
                    default.limits.timeout,
                    SECOND..=600 * SECOND,
                ),
                max_bytes: reader.size("max-size", default.limits.max_bytes, 1024..=1 << 30),
                allow: reader.parsed_list(
                    "allow-addresses",
                    "an address or a network such as \"10.0.0.0/8\"",
                    Network::parse,
                ),
                proxy: None,
            },
        }
    }
}
