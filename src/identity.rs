//! Who a peer is, by its verified certificate, and for how long that holds.
//!
//! [`Trust`] verifies chains against one immutable generation of anchors, intermediates and CRLs and keeps an index of live connections, so
//! that a new generation, or a chain that ends, closes those that stopped verifying. Nothing above this module sees a
//! type of X.509. Rank 4.

mod connections;
mod generation;
mod live;
mod trust;

pub use live::Live;
pub use trust::{Settings, Trust};

use std::sync::Arc;

use bytes::Bytes;

use crate::message::headers::ClientCertFields;
use crate::pki::{Certificate, CertificateFault};

/// A verified peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The first DNS name in lower case, else the common name, else the subject.
    pub name: String,
    /// The subject, RFC 4514 text.
    pub subject: String,
    /// The issuer, RFC 4514 text.
    pub issuer: String,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// The SHA-256 fingerprint of the leaf, lower-case hexadecimal.
    pub fingerprint: String,
    /// The leaf as DER.
    pub leaf: Bytes,
    /// The validated path as DER: the leaf and its issuers, up to the one below the anchor.
    pub chain: Vec<Bytes>,
    /// What backends may be told of it; shared by all its connections, since it is made once only.
    pub fields: ClientCertFields,
}

impl Identity {
    /// `chain` is the path's certificates.
    fn of(leaf: &Certificate, chain: Vec<Bytes>) -> Self {
        let name = match (leaf.dns_names.first(), &leaf.common_name) {
            (Some(name), _) => name.to_ascii_lowercase(),
            (None, Some(name)) => name.clone(),
            (None, None) => leaf.subject.clone(),
        };
        Self {
            name,
            subject: leaf.subject.clone(),
            issuer: leaf.issuer.clone(),
            serial: leaf.serial.clone(),
            fingerprint: leaf.fingerprint.clone(),
            leaf: chain.first().cloned().unwrap_or_default(),
            fields: ClientCertFields::new(leaf.subject.clone(), chain.clone()),
            chain,
        }
    }
}

/// What a connection's client certificate is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// None was presented.
    Missing,
    /// It was verified.
    Verified(Arc<Identity>),
    /// It was presented and does not verify: it counts as none, and the fault says why.
    Refused(CertificateFault),
}
