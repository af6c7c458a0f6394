//! The request path of a connection point: from a tunnel's stream to a backend and back.
//!
//! It trusts the gateway no further than its own file: the path rule is repeated, and role, endpoint and method
//! must be published here. [`Forward::handle`] is what a tunnel's supervisor calls for each request;
//! [`Forward::roles`] is what it tells the gateway.

mod answer;
mod location;
mod settings;
mod target;
mod told;
mod websocket;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tokio::sync::{Notify, watch};

use self::answer::AnswerBody;
use self::location::Place;
use self::target::{Catalogue, Target};
use self::told::Told;
use crate::allowance::Allowance;
use crate::backend::{Backend, Failure, OnContinue, Terms};
use crate::message::headers::{self, Asked, Origin, Present};
use crate::message::path;
use crate::message::refusal::{Hop, Refusal};
use crate::metrics::{EndpointMetrics, Metrics};
use crate::reason::Reason;
use crate::role::{ByRoleId, Health, PublishedRole};
use crate::tasks::Tasks;
use crate::tunnel;

pub use settings::RoleSettings;

/// Everything that forwards. Clones are handles on the same.
#[derive(Clone, Debug)]
pub struct Forward(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    table: ArcSwap<Table>,
    roles: watch::Sender<Arc<Vec<PublishedRole>>>,
    // Serialises changes of the table with what is told of it.
    change: Mutex<()>,
    allowance: Allowance,
    metrics: Metrics,
    tasks: Tasks,
}

/// What one file publishes, as one snapshot.
#[derive(Debug, Default)]
struct Table {
    catalogue: Catalogue,
    backends: ByRoleId<Published>,
}

#[derive(Debug)]
struct Published {
    backend: Backend<tunnel::Body>,
    metrics: Vec<Arc<EndpointMetrics>>,
}

/// What an endpoint allows of its requests.
#[derive(Clone, Copy, Debug)]
struct Manner {
    long_poll: bool,
    websocket: bool,
}

impl Forward {
    /// Builds what a file publishes; nothing is dialled yet. Watchers, and connections that no request holds, are tasks of
    /// `tasks`, and connections hold no more of the bodies of requests than the `allowance`.
    ///
    /// # Errors
    /// Every fault of the files that the settings point to, each beginning with role and key.
    pub fn build(
        roles: Vec<RoleSettings>,
        metrics: &Metrics,
        tasks: &Tasks,
        allowance: &Allowance,
    ) -> Result<Self, Vec<String>> {
        let forward = Self(Arc::new(Inner {
            table: ArcSwap::default(),
            roles: watch::Sender::default(),
            change: Mutex::default(),
            allowance: allowance.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
        }));
        forward.apply(roles)?;
        Ok(forward)
    }

    /// Puts another file's roles in place of the present ones, whole or not at all. Requests under way end as they
    /// began; certificates are read anew.
    ///
    /// # Errors
    /// As [`Forward::build`]; nothing is changed then.
    pub fn apply(&self, roles: Vec<RoleSettings>) -> Result<(), Vec<String>> {
        let table = self.0.table_of(roles)?;
        for published in table.backends.values() {
            let health = published.backend.health();
            self.0.tasks.spawn(follow(Arc::downgrade(&self.0), health));
        }
        self.0.table.store(Arc::new(table));
        self.0.publish();
        Ok(())
    }

    /// Publishes nothing any more, and closes the connections that are idle.
    pub fn close(&self) {
        self.0.table.store(Arc::default());
        self.0.publish();
    }

    /// What can be served now, with its health.
    pub fn roles(&self) -> watch::Receiver<Arc<Vec<PublishedRole>>> {
        self.0.roles.subscribe()
    }

