//! The gateway's side of one tunnel: from an accepted connection to its end.

use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::driven::Client;
use super::frames::Frames;
use super::io::{Traffic, Watched};
use super::link::{Link, Published};
use super::publish::{Heard, Reading};
use super::registry::{Peer, Registry, TunnelEnd};
use super::window::{self, Window};
use super::wire::{self, Refused, RolesLine};
use super::{liveness, note};
use crate::drain::Draining;
use crate::metrics::{ByPeer, ByReason};
use crate::reason::Reason;
use crate::role::RoleId;
use crate::tasks::Aside;

/// How long a refusal may take to be answered: a name that is taken out is gone within 2 s.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long an answer to a hello is waited for before the next may be said.
const ANSWER: Duration = Duration::from_secs(5);

/// How often it is asked whether a tunnel has used up its streams.
const WEAR: Duration = Duration::from_secs(60);

impl TunnelEnd {
    fn new(reason: Option<Reason>, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Serves one accepted connection; see [`Registry::serve`].
pub(super) async fn serve<IO>(
    registry: &Registry,
    io: IO,
    peer: Peer,
    closed: impl Future<Output = Reason> + Send,
    draining: Draining,
) -> TunnelEnd
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, pulse) = Watched::new(io, traffic_of(registry, &peer.name));
    let io = io.counting(Frames::of_client());
    // Nothing is written before the connection is polled: a peer that takes no bytes is found by its silence.
    let (sender, mut connection) = match Client::begin(&registry.settings().wire, io).await {
        Ok(both) => both,
        Err(error) => return TunnelEnd::new(Some(Reason::TunnelLost), error.to_string()),
    };
    let admitted = if draining.is_draining() {
        Err(Reason::Draining)
    } else {
        registry.admit(&peer, sender.clone())
    };
    let link = match admitted {
        Ok(link) => link,
        Err(reason) => {
            let refusals = &registry.metrics().tunnel_refusals;
            refusals.get_or_create(&ByReason { reason }).inc();
            tracing::warn!(connection_point = %peer.name, remote = %peer.remote, %reason, "a tunnel is refused");
            refuse(registry, sender, connection, reason).await;
            return TunnelEnd::new(Some(reason), "refused");
        }
    };
    tracing::info!(connection_point = %peer.name, remote = %peer.remote, "a tunnel is up");
    let entry = Entry(registry.clone(), Arc::clone(&link));
    let pings = connection.connection.ping_pong();
    let end = {
        let silent = async {
            match pings {
                Some(pings) => {
                    liveness::silent(pulse, pings, registry.settings().wire.clone()).await
                }
                None => pending().await,
            }
        };
        let life = Life {
            registry,
            link: &link,
            draining,
        };
        life.live(&mut connection, sender.clone(), closed, silent)
            .await
    };
    drop(entry);
    tracing::info!(connection_point = %peer.name, remote = %peer.remote, reason = end.reason.map(Reason::as_str), detail = %end.detail, "a tunnel has ended");
    if let Ending::Ours(reason) = end.whose {
        refuse(registry, sender, connection, reason).await;
    }
    TunnelEnd::new(end.reason, end.detail)
}

fn traffic_of(registry: &Registry, name: &str) -> Traffic {
    if !registry.is_listed(name) {
        // Names that nobody configured make no series.
        return Traffic::default();
    }
    let label = ByPeer::new(&name.to_ascii_lowercase());
    let metrics = registry.metrics();
    Traffic {
        received: metrics.tunnel_received_bytes.get_or_create(&label).clone(),
        sent: metrics.tunnel_sent_bytes.get_or_create(&label).clone(),
    }
}

/// Keeps a tunnel in the table as long as it is served, however the serving ends.
struct Entry(Registry, Arc<Link>);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.remove(&self.1);
    }
}

/// Tells the peer why, and closes.
async fn refuse<IO>(
    registry: &Registry,
    sender: SendRequest<Bytes>,
    mut connection: Client<IO>,
    reason: Reason,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let wait = (reason == Reason::Draining).then_some(registry.settings().retry_after);
    let refused = Refused::new(reason, wait);
    let service = registry.hello().borrow().service.clone();
    let farewell = async {
        note::put(sender, &service, wire::REFUSAL_PATH, &refused).await;
    };
    let both = async {
        let over = {
            let mut farewell = pin!(farewell);
            tokio::select! {
                biased;
                _ = &mut connection => true,
                () = &mut farewell => false,
            }
        };
        if !over {
            // No handle is left: the connection says GOAWAY and closes.
            let _ = connection.await;
        }
    };
    let _ = timeout(FAREWELL, both).await;
}

