//! A scripted backend: an HTTP/1.1 server on a free port whose answers a closure gives.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::spawn;

pub type Answer = Response<BoxBody<Bytes, io::Error>>;

/// A running backend; it ends when dropped.
pub struct Backend {
    pub address: SocketAddr,
    open: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
    accept: JoinHandle<()>,
    stop: tokio::sync::watch::Sender<()>,
}

impl Backend {
    /// Starts a backend that gives each request to a closure.
    pub async fn start<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), answer).await
    }

    /// Starts a backend at an address, for one that comes back.
    pub async fn start_at<F, Fut>(address: SocketAddr, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = tokio::sync::watch::channel(());
        let accept = spawn(accept(
            listener,
            answer,
            open.clone(),
            seen.clone(),
            stopped,
        ));
        Self {
            address,
            open,
            seen,
            accept,
            stop,
        }
    }

    /// The connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The requests that came so far.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accept.abort();
        let _ = self.stop.send(());
    }
}

async fn accept<F, Fut>(
    listener: TcpListener,
    answer: F,
    open: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
    stopped: tokio::sync::watch::Receiver<()>,
) where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.set_nodelay(true);
        let (answer, open, seen) = (answer.clone(), open.clone(), seen.clone());
        let mut stopped = stopped.clone();
        spawn(async move {
            open.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(move |request| {
                seen.fetch_add(1, Ordering::SeqCst);
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let serve = http1::Builder::new()
                .half_close(false)
                .serve_connection(TokioIo::new(tcp), service);
            tokio::select! {
                biased;
                _ = stopped.changed() => (),
                _ = serve => (),
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// An answer with a body of known bytes.
pub fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into())
        .map_err(|never| match never {})
        .boxed();
    Response::builder().status(status).body(body).unwrap()
}

/// An answer whose body comes from a channel, frame by frame.
pub fn streamed(status: u16) -> (tokio::sync::mpsc::Sender<Bytes>, Answer) {
    let (send, mut receive) = tokio::sync::mpsc::channel::<Bytes>(4);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receive
            .poll_recv(cx)
            .map(|bytes| bytes.map(|b| Ok(hyper::body::Frame::data(b))))
    });
    let body = BodyExt::boxed(http_body_util::StreamBody::new(frames));
    (send, Response::builder().status(status).body(body).unwrap())
}