    /// Takes one request from a tunnel to its backend and the answer back, until all is said.
    ///
    /// The future is what every request takes of memory while it waits. What an async block moves elsewhere it has room for
    /// twice, so that the request is taken apart before.
    pub fn handle(self, incoming: tunnel::Incoming) -> impl Future<Output = ()> + Send + 'static {
        let tunnel::Incoming {
            mut request,
            mut respond,
        } = incoming;
        let origin = Origin::take(request.headers_mut());
        let mut told = Told::new(&request, origin.as_ref());
        async move {
            let answered = self
                .answer(&mut request, &mut respond, origin.as_ref(), &mut told)
                .await;
            let response = match answered {
                Some(Ok(response)) => response,
                Some(Err(refusal)) => {
                    // What came of the body is not kept while the refusal is sent.
                    *request.body_mut() = tunnel::Body::empty();
                    Self::refuse(refusal, &mut told)
                }
                None => return told.failed(Reason::ClientGone, "before an answer"),
            };
            match respond.send(response).await {
                Ok(bytes) => told.sent(bytes),
                Err(reason) => told.failed(reason, "while its answer was sent"),
            }
        }
    }

    /// The answer to a request; `None` if the gateway has reset it.
    async fn answer(
        &self,
        request: &mut Request<tunnel::Body>,
        respond: &mut tunnel::Respond,
        origin: Option<&Origin>,
        told: &mut Told,
    ) -> Option<Result<Response<AnswerBody>, Refusal>> {
        let present = Present::of(request.headers());
        let expects = present.has(Asked::Expect);
        let continued = expects.then(Arc::<Notify>::default);
        let mut lost = pin!(request.body().lost());
        let mut answer = pin!(self.forward(request, present, origin, continued.as_ref(), told));
        loop {
            tokio::select! {
                biased;
                () = respond.reset() => return None,
                answered = &mut answer => return Some(answered),
                () = &mut lost => return Some(Err(refusal_of(no_memory()))),
                () = heard(continued.as_deref()) => respond.send_continue(),
            }
        }
    }

    /// Every request gets an answer here: the refusal that says why there is no other.
    fn refuse(refusal: Refusal, told: &mut Told) -> Response<AnswerBody> {
        told.refused(&refusal);
        let external = path::external(told.path());
        let mutual = external.is_some_and(|external| external.mutual);
        refusal
            .into_response(Hop::ConnectionPoint, told.id(), mutual)
            .map(AnswerBody::Own)
    }

    /// The path of a request.
    async fn forward(
        &self,
        request: &mut Request<tunnel::Body>,
        present: Present,
        origin: Option<&Origin>,
        continued: Option<&Arc<Notify>>,
        told: &mut Told,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let uri = std::mem::take(request.uri_mut());
        let opening = websocket::take_opening(request);
        // 1. Only what this connection point's own file publishes is reached.
        let (method, fields) = (request.method(), request.headers());
        let (backend, target, manner) = self.resolve(method, &uri, fields, told)?;
        if opening && !manner.websocket {
            let what = "WebSockets are not published here";
            return Err(Refusal::new(Reason::UnknownRole).detail(what));
        }
        // 2. The request as the backend is to see it.
        let terms = Terms {
            endpoint: target.endpoint,
            long_poll: manner.long_poll,
            client: client_of(origin, &backend),
            on_continue: continued.map(on_continue),
            websocket: opening,
        };
        headers::strip_last_hop(request.headers_mut());
        if let Some(origin) = origin {
            origin.write_out(request.headers_mut(), host_of(&uri), present);
        }
        *request.uri_mut() = internal(backend.settings().url.prefix(), target.rest)?;
        let from_client =
            opening.then(|| std::mem::replace(request.body_mut(), tunnel::Body::empty()));
        // 3. There and back.
        let request = std::mem::replace(request, Request::new(tunnel::Body::empty()));
        let answer = backend.send(request, terms).await;
        let (mut head, body) = answer.map_err(refusal_of)?.into_parts();
        let body = match from_client {
            Some(from_client) if !is_refused(head.status) => {
                let tasks = &self.0.tasks;
                let switched = websocket::switch(&mut head, body, from_client, tasks).await?;
                AnswerBody::Switched(switched)
            }
            Some(_) | None => AnswerBody::Backend(body),
        };
        // 4. The answer as the client is to see it.
        let reason = answer::clean(&mut head, &place(&backend, &uri, &target))?;
        told.answered(head.status, reason);
        Ok(Response::from_parts(head, body))
    }

    fn resolve<'u>(
        &self,
        method: &Method,
        uri: &'u Uri,
        fields: &HeaderMap,
        told: &mut Told,
    ) -> Result<(Backend<tunnel::Body>, Target<'u>, Manner), Refusal> {
        let table = self.0.table.load();
        let target = table.catalogue.resolve(method, uri, fields)?;
        let endpoint = table.catalogue.endpoints(target.role).get(target.endpoint);
        let (Some(published), Some(endpoint)) = (table.backends.get(&target.role), endpoint) else {
            return Err(Refusal::new(Reason::UnknownRole));
        };
        told.resolved(&published.metrics[target.endpoint]);
        let manner = Manner {
            long_poll: endpoint.long_poll,
            websocket: endpoint.websocket,
        };
        Ok((published.backend.clone(), target, manner))
    }
}

