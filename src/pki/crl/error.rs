//! What can be wrong with a certificate revocation list.

/// Why a list is not taken: the end of a sentence that begins with its file or address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// There is nothing.
    #[error("is empty (a CRL as DER or PEM is needed)")]
    Empty,
    /// A server's error page, mostly.
    #[error("is a web page, not a CRL (a CRL as DER or PEM is needed)")]
    Html,
    /// Something else.
    #[error("is not a CRL (a CRL as DER or PEM is needed)")]
    NotACrl,
    /// A certificate.
    #[error("is a certificate, not a CRL (a CRL as DER or PEM is needed)")]
    Certificate,
    /// More lists than belong together.
    #[error("holds more than {0} different CRLs (a file of fewer is needed)")]
    TooMany(usize),
    /// It ends too early.
    #[error("is cut off: it takes {expected} bytes and has {found}")]
    Truncated {
        /// What its first bytes announce.
        expected: usize,
        /// What there is.
        found: usize,
    },
    /// It breaks a rule of RFC 5280.
    #[error("is not a well-formed CRL: {0}")]
    Malformed(String),
    /// A CA made it that is not known here.
    #[error(
        "is a CRL of \"{0}\", which is no trust anchor or intermediate here (list the CA's certificate among them)"
    )]
    UnknownIssuer(String),
    /// Another key signed it.
    #[error("was not signed with the key of \"{0}\", which it names as its issuer")]
    Signature(String),
    /// The CA's certificate does not allow it.
    #[error(
        "is a CRL of \"{0}\", whose certificate may not sign CRLs: its key usage does not name cRLSign"
    )]
    MayNotSign(String),
    /// Its algorithm is too weak, or unknown.
    #[error(
        "is a CRL of \"{0}\" with a signature of a kind that is not accepted (RSA or ECDSA with SHA-256, SHA-384 or SHA-512 is allowed)"
    )]
    Algorithm(String),
    /// A delta list.
    #[error("is a delta CRL, which says only what changed: skipped (the base CRL is needed)")]
    Delta,
    /// An indirect list.
    #[error("is an indirect CRL, which speaks of other issuers' certificates: skipped")]
    Indirect,
    /// A list of some reasons, of attribute certificates, or of a point that is named relatively.
    #[error("is a partial CRL ({0}): skipped")]
    Partial(&'static str),
}

impl CrlError {
    /// Whether the list is sound, as far as it was looked at, and of a kind that is passed over.
    pub fn is_skipped(&self) -> bool {
        match self {
            Self::Delta | Self::Indirect | Self::Partial(_) => true,
            Self::Empty
            | Self::Html
            | Self::NotACrl
            | Self::Certificate
            | Self::TooMany(_)
            | Self::Truncated { .. }
            | Self::Malformed(_)
            | Self::UnknownIssuer(_)
            | Self::Signature(_)
            | Self::MayNotSign(_)
            | Self::Algorithm(_) => false,
        }
    }
}
