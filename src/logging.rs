//! The log (text, JSON or CMTrace) and the access log.
//!
//! [`start`] sets the log of the process, once; everything else writes with `tracing`. An [`AccessLog`] is a value that the
//! composition hands to whatever ends requests. Both write to a file or a standard stream; files are opened anew at
//! [`Log::reopen`] and [`AccessLog::reopen`], so that they can be rotated.

mod access;
mod cmtrace;
mod output;

use std::io;
use std::path::PathBuf;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::settings::Reader;

pub use access::{AccessCounts, AccessFormat, AccessLog, AccessSettings, Entry};
pub use output::{Output, Target};

/// Which program writes: the component that ConfigMgr administrators know, and the name of its log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The gateway.
    Gateway,
    /// The connection point.
    ConnectionPoint,
}

impl Component {
    /// The component in CMTrace lines; with `.log`, the name of the file in a folder of logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "CMGService",
            Self::ConnectionPoint => "SMS_Cloud_ProxyConnector",
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line of words and fields.
    Text,
    /// One JSON object a line.
    Json,
    /// What CMTrace and OneTrace read.
    CmTrace,
}

/// The log's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How lines are written.
    pub format: Format,
    /// The least level that is written.
    pub level: LevelFilter,
    /// A file, or a folder in which the component names the file; standard error without it.
    pub file: Option<PathBuf>,
    /// The access log.
    pub access: AccessSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: Format::Text,
            // State changes that an operator would tell a colleague, and what is worse.
            level: LevelFilter::INFO,
            // A service manager or a container engine takes standard error.
            file: None,
            access: AccessSettings::default(),
        }
    }
}

impl Settings {
    /// Reads `format`, `level`, `file` and the table `access`.
    pub fn read(reader: &Reader<'_>) -> Self {
        Self {
            access: AccessSettings::read(&reader.table("access")),
            ..Self::read_without_access(reader)
        }
    }

    /// Reads `format`, `level` and `file`, for a role that has no access log.
    pub fn read_without_access(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let formats = [
            ("text", Format::Text),
            ("json", Format::Json),
            ("cmtrace", Format::CmTrace),
        ];
        let levels = [
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ];
        Self {
            format: reader.choice("format", &formats, default.format),
            level: reader.choice("level", &levels, default.level),
            file: reader.optional_path("file"),
            access: default.access,
        }
    }
}

/// The log of the process, for re-opening its file.
#[derive(Clone, Debug)]
pub struct Log(Output);

impl Log {
    /// Opens the file anew under its name; the old one stays in use if that fails. A standard stream stays as it is.
    ///
    /// # Errors
    /// The system's, with the name of the file.
    pub fn reopen(&self) -> io::Result<()> {
        self.0.reopen()
    }
}

/// Sets the log of the process; once.
///
/// # Errors
/// The system's, if the file cannot be opened; also if a log was set before.
pub fn start(settings: &Settings, component: Component) -> io::Result<Log> {
    let target = match &settings.file {
        None => Target::StandardError,
        Some(path) if path.is_dir() => {
            Target::File(path.join(format!("{}.log", component.as_str())))
        }
        Some(path) => Target::File(path.clone()),
    };
    let output = Output::open(target)?;
    let subscriber = subscriber(settings, component, output.clone());
    subscriber.try_init().map_err(io::Error::other)?;
    Ok(Log(output))
}

fn subscriber<W>(
    settings: &Settings,
    component: Component,
    output: W,
) -> impl Subscriber + Send + Sync + 'static
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(output).with_ansi(false);
    let time = UtcTime::rfc_3339();
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        Format::Text => Box::new(layer.with_timer(time)),
        Format::Json => Box::new(layer.with_timer(time).json().flatten_event(true)),
        Format::CmTrace => Box::new(layer.event_format(cmtrace::CmTrace(component))),
    };
    // What the crates below us say at debug and trace is about them, not about us.
    let others = settings.level.min(LevelFilter::WARN);
    // A peer can make h2 warn as often as it likes; what it does is counted by reason.
    let filter = Targets::new()
        .with_default(others)
        .with_target("h2", settings.level.min(LevelFilter::ERROR))
        .with_target("opencmg", settings.level);
    tracing_subscriber::registry().with(layer.with_filter(filter))
}

#[cfg(test)]
mod tests;