impl Inner {
    fn table_of(&self, roles: Vec<RoleSettings>) -> Result<Table, Vec<String>> {
        let mut table = Table::default();
        let mut faults = Vec::new();
        for role in roles {
            let id = role.backend.id;
            match Backend::build(role.backend, &self.metrics, &self.tasks, &self.allowance) {
                Err(found) => {
                    faults.extend(found.iter().map(|fault| format!("role {id}: {fault}")));
                }
                Ok(backend) => {
                    table.catalogue.add(id, role.endpoints);
                    let endpoints = table.catalogue.endpoints(id).iter();
                    let metrics =
                        endpoints.map(|endpoint| self.metrics.endpoint(id, &endpoint.name));
                    let metrics = metrics.collect();
                    table.backends.insert(id, Published { backend, metrics });
                }
            }
        }
        faults.is_empty().then_some(table).ok_or(faults)
    }

    /// Tells what can be served now, if it differs from what was told last.
    fn publish(&self) {
        // Two changes at once must not be told in the wrong order.
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.table.load();
        let mut roles: Vec<_> = table.backends.values().map(Published::told).collect();
        roles.sort_by_key(|role| role.id);
        self.roles.send_if_modified(|now| {
            let changed = **now != roles;
            if changed {
                *now = Arc::new(roles);
            }
            changed
        });
    }
}

impl Published {
    fn told(&self) -> PublishedRole {
        PublishedRole {
            id: self.backend.role(),
            health: *self.backend.health().borrow(),
            capacity: self.backend.settings().capacity,
        }
    }
}

/// Tells each change of one backend's health, until the backend is gone.
async fn follow(forward: Weak<Inner>, mut health: watch::Receiver<Health>) {
    while health.changed().await.is_ok() {
        let Some(forward) = forward.upgrade() else {
            return;
        };
        forward.publish();
    }
}

/// Whether an answer is no success of any kind.
fn is_refused(status: StatusCode) -> bool {
    status.is_redirection() || status.is_client_error() || status.is_server_error()
}

/// The client connection that a backend connection belongs to, for backends that authenticate connections.
fn client_of(origin: Option<&Origin>, backend: &Backend<tunnel::Body>) -> Option<String> {
    origin
        .filter(|_| backend.settings().connection_auth)
        .map(|origin| origin.connection().to_owned())
}

fn host_of(uri: &Uri) -> &str {
    uri.authority().map_or("", Authority::as_str)
}

/// The backend's 100 is passed on to a client that waits for it.
fn on_continue(continued: &Arc<Notify>) -> OnContinue {
    let continued = Arc::clone(continued);
    Arc::new(move || continued.notify_one())
}

/// Returns once the backend has said 100; never for a request that does not wait for it.
async fn heard(continued: Option<&Notify>) {
    match continued {
        Some(continued) => continued.notified().await,
        None => std::future::pending().await,
    }
}

/// The internal path: the base's prefix, then the rest byte for byte.
fn internal(prefix: &str, rest: &str) -> Result<Uri, Refusal> {
    let path = PathAndQuery::try_from([prefix, rest].concat());
    path.map(Uri::from)
        .map_err(|error| Refusal::new(Reason::BadPath).detail(error.to_string()))
}

fn place<'r>(backend: &'r Backend<tunnel::Body>, uri: &'r Uri, target: &Target<'r>) -> Place<'r> {
    let settings = backend.settings();
    Place {
        base: &settings.url,
        host: settings.host.as_deref(),
        authority: host_of(uri),
        outside: target.outside,
        rest: target.rest,
    }
}

/// The backend took no byte of the body while memory was short.
fn no_memory() -> Failure {
    let detail = "no byte of the body was taken while memory was short";
    Failure::new(Reason::Overloaded, detail)
}

fn refusal_of(failure: Failure) -> Refusal {
    let refusal = Refusal::new(failure.reason).detail(failure.detail);
    match failure.reason == Reason::Overloaded {
        true => refusal.retry_for_room(),
        false => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, Fut>(_: impl FnOnce(A) -> Fut) -> usize {
        size_of::<Fut>()
    }

    // What every request takes of memory while its backend works. A larger figure is a decision, not an accident.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let found = size(|(forward, incoming): (Forward, tunnel::Incoming)| {
            Forward::handle(forward, incoming)
        });
        assert!((500..4_000).contains(&found), "{found}");
    }
}
