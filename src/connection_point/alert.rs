//! What a TLS alert of the gateway means for the administrator of a connection point.
//!
//! In TLS 1.3 the gateway judges the certificate after the handshake is over here, so its alert comes as an error of the first
//! read (RFC 8446 section 4.4.2.4).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the gateway says by an alert that ended a tunnel; `None` if the error is another one.
pub(super) fn explain(error: &io::Error) -> Option<String> {
    let Some(rustls::Error::AlertReceived(alert)) = error.get_ref()?.downcast_ref() else {
        return None;
    };
    let why = if *alert == AlertDescription::UnknownCA {
        "its certificate does not chain to the service's connection-point CA"
    } else if *alert == AlertDescription::CertificateExpired {
        "its certificate has expired"
    } else {
        "its certificate is not accepted"
    };
    Some(format!(
        "the gateway refuses this connection point: {why} (TLS alert {alert:?})"
    ))
}

/// A connection to a gateway whose alerts are errors that say what to do.
#[derive(Debug)]
pub(super) struct Explained<S>(pub(super) S);

impl<S: Unpin> Explained<S> {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut S> {
        Pin::new(&mut self.get_mut().0)
    }
}

fn explained(error: io::Error) -> io::Error {
    match explain(&error) {
        Some(what) => io::Error::new(io::ErrorKind::PermissionDenied, what),
        None => error,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Explained<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer).map_err(explained)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Explained<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
