//! An instance's table of live tunnels.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use super::budget::Budget;
use super::link::{Lease, Link, Published};
use super::pick::Snapshot;
use super::{Body, BodyError, Hello, Random, RegistrySettings, accept, send};
use crate::drain::Draining;
use crate::metrics::{ByPeer, ByReason, Metrics};
use crate::reason::Reason;
use crate::role::RoleId;

/// Which connection points the service definition lists, and which roles each may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// By the connection point's name, whose case does not matter.
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
    /// What may be held of the body before it is asked for, in bytes.
    pub ahead: u32,
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
    /// Requests that were sent through it so far; none on a connection point, which does not count them.
    pub requests: Option<usize>,
    /// Whether it takes no more requests.
    pub draining: bool,
    /// The roles that it serves now.
    pub roles: Vec<RoleId>,
}

/// An instance's table of live tunnels. Clones are handles on the same table.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: RegistrySettings,
    hello: watch::Sender<Hello>,
    metrics: Metrics,
    random: Random,
    budget: Budget,
    table: Mutex<Table>,
    snapshot: ArcSwap<Snapshot>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    policy: Policy,
    links: Vec<Arc<Link>>,
}

impl Registry {
    /// Makes an empty table that refuses every connection point until [`Registry::apply`].
    pub fn new(
        settings: RegistrySettings,
        hello: Hello,
        budget: Budget,
        metrics: Metrics,
        random: Random,
    ) -> Self {
        Self(Arc::new(Inner {
            settings,
            hello: watch::Sender::new(hello),
            metrics,
            random,
            budget,
            table: Mutex::default(),
            snapshot: ArcSwap::default(),
            next: AtomicU64::new(0),
        }))
    }

    /// Puts a policy into force; tunnels of names that are not listed are closed within 2 s.
    pub fn apply(&self, policy: Policy) {
        let lower = |(name, roles): (String, HashSet<RoleId>)| (name.to_ascii_lowercase(), roles);
        let mut table = self.table();
        table.policy = Policy {
            connection_points: policy.connection_points.into_iter().map(lower).collect(),
        };
        for link in &table.links {
            if !table.policy.connection_points.contains_key(&*link.name) {
                link.drain();
                link.close
                    .send_replace(Some(Reason::ConnectionPointRemoved));
            }
        }
        self.take_snapshot(&table);
    }

    /// Changes what this instance says of itself, on live tunnels too.
    pub fn announce(&self, hello: Hello) {
        self.0.hello.send_if_modified(|said| {
            let news = *said != hello;
            *said = hello;
            news
        });
    }

