//! The connection point's side of one tunnel: from a dialled connection to its end.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::budget::{Budget, Pressure};
use super::incoming::{Place, Respond};
use super::io::{Traffic, Watched};
use super::send::length_of;
use super::wire::{self, Hello, Refused};
use super::{Body, Incoming, Wire, liveness, note, publish};
use crate::reason::Reason;
use crate::role::PublishedRole;
use crate::tasks::Tasks;

/// How many notes of the gateway may wait to be looked at.
const NOTES: usize = 16;

/// How long the last line of roles may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many streams' windows fit where one did, when memory is tight.
const TIGHT: u32 = 8;

/// What a tunnel is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Take requests.
    Serve,
    /// Finish what is under way.
    Drain,
    /// Close now.
    Close,
}

/// How a tunnel ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Why; `None` if it was drained or told to close.
    pub(super) reason: Option<Reason>,
    pub(super) detail: String,
    /// What the gateway said, if it refused the tunnel.
    pub(super) refused: Option<Refused>,
}

impl Ended {
    pub(super) fn new(reason: Option<Reason>, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            refused: None,
        }
    }
}

/// What every tunnel of a supervisor needs.
#[derive(Clone)]
pub(super) struct Common<H> {
    pub(super) wire: Wire,
    pub(super) budget: Budget,
    pub(super) roles: watch::Receiver<Arc<Vec<PublishedRole>>>,
    pub(super) handle: Arc<H>,
    pub(super) tasks: Tasks,
    pub(super) traffic: Traffic,
    /// The requests of all tunnels together.
    pub(super) streams: Gauge,
    /// How long the gateway may take to begin.
    pub(super) patience: Duration,
}

/// What the gateway put.
#[derive(Debug)]
enum Note {
    Hello(Hello),
    Refused(Refused),
}

/// What a supervisor hears of its tunnels, each with the tunnel's number.
#[derive(Debug)]
pub(super) enum Event {
    /// The connection is up; the gateway has not spoken yet.
    Up(u64),
    /// The gateway said who it is.
    Hello(u64, Hello),
    /// It is over, or no connection was made.
    Ended(u64, Ended),
}

/// One tunnel's ties to its supervisor.
pub(super) struct Ties {
    pub(super) id: u64,
    pub(super) in_flight: Arc<AtomicUsize>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) events: mpsc::Sender<Event>,
}

/// Serves one dialled connection until it is over.
pub(super) async fn serve<IO, H, HF>(common: &Common<H>, io: IO, ties: Ties) -> Ended
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
{
    let (io, pulse) = Watched::new(io, common.traffic.clone());
    let handshake = wire::server(&common.wire).handshake(io);
    let mut connection = match timeout(common.patience, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Ended::new(Some(Reason::TunnelLost), error.to_string()),
        Err(_) => {
            let detail = "the gateway did not begin HTTP/2 in time";
            return Ended::new(Some(Reason::TunnelSilent), detail);
        }
    };
    let pings = connection.ping_pong();
    let silent = async {
        match pings {
            Some(pings) => liveness::silent(pulse, pings, common.wire.clone()).await,
            None => pending().await,
        }
    };
    // Only a supervisor that is gone does not hear.
    let _ = ties.events.send(Event::Up(ties.id)).await;
    let (notes_in, notes) = mpsc::channel(NOTES);
    let dialled = Dialled {
        common,
        ties,
        notes_in,
        last: watch::Sender::new(false),
        publishing: Tasks::new(),
    };
    let ended = dialled.live(&mut connection, notes, silent).await;
    dialled.publishing.abort();
    ended
}

struct Dialled<'c, H> {
    common: &'c Common<H>,
    ties: Ties,
    notes_in: mpsc::Sender<Note>,
    /// Says to the writers of roles that their last line is due.
    last: watch::Sender<bool>,
    /// The writers of roles and the readers of notes.
    publishing: Tasks,
}

