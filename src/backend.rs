//! The leg from a connection point to its backends: HTTP/1.1 over pooled connections.
//!
//! A [`Backend`] is one server behind one role. It connects with native TLS, because IIS asks for client
//! certificates by renegotiation; keeps a bounded pool of idle connections; notices one that the server closed;
//! and says by [`Backend::health`] whether connections succeed. Used by `forward`. It decides no policy: which
//! request may come here, and what its answer looks like outside, is not its business.

mod base;
mod settings;

pub use base::BaseUrl;
pub use settings::{BackendSettings, NameCheck, Password, is_pfx};
