//! Versions and cipher suites.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, Tls13CipherSuite};

use super::hkdf;
use super::settings::Version;

/// The suites of TLS 1.3, in the provider's order, with our key schedule.
static TLS13: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let suites = aws_lc_rs::DEFAULT_CIPHER_SUITES.iter();
    suites
        .filter_map(|suite| hkdf::with_keys_hashed_once(suite.tls13()?))
        .collect()
});

/// The provider of everything cryptographic, X25519MLKEM768 among its key exchanges.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        let name = suite.suite();
        if let Some(ours) = TLS13.iter().find(|ours| ours.common.suite == name) {
            *suite = SupportedCipherSuite::Tls13(ours);
        }
    }
    provider
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_tls13_has_our_key_schedule() {
        let suites = provider().cipher_suites;
        let of_tls13: Vec<_> = suites
            .iter()
            .filter_map(SupportedCipherSuite::tls13)
            .collect();
        assert_eq!(of_tls13.len(), 3);
        let ours = |suite: &Tls13CipherSuite| TLS13.iter().any(|ours| std::ptr::eq(ours, suite));
        assert!(of_tls13.into_iter().all(ours));
        assert_eq!(suites.len(), aws_lc_rs::DEFAULT_CIPHER_SUITES.len());
    }
}
