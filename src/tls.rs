//! TLS on the client leg and the tunnels: the only module that builds rustls configurations.
//!
//! A [`ServerTls`] reads the ClientHello, chooses the name's configuration by SNI and ALPN and finishes the handshake.
//! Possession of the client's key is proven by the handshake; whether its chain is trusted is judged by `identity`,
//! through closures. Rank 4.

mod accept;
mod client;
mod https;
mod keys;
#[cfg(feature = "load")]
mod load;
mod name;
mod server;
mod sessions;
mod settings;
mod suites;
mod tickets;
mod verifier;

pub use accept::{AcceptError, Accepted, Port, Purpose};
pub use client::{
    GatewayCertificateError, TUNNEL_ALPN, TUNNEL_LABEL, TunnelClientSettings, Way, tunnel_client,
};
pub use https::https_client;
#[cfg(feature = "load")]
pub use load::{KeyExchange, LoadClient, LoadClientSettings, Sessions};
pub use server::{ServerTls, VerifyFn};
pub use settings::{
    ClientCertificates, NameSettings, OnBadClientCertificate, ServerSettings, Version,
};
pub use tickets::LateTickets;
