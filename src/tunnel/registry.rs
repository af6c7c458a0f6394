//! An instance's table of live tunnels.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Body, BodyError, Hello, Random, RegistrySettings};
use crate::drain::Draining;
use crate::metrics::Metrics;
use crate::reason::Reason;
use crate::role::RoleId;

/// Which connection points the service definition lists, and which roles each may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// By the connection point's name, in lower case.
    pub connection_points: HashMap<String, HashSet<RoleId>>,
}

/// Who is at the other end of an accepted connection, once TLS has proven it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The name of its certificate.
    pub name: String,
    /// Where it dialled from.
    pub remote: SocketAddr,
}

/// What a request needs of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The role that the tunnel's peer must serve.
    pub role: RoleId,
    /// A number of the client, for endpoints whose requests go to one connection point.
    pub sticky: Option<u64>,
    /// Whether the answer may take without end.
    pub long_poll: bool,
    /// Whether the body is not to be read before the backend's 100 has come.
    pub expect_continue: bool,
}

/// Why a request got no answer through a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The short code.
    pub reason: Reason,
    /// For the log.
    pub detail: String,
}

/// How a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Why; `None` for a clean close by the peer.
    pub reason: Option<Reason>,
    /// For the log.
    pub detail: String,
}

/// One live tunnel, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelView {
    /// The connection point, or on the other side the gateway.
    pub peer: String,
    /// The address at the other end.
    pub remote: String,
    /// How long it has been up.
    pub age: Duration,
    /// The gateway instance at its one end, once known.
    pub instance: Option<super::Instance>,
    /// Requests in flight, long polls apart.
    pub in_flight: usize,
    /// Long polls in flight.
    pub long_polls: usize,
    /// Whether it takes no more requests.
    pub draining: bool,
    /// The roles that it serves now.
    pub roles: Vec<RoleId>,
}

/// An instance's table of live tunnels. Clones are handles on the same table.
#[derive(Clone, Debug)]
pub struct Registry {}

impl Registry {
    /// Makes an empty table that refuses every connection point until [`Registry::apply`].
    pub fn new(
        _settings: RegistrySettings,
        _hello: Hello,
        _metrics: Metrics,
        _random: Random,
    ) -> Self {
        unimplemented!()
    }

    /// Puts a policy into force; tunnels of names that are no longer listed are closed within 2 s.
    pub fn apply(&self, _policy: Policy) {
        unimplemented!()
    }

    /// Changes what this instance says of itself, on live tunnels too.
    pub fn announce(&self, _hello: Hello) {
        unimplemented!()
    }

    /// Serves one accepted connection until it is over: hello, roles, liveness, requests.
    ///
    /// `closed` ends it with a reason. When `draining` begins, the peer is told and new tunnels are refused; this one
    /// goes on until its streams have ended after [`crate::drain::Phase::Forced`].
    pub async fn serve<IO>(
        &self,
        _io: IO,
        _peer: Peer,
        _closed: impl Future<Output = Reason> + Send,
        _draining: Draining,
    ) -> TunnelEnd
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        std::future::pending().await
    }

    /// Sends a request through a tunnel and returns its answer's head; the bodies stream.
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub async fn send<B>(
        &self,
        _need: Need,
        _request: Request<B>,
    ) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        std::future::pending().await
    }

    /// Whether at least one tunnel takes requests.
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }

    /// Every live tunnel.
    pub fn view(&self) -> Vec<TunnelView> {
        unimplemented!()
    }
}
