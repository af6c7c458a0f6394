//! Bodies between HTTP/1.1 and the streams of a tunnel.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What comes out of a tunnel, for hyper; the gateway's also carries the rest of the request's body.
#[derive(Debug)]
pub(crate) struct Received {
    stream: RecvStream,
    left: Option<u64>,
    rest: Option<Sending>,
}

impl Received {
    pub(crate) fn new(stream: RecvStream, headers: &HeaderMap, rest: Option<Sending>) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, left, rest }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        if let Some(rest) = &mut this.rest
            && rest.poll(cx).is_ready()
        {
            this.rest = None;
        }
        let Some(data) = ready!(this.stream.poll_data(cx)?) else {
            return Poll::Ready(None);
        };
        this.stream.flow_control().release_capacity(data.len())?;
        this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body of HTTP/1.1 on its way into a tunnel, pumped by whoever waits for what comes of it.
#[derive(Debug)]
pub(crate) struct Sending {
    body: Incoming,
    stream: SendStream<Bytes>,
    part: Bytes,
}

impl Sending {
    pub(crate) fn new(body: Incoming, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            part: Bytes::new(),
        }
    }

    /// Ready when everything is sent, or the body has failed and the stream is reset; the flag says which.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            while !self.part.is_empty() {
                self.stream.reserve_capacity(self.part.len());
                let room = match self.stream.capacity() {
                    0 => match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(false),
                    },
                    room => room,
                };
                let part = self.part.split_to(room.min(self.part.len()));
                let last = self.part.is_empty() && self.body.is_end_stream();
                let sent = self.stream.send_data(part, last);
                if last || sent.is_err() {
                    return Poll::Ready(sent.is_ok());
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.part = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => {
                    self.stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Poll::Ready(false);
                }
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true).is_ok()),
            }
        }
    }
}
