//! A request's body on its way into a tunnel, pumped without a task of its own.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use super::BodyError;
use super::body::Rest;
use super::budget::{Budget, Expected};
use super::merge::Merge;
use super::registry::Need;
use super::waiting::Waiting;
use crate::reason::Reason;

/// How much of a body is kept so that the request can be sent again, and what is left of that while memory is scarce.
const KEPT: u32 = 64 << 10;
const LEAST_KEPT: usize = 8 << 10;

/// What an upload may hold while memory is not scarce, here and in the connection of its client: three parts of 128 KiB,
/// and what they leave unused.
const EXPECTED: u32 = 512 << 10;

/// What a body brings next.
enum Next {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// A body and how far it has come. It survives the tunnel that it was first sent through.
pub(super) struct Upload<B> {
    body: B,
    ended: bool,
    /// What Content-Length promises beyond what was read.
    left: Option<u64>,
    /// What was read and is held back, and what is to be sent on the present tunnel.
    merge: Merge,
    queue: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// What was put in the queue so far, while it is little enough to be sent again.
    kept: Option<Vec<Bytes>>,
    kept_len: usize,
    budget: Budget,
    /// What it may hold, with what the connection of its client does, until it is sent.
    expected: Option<Expected>,
    /// Its place in the budget while the tunnel takes no more.
    waiting: Option<Waiting>,
    stream: Option<SendStream<Bytes>>,
    /// What its client's connection may hold of it.
    ahead: usize,
    /// Whether reading from the client must wait for a 100.
    pub(super) gated: bool,
}

impl<B> Upload<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    /// An upload of a body of which `length` bytes are promised; what waits of it counts in the budget.
    pub(super) fn new(body: B, length: Option<u64>, need: Need, budget: &Budget) -> Self {
        Self {
            ended: body.is_end_stream(),
            body,
            left: length,
            merge: Merge::default(),
            queue: VecDeque::new(),
            trailers: None,
            kept: Some(Vec::new()),
            kept_len: 0,
            budget: budget.clone(),
            expected: None,
            waiting: None,
            stream: None,
            ahead: need.ahead as usize,
            gated: need.expect_continue,
        }
    }

    /// Makes room for it in the budget until it is sent.
    pub(super) fn expect(&mut self) {
        if !self.ended {
            let most = at_most(self.left, EXPECTED);
            self.expected = Some(self.budget.expect(most));
        }
    }

    /// Whether there is nothing to send and never was.
    pub(super) fn is_empty(&self) -> bool {
        self.ended && self.kept.as_ref().is_some_and(Vec::is_empty) && self.trailers.is_none()
    }

    /// Whether everything that was read can be sent again.
    pub(super) fn can_start_again(&self) -> bool {
        self.kept.is_some()
    }

    /// Begins, or begins again, on a stream.
    pub(super) fn start(&mut self, stream: SendStream<Bytes>) {
        self.queue = self.kept.iter().flatten().cloned().collect();
        self.stream = Some(stream);
    }

    /// Forgets what was kept: the answer has begun.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Whether nothing is left to send.
    pub(super) fn is_sent(&self) -> bool {
        self.stream.is_none()
    }

    /// Puts a part in the queue, and keeps it.
    fn enqueue(&mut self, part: Option<Bytes>) {
        let Some(part) = part else { return };
        if let Some(kept) = &mut self.kept {
            self.kept_len += part.len();
            kept.push(part.clone());
            let most = self.budget.allowance().reduced(KEPT);
            if self.kept_len > most.map_or(KEPT as usize, |most| most.max(LEAST_KEPT)) {
                self.kept = None;
            }
        }
        self.queue.push_back(part);
    }

