//! The key pairs of one server name, and the choice among them.

use std::sync::Arc;

use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::pki::{Certificate, KeyKind, KeyPair};

/// The key pairs of a name, ECDSA before RSA: half the bytes, and a tenth of the work to sign.
#[derive(Debug)]
pub(super) struct Keys(Vec<Arc<CertifiedKey>>);

impl Keys {
    /// Builds them; `Err` holds every problem.
    pub(super) fn build(
        pairs: &[KeyPair],
        provider: &CryptoProvider,
    ) -> Result<(Self, Vec<Certificate>), Vec<String>> {
        let mut problems = Vec::new();
        let (mut keys, mut leaves) = (Vec::new(), Vec::new());
        for pair in pairs {
            match build_one(pair, provider) {
                Ok((key, leaf)) => {
                    keys.push(Arc::new(key));
                    leaves.push(leaf);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if pairs.is_empty() {
            problems.push("no certificate is given".to_owned());
        }
        let kinds =
            |is_it: fn(KeyKind) -> bool| leaves.iter().filter(|leaf| is_it(leaf.key)).count();
        if kinds(|kind| matches!(kind, KeyKind::Rsa(_))) > 1 {
            problems.push(
                "several certificates have an RSA key (one for each kind of key is allowed)"
                    .to_owned(),
            );
        }
        if kinds(|kind| matches!(kind, KeyKind::Ecdsa(_))) > 1 {
            problems.push(
                "several certificates have an ECDSA key (one for each kind of key is allowed)"
                    .to_owned(),
            );
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
        Ok((Self(keys), leaves))
    }
}

fn build_one(
    pair: &KeyPair,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Certificate), String> {
    let leaf = pair.leaf().map_err(|error| error.to_string())?;
    if !pair.key_matches() {
        return Err(format!(
            "the private key does not belong to the certificate {}",
            leaf.title()
        ));
    }
    let key = CertifiedKey::from_der(pair.chain.clone(), pair.key.clone_key(), provider)
        .map_err(|error| format!("the certificate {} cannot be served: {error}", leaf.title()))?;
    Ok((key, leaf))
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered = hello.signature_schemes();
        let fits = self
            .0
            .iter()
            .find(|key| key.key.choose_scheme(offered).is_some());
        // If none fits, the handshake fails for that reason rather than for want of a certificate.
        fits.or_else(|| self.0.last()).cloned()
    }
}
