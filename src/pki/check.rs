//! Whether a server certificate is fit to be served, before a client finds out that it is not.

use rustls_pki_types::UnixTime;

use super::KeyPair;

/// Checks a server certificate as a client would: dates, usage, name, key, and that the chain holds together.
///
/// Returns every problem, each a sentence for an administrator that names the certificate; nothing if all is well.
/// `name` is the host name that clients use; without it the names are not checked.
pub fn check_server_certificate(pair: &KeyPair, name: Option<&str>, now: UnixTime) -> Vec<String> {
    let _ = (pair, name, now);
    unimplemented!("check_server_certificate")
}
