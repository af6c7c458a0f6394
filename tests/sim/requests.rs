//! The requests of the simulation, the handler that answers them, and the book in which both are checked.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use opencmg::message::body::BodyError;
use opencmg::reason::Reason;
use opencmg::role::RoleId;
use opencmg::tunnel::{Incoming, Need, Random, Registry};
use tokio::time::{Instant, Sleep, timeout};

pub const ROLE: RoleId = RoleId::new(5);

/// Longer than any fault can hold a request: silence, retries and the slowest handler.
const PATIENCE: Duration = Duration::from_secs(60);

/// A body that comes in parts with pauses, and may break off.
pub struct Parts {
    id: u64,
    left: usize,
    breaks: bool,
    random: Random,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Parts {
    fn new(id: u64, left: usize, breaks: bool, random: &Random) -> Self {
        Self {
            id,
            left,
            breaks,
            random: random.clone(),
            pause: None,
        }
    }
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.breaks && self.random.below(3) == 0 {
            let error = BodyError::new(Reason::BackendBroken, "broken on purpose");
            return Poll::Ready(Some(Err(error)));
        }
        let len = self.left.min(1 + self.random.below(20_000));
        self.left -= len;
        if self.random.below(4) == 0 {
            let pause = self.random.upto(Duration::from_millis(200));
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        let data = Bytes::from(vec![self.id as u8; len]);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

#[derive(Debug, Default)]
struct Entry {
    safe: bool,
    /// How often a handler began with it.
    handled: usize,
    answers: usize,
    failure: Option<Reason>,
}

/// The tunnels that a request can take, as they are when it is sent.
pub struct Sky {
    /// How many take requests.
    pub serving: usize,
    /// Whether all of them are still sound, and no name was taken out meanwhile.
    pub stays_fair: Box<dyn Fn() -> bool + Send>,
}

/// How many requests ended in which way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    pub asked: usize,
    /// Answered whole.
    pub answered: usize,
    /// Sent while tunnels took requests, all of which stayed sound.
    pub fair: usize,
}

/// What was asked and what became of it.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    entries: BTreeMap<u64, Entry>,
    digest: u64,
    sums: Sums,
}

impl Book {
    /// Writes down that something happened now.
    pub fn note(&self, what: &str, id: u64) {
        let now = Instant::now();
        let mut pages = self.0.lock().unwrap();
        let mut digest = pages.digest;
        let began = pages.entries.len() as u64;
        for byte in what
            .bytes()
            .chain(id.to_be_bytes())
            .chain(began.to_be_bytes())
        {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        pages.digest = digest;
        drop(pages);
        tracing::trace!(?now, what, id);
    }

    pub fn digest(&self) -> u64 {
        self.0.lock().unwrap().digest
    }

    pub fn sums(&self) -> Sums {
        self.0.lock().unwrap().sums
    }

    /// Checks the whole book once nothing is under way any more.
    pub fn check(&self) {
        for (id, entry) in &self.0.lock().unwrap().entries {
            let ends = entry.answers + usize::from(entry.failure.is_some());
            assert_eq!(ends, 1, "request {id} ended {ends} times: {entry:?}");
            let most = if entry.safe { 2 } else { 1 };
            assert!(
                entry.handled <= most,
                "request {id} was done {} times: {entry:?}",
                entry.handled
            );
            let least = entry.answers;
            assert!(
                entry.handled >= least,
                "request {id} was answered by nobody: {entry:?}"
            );
        }
    }

    fn entry<T>(&self, id: u64, change: impl FnOnce(&mut Entry) -> T) -> T {
        change(self.0.lock().unwrap().entries.entry(id).or_default())
    }

    /// Sends one request and writes down how it ended.
    ///
    /// While a tunnel takes requests none is refused for want of one, and where every tunnel stays sound each is
    /// answered.
    pub async fn ask(&self, registry: &Registry, id: u64, random: &Random, sky: Sky) {
        let safe = random.below(3) != 0;
        self.entry(id, |entry| entry.safe = safe);
        let (method, len) = match safe {
            true => (["GET", "HEAD", "PROPFIND"][random.below(3)], 0),
            false => ("CCM_POST", random.below(200_000)),
        };
        let need = Need {
            role: ROLE,
            sticky: (random.below(4) == 0).then_some(id % 10),
            long_poll: random.below(5) == 0,
            expect_continue: !safe && random.below(4) == 0,
            ahead: 0,
        };
        let breaks = random.below(20) == 0;
        let body = Parts::new(id, len, breaks, random);
        let request = Request::builder().method(method);
        let request = request.uri(format!("https://gw.test/{id}"));
        let request = request.header("content-length", len).body(body).unwrap();
        let ended = timeout(PATIENCE, exchange(registry, need, request, id)).await;
        let Ok(ended) = ended else {
            panic!("request {id} ({method}, {len} bytes) got neither an answer nor an error");
        };
        let word = match ended {
            Ok(()) => "answered",
            Err(reason) => reason.as_str(),
        };
        self.note(word, id);
        let refused = ended == Err(Reason::NoTunnel);
        let serving = sky.serving;
        assert_eq!(
            refused,
            serving == 0,
            "request {id}: {word}, {serving} tunnels take requests"
        );
        let fair = serving > 0 && (sky.stays_fair)();
        // A body that breaks off on purpose breaks off in any weather.
        let meant = matches!(ended, Ok(()) | Err(Reason::BackendBroken));
        assert!(
            meant || !fair,
            "request {id} ({method}): {word} in fair weather"
        );
        let mut pages = self.0.lock().unwrap();
        let entry = pages.entries.entry(id).or_default();
        match ended {
            Ok(()) => entry.answers += 1,
            Err(reason) => entry.failure = Some(reason),
        }
        pages.sums.asked += 1;
        pages.sums.answered += usize::from(ended.is_ok());
        pages.sums.fair += usize::from(fair);
    }

    /// Answers one request, soon or late, wholly or not.
    pub async fn handle(&self, incoming: Incoming, id: u64, random: Random) {
        let Incoming {
            request,
            mut respond,
        } = incoming;
        self.entry(id, |entry| entry.handled += 1);
        self.note("handled", id);
        let (head, mut body) = request.into_parts();
        tokio::time::sleep(random.upto(Duration::from_millis(400))).await;
        let early = random.below(10) == 0;
        if !early {
            respond.send_continue();
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return };
                let data = frame.into_data().unwrap_or_default();
                assert!(
                    data.iter().all(|byte| *byte == id as u8),
                    "request {id} has bytes of another"
                );
            }
        }
        let len = if head.method == "HEAD" {
            0
        } else {
            random.below(100_000)
        };
        let answer = Parts::new(id, len, random.below(20) == 0, &random);
        let answer = Response::builder()
            .header("x-id", id)
            .header("x-length", len)
            .body(answer);
        let _ = respond.send(answer.unwrap()).await;
    }
}

async fn exchange(
    registry: &Registry,
    need: Need,
    request: Request<Parts>,
    id: u64,
) -> Result<(), Reason> {
    let response = registry
        .send(need, request)
        .await
        .map_err(|failure| failure.reason)?;
    let number = |name: &str| -> u64 {
        let text = response.headers()[name].to_str().unwrap();
        text.parse().unwrap()
    };
    assert_eq!(number("x-id"), id, "the answer of another request");
    let length = number("x-length");
    let mut body = response.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let data = frame
            .map_err(|error| error.reason)?
            .into_data()
            .unwrap_or_default();
        assert!(
            data.iter().all(|byte| *byte == id as u8),
            "answer {id} has bytes of another"
        );
        read += data.len() as u64;
    }
    assert_eq!(read, length, "answer {id} is short and ends cleanly");
    Ok(())
}
