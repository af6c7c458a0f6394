//! The administration listener and the health listener: read-only views over plain HTTP/1.1.
//!
//! Administration (loopback by default): `GET /` lists what is here, `GET /metrics` the OpenMetrics text, `GET /status` the state as JSON.
//! Health (a port of its own, for load balancers): `GET /healthz` is 200 while the role takes work and 503 once it drains, `GET /readyz`
//! is 200 when besides that a tunnel is up. What is shown comes as values and closures from the composition; nothing here changes anything. Requests
//! carry no secrets and no bodies; connections are bounded in number and time.

use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::drain::Draining;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::tasks::Tasks;

// Probes and scrapers come from a handful of places; more at once is somebody else.
const CONNECTIONS: usize = 128;
// Longer than the usual pause between two probes or scrapes, so that they may keep their connection.
const HEAD_TIME_OUT: Duration = Duration::from_secs(75);
// A head of a probe is a few hundred bytes; hyper's least is 8 KiB.
const HEAD_LIMIT: usize = 16 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A view that is computed when it is asked for, as JSON; it must not block.
pub type StatusView = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;
/// Whether the role can do its work now; it must not block.
pub type ReadyView = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the administration router shows.
#[derive(Clone)]
pub struct Views {
    /// `/metrics`.
    pub metrics: Metrics,
    /// `/status`.
    pub status: StatusView,
}

/// What the health router shows.
#[derive(Clone)]
pub struct Health {
    /// Makes `/healthz` and `/readyz` 503 once the drain has begun.
    pub draining: Draining,
    /// `/readyz`: at least one tunnel is up.
    pub is_ready: ReadyView,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let draining = self.draining.is_draining();
        f.debug_struct("Health")
            .field("draining", &draining)
            .finish_non_exhaustive()
    }
}

/// The paths of both routers, with what they show.
pub const PATHS: &[(&str, &str)] = &[
    ("/", "this list"),
    ("/metrics", "metrics in OpenMetrics text"),
    ("/status", "the state of this process as JSON"),
    (
        "/healthz",
        "200 while the role takes work, 503 once it drains",
    ),
    (
        "/readyz",
        "200 while the role takes work and a tunnel is up, else 503",
    ),
];

/// The administration router; it holds the health paths as well.
///
/// A request over the loopback address whose `Host` is a name other than `localhost` is answered 403: a page in an administrator's browser can
/// point a name of its own at that address, but it cannot make the browser send another `Host`. Where the listener was opened to a network,
/// scrapers may use names.
pub fn router(views: Views, health: Health) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(views)
        .merge(health_paths(health))
        .layer(middleware::from_fn(only_by_address))
}

/// The router of the health port: `/healthz` and `/readyz`.
///
/// Load balancers send any `Host`; nothing here is worth hiding.
pub fn health_router(health: Health) -> Router {
    health_paths(health)
}

fn health_paths(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health)
}

/// Serves a router until the drain is forced; the connections are tasks of `tasks`.
///
/// During the drain it goes on answering, since that is when it is asked.
pub async fn serve(listener: TcpListener, router: Router, tasks: Tasks, mut draining: Draining) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.forced() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the administration or health port could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Dropping the stream closes it: who comes beyond the limit is told at once instead of waiting.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let (router, mut draining) = (router.clone(), draining.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = draining.forced() => {}
                () = serve_connection(stream, router) => {}
            }
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let local = stream
        .local_addr()
        .is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(OverLoopback(local));
        async move { router.oneshot(request).await }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_OUT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the administration or health port ended early");
    }
}

async fn list() -> String {
    PATHS
        .iter()
        .map(|(path, what)| format!("{path}\t{what}\n"))
        .collect()
}

async fn metrics(State(views): State<Views>) -> Response {
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        views.metrics.encode(),
    )
        .into_response()
}

async fn status(State(views): State<Views>) -> Json<serde_json::Value> {
    Json((views.status)())
}

async fn healthz(State(health): State<Health>) -> Response {
    verdict(!health.draining.is_draining(), "draining")
}

async fn readyz(State(health): State<Health>) -> Response {
    if health.draining.is_draining() {
        return verdict(false, "draining");
    }
    verdict((health.is_ready)(), "no tunnel")
}

fn verdict(good: bool, otherwise: &'static str) -> Response {
    let uncached = [(header::CACHE_CONTROL, "no-store")];
    if good {
        (uncached, "ok\n").into_response()
    } else {
        let text = format!("{otherwise}\n");
        (StatusCode::SERVICE_UNAVAILABLE, uncached, text).into_response()
    }
}

#[derive(Clone, Copy, Debug)]
struct OverLoopback(bool);

async fn only_by_address(request: Request, next: Next) -> Result<Response, Infallible> {
    let local = request
        .extensions()
        .get::<OverLoopback>()
        .is_none_or(|over| over.0);
    Ok(if !local || is_by_address(request.headers()) {
        next.run(request).await
    } else {
        let why = "ask by IP address or localhost\n";
        (StatusCode::FORBIDDEN, why).into_response()
    })
}

fn is_by_address(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        // HTTP/1.0 probes send none; browsers always do.
        return true;
    };
    let Ok(authority) = host.to_str().unwrap_or_default().parse::<Authority>() else {
        return false;
    };
    let name = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests;
