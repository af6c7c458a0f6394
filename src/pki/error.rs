//! What can be wrong with a file of certificates or keys.

/// Why certificates or a key could not be read or made. The text is meant for an administrator.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The password does not open the PFX file.
    #[error("wrong password")]
    WrongPassword,
    /// A password is needed, for a key that is encrypted in its PEM file.
    #[error(
        "the private key is encrypted (a PFX file with a password, or a PEM key without one, is allowed)"
    )]
    EncryptedKey,
    /// There is no private key.
    #[error("no private key is in the file")]
    NoKey,
    /// There is more than one private key.
    #[error("{0} private keys are in the file (exactly one is allowed)")]
    SeveralKeys(usize),
    /// The private key is of a kind that cannot be used.
    #[error(
        "the private key cannot be used: {0} (RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or P-521 and Ed25519 are allowed)"
    )]
    UnusableKey(String),
    /// There is no certificate.
    #[error("no certificate is in the file")]
    NoCertificate,
    /// No certificate of the file belongs to the private key.
    #[error("the private key does not belong to the certificate {0}")]
    KeyMismatch(String),
    /// The bytes are not what they should be.
    #[error("{what} cannot be read: {detail}")]
    Malformed {
        /// What was read: a certificate, a PEM file, a PFX file, a certificate request.
        what: &'static str,
        /// What the parser says.
        detail: String,
    },
    /// Something asked for cannot be done with what was given.
    #[error("{0}")]
    Unfit(String),
}

impl PkiError {
    pub(super) fn malformed(what: &'static str, detail: impl ToString) -> Self {
        Self::Malformed {
            what,
            detail: detail.to_string(),
        }
    }
}
