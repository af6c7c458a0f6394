//! The figures of our own process and build, read when the text is made.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

const BUILD: (&str, &str) = ("build", "The version of this build.");
const START: (&str, &str) = (
    "process_start_time_seconds",
    "When the process began, in seconds since 1970-01-01 UTC.",
);
const RESIDENT: (&str, &str) = (
    "process_resident_memory_bytes",
    "Resident memory of the process (Linux).",
);
const OPEN_FDS: (&str, &str) = (
    "process_open_fds",
    "File descriptors that the process has open (Linux).",
);

const TASKS: (&str, &str) = ("process_tasks", "Tasks of the process that have not ended.");

/// Name and help of what this file adds to the declared families.
pub const LIST: &[(&str, &str)] = &[BUILD, START, RESIDENT, OPEN_FDS, TASKS];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug)]
struct Process;

/// Registers the figures of our own process and build.
pub(super) fn register(registry: &mut Registry) {
    let version = env!("CARGO_PKG_VERSION");
    let build = Info::new(Build { version });
    registry.register(BUILD.0, BUILD.1.trim_end_matches('.'), build);
    let started = Gauge::<i64>::default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    started.set(now.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0)));
    registry.register(START.0, START.1.trim_end_matches('.'), started);
    registry.register_collector(Box::new(Process));
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = [
            (RESIDENT, resident_bytes()),
            (OPEN_FDS, open_fds()),
            (TASKS, tasks()),
        ];
        for ((name, help), value) in figures {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn tasks() -> Option<i64> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    i64::try_from(runtime.metrics().num_alive_tasks()).ok()
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(target_os = "linux")]
fn open_fds() -> Option<i64> {
    // The reading itself holds one of them.
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(entries.saturating_sub(1)).ok()
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<i64> {
    None
}

#[cfg(not(target_os = "linux"))]
fn open_fds() -> Option<i64> {
    None
}