/// Who ends the tunnel.
enum Ending {
    Theirs,
    Ours(Reason),
}

struct End {
    whose: Ending,
    reason: Option<Reason>,
    detail: String,
}

impl End {
    fn ours(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            whose: Ending::Ours(reason),
            reason: Some(reason),
            detail: detail.into(),
        }
    }

    fn theirs(reason: Option<Reason>, detail: impl Into<String>) -> Self {
        Self {
            whose: Ending::Theirs,
            reason,
            detail: detail.into(),
        }
    }
}

/// A tunnel that was admitted.
struct Life<'r> {
    registry: &'r Registry,
    link: &'r Arc<Link>,
    draining: Draining,
}

impl Life<'_> {
    /// Everything at once, in one task: bytes, words, liveness, and what may end it.
    async fn live<IO>(
        &self,
        connection: &mut Client<IO>,
        sender: SendRequest<Bytes>,
        closed: impl Future<Output = Reason>,
        silent: impl Future<Output = ()>,
    ) -> End
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut close = self.link.close.subscribe();
        let mut forced = self.draining.clone();
        let (last, minded) = (sender.clone(), sender.clone());
        let rest = Aside::new(async {
            tokio::select! {
                biased;
                reason = closed => End::ours(reason, "the peer's certificate no longer holds"),
                reason = closing(&mut close) => End::ours(reason, "the service definition has changed"),
                () = forced.forced() => End::ours(Reason::Draining, "the drain's time is over"),
                // The hello is the first request of a tunnel.
                () = self.say(sender.clone()) => End::ours(Reason::InternalError, "nothing more to say"),
                end = self.hear(sender) => end,
                () = silent => End::theirs(Some(Reason::TunnelSilent), Reason::TunnelSilent.what()),
                () = self.registry.budget().watch() => End::ours(Reason::InternalError, "the budget is gone"),
                () = self.wear() => End::ours(Reason::TunnelTooOld, "all streams of a life are used"),
            }
        });
        tokio::select! {
            biased;
            end = rest => end,
            result = self.drive(connection) => self.over(result, last),
            () = self.mind_goaway(minded) => End::ours(Reason::InternalError, "the goodbye was not minded"),
        }
    }

    /// Moves bytes until the connection is over, and fits its windows to the memory there is.
    async fn drive<IO>(&self, connection: &mut Client<IO>) -> Result<(), h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut window = Window::new(self.registry.settings().wire.stream_window);
        let mut pressure = self.registry.budget().pressure();
        loop {
            window.fit(*pressure.borrow_and_update(), |window| {
                connection.connection.set_initial_window_size(window)
            });
            let fit = Aside::new(async {
                tokio::select! {
                    biased;
                    // The budget lives as long as the registry.
                    _ = pressure.changed() => (),
                    () = sleep(window::AGAIN), if window.is_unfit() => (),
                }
            });
            let moved = poll_fn(|cx| {
                connection.expect(self.link.in_flight() + self.link.long_polls());
                Pin::new(&mut *connection).poll(cx)
            });
            tokio::select! {
                biased;
                // First: the peer is to hear of a smaller window before it hears of the requests that made it small.
                () = fit => (),
                result = moved => return result,
            }
        }
    }

    /// Takes the tunnel out of pick as soon as the peer has said GOAWAY, which may come before its last line of roles
    /// or, of a foreign peer, without one. Never ends.
    async fn mind_goaway(&self, mut sender: SendRequest<Bytes>) {
        // Looked at whenever the connection has moved: both are polled by the same task.
        poll_fn(|cx| match sender.poll_ready(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        })
        .await;
        self.registry.retire(self.link);
        pending().await
    }

    fn over(&self, result: Result<(), h2::Error>, mut sender: SendRequest<Bytes>) -> End {
        // A goodbye and the end may come in one read, before anyone else has looked.
        let gone = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        let goodbye = matches!(gone, Poll::Ready(Err(error)) if error.is_go_away());
        match result {
            Ok(()) if goodbye || self.link.is_draining() => End::theirs(None, "drained"),
            Ok(()) => End::theirs(Some(Reason::TunnelLost), "closed by the peer"),
            Err(error) if error.is_io() && !is_flood(&error) => {
                End::theirs(Some(Reason::TunnelLost), error.to_string())
            }
            Err(error) => End::theirs(Some(Reason::TunnelProtocol), error.to_string()),
        }
    }

    /// Says hello, and again when something in it changes. Never ends.
    async fn say(&self, sender: SendRequest<Bytes>) {
        let mut hello = self.registry.hello();
        let mut draining = self.draining.clone();
        loop {
            let mut words = hello.borrow_and_update().clone();
            words.draining |= draining.is_draining();
            let service = words.service.clone();
            let put = note::put(sender.clone(), &service, wire::HELLO_PATH, &words);
            if !matches!(timeout(ANSWER, put).await, Ok(Some(status)) if status.is_success()) {
                // A foreign peer need not know the path; one of ours that does not answer must still hear of a drain.
                tracing::debug!(connection_point = %self.link.name, "the hello was not taken");
            }
            self.link.learn_limit();
            tokio::select! {
                biased;
                () = draining.draining(), if !words.draining => (),
                changed = hello.changed() => if changed.is_err() { pending::<()>().await },
            }
        }
    }

    /// Hears which roles are served. Ends only if the peer breaks the protocol.
    async fn hear(&self, sender: SendRequest<Bytes>) -> End {
        let service = self.registry.hello().borrow().service.clone();
        let answer = note::get_roles(sender, &service).await;
        self.link.learn_limit();
        let stream = match answer {
            Ok(answer) if note::is_lines(answer.status(), answer.headers()) => answer.into_body(),
            // The connection's end says more than the stream's.
            Err(Some(error)) if error.is_io() || error.is_go_away() => return pending().await,
            // Whoever does not know the path says so; a reset says nothing of what the peer serves.
            Err(Some(error)) => {
                let detail = format!("the roles stream was reset: {error}");
                return End::ours(Reason::TunnelProtocol, detail);
            }
            Err(None) => {
                let detail = "the service's name is no authority";
                return End::ours(Reason::InternalError, detail);
            }
            Ok(_) => {
                tracing::info!(connection_point = %self.link.name, "the peer does not speak of roles: it serves what is assigned to it");
                self.registry.publish(self.link, Published::Assigned);
                return pending().await;
            }
        };
        let mut reading = Reading::new(stream);
        let mut known: Vec<RoleId> = Vec::new();
        loop {
            match reading.hear().await {
                Ok(Heard::Line(line)) => known = self.put_into_force(line, &known),
                Ok(Heard::Overtaken(count)) => {
                    tracing::debug!(connection_point = %self.link.name, count, "lines of roles came too fast");
                    self.count(Reason::TunnelProtocol, count as u64);
                }
                Ok(Heard::End) => return pending().await,
                Err(detail) => return End::ours(Reason::TunnelProtocol, detail),
            }
        }
    }

    /// Puts one line into force; returns the roles in it that the peer may not serve.
    fn put_into_force(&self, line: RolesLine, known: &[RoleId]) -> Vec<RoleId> {
        if line.draining {
            self.registry.retire(self.link);
            tracing::info!(connection_point = %self.link.name, "the connection point drains a tunnel");
            return Vec::new();
        }
        let refused = self
            .registry
            .publish(self.link, Published::Roles(line.roles));
        for role in &refused {
            self.count(Reason::RoleNotAllowed, 1);
            if !known.contains(role) {
                let name = &self.link.name;
                tracing::warn!(
                    reason = Reason::RoleNotAllowed.as_str(),
                    "connection point \"{name}\" publishes role {role}, which the service definition does not let it serve: ignored"
                );
            }
        }
        refused
    }

    fn count(&self, reason: Reason, by: u64) {
        let refusals = &self.registry.metrics().tunnel_refusals;
        refusals.get_or_create(&ByReason { reason }).inc_by(by);
    }

    /// Returns when the tunnel has used up its streams and carries none.
    async fn wear(&self) {
        loop {
            sleep(WEAR).await;
            if self.link.is_worn_out() && self.link.in_flight() == 0 {
                return;
            }
        }
    }
}

/// Whether the peer has sent more frames than its budget allows.
fn is_flood(error: &h2::Error) -> bool {
    error
        .get_io()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::QuotaExceeded)
}

/// Why the registry closes the tunnel, once it does.
async fn closing(close: &mut watch::Receiver<Option<Reason>>) -> Reason {
    match close.wait_for(Option::is_some).await.map(|reason| *reason) {
        Ok(Some(reason)) => reason,
        Ok(None) | Err(_) => pending().await,
    }
}
