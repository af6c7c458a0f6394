//! The two roles as processes in the foreground: start, tell the service manager, attend to signals and changed
//! files, drain.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::Failure;
use crate::config;
use crate::connection_point::{self, ConnectionPoint};
use crate::gateway::{Addresses, Definition, Gateway, Handle};
use crate::listener;
use crate::logging::{self, AccessCounts, AccessLog, Component, Log};
use crate::metrics::{ByReload, Metrics, Reload};
use crate::pki::UnixTime;
use crate::process::{self, Notice, Signal, Signals, notify};
use crate::service::{self, Files};
use crate::settings::Problem;
use crate::tasks::Tasks;

/// `timeout` and shells send one interrupt to the process and to its group, which arrives as two.
pub(super) const SAME_SIGNAL: Duration = Duration::from_secs(1);

const DEFINITION: &str = "service definition";

/// Runs a gateway until it is drained.
pub(super) async fn gateway(path: PathBuf) -> Result<(), Failure> {
    let mut config = config::load_gateway(&path)?;
    let (files, definition) = service::load_with_files(&config.store, UnixTime::now());
    let definition = definition?;
    let signals = Signals::listen().context("signals cannot be handled")?;
    let log = start_log(&config.log, Component::Gateway)?;
    let metrics = Metrics::new();
    let access = start_access_log(&config.log, &metrics)?;
    config.settings.access = access.clone();
    let gateway = bind(&path, config.settings, definition, &metrics).await?;
    tell_where(gateway.addresses());
    let handle = gateway.handle();
    let process = Process {
        signals,
        log,
        access,
        metrics,
        tasks: Tasks::new(),
    };
    process.tasks.spawn(gateway.run());
    let reload = reload_definition(config.store, handle.clone());
    let look = move || tell_unread(&path);
    process
        .attend(DEFINITION, files, reload, look, || handle.drain())
        .await;
    Ok(())
}

/// Runs a connection point until it is drained.
pub(super) async fn connection_point(path: PathBuf) -> Result<(), Failure> {
    let config = config::load_connection_point(&path, UnixTime::now())?;
    let signals = Signals::listen().context("signals cannot be handled")?;
    let log = start_log(&config.log, Component::ConnectionPoint)?;
    let metrics = Metrics::new();
    let files = files_of(&path, &config.settings);
    let built = ConnectionPoint::build(config.settings, metrics.clone()).await;
    let connection_point = built.map_err(|faults| of_file(&path, faults))?;
    info!(admin = ?connection_point.addresses().admin, "dialling the gateways");
    let handle = connection_point.handle();
    let process = Process {
        signals,
        log,
        access: AccessLog::off(),
        metrics,
        tasks: Tasks::new(),
    };
    process.tasks.spawn(connection_point.run());
    let (applied, kept) = (handle.clone(), files.clone());
    let reload = move || match config::load_connection_point(&path, UnixTime::now()) {
        Ok(config) => (
            files_of(&path, &config.settings),
            applied.apply(&config.settings),
        ),
        Err(problems) => (kept.again(), Err(texts(&problems))),
    };
    process
        .attend("configuration", files, reload, || {}, || handle.drain())
        .await;
    Ok(())
}

/// Builds a gateway and binds its ports; what cannot be bound is told by its key.
pub(super) async fn bind(
    path: &Path,
    settings: crate::gateway::Settings,
    definition: Definition,
    metrics: &Metrics,
) -> Result<Gateway, Vec<Problem>> {
    let keys = config::addresses(&settings);
    let bound = Gateway::bind(settings, Arc::new(definition), metrics.clone()).await;
    bound.map_err(|faults| with_keys(of_file(path, faults), &keys))
}

/// What cannot be bound now, by its key.
pub(super) fn busy_ports(path: &Path, settings: &crate::gateway::Settings) -> Vec<Problem> {
    let keys = config::addresses(settings);
    let faults = keys
        .iter()
        .filter_map(|(_, address)| listener::bind(*address).err())
        .collect();
    with_keys(of_file(path, faults), &keys)
}

/// Tells which key an address stands in.
fn with_keys(mut problems: Vec<Problem>, keys: &[(String, SocketAddr)]) -> Vec<Problem> {
    for problem in &mut problems {
        let told =
            |(_, address): &&(String, SocketAddr)| problem.what.contains(&format!(" {address}:"));
        if let Some((key, _)) = keys.iter().find(told) {
            problem.key = format!("gateway.{key}");
        }
    }
    problems
}

/// A role that runs, with what belongs to its process.
struct Process {
    signals: Signals,
    log: Log,
    access: AccessLog,
    metrics: Metrics,
    tasks: Tasks,
}

