//! The accept loop: from a listening socket to a finished handshake, within limits and one deadline.
//!
//! Each connection has a task from its first byte, so that a slow handshake holds up nobody. What has finished its
//! handshake goes to a [`Handler`]. Accepting survives every error. Rank 6: knows nothing of requests and tunnels.

mod limits;
mod proxy_protocol;
mod settings;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

pub use self::limits::AddressPlace;
use self::limits::{Limits, Place, Turn};
pub use self::settings::Settings;
use crate::drain::Draining;
use crate::metrics::{ByHandshake, ByReason, Handshake, Metrics};
use crate::pieces::ReadAhead;
use crate::reason::Reason;
use crate::tasks::Tasks;
use crate::tls::{AcceptError, Accepted, Port, Purpose, ServerTls};

/// Connections that the kernel holds until they are accepted: a second's worth of a storm.
const BACKLOG: i32 = 4096;

/// Dead peers are found even where nothing is sent; clouds forget idle flows after four minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Whether what is accepted has the options of its listening socket, which saves five system calls a connection.
const INHERITED: bool = cfg!(target_os = "linux");

/// How much may wait in the kernel to be sent to one client, so that the memory of many who take nothing is bounded, and
/// so that a step of who takes little (at the least rate, half of this) is shorter than the time without one.
const UNSENT: u32 = 128 << 10;

/// In place of [`UNSENT`]: the system's own limit (`net.ipv4.tcp_notsent_lowat`), which is right for a tunnel of many.
const SYSTEMS_OWN: u32 = 0;

/// The first pause after an error that another accept would meet at once, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that finished its handshake.
#[derive(Debug)]
pub struct Arrived {
    /// The stream and what the handshake said.
    pub accepted: Accepted<ReadAhead<TcpStream>>,
    /// The client's address, from the PROXY header where there is one.
    pub remote: SocketAddr,
    /// The place that the address holds until the connection proves who it is: drop it then. `None` if the address has
    /// none left: then only who proves it is served.
    pub unproven: Option<AddressPlace>,
}

/// What serves connections that finished their handshake.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Serves one connection until it is over.
    fn serve(&self, arrived: Arrived) -> impl Future<Output = ()> + Send;
}

/// Accepts connections. Clones share limits and TLS.
#[derive(Clone, Debug)]
pub struct Listener(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    tls: ArcSwap<ServerTls>,
    limits: Arc<Limits>,
    metrics: Metrics,
    tasks: Tasks,
    /// Accept loops, and connections that are in their handshake or of a client.
    present: watch::Sender<usize>,
}

/// One accept loop, or one connection that is in its handshake or of a client.
struct Present(Arc<Shared>);

impl Present {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.present.send_modify(|count| *count += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.send_modify(|count| *count -= 1);
    }
}

/// Why a connection did not arrive.
enum Turned {
    Refused(Reason, String),
    Failed(AcceptError),
}

/// Binds a listening socket. An unspecified IPv6 address serves IPv4 too.
///
/// # Errors
/// The address and what the system says of it.
pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    listen(address).map_err(|error| format!("cannot listen on {address}: {error}"))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // On Windows the option would let a second process take the port over.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if INHERITED {
        tune(SockRef::from(&socket))?;
        limit_unsent(SockRef::from(&socket), UNSENT);
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn tune(socket: SockRef<'_>) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE);
    socket.set_tcp_keepalive(&keep_alive)?;
    socket.set_tcp_nodelay(true)
}

impl Listener {
    /// Makes a listener; its connections' tasks belong to `tasks`.
    pub fn new(settings: Settings, tls: ServerTls, metrics: Metrics, tasks: Tasks) -> Self {
        Self(Arc::new(Shared {
            limits: Limits::new(&settings),
            settings,
            tls: ArcSwap::from_pointee(tls),
            metrics,
            tasks,
            present: watch::Sender::new(0),
        }))
    }

