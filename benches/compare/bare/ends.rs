//! What both shapes have in common: listening, dialling, TLS, the tunnels that are up, the idle connections to the backend.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http_body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Fault, pki, prepare, spawn};

/// The tunnels that are up, taken in turn.
pub(crate) struct Tunnels<S> {
    up: ArcSwap<Vec<S>>,
    turn: AtomicUsize,
}

impl<S> Default for Tunnels<S> {
    fn default() -> Self {
        Self {
            up: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        }
    }
}

impl<S: Clone> Tunnels<S> {
    pub(crate) fn add(&self, sender: S) {
        self.up.rcu(|up| {
            let mut up = Vec::clone(up);
            up.push(sender.clone());
            up
        });
    }

    pub(crate) fn next(&self) -> Result<S, Fault> {
        let up = self.up.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let at = turn.checked_rem(up.len()).ok_or("no tunnel")?;
        Ok(up[at].clone())
    }
}

/// The backend and its idle connections; the one that was used last is taken first.
pub(crate) struct Backend<B> {
    address: SocketAddr,
    pub(crate) host: HeaderValue,
    idle: Mutex<Vec<SendRequest<B>>>,
}

impl<B> Backend<B>
where
    B: Body<Data: Send, Error: Into<Fault>> + Send + 'static,
{
    pub(crate) fn new(address: SocketAddr) -> Result<Self, Fault> {
        Ok(Self {
            address,
            host: HeaderValue::try_from(address.to_string())?,
            idle: Mutex::default(),
        })
    }

    pub(crate) fn pop(&self) -> Option<SendRequest<B>> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    pub(crate) fn give(&self, sender: SendRequest<B>) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
    }

    /// A connection of its own task.
    pub(crate) async fn connect(&self) -> Result<SendRequest<B>, Fault> {
        let io = TokioIo::new(connect(self.address).await?);
        let (sender, connection) = Builder::new().handshake(io).await?;
        spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// How long after the end of a tunnel the next is dialled.
const REDIAL: Duration = Duration::from_millis(50);

/// Hands on what comes in, without end: tunnels to `take`, clients to `serve`.
pub(crate) async fn listen<T, Taken, Served>(
    folder: &Path,
    [clients, tunnels]: [SocketAddr; 2],
    take: fn(Arc<T>, TlsAcceptor, TcpStream) -> Taken,
    serve: fn(Arc<T>, TlsAcceptor, TcpStream) -> Served,
) -> Result<(), Fault>
where
    T: Default + Send + Sync + 'static,
    Taken: Future<Output = Result<(), Fault>> + Send + 'static,
    Served: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let all = Arc::<T>::default();
    let for_tunnels = TlsAcceptor::from(Arc::new(pki::server(folder, false)?));
    let for_clients = TlsAcceptor::from(Arc::new(pki::server(folder, true)?));
    let dialled = TcpListener::bind(tunnels).await?;
    spawn(accept(dialled, Arc::clone(&all), for_tunnels, take));
    accept(TcpListener::bind(clients).await?, all, for_clients, serve).await;
    Ok(())
}

async fn accept<T, Handled>(
    listener: TcpListener,
    all: Arc<T>,
    acceptor: TlsAcceptor,
    handle: fn(Arc<T>, TlsAcceptor, TcpStream) -> Handled,
) where
    Handled: Future<Output = Result<(), Fault>> + Send + 'static,
{
    while let Ok((tcp, _)) = listener.accept().await {
        if prepare(&tcp).is_ok() {
            let handled = handle(Arc::clone(&all), acceptor.clone(), tcp);
            // What ends a connection does not matter: nothing here mends one.
            spawn(async move { drop(handled.await) });
        }
    }
}

/// Keeps so many tunnels, without end; `serve` serves one.
pub(crate) async fn dial<B, Served>(
    folder: &Path,
    gateway: SocketAddr,
    tunnels: usize,
    backend: B,
    serve: fn(Arc<B>, TlsConnector, TcpStream) -> Served,
) -> Result<(), Fault>
where
    B: Send + Sync + 'static,
    Served: Future<Output = Result<(), Fault>> + Send + 'static,
{
    let backend = Arc::new(backend);
    let connector = TlsConnector::from(Arc::new(pki::dialler(folder)?));
    for _ in 0..tunnels {
        let (backend, connector) = (Arc::clone(&backend), connector.clone());
        spawn(async move {
            loop {
                if let Ok(tcp) = connect(gateway).await {
                    drop(serve(Arc::clone(&backend), connector.clone(), tcp).await);
                }
                tokio::time::sleep(REDIAL).await;
            }
        });
    }
    pending().await
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Fault> {
    let tcp = TcpStream::connect(address).await?;
    prepare(&tcp)?;
    Ok(tcp)
}
