//! What both shapes do before a request comes: listening, dialling, TLS.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Fault, pki, prepare, spawn};

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

/// Connects to a gateway or a backend.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Fault> {
    let tcp = TcpStream::connect(address).await?;
    prepare(&tcp)?;
    Ok(tcp)
}
