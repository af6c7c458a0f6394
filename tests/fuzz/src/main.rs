//! Fuzz targets: every parser of bytes that somebody else wrote. The variable `OPENCMG_FUZZ` names the target.
//!
//! One program for all: the package is linked once.

#![no_main]

mod connection;
mod files;
mod message;

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("OPENCMG_FUZZ").unwrap_or_default();
    match name.as_str() {
        "request" => connection::request,
        "http2" => connection::http2,
        "routing" => message::routing,
        "fields" => message::fields,
        "roles" => message::roles,
        "configuration" => files::configuration,
        "service" => files::service,
        "certificates" => files::certificates,
        "pfx" => files::pfx,
        "crl" => files::crl,
        _ => panic!("OPENCMG_FUZZ names no target: {name:?}"),
    }
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
