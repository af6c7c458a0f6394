//! The label sets of the families: closed words where the set is closed, names of the configuration elsewhere.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use super::endpoint::StatusClass;
use crate::reason::Reason;

macro_rules! label_sets {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }
    )+};
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }
    )+};
}

label_sets! {
    /// One endpoint of a role.
    ByEndpoint {
        /// The role's id, or `none`.
        role: String,
        /// The endpoint's name, or `none`.
        endpoint: String,
    }
    /// One status class of an endpoint.
    ByStatus {
        /// The role's id, or `none`.
        role: String,
        /// The endpoint's name, or `none`.
        endpoint: String,
        /// The class of the status.
        status: StatusClass,
    }
    /// One reason of failure of an endpoint.
    ByFailure {
        /// The role's id, or `none`.
        role: String,
        /// The endpoint's name, or `none`.
        endpoint: String,
        /// Why.
        reason: Reason,
    }
    /// A role.
    ByRole {
        /// The role's id.
        role: String,
    }
    /// A reason.
    ByReason {
        /// Why.
        reason: Reason,
    }
    /// The outcome of a TLS handshake.
    ByHandshake {
        /// How it went.
        outcome: Handshake,
    }
    /// The outcome of looking at a client certificate.
    ByVerification {
        /// How it went.
        outcome: Verification,
    }
    /// A certificate of the configuration.
    ByCertificate {
        /// What it is for, for example `server`, `trust-anchor`, `connection-point`.
        r#use: String,
        /// Its name in the configuration, or its subject.
        name: String,
    }
    /// A CA and its key.
    ByIssuer {
        /// Its name.
        issuer: String,
        /// The begin of the hash of its name and key.
        key: String,
    }
    /// The outcome of fetching a CRL.
    ByFetch {
        /// How it went.
        outcome: Fetch,
    }
    /// The outcome of a reload.
    ByReload {
        /// How it went.
        outcome: Reload,
    }
    /// Who is at the other end of a tunnel.
    ByPeer {
        /// The connection point's name, or on a connection point the gateway's.
        peer: String,
    }
    /// The outcome of an attempt to open a tunnel.
    ByDial {
        /// How it went.
        outcome: Dial,
    }
}

words! {
    /// How a TLS handshake went.
    Handshake {
        /// With certificates.
        Full = "full",
        /// From a session kept.
        Resumed = "resumed",
        /// It failed.
        Failed = "failed",
    }
    /// How the look at a client certificate went.
    Verification {
        /// The chain was verified.
        Verified = "verified",
        /// The chain was known to this trust generation.
        Remembered = "remembered",
        /// The chain was refused.
        Refused = "refused",
        /// None was sent.
        Missing = "missing",
    }
    /// How fetching a CRL went.
    Fetch {
        /// Another list came.
        Changed = "changed",
        /// The one at hand still holds.
        Unchanged = "unchanged",
        /// None came that could be taken.
        Failed = "failed",
    }
    /// How a reload went.
    Reload {
        /// The new definition is in force.
        Applied = "applied",
        /// Nothing differed.
        Unchanged = "unchanged",
        /// It has faults; the old definition stays in force.
        Refused = "refused",
    }
    /// How an attempt to open a tunnel went.
    Dial {
        /// The tunnel is up.
        Up = "up",
        /// No connection, or no TLS.
        Unreachable = "unreachable",
        /// The gateway refused it.
        Refused = "refused",
    }
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for StatusClass {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl ByReason {
    /// The label of a reason.
    pub fn new(reason: Reason) -> Self {
        Self { reason }
    }
}

impl ByPeer {
    /// The label of a peer's name.
    pub fn new(name: &str) -> Self {
        Self {
            peer: name.to_owned(),
        }
    }
}

impl ByRole {
    /// The label of a role's id.
    pub fn new(role: impl ToString) -> Self {
        Self {
            role: role.to_string(),
        }
    }
}
