//! Certificates, keys and paths: X.509 is understood here and nowhere else.
//!
//! Reads certificates and key pairs from PEM, DER and PFX, checks a server certificate before it is served,
//! builds the paths that clients and connection points are verified by ([`Anchors`]), and makes certificates
//! ([`issue`]). Takes bytes and `now`, never files and clocks. Rank 3.

mod algorithm;
mod certificate;
mod check;
mod crl;
mod der;
mod error;
mod explain;
mod fault;
pub mod issue;
mod key_pair;
mod link;
mod name;
mod path;
mod pfx;
mod revocation;
mod serial;

pub use certificate::{Certificate, KeyKind, read_certificates};
pub use check::{check_connection_point_certificate, check_server_certificate, covers};
pub use crl::{Crl, CrlError, CrlSet, IssuerKey, Listed, read_crl_file};
pub use error::PkiError;
pub use explain::{Check, Explanation, Link, Origin, leaf_first};
pub use fault::{CertificateFault, weakness};
pub use key_pair::{KeyPair, load_pem};
pub use link::leads_to;
pub use name::print_time;
pub use path::{Anchors, Hints, Limits, Path, Usage};
pub use pfx::{load_pfx, read_pfx_certificates};
pub use revocation::{Depth, Doubt, Issued, Judgement, Policy, Revocation, Wanted, WantedFn};
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
pub use serial::Serial;
