//! A request that came through a tunnel, and the way its answer goes back.

use bytes::Bytes;
use http::{Request, Response};

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

/// The way back of one request. Dropping it unused resets the stream.
#[derive(Debug)]
pub struct Respond {}

impl Respond {
    /// Sends an interim 100 (RFC 9110 §15.2.1), once; nothing happens if the gateway has gone.
    pub fn send_continue(&mut self) {
        unimplemented!()
    }

    /// Returns once the gateway has reset this request.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn reset(&mut self) {
        std::future::pending().await
    }

    /// Sends the answer and streams its body; returns the number of body bytes sent.
    ///
    /// # Errors
    /// [`Reason::ClientGone`] if the gateway reset the request, [`Reason::TunnelLost`] if the tunnel broke, the
    /// body's own reason if it failed.
    pub async fn send<B>(self, _response: Response<B>) -> Result<u64, Reason>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin,
        B::Error: Into<BodyError>,
    {
        std::future::pending().await
    }
}
