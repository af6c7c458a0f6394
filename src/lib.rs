//! OpenCMG: an open cloud management gateway.
//!
//! A **connection point** inside a company network dials out to a **gateway** in the cloud and keeps tunnels
//! open; the gateway terminates TLS, verifies each client's certificate and sends the requests through them.

pub mod admin;
pub mod backend;
pub mod cli;
pub mod config;
pub mod connection_point;
pub mod drain;
pub mod forward;
pub mod gateway;
pub mod identity;
pub mod instances;
pub mod listener;
pub mod logging;
pub mod message;
pub mod metrics;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod reason;
pub mod role;
pub mod routing;
pub mod service;
pub mod settings;
pub mod tasks;
pub mod tls;
pub mod tunnel;
pub mod units;
