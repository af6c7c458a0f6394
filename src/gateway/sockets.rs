//! The sockets of a gateway: all are bound, or none.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{Addresses, Settings};
use crate::listener;

#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) client: Vec<TcpListener>,
    pub(super) tunnel: Vec<TcpListener>,
    pub(super) health: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl Sockets {
    /// Binds every address of the settings.
    ///
    /// # Errors
    /// What cannot be bound; nothing stays bound.
    pub(super) fn bind(settings: &Settings) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut bind = |address: SocketAddr| match listener::bind(address) {
            Ok(socket) => Some(socket),
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        let sockets = Self {
            client: settings.listen.iter().filter_map(|a| bind(*a)).collect(),
            tunnel: settings
                .tunnel_listen
                .iter()
                .filter_map(|a| bind(*a))
                .collect(),
            health: settings.health.and_then(&mut bind),
            admin: settings.admin.and_then(&mut bind),
        };
        faults.is_empty().then_some(sockets).ok_or(faults)
    }

    /// Where they are bound.
    pub(super) fn addresses(&self) -> Addresses {
        let one = |socket: &TcpListener| socket.local_addr().ok();
        Addresses {
            client: self.client.iter().filter_map(one).collect(),
            tunnel: self.tunnel.iter().filter_map(one).collect(),
            health: self.health.as_ref().and_then(one),
            admin: self.admin.as_ref().and_then(one),
        }
    }
}
