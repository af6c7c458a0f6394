//! Making one connection to a backend: name resolution, TCP, TLS, and whether the server is who it should be.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_native_tls::TlsStream;

use super::tls::Tls;
use super::{BackendSettings, BaseUrl, Failure};
use crate::reason::Reason;

/// Between two keep-alive probes of an idle connection, so that a firewall does not forget it.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How much may wait in the kernel to be sent to one backend, so that the memory of many bodies that it does not take is
/// bounded.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 << 10;

/// Makes connections to one backend.
#[derive(Debug)]
pub(super) struct Dialer {
    url: BaseUrl,
    timeout: Duration,
    tls: Option<Tls>,
}

/// One connection, plain or TLS.
#[derive(Debug)]
pub(super) enum Connection {
    /// Over TCP as it is.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Dialer {
    /// Builds a dialer.
    ///
    /// # Errors
    /// Every fault of the certificates that the settings point to.
    pub(super) fn build(settings: &BackendSettings) -> Result<Self, Vec<String>> {
        let https = settings.url.is_https();
        Ok(Self {
            url: settings.url.clone(),
            timeout: settings.connect_timeout,
            tls: https.then(|| Tls::build(settings)).transpose()?,
        })
    }

    /// Whether a client certificate is shown to the server when it asks for one.
    pub(super) fn has_certificate(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::has_certificate)
    }

    /// Connects within the time allowed.
    ///
    /// # Errors
    /// [`Reason::BackendUnreachable`] or [`Reason::BackendCertificate`], with what happened.
    pub(super) async fn dial(&self) -> Result<Connection, Failure> {
        let deadline = Instant::now() + self.timeout;
        let tcp = connect(self.url.host(), self.url.port(), deadline).await?;
        prepare(&tcp);
        let Some(tls) = &self.tls else {
            return Ok(Connection::Plain(tcp));
        };
        match timeout_at(deadline, tls.connect(tcp)).await {
            Ok(stream) => Ok(Connection::Tls(Box::new(stream?))),
            Err(_) => Err(Failure::new(
                Reason::BackendUnreachable,
                format!(
                    "TLS with {}:{} did not finish in {:?}",
                    self.url.host(),
                    self.url.port(),
                    self.timeout
                ),
            )),
        }
    }
}

/// Resolves a name and tries its addresses in order, each with its share of the time that is left.
async fn connect(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, Failure> {
    let unreachable = |what: String| Failure::new(Reason::BackendUnreachable, what);
    let addresses: Vec<_> = match timeout_at(deadline, tokio::net::lookup_host((host, port))).await
    {
        Err(_) => {
            let what = format!("the name {host} was not resolved in time");
            return Err(unreachable(what));
        }
        Ok(Err(error)) => {
            let what = format!("the name {host} cannot be resolved: {error}");
            return Err(unreachable(what));
        }
        Ok(Ok(addresses)) => addresses.collect(),
    };
    let mut last = format!("the name {host} has no address");
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = format!("connecting to {address}: {error}"),
            Err(_) => last = format!("connecting to {address}: no answer in {share:?}"),
        }
    }
    Err(unreachable(last))
}

/// A socket that cannot be tuned still carries bytes, so a fault here is none.
fn prepare(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let keep_alive = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE);
    let socket = socket2::SockRef::from(tcp);
    let _ = socket.set_tcp_keepalive(&keep_alive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
