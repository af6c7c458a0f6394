//! The core of the load generator: a closed loop over N HTTP/1.1 connections, with or without mTLS.
//!
//! Each connection sends its next request when the last is over, and is made anew when it is gone. Every request leaves one [`Shot`], also
//! those that failed, so that a test can say of each what became of it. The load is bounded: by a number of requests, or by [`Running::stop`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::ext::ReasonPhrase;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opencmg::tasks::Tasks;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_rustls::TlsConnector;

// A connection that cannot be made is tried again, so often at most.
const RECONNECT: Duration = Duration::from_millis(20);

type Make = dyn Fn(u64) -> Request<Full<Bytes>> + Send + Sync;

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Head and whole body arrived.
    Answered {
        /// The status.
        status: u16,
        /// The reason phrase, if it is not the canonical one.
        phrase: Option<String>,
        /// The `Proxy-Status` field, if one came.
        proxy_status: Option<String>,
        /// Bytes of the body.
        bytes: u64,
    },
    /// A head arrived, and a body that is known to be incomplete.
    Aborted {
        /// The status.
        status: u16,
        /// Bytes of the body until then.
        bytes: u64,
    },
    /// No head arrived on a connection that was up.
    Unanswered(String),
}

/// One request: which, when, how long, and what became of it.
#[derive(Clone, Debug)]
pub struct Shot {
    /// The number given to the closure that made it.
    pub number: u64,
    /// From sending to the end of the body, or to the failure.
    pub took: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// A load to be started.
#[derive(Clone)]
pub struct Load {
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connections: usize,
    requests: u64,
    make: Arc<Make>,
}

impl Load {
    /// A load of requests made by the closure from their number; plain HTTP, one connection, until stopped.
    pub fn new(
        address: SocketAddr,
        make: impl Fn(u64) -> Request<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            address,
            tls: None,
            connections: 1,
            requests: u64::MAX,
            make: Arc::new(make),
        }
    }

    /// Speaks TLS, with the client certificate that the configuration holds.
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        self.tls = Some((TlsConnector::from(config), name));
        self
    }

    /// How many connections.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How many requests over all connections.
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// Starts every connection.
    pub fn start(self) -> Running {
        let running = Running {
            tasks: Tasks::new(),
            state: Arc::default(),
        };
        for _ in 0..self.connections {
            let worker = worker(
                self.clone(),
                Arc::clone(&running.state),
                running.tasks.clone(),
            );
            running.tasks.spawn(worker);
        }
        running
    }
}

#[derive(Default)]
struct State {
    next: AtomicU64,
    stopped: AtomicBool,
    in_flight: AtomicUsize,
    connects_failed: AtomicU64,
    shots: Mutex<Vec<Shot>>,
    changed: Notify,
}

/// A load under way. Dropping it ends it.
pub struct Running {
    tasks: Tasks,
    state: Arc<State>,
}

