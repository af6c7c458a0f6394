//! The key schedule of TLS 1.3 with keys that are hashed once.
//!
//! HMAC hashes its key twice, as what is signed (RFC 2104 §2). Most secrets of a handshake are keys of several HMACs
//! (RFC 8446 §7.1). The provider's HKDF hashes a key again for each of them, and extracts it again where it was extracted:
//! it hashes 225 blocks of SHA-256 in a resumed handshake for which 112 are hashed here.

use std::marker::PhantomData;

use hmac::{KeyInit, Mac};
use rustls::crypto::hash::HashAlgorithm;
use rustls::crypto::hmac::{Hmac, Key, Tag};
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::{CipherSuiteCommon, Tls13CipherSuite};
use sha2::{Sha256, Sha384};

static OF_SHA256: HkdfUsingHmac<'_> = HkdfUsingHmac(&Keyed::<hmac::Hmac<Sha256>>(PhantomData));
static OF_SHA384: HkdfUsingHmac<'_> = HkdfUsingHmac(&Keyed::<hmac::Hmac<Sha384>>(PhantomData));

/// The same suite with this key schedule; `None` if there is none for its hash.
pub(super) fn with_keys_hashed_once(suite: &Tls13CipherSuite) -> Option<Tls13CipherSuite> {
    let hash_provider = suite.common.hash_provider;
    let mut known = [
        (HashAlgorithm::SHA256, &OF_SHA256),
        (HashAlgorithm::SHA384, &OF_SHA384),
    ]
    .into_iter();
    let (_, hkdf) = known.find(|(hash, _)| *hash == hash_provider.algorithm())?;
    Some(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: hkdf,
        aead_alg: suite.aead_alg,
        quic: None,
    })
}

/// HMAC of one hash.
struct Keyed<M>(PhantomData<M>);

impl<M: Mac + KeyInit + Clone + Send + Sync + 'static> Hmac for Keyed<M> {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        let Ok(hashed) = <M as KeyInit>::new_from_slice(key) else {
            unreachable!("a key of HMAC has any length (RFC 2104 §3)");
        };
        Box::new(Hashed(hashed))
    }

    fn hash_output_len(&self) -> usize {
        M::output_size()
    }
}

/// A key that was hashed.
struct Hashed<M>(M);

impl<M: Mac + Clone + Send + Sync> Key for Hashed<M> {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut signing = self.0.clone();
        signing.update(first);
        for part in middle {
            signing.update(part);
        }
        signing.update(last);
        Tag::new(&signing.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        M::output_size()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs;
    use rustls::crypto::tls13::{Hkdf, OkmBlock};

    use super::*;

    /// What a handshake makes of it: with and without a salt, short, of a block and of several, and signed.
    fn schedule(hkdf: &dyn Hkdf) -> Vec<Vec<u8>> {
        let early = hkdf.extract_from_zero_ikm(None);
        let salt = early.expand_block(&[b"derived"]);
        let handshake = hkdf.extract_from_secret(Some(salt.as_ref()), b"shared");
        let traffic = handshake.expand_block(&[b"c hs ", b"", b"traffic"]);
        let finished = hkdf.expander_for_okm(&traffic);
        let mut made = vec![salt.as_ref().to_vec(), traffic.as_ref().to_vec()];
        for length in [12, finished.hash_len(), 3 * finished.hash_len() + 1] {
            let mut key = vec![0; length];
            finished.expand_slice(&[b"key"], &mut key).unwrap();
            made.push(key);
        }
        let long = OkmBlock::new(&[7; 64]);
        for key in [&traffic, &long] {
            made.push(hkdf.hmac_sign(key, &[9; 300]).as_ref().to_vec());
        }
        made
    }

    #[test]
    fn each_suite_has_the_key_schedule_of_the_provider() {
        let theirs = aws_lc_rs::DEFAULT_CIPHER_SUITES.iter();
        let theirs: Vec<_> = theirs.filter_map(|suite| suite.tls13()).collect();
        assert_eq!(theirs.len(), 3);
        for suite in theirs {
            let ours = with_keys_hashed_once(suite).unwrap();
            assert_eq!(ours.common.suite, suite.common.suite);
            assert_eq!(schedule(ours.hkdf_provider), schedule(suite.hkdf_provider));
            let mut too_much = vec![0; 256 * 48];
            let okm = OkmBlock::new(&[1; 32]);
            let expander = ours.hkdf_provider.expander_for_okm(&okm);
            assert!(expander.expand_slice(&[], &mut too_much).is_err());
        }
    }
}
