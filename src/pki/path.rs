//! Trust anchors and intermediates, and the paths that lead to them.

use rustls_pki_types::{CertificateDer, UnixTime};

use super::CertificateFault;
use crate::settings::Reader;

/// Whose certificates are verified: the label of metrics and logs. Both need client authentication as usage, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Certificates of clients.
    Client,
    /// Certificates of connection points.
    ConnectionPoint,
}

impl Usage {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::ConnectionPoint => "connection-point",
        }
    }
}

/// How many anchors and intermediates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Trust anchors.
    pub anchors: usize,
    /// Intermediates.
    pub intermediates: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            anchors: 2,       // what the original takes
            intermediates: 4, // what the original takes
        }
    }
}

impl Limits {
    /// The most that a setting allows: above it, a set of CAs is a mistake rather than a company.
    pub const MAX: Self = Self {
        anchors: 16,
        intermediates: 64,
    };

    /// Reads `max-anchors` and `max-intermediates`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let read = |key, default: usize, max: usize| {
            let value = reader.integer(key, default as u64, 1..=max as u64);
            usize::try_from(value).unwrap_or(default)
        };
        Self {
            anchors: read("max-anchors", default.anchors, Self::MAX.anchors),
            intermediates: read(
                "max-intermediates",
                default.intermediates,
                Self::MAX.intermediates,
            ),
        }
    }
}

/// Which CA names a server tells its clients, so that they choose a certificate that will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hints {
    /// None: the client chooses by itself.
    None,
    /// Every anchor and intermediate.
    All,
    /// Those anchors and intermediates with these subjects (RFC 4514 text, as messages print it).
    List(Vec<String>),
}

/// A set of trust anchors and intermediates. Immutable.
#[derive(Clone, Debug)]
pub struct Anchors {}

/// A verified path.
#[derive(Clone, Debug)]
pub struct Path {
    /// The leaf and its issuers, up to the one below the anchor.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The earliest end of validity in the path, its anchor among it.
    pub not_after: UnixTime,
}

impl Anchors {
    /// Builds a set from certificates.
    ///
    /// # Errors
    /// Every problem: more than the limits allow, a root among the intermediates, an intermediate among the anchors,
    /// a certificate that is not a CA's, no anchor at all.
    pub fn build(
        anchors: &[CertificateDer<'_>],
        intermediates: &[CertificateDer<'_>],
        limits: Limits,
    ) -> Result<Self, Vec<String>> {
        let _ = (anchors, intermediates, limits);
        unimplemented!("Anchors::build")
    }

    /// Verifies what a peer presented, leaf first, and builds its path with the help of the configured intermediates.
    ///
    /// # Errors
    /// The certificate at fault and the reason; `certificate-missing` if nothing was presented.
    pub fn verify(
        &self,
        presented: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<Path, CertificateFault> {
        let _ = (presented, usage, now);
        unimplemented!("Anchors::verify")
    }

    /// The names to tell clients, as DER.
    ///
    /// # Errors
    /// The names of the list that no anchor and no intermediate has.
    pub fn hints(&self, hints: &Hints) -> Result<Vec<Vec<u8>>, Vec<String>> {
        let _ = hints;
        unimplemented!("Anchors::hints")
    }
}