impl Process {
    /// Waits until the role has drained. Changed files and SIGHUP reload what may change; the first request to stop
    /// drains, a second one ends.
    async fn attend<R>(
        mut self,
        what: &'static str,
        mut files: Files,
        reload: R,
        look: impl Fn(),
        drain: impl Fn(),
    ) where
        R: Fn() -> (Files, Result<(), Vec<String>>) + Clone + Send + 'static,
    {
        notify(Notice::Ready);
        let ends = self.tasks.clone();
        let watchdog = Tasks::new();
        watchdog.spawn(process::keep_watchdog(async move { ends.join().await }));
        let mut draining: Option<Instant> = None;
        loop {
            let signal = tokio::select! {
                biased;
                () = self.tasks.join() => break,
                signal = self.signals.next() => signal,
                () = files.changed(), if draining.is_none() => {
                    files = reload_once(&self.metrics, what, files, reload.clone()).await;
                    continue;
                }
            };
            match (signal, draining) {
                (Signal::Reload, _) => {
                    notify(Notice::Reloading);
                    self.reopen();
                    look();
                    files = reload_once(&self.metrics, what, files, reload.clone()).await;
                    notify(Notice::Ready);
                }
                (Signal::Stop, None) => {
                    draining = Some(Instant::now());
                    notify(Notice::Stopping);
                    drain();
                }
                (Signal::Stop, Some(since)) if since.elapsed() < SAME_SIGNAL => {}
                (Signal::Stop, Some(_)) => {
                    warn!("ended at the second signal, before the drain was over");
                    return self.tasks.abort();
                }
            }
        }
        info!("drained");
    }

    fn reopen(&self) {
        self.access.reopen();
        if let Err(error) = self.log.reopen() {
            error!(%error, "the log file stays as it was");
        }
    }
}

/// Reads again and puts in force, or keeps the last good; either way it is logged and counted.
async fn reload_once<R>(metrics: &Metrics, what: &str, before: Files, reload: R) -> Files
where
    R: FnOnce() -> (Files, Result<(), Vec<String>>) + Send + 'static,
{
    let (files, result) = match tokio::task::spawn_blocking(reload).await {
        Ok(reloaded) => reloaded,
        Err(error) => (before.again(), Err(vec![error.to_string()])),
    };
    let outcome = match result {
        Ok(()) if files == before => {
            info!("the {what} has not changed");
            Reload::Unchanged
        }
        Ok(()) => {
            info!("the {what} has changed and is in force");
            Reload::Applied
        }
        Err(problems) => {
            for problem in &problems {
                error!(problem, "the {what} is not taken over");
            }
            warn!("the last good {what} stays in force");
            Reload::Refused
        }
    };
    metrics.reloads.get_or_create(&ByReload { outcome }).inc();
    files
}

/// Puts each change of the service definition in force. Never returns.
///
/// # Cancel safety
/// Dropping the future ends the watch; a reload that has begun is finished.
pub(super) async fn watch_definition(
    folder: PathBuf,
    handle: Handle,
    metrics: Metrics,
    mut files: Files,
) {
    let reload = reload_definition(folder, handle);
    loop {
        files.changed().await;
        files = reload_once(&metrics, DEFINITION, files, reload.clone()).await;
    }
}

/// Reads the service definition and puts it in force, whole or not at all.
fn reload_definition(
    folder: PathBuf,
    handle: Handle,
) -> impl Fn() -> (Files, Result<(), Vec<String>>) + Clone + Send + 'static {
    move || {
        let (files, definition) = service::load_with_files(&folder, UnixTime::now());
        let result = match definition {
            Ok(definition) => handle.apply(Arc::new(definition)),
            Err(problems) => Err(texts(&problems)),
        };
        (files, result)
    }
}

fn start_log(settings: &logging::Settings, component: Component) -> anyhow::Result<Log> {
    let log = logging::start(settings, component).context("the log cannot be started")?;
    match process::raise_descriptor_limit() {
        Ok(descriptors) => info!(version = super::version(), ?descriptors, "started"),
        Err(error) => warn!(%error, "the limit on open files cannot be raised"),
    }
    Ok(log)
}

fn start_access_log(settings: &logging::Settings, metrics: &Metrics) -> anyhow::Result<AccessLog> {
    let counts = AccessCounts {
        lines: metrics.access_log_lines.clone(),
        dropped: metrics.access_log_dropped.clone(),
    };
    AccessLog::start(&settings.access, counts).context("the access log cannot be started")
}

/// Logs where a gateway listens.
pub(super) fn tell_where(addresses: &Addresses) {
    info!(
        client = ?addresses.client,
        tunnel = ?addresses.tunnel,
        health = ?addresses.health,
        admin = ?addresses.admin,
        "listening"
    );
}

/// The settings of a gateway's process do not change while it runs; a fault would only show at the next start.
fn tell_unread(path: &Path) {
    match config::load_gateway(path) {
        Ok(_) => info!(file = %path.display(), "changes of this file take a restart"),
        Err(problems) => {
            for problem in problems {
                error!(%problem, "the next start will fail");
            }
        }
    }
}

/// The files that a connection point's configuration is made of.
fn files_of(path: &Path, settings: &connection_point::Settings) -> Files {
    let mut paths = vec![path, &settings.certificate, &settings.key];
    for gateway in &settings.gateways {
        paths.extend(gateway.ca.iter().map(PathBuf::as_path));
    }
    for role in &settings.roles {
        let backend = &role.backend;
        paths.extend(backend.ca.iter().map(PathBuf::as_path));
        paths.extend(backend.certificate.as_deref());
        paths.extend(backend.key.as_deref());
    }
    let mut files = Files::default();
    for path in paths {
        // One that cannot be read is remembered as such, and looked for again.
        let _ = files.read(path);
    }
    files
}

/// What a composition found wrong, as problems of the file that it was built from.
pub(super) fn of_file(path: &Path, faults: Vec<String>) -> Vec<Problem> {
    let problem = |what| Problem {
        file: path.display().to_string(),
        key: String::new(),
        what,
    };
    faults.into_iter().map(problem).collect()
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}
