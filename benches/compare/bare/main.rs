//! Bare chains: the crates of OpenCMG, with its windows, tunnels and allocator, without a feature; in two shapes.
//!
//! `edge` terminates TLS with client certificates and sends every request through a tunnel that `point` has dialled; `point` forwards to
//! the backend. `bare edge` and `bare point` have hyper on both sides of each, used as its documentation does. `bare stripped …` are
//! [`stripped`]. Errors end a connection or reset a stream, and nobody is told.

mod edge;
mod ends;
mod pki;
mod point;
mod stripped;

use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What a connection buffers in HTTP/1.1 in each direction.
const BUFFER: usize = 128 << 10;

/// One stream's window, the connection's, the largest frame and what a stream may queue, on both ends of a tunnel.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const FRAME: u32 = (64 << 10) - 9;
const SEND_BUFFER: usize = 256 << 10;
const STREAMS: u32 = 16_384;
const FIELD_TABLE: u32 = 64 << 10;

const USAGE: &str = "usage: bare [stripped] edge PKI LISTEN TUNNEL | bare [stripped] point PKI TUNNEL BACKEND TUNNELS";

type Fault = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    rlimit::increase_nofile_limit(1 << 20)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // A process that ends in order can be built so that it counts what runs.
        #[cfg(unix)]
        {
            let mut told = signal(SignalKind::terminate())?;
            spawn(async move {
                told.recv().await;
                std::process::exit(0);
            });
        }
        match arguments[..] {
            ["edge", pki, listen, tunnel] => {
                edge::run(pki.as_ref(), listen.parse()?, tunnel.parse()?).await
            }
            ["stripped", "edge", pki, listen, tunnel] => {
                stripped::edge(pki.as_ref(), listen.parse()?, tunnel.parse()?).await
            }
            ["point", pki, tunnel, backend, count] => {
                let (tunnel, backend) = (tunnel.parse()?, backend.parse()?);
                point::run(pki.as_ref(), tunnel, backend, count.parse()?).await
            }
            ["stripped", "point", pki, tunnel, backend, count] => {
                let (tunnel, backend) = (tunnel.parse()?, backend.parse()?);
                stripped::point(pki.as_ref(), tunnel, backend, count.parse()?).await
            }
            _ => Err(USAGE.into()),
        }
    })
}

#[allow(
    clippy::disallowed_methods,
    reason = "every task of this program lives as long as its process"
)]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)
}
