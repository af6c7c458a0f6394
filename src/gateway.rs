//! The composition of a gateway: build in order, bind, run until drained. No logic of its own.

mod settings;

use std::net::SocketAddr;
use std::sync::Arc;

pub use self::settings::{Definition, Settings};
use crate::metrics::Metrics;
use crate::tunnel::Registry;

/// The addresses that a gateway is bound to, in the order of its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For clients, and tunnels by ALPN or server name.
    pub client: Vec<SocketAddr>,
    /// For tunnels alone.
    pub tunnel: Vec<SocketAddr>,
    /// Health.
    pub health: Option<SocketAddr>,
    /// Administration.
    pub admin: Option<SocketAddr>,
}

/// A gateway that is bound and not yet running.
#[derive(Debug)]
pub struct Gateway {}

/// What may be done to a running gateway. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Handle {}

impl Gateway {
    /// Builds every component from settings and definition, and binds every address.
    ///
    /// # Errors
    /// Everything that is wrong, worded for an administrator; nothing stays bound.
    #[allow(clippy::unused_async, reason = "filled in with the components")]
    pub async fn bind(
        settings: Settings,
        definition: Arc<Definition>,
        metrics: Metrics,
    ) -> Result<Self, Vec<String>> {
        let _ = (settings, definition, metrics);
        unimplemented!("Gateway::bind")
    }

    /// Where it is bound; ports that were 0 are the real ones.
    pub fn addresses(&self) -> &Addresses {
        unimplemented!("Gateway::addresses")
    }

    /// The table of its tunnels.
    pub fn registry(&self) -> &Registry {
        unimplemented!("Gateway::registry")
    }

    /// A handle for changes while it runs.
    pub fn handle(&self) -> Handle {
        Handle {}
    }

    /// Serves until it is drained.
    #[allow(clippy::unused_async, reason = "filled in with the components")]
    pub async fn run(self) {
        unimplemented!("Gateway::run")
    }
}

impl Handle {
    /// Puts a definition in force, whole or not at all; live connections and tunnels are re-verified where trust changed.
    ///
    /// Takes time in proportion to the live connections; call it from a blocking task.
    ///
    /// # Errors
    /// Everything that is wrong; the last good definition stays in force.
    pub fn apply(&self, definition: Arc<Definition>) -> Result<(), Vec<String>> {
        let _ = definition;
        unimplemented!("Handle::apply")
    }

    /// Starts the drain; [`Gateway::run`] returns when it is over. Later calls change nothing.
    pub fn drain(&self) {
        unimplemented!("Handle::drain")
    }
}