impl Running {
    /// Requests sent and not over.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
    }

    /// Requests over.
    pub fn over(&self) -> usize {
        self.state.shots.lock().unwrap().len()
    }

    /// Returns once so many requests are in flight.
    pub async fn wait_in_flight(&self, at_least: usize) {
        self.wait(|| self.in_flight() >= at_least).await;
    }

    /// Returns once so many requests are over.
    pub async fn wait_over(&self, at_least: usize) {
        self.wait(|| self.over() >= at_least).await;
    }

    /// Sends no further request.
    pub fn stop(&self) {
        self.state.stopped.store(true, Ordering::Relaxed);
    }

    /// Waits until every request is over and returns what became of them.
    ///
    /// # Panics
    /// When that takes longer than `within`; the message says how many are left.
    pub async fn finish(self, within: Duration) -> Report {
        let done = tokio::time::timeout(within, self.tasks.join()).await;
        assert!(
            done.is_ok(),
            "{} requests hang after {within:?}",
            self.in_flight()
        );
        let mut shots = std::mem::take(&mut *self.state.shots.lock().unwrap());
        shots.sort_by_key(|shot| shot.number);
        Report {
            shots,
            connects_failed: self.state.connects_failed.load(Ordering::Relaxed),
        }
    }

    async fn wait(&self, condition: impl Fn() -> bool) {
        let met = async {
            loop {
                let changed = self.state.changed.notified();
                if condition() {
                    return;
                }
                changed.await;
            }
        };
        let met = tokio::time::timeout(Duration::from_secs(60), met).await;
        assert!(
            met.is_ok(),
            "{} in flight, {} over",
            self.in_flight(),
            self.over()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

/// What became of every request of a load.
#[derive(Debug)]
pub struct Report {
    /// One per request, by number.
    pub shots: Vec<Shot>,
    /// Attempts to connect that failed; no request was sent on them.
    pub connects_failed: u64,
}

impl Report {
    /// How many requests had each status; 0 stands for aborted and unanswered ones.
    pub fn by_status(&self) -> BTreeMap<u16, usize> {
        let mut out = BTreeMap::new();
        for shot in &self.shots {
            let status = match &shot.outcome {
                Outcome::Answered { status, .. } => *status,
                Outcome::Aborted { .. } | Outcome::Unanswered(_) => 0,
            };
            *out.entry(status).or_default() += 1;
        }
        out
    }

    /// The requests that were not answered with a 2xx and its whole body.
    pub fn failed(&self) -> Vec<&Shot> {
        let good = |shot: &&Shot| matches!(&shot.outcome, Outcome::Answered { status, .. } if (200..300).contains(status));
        self.shots.iter().filter(|shot| !good(shot)).collect()
    }

    /// The time within which a fraction of the requests was over, for example 0.99.
    pub fn quantile(&self, fraction: f64) -> Duration {
        let mut took: Vec<_> = self.shots.iter().map(|shot| shot.took).collect();
        took.sort();
        let at = (took.len().saturating_sub(1)) as f64 * fraction;
        took.get(at.round() as usize).copied().unwrap_or_default()
    }
}

async fn worker(load: Load, state: Arc<State>, tasks: Tasks) {
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    let mut attempts = interval(RECONNECT);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let more = || {
        let sent = state.next.load(Ordering::Relaxed);
        sent < load.requests && !state.stopped.load(Ordering::Relaxed)
    };
    while more() {
        let ready = match &mut connection {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            attempts.tick().await;
            connection = connect(&load, &tasks).await;
        }
        let Some(sender) = &mut connection else {
            state.connects_failed.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let number = state.next.fetch_add(1, Ordering::Relaxed);
        if number >= load.requests {
            return;
        }
        let request = (load.make)(number);
        state.in_flight.fetch_add(1, Ordering::Relaxed);
        state.changed.notify_waiters();
        let start = Instant::now();
        let outcome = match sender.send_request(request).await {
            Ok(response) => read(response).await,
            Err(error) => Outcome::Unanswered(error.to_string()),
        };
        if !matches!(outcome, Outcome::Answered { .. }) {
            connection = None;
        }
        let took = start.elapsed();
        state.in_flight.fetch_sub(1, Ordering::Relaxed);
        state.shots.lock().unwrap().push(Shot {
            number,
            took,
            outcome,
        });
        state.changed.notify_waiters();
    }
}

async fn connect(load: &Load, tasks: &Tasks) -> Option<SendRequest<Full<Bytes>>> {
    let tcp = TcpStream::connect(load.address).await.ok()?;
    tcp.set_nodelay(true).ok()?;
    match &load.tls {
        None => speak(tcp, tasks).await,
        Some((connector, name)) => {
            let tls = connector.connect(name.clone(), tcp).await.ok()?;
            speak(tls, tasks).await
        }
    }
}

async fn speak<IO>(io: IO, tasks: &Tasks) -> Option<SendRequest<Full<Bytes>>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(io)).await.ok()?;
    tasks.spawn(async move {
        // Its error is the error of the request that was under way.
        let _ = connection.await;
    });
    Some(sender)
}

async fn read(response: Response<hyper::body::Incoming>) -> Outcome {
    let (head, mut body) = response.into_parts();
    let status = head.status.as_u16();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return Outcome::Aborted { status, bytes },
        }
    }
    let phrase = head.extensions.get::<ReasonPhrase>();
    let proxy_status = head.headers.get("proxy-status");
    Outcome::Answered {
        status,
        phrase: phrase.map(|p| String::from_utf8_lossy(p.as_bytes()).into_owned()),
        proxy_status: proxy_status.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()),
        bytes,
    }
}
