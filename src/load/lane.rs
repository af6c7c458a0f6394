//! A lane: one request at a time, from the first connection to the end of the load.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::clock::{Turn, Window};
use super::connection::{Answer, Connection, Dialer, Sent};
use super::fault::Fault;
use super::http2::Http2;
use super::plan::{Mode, Protocol};
use super::run::Shared;

// A server that cannot be reached is tried again, but not in a hot loop.
const RETRY: Duration = Duration::from_millis(20);

/// The HTTP/2 connection that several lanes share, and how often it was made.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<(u64, Option<Http2>)>>);

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    /// Which tally counts its requests.
    pub(super) thread: usize,
    pub(super) dialer: Dialer,
    pub(super) slot: Slot,
    pub(super) connection: Option<Connection>,
    /// How often the connection of the slot had been made when this lane took it.
    pub(super) generation: u64,
}

impl Lane {
    pub(super) async fn run(mut self) {
        match self.shared.plan.mode {
            Mode::KeepAlive => {
                // What fails here fails again when it counts.
                self.connection = self.first().await.ok().map(|(_, connection)| connection);
                self.repeat().await;
            }
            Mode::Handshake => self.repeat().await,
            Mode::Resumed => {
                // The full handshake that the first counted one resumes.
                if let Ok((_, connection)) = self.first().await {
                    let _ = self.ask(connection).await;
                }
                self.repeat().await;
            }
            Mode::Idle => self.hold().await,
            Mode::Poll => self.poll().await,
        }
    }

    /// Sends a request at each turn.
    async fn repeat(&mut self) {
        let window = self.shared.all_up().await;
        while let Some(turn) = self.shared.turns.next(&window).await {
            let result = self.one().await;
            self.count(turn, result);
            if result.is_err_and(Fault::is_of_dial) {
                sleep(RETRY).await;
            }
        }
    }

    async fn one(&mut self) -> Result<Answer, Fault> {
        let connection = self.ready().await?;
        self.ask(connection).await
    }

    /// The connection that is there and takes a request, or a new one.
    async fn ready(&mut self) -> Result<Connection, Fault> {
        if let Some(mut connection) = self.connection.take()
            && connection.is_ready().await
        {
            return Ok(connection);
        }
        let must_resume = self.shared.plan.mode == Mode::Resumed;
        let (connection, is_resumed) = self.dial().await?;
        if must_resume && !is_resumed {
            // It leaves a session for the next one.
            let _ = self.ask(connection).await;
            return Err(Fault::NotResumed);
        }
        Ok(connection)
    }

    /// One exchange within the time allowed; afterwards the connection is kept if it can be, and should.
    async fn ask(&mut self, mut connection: Connection) -> Result<Answer, Fault> {
        let exchange = connection.exchange(&self.shared.wire);
        let answer = timeout(self.shared.plan.patience, exchange)
            .await
            .unwrap_or(Err(Fault::Timeout))?;
        let is_kept = !matches!(self.shared.plan.mode, Mode::Handshake | Mode::Resumed);
        if is_kept && answer.is_reusable {
            self.connection = Some(connection);
        } else {
            connection.close().await;
        }
        Ok(answer)
    }

    /// The first connection, at the pace of first connections, and since when it was dialled.
    async fn first(&mut self) -> Result<(Instant, Connection), (Instant, Fault)> {
        let shared = Arc::clone(&self.shared);
        if let Some(dials) = &shared.dials {
            dials.take().await;
        }
        let _dialling = shared.dialling.acquire().await;
        let from = Instant::now();
        match self.dial().await {
            Ok((connection, _)) => Ok((from, connection)),
            Err(fault) => Err((from, fault)),
        }
    }

    async fn dial(&mut self) -> Result<(Connection, bool), Fault> {
        let shares = self.shared.plan.protocol == Protocol::Http2
            && !matches!(self.shared.plan.mode, Mode::Handshake | Mode::Resumed);
        if !shares {
            return self.dial_alone().await;
        }
        let slot = self.slot.clone();
        let mut slot = slot.0.lock().await;
        if slot.0 > self.generation
            && let Some(mut connection) = slot.1.clone()
            && connection.is_ready().await
        {
            self.generation = slot.0;
            return Ok((Connection::Http2(connection), false));
        }
        let (connection, is_resumed) = self.dial_alone().await?;
        if let Connection::Http2(connection) = &connection {
            *slot = (slot.0 + 1, Some(connection.clone()));
            self.generation = slot.0;
        }
        Ok((connection, is_resumed))
    }

    async fn dial_alone(&self) -> Result<(Connection, bool), Fault> {
        let dialled = self.dialer.dial().await?;
        self.shared.tally(self.thread, |tally| {
            tally.connected += 1;
            tally.resumed += u64::from(dialled.is_resumed);
        });
        Ok((dialled.connection, dialled.is_resumed))
    }

    /// One request, then the connection is held until the server closes it.
    async fn hold(&mut self) {
        let (from, result) = match self.first().await {
            Ok((from, connection)) => (from, self.ask(connection).await),
            Err((from, fault)) => (from, Err(fault)),
        };
        let turn = Turn {
            from,
            is_counted: true,
        };
        self.count(turn, result);
        if self.connection.is_some() {
            self.shared.up.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.all_up().await;
        if let Some(connection) = &mut self.connection {
            connection.closed().await;
            self.shared
                .tally(self.thread, |tally| tally.fail(Fault::Closed, 1));
        }
    }

    /// Holds one request after another; the first is on its way before the time begins.
    async fn poll(&mut self) {
        let (from, sent) = match self.first().await {
            Ok((from, connection)) => (from, self.send(connection).await),
            Err((from, fault)) => (from, Err(fault)),
        };
        if sent.is_ok() {
            self.shared.up.fetch_add(1, Ordering::Relaxed);
        }
        let window = self.shared.all_up().await;
        self.answered_late(from, sent).await;
        while Instant::now() < window.end {
            let from = Instant::now();
            let sent = match self.ready().await {
                Ok(connection) => self.send(connection).await,
                Err(fault) => Err(fault),
            };
            self.answered_late(from, sent).await;
        }
    }

    async fn send(&self, mut connection: Connection) -> Result<(Connection, Sent), Fault> {
        let sent = timeout(
            self.shared.plan.patience,
            connection.send(&self.shared.wire),
        );
        let sent = sent.await.unwrap_or(Err(Fault::Timeout))?;
        Ok((connection, sent))
    }

    /// Waits for the answer of a poll, as long as it takes, and counts it.
    async fn answered_late(&mut self, from: Instant, sent: Result<(Connection, Sent), Fault>) {
        let result = match sent {
            Ok((mut connection, sent)) => {
                let result = connection.receive(sent, &self.shared.wire).await;
                if result.is_ok_and(|answer| answer.is_reusable) {
                    self.connection = Some(connection);
                }
                result
            }
            Err(fault) => Err(fault),
        };
        let turn = Turn {
            from,
            is_counted: true,
        };
        self.count(turn, result);
        if !result.is_ok_and(|answer| answer.status < 400) {
            sleep(RETRY).await;
        }
    }

    fn count(&self, turn: Turn, result: Result<Answer, Fault>) {
        let now = Instant::now();
        let sent = self.shared.wire.body.len() as u64;
        self.shared.tally(self.thread, |tally| {
            if turn.is_counted {
                tally.request(result, sent, turn.from, now);
            } else {
                tally.warm_up += 1;
            }
        });
    }
}

impl Shared {
    /// Returns once every lane has come so far.
    async fn all_up(&self) -> Window {
        self.gate.wait().await;
        self.begin()
    }
}