impl<H, HF> Dialled<'_, H>
where
    H: Fn(Incoming) -> HF + Send + Sync + 'static,
    HF: Future<Output = ()> + Send + 'static,
{
    async fn live<IO>(
        &self,
        connection: &mut Connection<IO, Bytes>,
        mut notes: mpsc::Receiver<Note>,
        silent: impl Future<Output = ()>,
    ) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut orders = self.ties.orders.clone();
        let mut silent = pin!(silent);
        let mut watch_budget = pin!(self.common.budget.watch());
        let mut pressure = self.common.budget.pressure();
        let mut window = Window::new(self.common.wire.stream_window);
        let mut refused = None;
        let mut order = Order::Serve;
        let mut last_line = pin!(self.last_line(orders.clone()));
        let mut said_last = false;
        let mut ended = loop {
            window.fit(connection, *pressure.borrow_and_update());
            tokio::select! {
                biased;
                now = next_order(&mut orders, order) => {
                    order = now;
                    if order == Order::Close {
                        break Ended::new(None, "closed");
                    }
                }
                () = &mut last_line, if !said_last => {
                    said_last = true;
                    connection.graceful_shutdown();
                }
                Some(note) = notes.recv() => match note {
                    Note::Hello(hello) => {
                        // Only a supervisor that is gone does not hear.
                        let _ = self.ties.events.send(Event::Hello(self.ties.id, hello)).await;
                    }
                    Note::Refused(note) => refused = Some(note),
                },
                request = connection.accept() => match request {
                    Some(Ok((request, way))) => self.dispatch(request, way),
                    // Whoever drains is not waited for to say goodbye.
                    Some(Err(error)) if order == Order::Drain && error.is_io() => {
                        break Ended::new(None, "drained");
                    }
                    Some(Err(error)) => break broken(&error),
                    None if order == Order::Drain => break Ended::new(None, "drained"),
                    None => break Ended::new(Some(Reason::TunnelLost), "closed by the gateway"),
                },
                () = &mut silent => {
                    break Ended::new(Some(Reason::TunnelSilent), Reason::TunnelSilent.what());
                }
                _ = pressure.changed() => (),
                () = sleep(Duration::from_secs(1)), if window.is_unfit() => (),
                () = &mut watch_budget => (),
            }
        };
        ended.refused = refused;
        ended
    }

    /// Returns when the tunnel is to drain and the last line of every roles stream is on its way.
    async fn last_line(&self, mut orders: watch::Receiver<Order>) {
        next_order(&mut orders, Order::Serve).await;
        self.last.send_replace(true);
        // A gateway that reads no more is not waited for.
        let _ = timeout(PATIENCE, self.last.closed()).await;
    }

    /// Gives a request to whom it concerns.
    fn dispatch(&self, request: Request<RecvStream>, mut way: SendResponse<Bytes>) {
        match (request.method(), request.uri().path()) {
            (&Method::PUT, wire::HELLO_PATH) => self.note(request.into_body(), way, Note::Hello),
            (&Method::PUT, wire::REFUSAL_PATH) => {
                self.note(request.into_body(), way, Note::Refused)
            }
            (&Method::GET, wire::ROLES_PATH) => self.publish(way),
            (_, path) if path.starts_with(wire::OWN_PREFIX) => {
                answer(&mut way, StatusCode::NOT_FOUND)
            }
            _ => {
                let limit = self.common.wire.streams as usize;
                let Some(place) = Place::take(&self.ties.in_flight, limit, &self.common.streams)
                else {
                    way.send_reset(h2::Reason::REFUSED_STREAM);
                    return;
                };
                let respond = Respond::new(way, request.method().clone(), place);
                let length = length_of(request.headers());
                let (budget, window) = (&self.common.budget, self.common.wire.stream_window);
                let request = request.map(|body| Body::new(body, length, budget, window));
                let handled = (self.common.handle)(Incoming { request, respond });
                self.common.tasks.spawn(handled);
            }
        }
    }

    fn note<N>(&self, body: RecvStream, mut way: SendResponse<Bytes>, wrap: fn(N) -> Note)
    where
        N: serde::de::DeserializeOwned + Send + 'static,
    {
        let notes = self.notes_in.clone();
        self.publishing.spawn(async move {
            let status = match note::read(body).await {
                // It fails only when the tunnel is over.
                Ok(read) => {
                    let _ = notes.send(wrap(read)).await;
                    StatusCode::NO_CONTENT
                }
                Err(fault) => {
                    tracing::warn!(%fault, "a note of the gateway is not understood");
                    StatusCode::BAD_REQUEST
                }
            };
            answer(&mut way, status);
        });
    }

    fn publish(&self, mut way: SendResponse<Bytes>) {
        let mut head = Response::new(());
        let kind = HeaderValue::from_static(wire::ROLES_TYPE);
        head.headers_mut().insert(CONTENT_TYPE, kind);
        // An error means that the gateway has gone.
        if let Ok(stream) = way.send_response(head, false) {
            let roles = self.common.roles.clone();
            let last = self.last.subscribe();
            self.publishing.spawn(publish::write(stream, roles, last));
        }
    }
}

fn answer(way: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut head = Response::new(());
    *head.status_mut() = status;
    // An error means that the gateway has gone.
    let _ = way.send_response(head, true);
}

fn broken(error: &h2::Error) -> Ended {
    let reason = if error.is_io() {
        Reason::TunnelLost
    } else {
        Reason::TunnelProtocol
    };
    Ended::new(Some(reason), error.to_string())
}

/// The next order after `now`; a supervisor that is gone means close.
async fn next_order(orders: &mut watch::Receiver<Order>, now: Order) -> Order {
    let next = orders.wait_for(|order| *order != now).await;
    next.map_or(Order::Close, |order| *order)
}

/// The window of a stream, as the peer was told.
struct Window {
    full: u32,
    told: u32,
    wanted: u32,
}

impl Window {
    fn new(full: u32) -> Self {
        Self {
            full,
            told: full,
            wanted: full,
        }
    }

    fn fit<IO>(&mut self, connection: &mut Connection<IO, Bytes>, pressure: Pressure)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.wanted = match pressure {
            Pressure::Relaxed => self.full,
            Pressure::Tight => self.full / TIGHT,
        };
        // It fails while the peer has not yet acknowledged the change before.
        if self.is_unfit() && connection.set_initial_window_size(self.wanted).is_ok() {
            self.told = self.wanted;
        }
    }

    fn is_unfit(&self) -> bool {
        self.told != self.wanted
    }
}
