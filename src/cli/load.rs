//! `opencmg load`: many clients against one URL, and what became of their requests.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::files::read;
use super::print;
use crate::load::{Mode, Plan, Protocol, Run, Target};
use crate::pki::{load_pem, read_certificates};
use crate::process::{self, Signals};
use crate::tls::{KeyExchange, LoadClient, LoadClientSettings, Sessions};
use crate::units::{parse_duration, parse_size};

// How often the bar moves.
const MOVE: Duration = Duration::from_millis(200);
const BODY_MAX: u64 = 1 << 30;
const RATE_MAX: f64 = 1e6;

/// What `load` takes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// An https URL, to which every request goes
    url: String,
    /// Dials this instead of the host and port of the URL
    #[arg(long, value_name = "ADDR:PORT")]
    connect: Option<String>,
    /// The CA certificates that the server's certificate must chain to, PEM
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The client certificate and its chain, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of the client certificate, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
    /// How connections and requests relate
    #[arg(long, value_enum, default_value_t = ModeName::KeepAlive)]
    mode: ModeName,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Requests at once per HTTP/2 connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    streams: u32,
    /// Requests that fall due per second in all, answered or not; latency counts from then
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// New connections per second at first, in all
    #[arg(long, value_name = "R", value_parser = rate)]
    dial_rate: Option<f64>,
    /// How long requests are counted, or connections held
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How many requests are counted at most
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// How long requests are sent before they are counted
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// How long a handshake may take, and an answer, that of a poll excepted
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// The method [default: GET, or POST with a body]
    #[arg(long)]
    method: Option<Method>,
    /// A body of so many bytes, for example "64 KiB"
    #[arg(long, value_name = "SIZE", value_parser = size)]
    body: Option<u64>,
    /// A field of the request, for example 'Accept: text/xml'; may be repeated
    #[arg(long, value_name = "FIELD", value_parser = field)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The key exchange offered
    #[arg(long, value_name = "GROUP", value_enum, default_value_t = Group::X25519)]
    tls_group: Group,
    /// The one cipher suite offered
    #[arg(long, value_name = "SUITE", default_value = "TLS13_AES_128_GCM_SHA256")]
    tls_suite: String,
    /// Threads that send
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Prints one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeName {
    /// Each connection sends one request after another
    KeepAlive,
    /// Each request on a new connection with a full handshake
    Handshake,
    /// Each request on a new connection with a resumed handshake
    Resumed,
    /// Each connection sends one request and is held; says `holding N` once all are up
    Idle,
    /// Each connection holds one request after another, without a time-out; says `holding N` once all are sent
    Poll,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Group {
    /// X25519 alone
    X25519,
    /// X25519 with ML-KEM-768
    #[value(name = "x25519mlkem768")]
    X25519MlKem768,
}

/// Runs a load and prints what it measured; fails if nothing was answered well.
pub(super) async fn run(options: Options) -> Result<(), Failure> {
    let mut signals = Signals::listen().context("signals cannot be handled")?;
    process::raise_descriptor_limit().context("the limit on open files cannot be raised")?;
    let json = options.json;
    let plan = plan(&options)?;
    let bar = bar(&plan);
    let holds = plan.mode.holds();
    let load = Run::start(plan).map_err(|error| anyhow!(error))?;
    let mut is_told = !holds;
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => {
                load.stop();
                load.ended().await;
                break;
            }
            held = load.holding(), if !is_told => {
                is_told = true;
                print(format!("holding {held}"))?;
            }
            () = load.ended() => break,
            () = tokio::time::sleep(MOVE), if !bar.is_hidden() => {
                let (requests, passed) = load.so_far();
                bar.set_message(format!("{requests} requests"));
                bar.set_position((passed * 100.0) as u64);
            }
        }
    }
    bar.finish_and_clear();
    let report = load.report().map_err(|error| anyhow!(error))?;
    let text = if json {
        serde_json::to_string(&report).map_err(anyhow::Error::from)?
    } else {
        report.to_string()
    };
    print(text)?;
    let nothing = report.answered_well() == 0 && !report.failures.is_empty();
    if nothing { Err(Failure::Said) } else { Ok(()) }
}