    /// Serves one accepted connection until it is over: hello, roles, liveness, requests.
    ///
    /// `closed` ends it with a reason, which the peer is told. When `draining` begins, the peer is told and new tunnels
    /// are refused, but this one goes on serving requests that clients still send; it ends when the drain is forced
    /// ([`crate::drain::Phase::Forced`]).
    pub async fn serve<IO>(
        &self,
        io: IO,
        peer: Peer,
        closed: impl Future<Output = Reason> + Send,
        draining: Draining,
    ) -> TunnelEnd
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let end = accept::serve(self, io, peer, closed, draining).await;
        let reason = end.reason.unwrap_or(Reason::Draining);
        let ends = &self.0.metrics.tunnel_ends;
        ends.get_or_create(&ByReason { reason }).inc();
        end
    }

    /// Sends a request through a tunnel and returns its answer's head; the bodies stream.
    ///
    /// Healthy connection points are preferred; where none is healthy for the role, the ailing ones are asked, since
    /// their answer says more than none.
    ///
    /// The request's body is read while the head is waited for and then while the answer's body is read; it is no
    /// longer read once the answer is complete. Dropping the future or the answer's body resets the stream.
    /// The request needs an absolute URI (HTTP/2's `:scheme` and `:authority`) and none of HTTP/1.1's connection fields.
    ///
    /// # Errors
    /// The reason why there is no answer: `no-tunnel`, `tunnels-full`, `tunnel-lost`, `tunnel-protocol`, or that of
    /// the request's own body.
    pub fn send<B>(
        &self,
        need: Need,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Failure>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        send::send(self, need, request)
    }

    /// Whether at least one tunnel takes requests.
    pub fn is_ready(&self) -> bool {
        self.0.snapshot.load().is_ready()
    }

    /// Every live tunnel.
    pub fn view(&self) -> Vec<TunnelView> {
        let table = self.table();
        let instance = self.0.hello.borrow().instance.clone();
        let view = |link: &Arc<Link>| {
            let allowed = table.policy.connection_points.get(&*link.name);
            let assigned: Vec<RoleId> = allowed.into_iter().flatten().copied().collect();
            TunnelView {
                peer: link.name.to_string(),
                remote: link.remote.to_string(),
                age: link.since.elapsed(),
                instance: Some(instance.clone()),
                in_flight: link.in_flight(),
                long_polls: link.long_polls(),
                requests: Some(link.opened()),
                draining: link.is_draining(),
                roles: link.roles(&assigned),
            }
        };
        table.links.iter().map(view).collect()
    }

    pub(super) fn settings(&self) -> &RegistrySettings {
        &self.0.settings
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The budget of this process.
    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    pub(super) fn hello(&self) -> watch::Receiver<Hello> {
        self.0.hello.subscribe()
    }

    pub(super) fn pick(&self, need: &Need, tried: &[Arc<Link>]) -> Result<Lease, Reason> {
        self.0.snapshot.load().pick(need, tried, &self.0.random)
    }

    /// Whether the policy lists a name.
    pub(super) fn is_listed(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.table().policy.connection_points.contains_key(&name)
    }

    /// Whether a connection point is welcome with one tunnel more.
    pub(super) fn admit(
        &self,
        peer: &Peer,
        sender: SendRequest<Bytes>,
    ) -> Result<Arc<Link>, Reason> {
        let name = peer.name.to_ascii_lowercase();
        let mut table = self.table();
        if !table.policy.connection_points.contains_key(&name) {
            return Err(Reason::UnknownConnectionPoint);
        }
        let own: Vec<&Arc<Link>> = table.links.iter().filter(|l| *l.name == *name).collect();
        if own.len() >= self.0.settings.tunnels_per_connection_point {
            return Err(Reason::TooManyTunnels);
        }
        let fresh_since = own.first().map_or_else(Instant::now, |l| l.fresh_since);
        let label = ByPeer::new(&name);
        let link = Arc::new(Link::new(
            self.0.next.fetch_add(1, Ordering::Relaxed),
            Arc::from(name),
            peer.remote,
            fresh_since,
            sender,
            self.0.metrics.tunnel_streams.get_or_create(&label).clone(),
        ));
        table.links.push(Arc::clone(&link));
        self.0.metrics.tunnels.get_or_create(&label).inc();
        Ok(link)
    }

    /// Takes a tunnel out of the table.
    pub(super) fn remove(&self, link: &Link) {
        link.drain();
        let mut table = self.table();
        table.links.retain(|other| other.id != link.id);
        let label = ByPeer::new(&link.name);
        self.0.metrics.tunnels.get_or_create(&label).dec();
        self.take_snapshot(&table);
    }

    /// Takes a tunnel out of pick; what is under way on it goes on.
    pub(super) fn retire(&self, link: &Link) {
        link.drain();
        self.take_snapshot(&self.table());
    }

    /// Puts into force what a connection point serves now; returns what it may not serve.
    pub(super) fn publish(&self, link: &Link, published: Published) -> Vec<RoleId> {
        let table = self.table();
        let allowed = table.policy.connection_points.get(&*link.name);
        let may = |id| allowed.is_some_and(|allowed| allowed.contains(&id));
        let refused = match &published {
            Published::Nothing | Published::Assigned => Vec::new(),
            Published::Roles(roles) => {
                let ids = roles.iter().map(|role| role.id);
                ids.filter(|id| !may(*id)).collect()
            }
        };
        link.publish(published);
        self.take_snapshot(&table);
        refused
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_snapshot(&self, table: &Table) {
        let ramp = self.0.settings.slow_start;
        let snapshot = Snapshot::new(&table.links, &table.policy, ramp);
        self.0.snapshot.store(Arc::new(snapshot));
    }
}
