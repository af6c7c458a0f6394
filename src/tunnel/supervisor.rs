//! The loop that keeps a connection point's tunnels to one gateway up.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::{Incoming, Random, SupervisorSettings, TunnelView};
use crate::drain::Draining;
use crate::metrics::Metrics;
use crate::role::PublishedRole;
use crate::tasks::Tasks;

/// Keeps the tunnels to one gateway up. Clones are handles on the same loop.
#[derive(Clone, Debug)]
pub struct Supervisor {}

impl Supervisor {
    /// Makes a supervisor that does nothing until [`Supervisor::run`].
    pub fn new(_settings: SupervisorSettings, _metrics: Metrics, _random: Random) -> Self {
        unimplemented!()
    }

    /// Dials, serves and replaces tunnels until drained.
    ///
    /// `dial` gets one of the settings' addresses; each request is handed to `handle` in a task of `tasks`.
    pub async fn run<D, DF, H, HF, IO>(
        &self,
        _dial: D,
        _roles: watch::Receiver<Arc<Vec<PublishedRole>>>,
        _handle: H,
        _tasks: Tasks,
        _draining: Draining,
    ) where
        D: Fn(String) -> DF + Send + Sync + 'static,
        DF: Future<Output = io::Result<IO>> + Send + 'static,
        H: Fn(Incoming) -> HF + Send + Sync + 'static,
        HF: Future<Output = ()> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        std::future::pending().await
    }

    /// Whether at least one tunnel is up.
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }

    /// Every live tunnel.
    pub fn view(&self) -> Vec<TunnelView> {
        unimplemented!()
    }
}
