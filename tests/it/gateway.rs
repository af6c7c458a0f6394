//! The gateway over real sockets, with real tunnels from a supervisor and a handler in place of the backends.

mod certificates;
mod compression;
mod connections;
mod drain;
mod early;
mod headers;
mod limits;
mod raw;
mod refusals;
mod revoked;
pub mod rig;
