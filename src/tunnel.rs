//! Tunnels: HTTP/2 with the roles reversed, dialled by connection points and accepted by gateway instances.
//!
//! The gateway is the HTTP/2 client on a connection that it accepted ([`Registry`]); the connection point is the
//! server on a connection that it dialled ([`Supervisor`]). Any byte stream will do, the clock is tokio's and
//! the random source is the caller's, so that the whole can be simulated.

mod body;
mod incoming;
mod random;
mod registry;
mod settings;
mod supervisor;
mod wire;

use std::fmt;

pub use body::Body;
pub use incoming::{Incoming, Respond};
pub use random::Random;
pub use registry::{Failure, Need, Peer, Policy, Registry, TunnelEnd, TunnelView};
pub use settings::{RegistrySettings, SupervisorSettings, Wire};
pub use supervisor::Supervisor;
pub use wire::{Hello, Instance, Refused};

use crate::reason::Reason;

/// Why a body ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError {
    /// The short code.
    pub reason: Reason,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.what())
    }
}

impl std::error::Error for BodyError {}

impl From<crate::message::body::BodyError> for BodyError {
    fn from(error: crate::message::body::BodyError) -> Self {
        Self {
            reason: error.reason,
        }
    }
}
