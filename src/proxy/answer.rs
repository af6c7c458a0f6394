//! The answer to a request on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::exchange::Exchange;
use crate::message::body::BodyError;
use crate::message::headers;
use crate::tunnel;

/// Where the bytes of an answer come from.
#[derive(Debug)]
pub(super) enum Payload {
    /// From the gateway itself.
    Own(Full<Bytes>),
    /// From a backend, through a tunnel.
    Tunnel(tunnel::Body),
}

/// The body of an answer, which ends its exchange.
#[derive(Debug)]
pub struct Answer {
    payload: Payload,
    /// What Content-Length announces; the server stops asking when it has so much.
    expected: Option<u64>,
    /// Whether it is the client's turn: there is something for it, or nobody has asked yet.
    pressing: bool,
    exchange: Box<Exchange>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.press(false);
    }
}

impl Answer {
    /// The answer to an exchange, whose Content-Length announces what is `expected`.
    pub(super) fn new(payload: Payload, expected: Option<u64>, exchange: Box<Exchange>) -> Self {
        let mut new = Self {
            payload,
            expected,
            pressing: false,
            exchange,
        };
        new.settle();
        new.press(!new.exchange.complete);
        new
    }

    fn press(&mut self, pressing: bool) {
        let activity = &self.exchange.peer.activity;
        match (self.pressing, pressing) {
            (false, true) => activity.press(),
            (true, false) => activity.release(),
            // The head came just before the first of the body.
            (true, true) if self.exchange.sent == 0 => {}
            (true, true) => activity.asked(),
            (false, false) => {}
        }
        self.pressing = pressing;
    }

    fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.payload {
            Payload::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Payload::Tunnel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    /// It is the client's turn; what it still sends itself goes on.
    fn poll_held_up(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.pressing {
            self.press(true);
        }
        if let Payload::Tunnel(body) = &mut self.payload
            && let Err(error) = body.poll_upload(cx)
        {
            self.exchange.fail(error.reason);
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Pending
    }

    /// Notes that nothing more will come, once that is so.
    fn settle(&mut self) {
        let whole = self
            .expected
            .is_some_and(|expected| self.exchange.sent >= expected);
        self.exchange.complete |= whole || self.payload_ended();
    }

    fn payload_ended(&self) -> bool {
        match &self.payload {
            Payload::Own(body) => body.is_end_stream(),
            Payload::Tunnel(body) => body.is_end_stream(),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.exchange.is_held_up(cx) {
            return this.poll_held_up(cx);
        }
        let polled = this.poll_payload(cx);
        this.press(polled.is_ready());
        let mut frame = ready!(polled);
        if let Some(Ok(last)) = &mut frame
            && let Some(trailers) = last.trailers_mut()
        {
            headers::strip_trailers(trailers);
            if !this.exchange.trailers || trailers.is_empty() {
                frame = None;
            }
        }
        match &frame {
            None => this.exchange.complete = true,
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.exchange.offered(bytes);
                this.settle();
            }
            Some(Err(error)) => {
                let cause = this.exchange.upload_fault().unwrap_or(error.reason);
                this.exchange.fail(cause);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.payload_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Own(body) => body.size_hint(),
            Payload::Tunnel(body) => body.size_hint(),
        }
    }
}
