//! The gateway's request path: from a client's stream to the tunnel and back.
//!
//! `serve` drives one connection; `request::answer` is the path of one request; its exchange guard is where
//! metrics and the access log hear of it. Rank 6: used by the composition alone.

mod activity;
mod answer;
mod authorise;
mod authority;
mod connection;
mod driver;
mod exchange;
mod frames;
mod metadata;
mod rate;
mod request;
mod settings;
mod sleeper;
mod stream;
mod streams;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;

pub use self::answer::Answer;
pub use self::connection::Connection;
use self::rate::Clients;
pub use self::settings::Settings;
use crate::drain::Draining;
use crate::logging::AccessLog;
use crate::metrics::{EndpointMetrics, Metrics};
use crate::routing::Routes;
use crate::tunnel::Registry;

/// Serves client connections. Clones share everything.
#[derive(Clone, Debug)]
pub struct Proxy(Arc<Shared>);

/// What the request path needs besides the request.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    routes: ArcSwap<Routes>,
    registry: Registry,
    metrics: Metrics,
    unrouted: Arc<EndpointMetrics>,
    access: AccessLog,
    instance: u16,
    draining: Draining,
    /// Requests under way.
    requests: AtomicUsize,
    clients: Clients,
}

/// What a proxy is built from.
#[derive(Debug)]
pub struct Parts {
    /// Limits and time-outs.
    pub settings: Settings,
    /// What is published.
    pub routes: Routes,
    /// Where requests go.
    pub registry: Registry,
    /// Where connections are counted.
    pub metrics: Metrics,
    /// Where requests are written down.
    pub access: AccessLog,
    /// The index of this instance.
    pub instance: u16,
    /// When to wind connections up.
    pub draining: Draining,
}

impl Proxy {
    /// Builds the request path.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Shared {
            clients: Clients::new(parts.settings.client_rate),
            settings: parts.settings,
            routes: ArcSwap::from_pointee(parts.routes),
            registry: parts.registry,
            unrouted: parts.metrics.unrouted(),
            metrics: parts.metrics,
            access: parts.access,
            instance: parts.instance,
            draining: parts.draining,
            requests: AtomicUsize::new(0),
        }))
    }

    /// Puts other routes in force, for requests that begin from here on.
    pub fn replace(&self, routes: Routes) {
        self.0.routes.store(Arc::new(routes));
    }
}
