//! Integration tests: real gateway, real connection point, real sockets. One module per topic.

#![allow(missing_docs, reason = "tests are sentences")]
#![allow(dead_code, reason = "the harness offers more than each topic uses")]
#![allow(unreachable_pub, reason = "one binary, many modules")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(
    clippy::print_stderr,
    reason = "a failing test shows the logs of its nodes"
)]

mod backend;
mod backend_answers;
mod backend_pool;
mod backend_servers;
mod backend_tls;
mod client;
mod commands;
mod config;
mod conformance;
mod connection_point;
mod expiry;
mod faults;
mod fetched;
mod fetched_memory;
mod gateway;
mod leaks;
mod legs;
mod load;
mod load_command;
mod load_tests;
mod mesh;
mod nine_thousand;
mod observe;
mod overload;
mod publisher;
mod relay;
mod requests;
mod revocation;
mod served;
mod slow;
mod stalled_uploads;
mod status;
#[cfg(target_os = "linux")]
mod systemd;
mod trust;
mod trust_matrix;
mod trust_tls;
mod tunnel;
mod two_services;
mod world;
