//! Two small web servers that answer like a management point and a software update point.
//!
//! `quickstart` runs them where no real backend was named, and the tests use them as backends. They speak
//! HTTP/1.1 on a free loopback port, and every body they send follows from the request alone, so that whoever
//! asks can compare byte by byte. They keep no more than a table of upload sessions, and serve loopback only.

pub mod bits;
pub mod content;
mod management_point;
mod software_update_point;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::drain::{Drain, Draining};
use crate::tasks::Tasks;

pub use management_point::{MPLIST, SITESIGNCERT, policy};
pub use software_update_point::soap_answer;

/// What waits in the kernel for one peer: thousands that stall share the machine with both ends of their way, and what the
/// kernel has for all sockets together is not much.
const SEND_BUFFER: usize = 64 << 10;

/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The largest body that is read whole before it is answered.
pub const BODY_LIMIT: usize = 64 << 20;

// What a drain may take before connections are cut: the long polls among them.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// How a built-in backend behaves where a test or a script wants something else than the default.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a long poll to `BGB` is held, unless the request's `hold` parameter says otherwise.
    pub hold: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // The notification server's own keep-alive.
            hold: Duration::from_secs(15 * 60),
        }
    }
}

/// A running built-in backend. Dropping it ends it at once; [`BuiltIn::stop`] ends it in order.
#[derive(Debug)]
pub struct BuiltIn {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    drain: Drain,
    tasks: Tasks,
}

enum Site {
    ManagementPoint(management_point::ManagementPoint),
    SoftwareUpdatePoint,
}

impl BuiltIn {
    /// Starts a management point on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn management_point(options: Options) -> io::Result<Self> {
        let site = management_point::ManagementPoint::new(options.hold);
        Self::start(Site::ManagementPoint(site)).await
    }

    /// Starts a software update point on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn software_update_point() -> io::Result<Self> {
        Self::start(Site::SoftwareUpdatePoint).await
    }

    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many request heads have come in.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Finishes what is under way, cuts what takes longer than two seconds, and returns once nothing is left.
    pub async fn stop(self) {
        self.drain.start();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.join())
            .await
            .is_err()
        {
            self.tasks.abort();
            self.tasks.join().await;
        }
    }

    async fn start(site: Site) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let built_in = Self {
            address: listener.local_addr()?,
            requests: Arc::default(),
            drain: Drain::new(),
            tasks: Tasks::new(),
        };
        let server = Server {
            site: Arc::new(site),
            requests: built_in.requests.clone(),
            tasks: built_in.tasks.clone(),
            draining: built_in.drain.watch(),
        };
        built_in.tasks.spawn(server.accept(listener));
        Ok(built_in)
    }
}

impl Drop for BuiltIn {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

#[derive(Clone)]
struct Server {
    site: Arc<Site>,
    requests: Arc<AtomicU64>,
    tasks: Tasks,
    draining: Draining,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let mut draining = self.draining.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = draining.draining() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.tasks.spawn(self.clone().serve(stream)),
                // Out of descriptors: connections that end will free some.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn serve(self, stream: TcpStream) {
        // A peer that is gone already shows at the first read.
        let _ = stream.set_nodelay(true);
        // The kernel's default is fine where this fails.
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
        let service = service_fn(|request| {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let site = self.site.clone();
            async move { Ok::<_, Infallible>(site.answer(request).await) }
        });
        let mut draining = self.draining.clone();
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            biased;
            // How a connection ended is for the side that asks to judge.
            _ = connection.as_mut() => return,
            () = draining.draining() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

impl Site {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self {
            Self::ManagementPoint(site) => site.answer(request).await,
            Self::SoftwareUpdatePoint => software_update_point::answer_to(request).await,
        }
    }
}

/// A body of known bytes.
fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with a body of one media type.
fn answer(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let media_type = header::HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

fn not_found() -> Response<Body> {
    answer(StatusCode::NOT_FOUND, "text/plain", "no such thing here\n")
}

fn method_not_allowed() -> Response<Body> {
    let text = "not with this method\n";
    answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", text)
}

/// Reads a body whole; `Err` holds the answer when it is too long or breaks off.
async fn read(body: Incoming) -> Result<Bytes, Response<Body>> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(answer(
            StatusCode::PAYLOAD_TOO_LARGE,
            "text/plain",
            "the body is longer than 64 MiB\n",
        )),
        Err(_) => Err(answer(
            StatusCode::BAD_REQUEST,
            "text/plain",
            "the body broke off\n",
        )),
    }
}

/// The path and its segments in lower case, as IIS compares them.
fn lower_segments(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(str::to_ascii_lowercase)
        .collect()
}
