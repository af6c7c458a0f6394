//! What is asked of the revocation status of a path.

use std::time::Duration;

use crate::settings::Reader;

/// Which certificates of a path are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The leaf.
    Leaf,
    /// Every certificate but the trust anchor.
    Chain,
}

/// What becomes of a certificate whose status is not certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It counts as revoked.
    Deny,
    /// It counts as good.
    Allow,
    /// It counts as good for the time of the grace.
    Grace,
}

impl Doubt {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("deny", Self::Deny),
        ("allow", Self::Allow),
        ("grace", Self::Grace),
    ];
}

/// What is asked of a client's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether CRLs are looked at.
    pub check: bool,
    /// Which certificates are looked up.
    pub depth: Depth,
    /// What becomes of a certificate of which no CRL speaks; a grace runs from the first time that one was missing.
    pub unknown: Doubt,
    /// What becomes of a certificate of which only a CRL speaks that should have been followed by another; a grace runs from
    /// the time at which it should.
    pub stale: Doubt,
    /// How long.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            check: true,
            depth: Depth::Chain,
            unknown: Doubt::Deny,
            stale: Doubt::Grace,
            grace: Duration::from_secs(24 * 3600), // an administrator's weekday, to mend what publishes the CRLs
        }
    }
}

impl Policy {
    /// Reads `check`, `depth`, `unknown`, `stale` and `grace`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let depths = [("leaf", Depth::Leaf), ("chain", Depth::Chain)];
        Self {
            check: reader.boolean("check", default.check),
            depth: reader.choice("depth", &depths, default.depth),
            unknown: reader.choice("unknown", Doubt::WORDS, default.unknown),
            stale: reader.choice("stale", Doubt::WORDS, default.stale),
            grace: reader.duration(
                "grace",
                default.grace,
                Duration::from_secs(60)..=Duration::from_secs(90 * 86_400),
            ),
        }
    }
}
