//! Where connections go that finished their handshake: to the request path, or into the table of tunnels.

use tracing::warn;

use crate::drain::Draining;
use crate::identity::{ClientCertificate, Live, Trust};
use crate::listener::{Arrived, Handler};
use crate::metrics::{ByReason, Metrics};
use crate::proxy::{Connection, Proxy};
use crate::reason::Reason;
use crate::tls::{ClientCertificates, Purpose};
use crate::tunnel::{Peer, Registry};

/// Serves clients and tunnels.
#[derive(Clone, Debug)]
pub(super) struct Reception {
    pub(super) clients: Trust,
    pub(super) connection_points: Trust,
    pub(super) proxy: Proxy,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) draining: Draining,
}

impl Handler for Reception {
    async fn serve(&self, arrived: Arrived) {
        match arrived.accepted.purpose {
            Purpose::Client { http2 } => self.serve_client(arrived, http2).await,
            Purpose::Tunnel => self.serve_tunnel(arrived).await,
        }
    }
}

impl Reception {
    async fn serve_client(&self, arrived: Arrived, http2: bool) {
        let Arrived {
            accepted,
            remote,
            unproven,
        } = arrived;
        let live = self.clients.admit(accepted.presented);
        let unproven = Some(unproven).filter(|_| !is_verified(&live));
        let connection = Connection {
            stream: accepted.stream,
            http2,
            remote,
            server_name: accepted.server_name,
            certificate_required: accepted.client_certificates == ClientCertificates::Require,
            live,
        };
        self.proxy.serve(connection).await;
        drop(unproven);
    }

    async fn serve_tunnel(&self, arrived: Arrived) {
        let Arrived {
            accepted,
            remote,
            unproven,
        } = arrived;
        let mut live = self.connection_points.admit(accepted.presented);
        let identity = match live.certificate() {
            ClientCertificate::Verified(identity) => identity,
            ClientCertificate::Missing => {
                return self.refuse_tunnel(remote, "no certificate was sent");
            }
            ClientCertificate::Refused(fault) => {
                let detail = format!("{}: {}: {}", fault.reason, fault.which, fault.detail);
                return self.refuse_tunnel(remote, &detail);
            }
        };
        drop(unproven);
        let name = identity.name.clone();
        let peer = Peer {
            name: name.clone(),
            remote,
        };
        let closed = async move { live.closed().await.reason };
        let draining = self.draining.clone();
        self.registry
            .serve(accepted.stream, peer, closed, draining)
            .await;
    }

    fn refuse_tunnel(&self, remote: std::net::SocketAddr, detail: &str) {
        let reason = Reason::TunnelNotAuthenticated;
        let refusals = &self.metrics.tunnel_refusals;
        refusals.get_or_create(&ByReason::new(reason)).inc();
        warn!(%remote, %reason, detail, "a tunnel is refused");
    }
}

fn is_verified(live: &Live) -> bool {
    match live.certificate() {
        ClientCertificate::Verified(_) => true,
        ClientCertificate::Missing | ClientCertificate::Refused(_) => false,
    }
}
