//! Versions and cipher suites.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::settings::Version;

/// The provider of everything cryptographic, X25519MLKEM768 among its key exchanges.
pub(super) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The IANA name of a suite.
fn name(suite: &SupportedCipherSuite) -> String {
    let name = format!("{:?}", suite.suite());
    // rustls writes TLS13_AES_128_GCM_SHA256 for what IANA calls TLS_AES_128_GCM_SHA256.
    match name.strip_prefix("TLS13_") {
        Some(rest) => format!("TLS_{rest}"),
        None => name,
    }
}

/// The provider with the named suites only, in their order; all of them if none is named.
pub(super) fn provider_with(suites: &[String]) -> Result<Arc<CryptoProvider>, Vec<String>> {
    let mut provider = provider();
    if suites.is_empty() {
        return Ok(Arc::new(provider));
    }
    let known = provider.cipher_suites.clone();
    let (mut chosen, mut problems) = (Vec::new(), Vec::new());
    for wanted in suites {
        match known.iter().find(|suite| name(suite) == *wanted) {
            Some(suite) => chosen.push(*suite),
            None => {
                let names: Vec<_> = known.iter().map(name).collect();
                problems.push(format!(
                    "the cipher suite \"{wanted}\" is unknown (one of {} is allowed)",
                    names.join(", ")
                ));
            }
        }
    }
    provider.cipher_suites = chosen;
    if problems.is_empty() {
        Ok(Arc::new(provider))
    } else {
        Err(problems)
    }
}

/// The versions of a range, each of which must have a suite.
pub(super) fn versions(
    min: Version,
    max: Version,
    provider: &CryptoProvider,
) -> Result<Vec<&'static SupportedProtocolVersion>, Vec<String>> {
    if min > max {
        return Err(vec![format!(
            "the lowest version {min} is above the highest, {max}"
        )]);
    }
    let range = Version::ALL
        .into_iter()
        .filter(|version| (min..=max).contains(version));
    let (mut versions, mut problems) = (Vec::new(), Vec::new());
    for version in range {
        let wanted = version.of_rustls();
        if provider
            .cipher_suites
            .iter()
            .any(|suite| suite.version() == wanted)
        {
            versions.push(wanted);
        } else {
            problems.push(format!("no cipher suite is given for {version}"));
        }
    }
    if problems.is_empty() {
        Ok(versions)
    } else {
        Err(problems)
    }
}

impl Version {
    const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    fn of_rustls(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls12 => &rustls::version::TLS12,
            Self::Tls13 => &rustls::version::TLS13,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}
