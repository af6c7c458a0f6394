//! Which certificate of a chain failed, and why.

use std::fmt;

use crate::reason::Reason;

/// Why a chain was not accepted: which of its certificates is at fault, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFault {
    /// The stable code, one of the `certificate-…` reasons.
    pub reason: Reason,
    /// The subject of the certificate at fault.
    pub which: String,
    /// What is wrong with it, in words for the log.
    pub detail: String,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: certificate \"{}\" {}",
            self.reason, self.which, self.detail
        )
    }
}