    /// The TLS in force.
    pub fn tls(&self) -> Arc<ServerTls> {
        self.0.tls.load_full()
    }

    /// Puts other TLS in force, for handshakes that begin from here on.
    pub fn replace(&self, tls: ServerTls) {
        self.0.tls.store(Arc::new(tls));
    }

    /// Accepts from one socket until the drain has begun and the time for late-comers is over.
    pub async fn accept(
        &self,
        socket: TcpListener,
        port: Port,
        handler: impl Handler,
        mut draining: Draining,
    ) {
        let accepting = Present::new(&self.0);
        let stop = async {
            draining.draining().await;
            sleep(self.0.settings.accept_while_draining).await;
        };
        tokio::pin!(stop);
        let mut pause = FIRST_PAUSE;
        loop {
            // A storm waits in the kernel's queue, where it costs nothing, rather than being turned away.
            let next = async {
                let place = self.0.limits.handshake().await;
                (place, socket.accept().await)
            };
            let (place, accepted) = tokio::select! {
                biased;
                () = &mut stop => break,
                next = next => next,
            };
            match accepted {
                Ok((tcp, remote)) => {
                    pause = FIRST_PAUSE;
                    self.admit(tcp, remote, port, place, handler.clone());
                }
                Err(error) if is_of_one_connection(&error) => {
                    debug!(%error, "a connection was gone before it was accepted");
                }
                // Out of descriptors or memory: the next accept would fail as well.
                Err(error) => {
                    warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                    sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
        // What waits in the queue believes that it is connected; it is as short as the kernel keeps it.
        while let Some(Ok((tcp, remote))) = socket.accept().now_or_never() {
            self.admit(tcp, remote, port, None, handler.clone());
        }
        drop(accepting);
    }

    /// Returns once nothing is accepted any more and no connection is in its handshake or of a client; tunnels do not
    /// count.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn clients_gone(&self) {
        let mut present = self.0.present.subscribe();
        // The sender lives as long as `self`.
        let _ = present.wait_for(|count| *count == 0).await;
    }

    fn admit(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        port: Port,
        place: Option<Place>,
        handler: impl Handler,
    ) {
        self.0.metrics.connections_accepted.inc();
        let listener = self.clone();
        let present = Present::new(&self.0);
        self.0.tasks.spawn(async move {
            // Boxed, so that a connection does not keep the memory of its handshake.
            let arrived = Box::pin(listener.arrive(tcp, remote, port, place)).await;
            let Some((arrived, client)) = arrived else {
                return;
            };
            let present = client.is_some().then_some(present);
            handler.serve(arrived).await;
            drop((client, present));
        });
    }

    /// One connection, from its first byte to the end of its handshake; with the place of a client.
    async fn arrive(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        port: Port,
        handshake: Option<Place>,
    ) -> Option<(Arrived, Option<Place>)> {
        let arrived = match self.establish(tcp, remote, port, handshake).await {
            Ok(arrived) => arrived,
            Err(Turned::Refused(reason, detail)) => {
                self.refuse(reason, remote, &detail);
                return None;
            }
            Err(Turned::Failed(fault)) => {
                self.handshake_failed(fault.reason, remote, &fault.detail);
                return None;
            }
        };
        match arrived.accepted.purpose {
            // Tunnels have a limit of their own, so that clients cannot take their places.
            Purpose::Tunnel => {
                let tcp = arrived.accepted.stream.get_ref().0.get_ref().get_ref();
                limit_unsent(SockRef::from(tcp), SYSTEMS_OWN);
                Some((arrived, None))
            }
            Purpose::Client { .. } => {
                let Some(place) = self.0.limits.connection() else {
                    let reason = Reason::TooManyConnections;
                    self.refuse(reason, arrived.remote, "too many clients");
                    return None;
                };
                Some((arrived, Some(place)))
            }
        }
    }

    async fn establish(
        &self,
        mut tcp: TcpStream,
        peer: SocketAddr,
        port: Port,
        handshake: Option<Place>,
    ) -> Result<Arrived, Turned> {
        let limit = self.0.settings.handshake_timeout;
        let late = |detail: &str| {
            let (reason, detail) = (Reason::HandshakeTimeout, detail.to_owned());
            Turned::Failed(AcceptError { reason, detail })
        };
        let called = timeout(limit, self.call(&mut tcp, peer, handshake)).await;
        let (remote, turn, handshake) =
            called.map_err(|_| late("no time left before the handshake"))??;
        let tls = self.0.tls.load_full();
        // Pinned here: the time-out would move it, and it is large.
        let accepted = pin!(tls.accept(ReadAhead::new(tcp), port));
        let accepted = timeout(limit, accepted).await;
        let mut accepted = accepted
            .map_err(|_| late("no time left"))?
            .map_err(Turned::Failed)?;
        drop(handshake);
        if let Purpose::Client { .. } = accepted.purpose {
            accepted.stream.get_mut().0.get_mut().spare();
        }
        self.count(match accepted.resumed {
            true => Handshake::Resumed,
            false => Handshake::Full,
        });
        Ok(Arrived {
            accepted,
            remote,
            unproven: turn.end(),
        })
    }

    /// What comes before the handshake: options of the socket, the PROXY header, and the turn of the address.
    async fn call(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
        handshake: Option<Place>,
    ) -> Result<(SocketAddr, Turn, Option<Place>), Turned> {
        let shared = &self.0;
        if !INHERITED {
            // A connection that is gone already says so here as well as at its first read.
            let _ = tune(SockRef::from(&*tcp));
        }

        let mut remote = peer;
        let sources = &shared.settings.proxy_protocol_from;
        if sources.iter().any(|source| source.contains(peer.ip())) {
            let given = proxy_protocol::read(tcp).await;
            let given = given
                .map_err(|error| Turned::Refused(Reason::BadProxyHeader, error.to_string()))?;
            remote = given.unwrap_or(peer);
        }
        let mut turn = shared.limits.turn(remote.ip());
        let handshake = turn.comes(handshake).await.ok_or_else(|| {
            let detail = "too many handshakes of one address wait";
            Turned::Refused(Reason::TooManyConnections, detail.to_owned())
        })?;
        Ok((remote, turn, handshake))
    }

    fn count(&self, outcome: Handshake) {
        let handshakes = &self.0.metrics.handshakes;
        handshakes.get_or_create(&ByHandshake { outcome }).inc();
    }

    fn handshake_failed(&self, reason: Reason, remote: SocketAddr, detail: &str) {
        self.count(Handshake::Failed);
        let failures = &self.0.metrics.handshake_failures;
        failures.get_or_create(&ByReason::new(reason)).inc();
        if reason == Reason::TunnelNotAuthenticated {
            // Someone wants to be a connection point: an administrator should know.
            warn!(%remote, %reason, detail, "a tunnel is refused");
        } else {
            debug!(%remote, %reason, detail, "handshake failed");
        }
    }

    fn refuse(&self, reason: Reason, remote: SocketAddr, detail: &str) {
        let refused = &self.0.metrics.connections_refused;
        refused.get_or_create(&ByReason::new(reason)).inc();
        debug!(%remote, %reason, detail, "connection refused");
    }
}

fn limit_unsent(socket: SockRef<'_>, most: u32) {
    // Where it is not to be had, a client that takes little is told later from one that takes nothing.
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_notsent_lowat(most);
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, most);
}

/// Errors of a connection that was reset while it waited (accept(2)); the next one is not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
            | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_accepted_is_tuned_as_its_listener() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_peer, (tcp, _)) = (peer.unwrap(), accepted.unwrap());
        let options = SockRef::from(&tcp);
        assert!(options.keepalive().unwrap() && options.tcp_nodelay().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), KEEP_ALIVE);
        assert_eq!(options.tcp_keepalive_interval().unwrap(), KEEP_ALIVE);
        assert_eq!(options.tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
