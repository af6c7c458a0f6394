//! Why something cannot be fetched.

use std::collections::TryReserveError;
use std::net::IpAddr;
use std::time::Duration;

use http::StatusCode;

use crate::units::{print_duration, print_size};

/// Why something cannot be fetched: the end of a sentence that begins with its URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It is no URL of plain HTTP.
    #[error(
        "leads to \"{0}\", which is not fetched: {1} (a URL such as \"http://crl.contoso.com/ca.crl\" is allowed)"
    )]
    Url(String, String),
    /// Its name has no address.
    #[error("has a host name that cannot be resolved: {0}")]
    Name(String),
    /// Its address is inside the network.
    #[error(
        "leads to the address {0}, which is inside a network and not allowed (trust.revocation.allow-addresses allows networks)"
    )]
    Inside(IpAddr),
    /// Nothing answers.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The answer ended early or was no HTTP.
    #[error("was not answered well: {0}")]
    Broken(String),
    /// Another status than 200.
    #[error("was answered with {0}")]
    Status(StatusCode),
    /// A redirect to nowhere.
    #[error("was answered with a redirect that does not say where to")]
    NoLocation,
    /// A redirect too many.
    #[error("leads from one redirect to the next (at most {0} are followed)")]
    Redirects(usize),
    /// The body is too large.
    #[error("is larger than {max} (trust.revocation.max-size raises this)", max = print_size(*.0))]
    TooLarge(u64),
    /// It took too long.
    #[error("was not fetched within {time} (trust.revocation.fetch-timeout raises this)", time = print_duration(*.0))]
    Slow(Duration),
    /// It is large, and its turn did not come.
    #[error(
        "is large, and others that are were being fetched for {time} (one larger than 8 MiB is fetched at a time)",
        time = print_duration(*.0)
    )]
    Crowded(Duration),
    /// There is no memory for it.
    #[error("cannot be held: {0}")]
    Memory(#[from] TryReserveError),
}
