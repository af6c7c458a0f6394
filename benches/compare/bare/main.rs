//! The bare chain: the crates of OpenCMG in the shape of OpenCMG, without a feature.
//!
//! `edge` terminates TLS with client certificates and sends every request through a tunnel that `point` has dialled; `point` forwards to
//! the backend. The runtime, the windows, the buffers and the tasks are those of `opencmg::tunnel`, `opencmg::proxy` and
//! `opencmg::forward`, and must stay so: then the ratio of both is what routing, header rules, identity, limits, time-outs,
//! metrics and refusals cost. Errors end a connection or reset a stream, and nobody is told.

mod body;
mod edge;
mod pki;
mod point;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio::net::TcpStream;

/// What a connection buffers in HTTP/1.1 in each direction.
const BUFFER: usize = 128 << 10;

/// One stream's window, the connection's, the largest frame and what a stream may queue, on both ends of a tunnel.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const FRAME: u32 = 64 << 10;
const SEND_BUFFER: usize = 256 << 10;
const STREAMS: u32 = 16_384;

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    end: End,
    /// The folder with the certificates of `benches/compare/pki.py`
    #[arg(long, global = true, default_value = ".")]
    pki: PathBuf,
    /// Where the edge takes tunnels
    #[arg(long, global = true, default_value = "127.0.0.1:10140")]
    tunnel: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum End {
    /// The outer end
    Edge {
        /// Where clients come in
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The inner end
    Point {
        /// Where the backend is
        #[arg(long)]
        backend: SocketAddr,
        /// How many tunnels are kept
        #[arg(long, default_value_t = 2)]
        tunnels: usize,
    },
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let Options { end, pki, tunnel } = Options::parse();
    rlimit::increase_nofile_limit(1 << 20)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            match end {
                End::Edge { listen } => edge::run(&pki, listen, tunnel).await,
                End::Point { backend, tunnels } => point::run(&pki, tunnel, backend, tunnels).await,
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

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)
}
