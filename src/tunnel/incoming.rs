//! A request that came through a tunnel, and the way its answer goes back.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use prometheus_client::metrics::gauge::Gauge;

use super::merge::Merge;
use super::send::length_of;
use super::upload::poll_room;
use super::{Body, BodyError};
use crate::reason::Reason;

/// A request that came through a tunnel, with the way back.
#[derive(Debug)]
pub struct Incoming {
    /// The request.
    pub request: Request<Body>,
    /// The way back.
    pub respond: Respond,
}

/// A request's place in the count of its tunnel.
#[derive(Debug)]
pub(super) struct Place(Arc<AtomicUsize>, Gauge);

impl Place {
    /// Takes a place if fewer than `limit` are taken.
    pub(super) fn take(count: &Arc<AtomicUsize>, limit: usize, shown: &Gauge) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        shown.inc();
        Some(Self(Arc::clone(count), shown.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.dec();
    }
}

/// The way back of one request. Dropping it unused resets the stream, which the client gets as a failure.
pub struct Respond {
    way: Option<SendResponse<Bytes>>,
    method: Method,
    continued: bool,
    _place: Place,
}

impl fmt::Debug for Respond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Respond")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Drop for Respond {
    fn drop(&mut self) {
        if let Some(mut way) = self.way.take() {
            way.send_reset(h2::Reason::CANCEL);
        }
    }
}

impl Respond {
    pub(super) fn new(way: SendResponse<Bytes>, method: Method, place: Place) -> Self {
        Self {
            way: Some(way),
            method,
            continued: false,
            _place: place,
        }
    }

    /// Sends an interim 100 (RFC 9110 §15.2.1), once; nothing happens if the gateway has gone.
    pub fn send_continue(&mut self) {
        if self.continued {
            return;
        }
        self.continued = true;
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::CONTINUE;
        if let Some(way) = &mut self.way {
            // An error means that the gateway has gone, which the answer will find too.
            let _ = way.send_informational(interim);
        }
    }

    /// Returns once the gateway has reset this request, or the tunnel is lost.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn reset(&mut self) {
        poll_fn(|cx| match &mut self.way {
            Some(way) => way.poll_reset(cx).map(|_| ()),
            None => Poll::Ready(()),
        })
        .await;
    }

    /// Sends the answer and streams its body; returns the number of body bytes sent. The head goes out at once.
    ///
    /// A body that fails or is shorter than its Content-Length resets the stream, so that the client never takes it
    /// for complete.
    ///
    /// # Errors
    /// [`Reason::ClientGone`] if the gateway reset the request, [`Reason::TunnelLost`] if the tunnel broke, the
    /// body's own reason if it failed, [`Reason::LengthMismatch`] if it was shorter or longer than promised,
    /// [`Reason::InternalError`] if the head cannot be sent over HTTP/2.
    pub fn send<B>(
        mut self,
        response: Response<B>,
    ) -> impl Future<Output = Result<u64, Reason>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: Into<BodyError>,
    {
        let mut begun = self.begin(response);
        poll_fn(move |cx| {
            let answer = match &mut begun {
                Ok(Some(answer)) => answer,
                Ok(None) => return Poll::Ready(Ok(0)),
                Err(reason) => return Poll::Ready(Err(*reason)),
            };
            // The request has its place until its answer is gone.
            let _of_the_request = &self;
            let sent = ready!(answer.poll(cx));
            if sent.is_err() {
                answer.stream.send_reset(h2::Reason::INTERNAL_ERROR);
            }
            Poll::Ready(sent)
        })
    }

    /// Sends the head; returns the body that is to follow, if one is.
    fn begin<B>(&mut self, response: Response<B>) -> Result<Option<Answer<B>>, Reason>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_2;
        let promised = match length_of(&parts.headers) {
            Some(length) if self.may_have_body(parts.status) => Some(length),
            Some(_) | None => None,
        };
        let empty = body.is_end_stream() && promised.is_none_or(|length| length == 0);
        let mut way = self.way.take().ok_or(Reason::InternalError)?;
        let head = Response::from_parts(parts, ());
        let stream = way.send_response(head, empty).map_err(|error| {
            way.send_reset(h2::Reason::INTERNAL_ERROR);
            lost(&error)
        })?;
        Ok((!empty).then(|| Answer {
            stream,
            body,
            merge: Merge::default(),
            part: Bytes::new(),
            trailers: None,
            body_ended: false,
            left: promised,
            sent: 0,
        }))
    }

    /// Whether Content-Length speaks of the body that follows (RFC 9110 §6.4.1).
    fn may_have_body(&self, status: StatusCode) -> bool {
        self.method != Method::HEAD
            && status != StatusCode::NO_CONTENT
            && status != StatusCode::NOT_MODIFIED
    }
}

