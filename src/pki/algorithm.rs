//! The algorithms of certificates: what they are called, and which keys are strong enough to be verified with.

use std::fmt;

use x509_parser::x509::AlgorithmIdentifier;

use super::{Certificate, KeyKind};

/// The shortest and the longest RSA key that signatures are verified with, in bits.
pub(super) const RSA_BITS: (usize, usize) = (2048, 8192);

/// Signature algorithms by their object identifiers; the first [`VERIFIED`] of them are verified.
const SIGNATURES: &[(&str, &str)] = &[
    ("1.2.840.113549.1.1.10", "RSA-PSS"),
    ("1.2.840.113549.1.1.11", "SHA-256 with RSA"),
    ("1.2.840.113549.1.1.12", "SHA-384 with RSA"),
    ("1.2.840.113549.1.1.13", "SHA-512 with RSA"),
    ("1.2.840.10045.4.3.2", "SHA-256 with ECDSA"),
    ("1.2.840.10045.4.3.3", "SHA-384 with ECDSA"),
    ("1.2.840.10045.4.3.4", "SHA-512 with ECDSA"),
    ("1.3.101.112", "Ed25519"),
    ("1.2.840.113549.1.1.2", "MD2 with RSA"),
    ("1.2.840.113549.1.1.4", "MD5 with RSA"),
    ("1.2.840.113549.1.1.5", "SHA-1 with RSA"),
    ("1.3.14.3.2.29", "SHA-1 with RSA"),
    ("1.2.840.10040.4.3", "SHA-1 with DSA"),
    ("1.2.840.10045.4.1", "SHA-1 with ECDSA"),
    ("1.3.101.113", "Ed448"),
];

const VERIFIED: usize = 8;

/// What a signature algorithm is called; its object identifier if it has no name here.
pub(super) fn signature_name(algorithm: &AlgorithmIdentifier<'_>) -> String {
    let dotted = algorithm.algorithm.to_id_string();
    let known = SIGNATURES.iter().find(|(oid, _)| *oid == dotted);
    known.map_or(dotted, |(_, name)| (*name).to_owned())
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA of {bits} bits"),
            // Its field has no whole number of bytes.
            Self::Ecdsa(528) => f.write_str("ECDSA P-521"),
            Self::Ecdsa(bits) => write!(f, "ECDSA P-{bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other => f.write_str("of another kind"),
        }
    }
}

impl Certificate {
    /// Whether its signature is of a kind that is verified.
    pub(super) fn is_verifiable(&self) -> bool {
        let mut verified = SIGNATURES[..VERIFIED].iter();
        verified.any(|(_, name)| *name == self.signature)
    }

    /// Why nothing can be verified with its public key, as the end of a sentence that begins with the certificate;
    /// `None` if kind and strength are no obstacle.
    pub(super) fn weakness(&self) -> Option<String> {
        let (shortest, longest) = RSA_BITS;
        match self.key {
            KeyKind::Rsa(bits) if !(shortest..=longest).contains(&bits) => Some(format!(
                "has an RSA key of {bits} bits ({shortest} to {longest} are allowed)"
            )),
            KeyKind::Other => {
                let allowed = "RSA, ECDSA P-256, P-384 and P-521, and Ed25519 are";
                Some(format!(
                    "has a key of a kind that is not accepted ({allowed})"
                ))
            }
            KeyKind::Rsa(_) | KeyKind::Ecdsa(_) | KeyKind::Ed25519 => None,
        }
    }
}