    /// Sends until the tunnel or the client makes it wait. `Ready` when all is sent, or the peer wants no more.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.gated {
            return Poll::Pending;
        }
        loop {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Ok(()));
            };
            if let Some(front) = self.queue.front_mut() {
                let Poll::Ready(room) = poll_room(stream, front.len(), cx) else {
                    return self.wait(cx);
                };
                self.waiting = None;
                let Some(room) = room else {
                    // What the peer's reset means, the response future says.
                    self.close();
                    return Poll::Ready(Ok(()));
                };
                let part = front.split_to(room.min(front.len()));
                if front.is_empty() {
                    self.queue.pop_front();
                }
                // What is held back is not in the queue of an upload that begins again.
                let last = self.queue.is_empty()
                    && self.merge.is_empty()
                    && self.trailers.is_none()
                    && self.left.is_none_or(|left| left == 0)
                    && (self.ended || self.body.is_end_stream());
                if stream.send_data(part, last).is_err() || last {
                    self.ended |= last;
                    self.close();
                }
                continue;
            }
            if self.ended {
                return Poll::Ready(self.send_end());
            }
            let Poll::Ready(next) = self.poll_next(cx) else {
                let held = ready!(self.merge.poll_rested(cx));
                self.enqueue(Some(held));
                continue;
            };
            match next {
                Ok(next) => self.take(next),
                Err(error) => {
                    self.reset(h2::Reason::CANCEL);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Waits until the tunnel takes more; if memory becomes too short meanwhile, that is the end.
    fn wait(&mut self, cx: &Context<'_>) -> Poll<Result<(), BodyError>> {
        let bytes = match &self.kept {
            Some(_) => self.kept_len,
            None => self.queue.iter().map(Bytes::len).sum(),
        };
        let (bytes, budget) = (self.ahead + bytes, &self.budget);
        let waiting = self
            .waiting
            .get_or_insert_with(|| Waiting::new(bytes, budget));
        if !waiting.is_over(cx) {
            return Poll::Pending;
        }
        self.reset(h2::Reason::CANCEL);
        let detail = "its tunnel took no byte of the body while memory was short";
        Poll::Ready(Err(BodyError::new(Reason::Overloaded, detail)))
    }

    fn take(&mut self, next: Next) {
        match next {
            Next::Data(data) => {
                let part = self.merge.put(data);
                self.enqueue(part);
            }
            Next::Trailers(trailers) => {
                self.trailers = Some(trailers);
                self.ended = true;
            }
            Next::End => self.ended = true,
        }
        if self.ended || self.body.is_end_stream() {
            let held = self.merge.take();
            self.enqueue(held);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, BodyError>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(self.check_end().map(|()| Next::End));
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Err(error.into())),
            };
            let frame = match frame.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => return Poll::Ready(self.check_data(&data).map(|()| Next::Data(data))),
                Err(frame) => frame,
            };
            if let Ok(trailers) = frame.into_trailers() {
                return Poll::Ready(self.check_end().map(|()| Next::Trailers(trailers)));
            }
        }
    }

    fn check_data(&mut self, data: &Bytes) -> Result<(), BodyError> {
        if let Some(left) = &mut self.left {
            *left = left
                .checked_sub(data.len() as u64)
                .ok_or_else(|| mismatch("longer"))?;
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), BodyError> {
        match self.left {
            Some(1..) => Err(mismatch("shorter")),
            Some(0) | None => Ok(()),
        }
    }

    fn send_end(&mut self) -> Result<(), BodyError> {
        self.check_end()
            .inspect_err(|_| self.reset(h2::Reason::CANCEL))?;
        if let Some(mut stream) = self.close() {
            // An error means that the peer has reset the stream, which the response future tells.
            let _ = match self.trailers.take() {
                Some(trailers) => {
                    self.kept = None;
                    stream.send_trailers(trailers)
                }
                None => stream.send_data(Bytes::new(), true),
            };
        }
        Ok(())
    }

    /// Nothing more is sent on the present tunnel, and nothing waits for it.
    fn close(&mut self) -> Option<SendStream<Bytes>> {
        self.expected = None;
        self.waiting = None;
        self.stream.take()
    }

    /// Resets the stream, if there is one that is not at its end.
    pub(super) fn reset(&mut self, reason: h2::Reason) {
        if let Some(mut stream) = self.close() {
            stream.send_reset(reason);
        }
    }
}