/// What an error of HTTP/2 means for an answer.
fn lost(error: &h2::Error) -> Reason {
    if error.is_reset() {
        Reason::ClientGone
    } else if error.is_io() || error.is_go_away() {
        Reason::TunnelLost
    } else {
        Reason::InternalError
    }
}

/// An answer's body on its way.
struct Answer<B> {
    stream: SendStream<Bytes>,
    body: B,
    merge: Merge,
    part: Bytes,
    trailers: Option<HeaderMap>,
    body_ended: bool,
    left: Option<u64>,
    sent: u64,
}

impl<B> Answer<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Reason>> {
        let sent = self.poll_sent(cx);
        if let Poll::Ready(Ok(_)) = sent {
            return sent;
        }
        // That nobody wants the answer any more is not told by what waits for more of it.
        match self.stream.poll_reset(cx) {
            Poll::Ready(reset) => {
                let reason = reset.map_or_else(|error| lost(&error), |_| Reason::ClientGone);
                Poll::Ready(Err(reason))
            }
            Poll::Pending => sent,
        }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Reason>> {
        loop {
            if !self.part.is_empty() {
                let Some(room) = ready!(poll_room(&mut self.stream, self.part.len(), cx)) else {
                    return Poll::Ready(Err(self.why_closed(cx)));
                };
                let part = self.part.split_to(room.min(self.part.len()));
                let len = part.len() as u64;
                let last = self.part.is_empty()
                    && self.left.is_none_or(|left| left == 0)
                    && self.body.is_end_stream();
                if let Err(error) = self.stream.send_data(part, last) {
                    return Poll::Ready(Err(lost(&error)));
                }
                self.sent += len;
                if last {
                    return Poll::Ready(Ok(self.sent));
                }
                continue;
            }
            if self.body_ended {
                return Poll::Ready(self.end());
            }
            match self.poll_body(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
                Poll::Pending => self.part = ready!(self.merge.poll_rested(cx)),
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
            self.body_ended = true;
            self.part = self.merge.take().unwrap_or_default();
            return Poll::Ready(Ok(()));
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return Poll::Ready(Err(error.into().reason)),
        };
        match frame.into_data() {
            Ok(data) => {
                if let Some(left) = &mut self.left {
                    let Some(rest) = left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Err(Reason::LengthMismatch));
                    };
                    *left = rest;
                }
                let now = self.merge.put(data);
                let now = now.or_else(|| self.body.is_end_stream().then(|| self.merge.take())?);
                self.part = now.unwrap_or_default();
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                self.body_ended = true;
                self.part = self.merge.take().unwrap_or_default();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) -> Result<u64, Reason> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(Reason::LengthMismatch);
        }
        let ended = match self.trailers.take() {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(Bytes::new(), true),
        };
        ended.map(|()| self.sent).map_err(|error| lost(&error))
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> Reason {
        match self.stream.poll_reset(cx) {
            Poll::Ready(Err(error)) => lost(&error),
            Poll::Ready(Ok(_)) | Poll::Pending => Reason::ClientGone,
        }
    }
}
