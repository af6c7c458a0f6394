//! The commands: what `opencmg` does when it is started.
//!
//! Each verb is one file below; this one holds what they take and how they end. Exit codes: 0 done, 1 failed,
//! 64 wrong usage, 78 wrong configuration (as in `sysexits.h`).

pub mod builtin;
mod certificate;
mod check;
mod expiring;
mod explain;
mod files;
#[cfg(feature = "load")]
mod load;
mod quickstart;
mod roles;
mod status;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};

use crate::process::take_turns;
use crate::settings::Problem;

const FAILED: u8 = 1;
const USAGE: u8 = 64;
const CONFIGURATION: u8 = 78;

const LONG_ABOUT: &str = "An open cloud management gateway: managed computers on the internet reach management \
points and software update points inside the network, with no inbound port open there.

A gateway runs in the cloud and a connection point inside the network; `opencmg quickstart` shows both at \
work on this machine.";
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong configuration.";

const GATEWAY_SIGNALS: &str = "SIGTERM and Ctrl-C drain, a second one ends at once. A changed service definition is \
taken over by itself; SIGHUP reads it again and opens log files anew.";
const CONNECTION_POINT_SIGNALS: &str = "SIGTERM and Ctrl-C drain, a second one ends at once. A changed configuration \
or certificate is taken over by itself; SIGHUP reads them again and opens log files anew.";

const EXPIRING: &str = "Exits 1 if something has ended or, with --within, if anything is listed.";
const EXPLAIN: &str =
    "Nothing is sent anywhere. Exits 0 if the certificate is accepted and 1 if it is refused.";

const STATUS: &str = "What is wrong stands first. Exits 0 if the process answered.";

#[cfg(feature = "load")]
const LOAD: &str = "Ctrl-C ends it and prints what was measured so far. Exits 1 if something failed and nothing was \
answered well.";

#[derive(Debug, Parser)]
#[command(
    name = "opencmg",
    version = version(),
    about = "An open cloud management gateway",
    long_about = LONG_ABOUT,
    after_help = EXIT_CODES,
    max_term_width = 110
)]
struct Commands {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a gateway, a connection point and two backends on this machine, with a throw-away PKI
    Quickstart(quickstart::Options),
    /// Runs a gateway in the foreground
    #[command(after_help = GATEWAY_SIGNALS)]
    Gateway(Config),
    /// Runs a connection point in the foreground, or prepares one
    #[command(after_help = CONNECTION_POINT_SIGNALS)]
    ConnectionPoint(ConnectionPoint),
    /// Signs what `opencmg connection-point key` made
    ConnectionPointCertificate(certificate::Sign),
    /// Validates a configuration of either role or a service with everything it points to
    Check {
        /// gateway.toml, connection-point.toml or service.toml
        file: PathBuf,
    },
    /// Asks a running gateway or connection point how it is: tunnels, roles, trust, alerts
    #[command(after_help = STATUS)]
    Status(status::Options),
    /// Lists everything of a configuration that expires, with what breaks then
    #[command(after_help = EXPIRING)]
    Expiring(expiring::Options),
    /// Says what the gateway's verifier makes of a certificate, and why
    #[command(after_help = EXPLAIN)]
    ExplainCertificate(explain::Options),
    /// Sends requests as many clients would, and measures what becomes of them
    #[cfg(feature = "load")]
    #[command(after_help = LOAD)]
    Load(Box<load::Options>),
}

#[derive(Debug, Args)]
struct Config {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct ConnectionPoint {
    /// The configuration file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<ConnectionPointVerb>,
}

#[derive(Debug, Subcommand)]
enum ConnectionPointVerb {
    /// Tries everything that the connection point needs and says what to do about what fails
    Check(Config),
    /// Makes a key and a certificate signing request for a connection point; the key stays here
    Key(certificate::MakeKey),
}

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong: every problem that was found.
    Configuration(Vec<Problem>),
    /// Something failed; the causes are printed below it.
    Failed(anyhow::Error),
    /// The command has said on standard output what failed.
    Said,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Vec<Problem>> for Failure {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Configuration(problems)
    }
}

/// Runs the command that the arguments name (the first is the program) and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let commands = match Commands::try_parse_from(arguments) {
        Ok(commands) => commands,
        Err(error) => {
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            let usage = error.use_stderr();
            return ExitCode::from(if usage { USAGE } else { 0 });
        }
    };
    match commands.verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.print()),
    }
}

impl Verb {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Quickstart(options) => on_runtime(quickstart::run(options)),
            Self::Gateway(Config { config }) => on_runtime(roles::gateway(config)),
            Self::ConnectionPoint(ConnectionPoint { verb, config }) => match (verb, config) {
                (Some(ConnectionPointVerb::Check(Config { config })), _) => {
                    on_runtime(check::connection_point_preflight(config))
                }
                (Some(ConnectionPointVerb::Key(options)), _) => Ok(certificate::key(&options)?),
                (None, Some(config)) => on_runtime(roles::connection_point(config)),
                // The parser asks for one of the two.
                (None, None) => Ok(()),
            },
            Self::ConnectionPointCertificate(options) => Ok(certificate::sign(&options)?),
            Self::Status(options) => on_runtime(status::run(options)),
            Self::Expiring(options) => expiring::run(&options),
            Self::ExplainCertificate(options) => explain::run(&options),
            Self::Check { file } => on_runtime(check::file(file)),
            #[cfg(feature = "load")]
            Self::Load(options) => on_runtime(load::run(*options)),
        }
    }
}

impl Failure {
    /// Prints to standard error and returns the exit code.
    fn print(&self) -> u8 {
        let (lines, code) = match self {
            Self::Configuration(problems) => {
                let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
                (lines, CONFIGURATION)
            }
            Self::Failed(error) => {
                let mut lines = vec![format!("opencmg: {error}")];
                let causes = error.chain().skip(1);
                lines.extend(causes.map(|cause| format!("  {cause}")));
                (lines, FAILED)
            }
            Self::Said => (Vec::new(), FAILED),
        };
        let mut out = std::io::stderr().lock();
        for line in lines {
            // Nothing is left to do when the terminal is gone.
            let _ = writeln!(out, "{line}");
        }
        code
    }
}

/// Prints lines to standard output, and fails where a pipe is closed.
fn print(text: impl AsRef<str>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.as_ref())?;
    Ok(out.flush()?)
}

/// How many ready connections are looked at before what their requests wrote to a tunnel goes out: a whole crowd of them
/// would keep the first waiting for the last, and the other side idle. Fewer write oftener, which costs more than it gains.
const READY_AT_ONCE: usize = 32;

fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().max_io_events_per_tick(READY_AT_ONCE);
    let runtime = take_turns(&mut builder)
        .build()
        .map_err(anyhow::Error::from)?;
    runtime.block_on(work)
}

/// The version, with the commit where the build named it in `OPENCMG_COMMIT`.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let version = env!("CARGO_PKG_VERSION");
        match option_env!("OPENCMG_COMMIT") {
            Some(commit) if !commit.is_empty() => format!("{version} ({commit})"),
            Some(_) | None => version.to_owned(),
        }
    });
    &VERSION
}