/// What is to be expected of a body whose length may be known, but no more than `most`.
pub(super) fn at_most(length: Option<u64>, most: u32) -> u32 {
    let length = length.and_then(|length| u32::try_from(length).ok());
    length.map_or(most, |length| length.min(most))
}

fn mismatch(how: &str) -> BodyError {
    BodyError::new(
        Reason::LengthMismatch,
        format!("the body is {how} than its Content-Length"),
    )
}

/// How many bytes the stream takes now, at least one; `None` if it takes no more at all.
pub(super) fn poll_room(
    stream: &mut SendStream<Bytes>,
    want: usize,
    cx: &mut Context<'_>,
) -> Poll<Option<usize>> {
    stream.reserve_capacity(want);
    loop {
        let room = stream.capacity();
        if room > 0 {
            return Poll::Ready(Some(room));
        }
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => (),
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}

impl<B> Rest for Upload<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        self.poll_send(cx)
    }

    fn stop(&mut self) {
        // RFC 9113 §8.1: the answer is complete, the rest of the request is of no interest.
        self.reset(h2::Reason::NO_ERROR);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::Request;
    use http_body::Frame;
    use tokio::io::duplex;

    use super::super::BudgetSettings;
    use super::*;
    use crate::metrics::Metrics;
    use crate::role::RoleId;
    use crate::tasks::Tasks;

    /// A body of single bytes that, as one of HTTP/2, is at its end without being asked.
    struct Bytewise {
        left: usize,
        ended: Arc<AtomicBool>,
    }

    impl http_body::Body for Bytewise {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(left) = self.left.checked_sub(1) else {
                return match self.is_end_stream() {
                    true => Poll::Ready(None),
                    false => Poll::Pending,
                };
            };
            self.left = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0 && self.ended.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_begins_again_is_whole_whatever_was_held_back_and_expected_until_it_is_sent()
     {
        let (near, far) = duplex(1 << 20);
        let tasks = Tasks::new();
        let driving = tasks.clone();
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        tasks.spawn(async move { drop(connection.await) });
        let server = async {
            let mut server = h2::server::handshake(far).await.unwrap();
            let (_first, _way) = server.accept().await.unwrap().unwrap();
            let (second, _way) = server.accept().await.unwrap().unwrap();
            driving.spawn(async move { while server.accept().await.is_some() {} });
            let mut body = second.into_body();
            let mut bytes = 0;
            while let Some(data) = body.data().await {
                bytes += data.unwrap().len();
            }
            bytes
        };
        let ended = Arc::<AtomicBool>::default();
        let body = Bytewise {
            left: 40,
            ended: Arc::clone(&ended),
        };
        let client = async {
            let need = Need {
                role: RoleId::new(1),
                sticky: None,
                long_poll: false,
                expect_continue: false,
                ahead: 0,
            };
            let budget = Budget::new(BudgetSettings::default(), Metrics::new());
            let mut upload = Upload::new(body, None, need, &budget);
            upload.expect();
            let mut sender = sender.ready().await.unwrap();
            let mut begin = || {
                let request = Request::post("https://gw.test/").body(()).unwrap();
                sender.send_request(request, false).unwrap()
            };
            let (first, stream) = begin();
            upload.start(stream);
            while upload.merge.is_empty() {
                let _ = poll_fn(|cx| Poll::Ready(upload.poll_send(cx))).await;
                tokio::task::yield_now().await;
            }
            ended.store(true, Ordering::Relaxed);
            let (second, stream) = begin();
            upload.start(stream);
            assert_eq!(budget.expected(), u64::from(EXPECTED));
            poll_fn(|cx| upload.poll_send(cx)).await.unwrap();
            assert_eq!(budget.expected(), 0);
            // Their drop would reset the streams.
            (first, second)
        };
        let (bytes, _answers) = tokio::join!(server, client);
        assert_eq!(bytes, 40);
        tasks.abort();
    }
}
