//! The connection point's side of one tunnel: from a dialled connection to its end.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::budget::{Budget, Pressure};
use super::driven::Server;
use super::incoming::{Place, Respond};
use super::io::{Traffic, Watched};
use super::send::length_of;
use super::upload::at_most;
use super::window::{self, Window};
use super::wire::{self, Hello, Refused};
use super::{Body, Incoming, Wire, liveness, note, publish};
use crate::reason::Reason;
use crate::role::PublishedRole;
use crate::tasks::{Aside, Tasks};

/// How many notes of the gateway may wait to be looked at.
const NOTES: usize = 16;

/// How long the last line of roles may take.
const PATIENCE: Duration = Duration::from_secs(1);

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
    let handshake = Server::begin(&common.wire, io);
    let mut connection = match timeout(common.patience, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Ended::new(Some(Reason::TunnelLost), error.to_string()),
        Err(_) => {
            let detail = "the gateway did not begin HTTP/2 in time";
            return Ended::new(Some(Reason::TunnelSilent), detail);
        }
    };
    let pings = connection.connection.ping_pong();
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

/// What happens to a tunnel besides requests.
enum Word {
    Order(Order),
    LastLineSaid,
    Note(Note),
    Silent,
    /// The windows may have to be fitted.
    Fit,
}

type Boxed<'c> = Pin<Box<dyn Future<Output = ()> + Send + 'c>>;

/// Where the words come from.
struct Words<'c> {
    order: Order,
    orders: watch::Receiver<Order>,
    notes: mpsc::Receiver<Note>,
    last_line: Boxed<'c>,
    said_last: bool,
    silent: Boxed<'c>,
    budget: Boxed<'c>,
}

impl Words<'_> {
    /// The next word.
    ///
    /// # Cancel safety
    /// Safe: a word that was not returned is still to come.
    async fn next(&mut self, pressure: &mut watch::Receiver<Pressure>, unfit: bool) -> Word {
        tokio::select! {
            biased;
            now = next_order(&mut self.orders, self.order) => {
                self.order = now;
                Word::Order(now)
            }
            () = &mut self.last_line, if !self.said_last => {
                self.said_last = true;
                Word::LastLineSaid
            }
            Some(note) = self.notes.recv() => Word::Note(note),
            () = &mut self.silent => Word::Silent,
            _ = pressure.changed() => Word::Fit,
            () = sleep(window::AGAIN), if unfit => Word::Fit,
            // It looks after the budget for ever.
            () = &mut self.budget => Word::Fit,
        }
    }
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
        connection: &mut Server<IO>,
        notes: mpsc::Receiver<Note>,
        silent: impl Future<Output = ()> + Send,
    ) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut pressure = self.common.budget.pressure();
        let mut window = Window::new(self.common.wire.stream_window);
        let mut refused = None;
        let mut words = Words {
            order: Order::Serve,
            orders: self.ties.orders.clone(),
            notes,
            last_line: Box::pin(self.last_line(self.ties.orders.clone())),
            said_last: false,
            silent: Box::pin(silent),
            budget: Box::pin(self.common.budget.watch()),
        };
        let mut ended = loop {
            window.fit(*pressure.borrow_and_update(), |window| {
                connection.connection.set_initial_window_size(window)
            });
            let order = words.order;
            let word = Aside::new(words.next(&mut pressure, window.is_unfit()));
            let word = tokio::select! {
                biased;
                word = word => word,
                over = poll_fn(|cx| self.poll_requests(connection, cx)) => {
                    break ended_of(over, order);
                }
            };
            match word {
                Word::Order(Order::Close) => break Ended::new(None, "closed"),
                Word::Order(Order::Serve | Order::Drain) | Word::Fit => (),
                Word::LastLineSaid => connection.connection.graceful_shutdown(),
                Word::Note(Note::Hello(hello)) => {
                    // Only a supervisor that is gone does not hear.
                    let _ = self
                        .ties
                        .events
                        .send(Event::Hello(self.ties.id, hello))
                        .await;
                }
                Word::Note(Note::Refused(note)) => refused = Some(note),
                Word::Silent => {
                    break Ended::new(Some(Reason::TunnelSilent), Reason::TunnelSilent.what());
                }
            }
        };
        ended.refused = refused;
        ended
    }

    /// Takes requests until the connection is over, and sends what is answered.
    fn poll_requests<IO>(
        &self,
        connection: &mut Server<IO>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<h2::Error>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            connection.expect(self.ties.in_flight.load(Ordering::Relaxed));
            let Poll::Ready(next) = connection.poll_accept(cx) else {
                return Poll::Pending;
            };
            match next {
                Some(Ok((request, way))) => self.dispatch(request, way),
                Some(Err(error)) => return Poll::Ready(Some(error)),
                None => return Poll::Ready(None),
            }
        }
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
                let budget = &self.common.budget;
                let window = self.common.wire.stream_window;
                // As much again waits in the connection to the backend.
                let most = match request.method() {
                    &Method::CONNECT => window,
                    _ => window.saturating_mul(2),
                };
                let expected = budget.expect(at_most(length, most));
                let request = request.map(|body| Body::of_request(body, length, budget, expected));
                let handled = (self.common.handle)(Incoming { request, respond });
                self.common.tasks.spawn_woken(handled);
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

/// How a tunnel ended whose connection is over, by an error or without one.
fn ended_of(over: Option<h2::Error>, order: Order) -> Ended {
    match over {
        // Whoever drains is not waited for to say goodbye.
        Some(error) if order == Order::Drain && error.is_io() => Ended::new(None, "drained"),
        Some(error) => broken(&error),
        None if order == Order::Drain => Ended::new(None, "drained"),
        None => Ended::new(Some(Reason::TunnelLost), "closed by the gateway"),
    }
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
