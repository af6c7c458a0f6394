//! The connection point's side of a tunnel's handshake.

use std::sync::Arc;

use crate::pki::{CertificateDer, KeyPair};

/// The ALPN names of a tunnel: of draft-thomson-ptth-potato-02 §4.2, and of its earlier versions.
pub const TUNNEL_ALPN: &[&[u8]] = &[&[0xd5, 0x87, 0xc9, 0xa5], b"rh2"];

/// The label before the service name that makes a server name a tunnel's.
pub const TUNNEL_LABEL: &str = "tunnel";

/// How a gateway is told that a connection is a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the ALPN names of tunnels, on the client port.
    Alpn,
    /// By the server name `tunnel.<service name>` with plain `h2`, on the client port.
    ServerName,
    /// By the port.
    Port,
}

impl Way {
    /// The server name to ask for.
    pub fn server_name(self, service_name: &str) -> String {
        match self {
            Self::ServerName => format!("{TUNNEL_LABEL}.{service_name}"),
            Self::Alpn | Self::Port => service_name.to_owned(),
        }
    }
}

/// How a connection point does TLS towards a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelClientSettings {
    /// The connection point's certificate and key.
    pub key_pair: KeyPair,
    /// The CA certificates that the gateway's certificate must chain to.
    pub ca: Vec<CertificateDer<'static>>,
    /// The service name: what the gateway's certificate must cover, whatever server name is asked for.
    pub service_name: String,
    /// How the gateway is told that it is a tunnel.
    pub way: Way,
}

/// Builds the configuration for tunnels to one gateway: its certificate is verified for the service name, and sessions
/// are never resumed. Ask for [`Way::server_name`] when connecting.
///
/// # Errors
/// What is wrong with the key pair, the CA certificates or the service name.
pub fn tunnel_client(settings: &TunnelClientSettings) -> Result<Arc<rustls::ClientConfig>, String> {
    let _ = settings;
    unimplemented!("tunnel_client")
}
