//! The gateway over real sockets, with real tunnels from a supervisor and a handler in place of the backends.

mod certificates;
mod compression;
mod connections;
mod drain;
mod early;
mod flood_memory;
mod floods;
pub mod frames;
mod headers;
mod http2;
#[cfg(target_os = "linux")]
mod httpwg;
mod limits;
pub mod raw;
mod refusals;
mod revoked;
pub mod rig;