fn plan(options: &Options) -> anyhow::Result<Plan> {
    let mode = options.mode.mode();
    let protocol = if options.http2 {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    if options.streams > 1
        && (protocol == Protocol::Http1 || matches!(mode, Mode::Handshake | Mode::Resumed))
    {
        bail!("--streams takes --http2 and connections that are kept");
    }
    if options.rate.is_some() && mode.holds() {
        bail!("--rate does not go with --mode {}", mode.as_str());
    }
    let file = |path: &Path| path.display().to_string();
    let ca = read_certificates(&read(&options.ca)?).with_context(|| file(&options.ca))?;
    let key_pair = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let pair = load_pem(&read(certificate)?, &read(key)?);
            Some(pair.with_context(|| format!("{} with {}", file(certificate), file(key)))?)
        }
        // The parser asks for both or none.
        (Some(_), None) | (None, Some(_)) | (None, None) => None,
    };
    let tls = LoadClientSettings {
        ca,
        key_pair,
        key_exchange: match options.tls_group {
            Group::X25519 => KeyExchange::X25519,
            Group::X25519MlKem768 => KeyExchange::X25519MlKem768,
        },
        suite: options.tls_suite.clone(),
        alpn: match protocol {
            Protocol::Http1 => b"http/1.1",
            Protocol::Http2 => b"h2",
        },
        sessions: match mode {
            Mode::Resumed => Sessions::Kept,
            Mode::KeepAlive | Mode::Handshake | Mode::Idle | Mode::Poll => Sessions::None,
        },
    };
    let mut fields = HeaderMap::new();
    for (name, value) in &options.header {
        fields.append(name, value.clone());
    }
    let with_body = |body| if body { Method::POST } else { Method::GET };
    Ok(Plan {
        target: Target::resolve(&options.url, options.connect.as_deref())
            .map_err(|error| anyhow!(error))?,
        tls: LoadClient::build(&tls).map_err(|error| anyhow!(error))?,
        mode,
        protocol,
        connections: options.connections as usize,
        streams: options.streams as usize,
        threads: options.threads as usize,
        rate: options.rate,
        dial_rate: options.dial_rate,
        duration: options.duration,
        warm_up: options.warm_up,
        requests: options.requests,
        patience: options.timeout,
        method: options
            .method
            .clone()
            .unwrap_or_else(|| with_body(options.body.is_some())),
        fields,
        body: Bytes::from(vec![b'x'; usize::try_from(options.body.unwrap_or(0))?]),
    })
}

/// A bar on a terminal; elsewhere one that draws nothing.
fn bar(plan: &Plan) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(100);
    let template = format!("{} {{bar:40}} {{percent}} % {{msg}}", plan.mode.as_str());
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

impl ModeName {
    fn mode(self) -> Mode {
        match self {
            Self::KeepAlive => Mode::KeepAlive,
            Self::Handshake => Mode::Handshake,
            Self::Resumed => Mode::Resumed,
            Self::Idle => Mode::Idle,
            Self::Poll => Mode::Poll,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration is for example 500ms, 10s or 5min".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text)
        .filter(|size| *size <= BODY_MAX)
        .ok_or_else(|| "a size is for example 512 B or 64 KiB, and 1 GiB at most".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (0.001..=RATE_MAX).contains(rate))
        .ok_or_else(|| "a rate is a number from 0.001 to 1000000".to_owned())
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "a field is NAME: VALUE".to_owned())?;
    let name = name.trim().parse::<HeaderName>();
    let value = value.trim().parse::<HeaderValue>();
    Ok((
        name.map_err(|error| error.to_string())?,
        value.map_err(|error| error.to_string())?,
    ))
}
