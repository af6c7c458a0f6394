//! Where connections go that finished their handshake: to the request path, or into the table of tunnels.

use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::drain::Draining;
use crate::identity::{ClientCertificate, Live, Trust};
use crate::listener::{Arrived, Handler};
use crate::metrics::{ByReason, Metrics};
use crate::pki::{CertificateDer, CertificateFault, IssuerKey};
use crate::proxy::{Connection, Proxy};
use crate::reason::Reason;
use crate::revocation::Refresher;
use crate::tls::{ClientCertificates, Purpose};
use crate::tunnel::{Peer, Registry};

/// Serves clients and tunnels.
#[derive(Clone, Debug)]
pub(super) struct Reception {
    pub(super) clients: Trust,
    pub(super) refresher: Refresher,
    pub(super) connection_points: Trust,
    pub(super) proxy: Proxy,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) draining: Draining,
}

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Handler for Reception {
    fn serve(&self, arrived: Arrived) -> impl Future<Output = ()> + Send {
        // Boxed, so that a client's task does not have the size of a tunnel's.
        match arrived.accepted.purpose {
            Purpose::Client { http2 } => self.serve_client(arrived, http2),
            Purpose::Tunnel => Box::pin(self.clone().serve_tunnel(arrived)),
        }
    }
}

impl Reception {
    fn serve_client(&self, arrived: Arrived, http2: bool) -> Served {
        let seen = self.clients.generation();
        let live = self.clients.admit(arrived.accepted.presented());
        match crl_of(&live) {
            Some(_) => Box::pin(self.clone().serve_in_doubt(arrived, http2, live, seen)),
            None => self.serve_judged(arrived, http2, live),
        }
    }

    /// Serves a client whose status is not known, once its CRL has been tried to be had, or at the latest when the time
    /// for that is over. Its first request waits; its handshake is over.
    ///
    /// `seen` is a generation not later than the one that left the doubt: what came in force since may settle it, with
    /// nothing left to wait for.
    async fn serve_in_doubt(self, arrived: Arrived, http2: bool, mut live: Live, mut seen: u64) {
        let deadline = Instant::now() + self.refresher.hold();
        while let Some(issuer) = crl_of(&live) {
            let came = self.refresher.tried(issuer, deadline).await;
            let current = self.clients.generation();
            if !came && current == seen {
                break;
            }
            seen = current;
            live = self.clients.admit(arrived.accepted.presented());
        }
        self.serve_judged(arrived, http2, live).await;
    }

    fn serve_judged(&self, arrived: Arrived, http2: bool, live: Live) -> Served {
        let Arrived {
            accepted,
            remote,
            unproven,
        } = arrived;
        let verified = is_verified(&live);
        if !verified && unproven.is_none() {
            self.refuse_client(remote);
            return Box::pin(std::future::ready(()));
        }
        let connection = Connection {
            stream: accepted.stream,
            http2,
            remote,
            server_name: accepted.server_name,
            certificate_required: accepted.client_certificates == ClientCertificates::Require,
            live,
        };
        let serving = self.proxy.serve(connection);
        if verified {
            return serving;
        }
        Box::pin(async move {
            serving.await;
            drop(unproven);
        })
    }

    async fn serve_tunnel(self, arrived: Arrived) {
        let Arrived {
            accepted,
            remote,
            unproven,
        } = arrived;
        let mut live = self.connection_points.admit(accepted.presented());
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
        let peer = Peer {
            name: identity.name.clone(),
            remote,
        };
        let closed = async move { live.closed().await.reason };
        let draining = self.draining.clone();
        // The registry counts and logs how it ends.
        self.registry
            .serve(accepted.stream, peer, closed, draining)
            .await;
    }

    fn refuse_client(&self, remote: std::net::SocketAddr) {
        let reason = Reason::TooManyConnections;
        let refused = &self.metrics.connections_refused;
        refused.get_or_create(&ByReason::new(reason)).inc();
        let detail = "too many connections of one address without a verified certificate";
        debug!(%remote, %reason, detail, "connection refused");
    }

    fn refuse_tunnel(&self, remote: std::net::SocketAddr, detail: &str) {
        let reason = Reason::TunnelNotAuthenticated;
        let refusals = &self.metrics.tunnel_refusals;
        refusals.get_or_create(&ByReason::new(reason)).inc();
        warn!(%remote, %reason, detail, "a tunnel is refused");
    }
}

/// Judges a client within its handshake.
///
/// One of whom nothing is missing but a CRL that is just being fetched for the first time passes: as after every other
/// handshake its first request waits for that list, and is refused with an answer where an alert comes too late.
///
/// # Errors
/// The certificate at fault and the reason.
pub(super) fn judge_client(
    clients: &Trust,
    refresher: &Refresher,
    presented: &[CertificateDer<'_>],
) -> Result<(), CertificateFault> {
    let seen = clients.generation();
    let Err(fault) = clients.verify(presented) else {
        return Ok(());
    };
    // What came in force since may settle it as well; the reception looks again.
    let in_doubt = fault
        .crl_of
        .is_some_and(|issuer| refresher.awaits(issuer) || clients.generation() != seen);
    if in_doubt { Ok(()) } else { Err(fault) }
}

/// Whose CRL is all that is missing to judge a client.
fn crl_of(live: &Live) -> Option<IssuerKey> {
    match live.certificate() {
        ClientCertificate::Refused(fault) => fault.crl_of,
        ClientCertificate::Verified(_) | ClientCertificate::Missing => None,
    }
}

fn is_verified(live: &Live) -> bool {
    match live.certificate() {
        ClientCertificate::Verified(_) => true,
        ClientCertificate::Missing | ClientCertificate::Refused(_) => false,
    }
}
