//! Tunnels: HTTP/2 with the roles reversed, dialled by connection points and accepted by gateway instances.
//!
//! The gateway is the HTTP/2 client on a connection that it accepted ([`Registry`]); the connection point is the
//! server on a connection that it dialled ([`Supervisor`]). Any byte stream will do, the clock is tokio's and
//! the random source is the caller's, so that the whole can be simulated.

mod accept;
mod body;
mod budget;
mod dial;
mod driven;
mod frames;
mod incoming;
mod io;
mod link;
mod liveness;
mod merge;
mod note;
mod pick;
mod plan;
mod publish;
mod random;
mod registry;
mod seat;
mod send;
mod settings;
mod supervisor;
mod upload;
mod waiting;
mod window;
mod wire;

pub use body::Body;
pub use budget::{Budget, Counted, Granted, Holder};
pub use incoming::{Incoming, Respond};
pub use random::Random;
pub use registry::{Failure, Need, Peer, Policy, Registry, TunnelEnd, TunnelView};
pub use settings::{BudgetSettings, RegistrySettings, SupervisorSettings, Wire};
pub use supervisor::Supervisor;
pub use wire::{HELLO_PATH, Hello, Instance, REFUSAL_PATH, Refused, RolesLine};

use crate::message::body::BodyError;
