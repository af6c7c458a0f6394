//! The two roles as processes in the foreground: start, tell the service manager, attend to signals, drain.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tracing::{error, info, warn};

use super::Failure;
use crate::config;

use crate::gateway::{Addresses, Gateway, Handle};
use crate::logging::{self, Component, Log};
use crate::metrics::{ByReload, Metrics, Reload};
use crate::pki::UnixTime;
use crate::process::{self, Notice, Signal, Signals, notify};
use crate::service::Store;
use crate::settings::Problem;
use crate::tasks::Tasks;

/// Runs a gateway until it is drained.
pub(super) async fn gateway(path: PathBuf) -> Result<(), Failure> {
    let config = config::load_gateway(&path)?;
    let mut store = Store::new(&config.store);
    let definition = Arc::new(store.load(UnixTime::now())?);
    let signals = Signals::listen().context("signals cannot be handled")?;
    let log = start_log(&config.log, Component::Gateway)?;
    let metrics = Metrics::new();
    let gateway = Gateway::bind(config.settings, definition, metrics.clone())
        .await
        .map_err(|faults| of_file(&path, faults))?;
    tell_where(gateway.addresses());
    let tasks = Tasks::new();
    let process = Process {
        signals,
        log,
        metrics,
        tasks: tasks.clone(),
    };
    let handle = gateway.handle();
    tasks.spawn(gateway.run());
    process.attend_gateway(path, store, handle).await;
    Ok(())
}

/// A role that runs, with what belongs to its process.
struct Process {
    signals: Signals,
    log: Log,
    metrics: Metrics,
    tasks: Tasks,
}

impl Process {
    async fn attend_gateway(mut self, path: PathBuf, mut store: Store, handle: Handle) {
        notify(Notice::Ready);
        let watchdog = process::keep_watchdog(std::future::pending());
        tokio::pin!(watchdog);
        let mut draining = false;
        loop {
            let reload = tokio::select! {
                biased;
                () = self.tasks.join() => break,
                signal = self.signals.next() => signal == Signal::Reload,
                () = store.changed(), if !draining => {
                    store = self.replace_definition(store, &handle).await;
                    continue;
                }
                () = &mut watchdog, if process::watchdog_interval().is_some() => continue,
            };
            if reload {
                notify(Notice::Reloading);
                self.reopen();
                tell_unread(&path);
                store = self.replace_definition(store, &handle).await;
                notify(Notice::Ready);
            } else if draining {
                warn!("ended at the second signal, before the drain was over");
                return;
            } else {
                draining = true;
                notify(Notice::Stopping);
                info!("drain begun");
                handle.drain();
            }
        }
        info!("drained");
    }

    /// Reads the service definition again and puts it in force, or keeps the last good one.
    async fn replace_definition(&self, store: Store, handle: &Handle) -> Store {
        let (mut store, handle) = (store, handle.clone());
        let kept = store.clone();
        let replaced = tokio::task::spawn_blocking(move || {
            let result = match store.load(UnixTime::now()) {
                Ok(definition) => handle.apply(Arc::new(definition)),
                Err(problems) => Err(problems.iter().map(Problem::to_string).collect()),
            };
            (store, result)
        });
        let (store, result) = match replaced.await {
            Ok(replaced) => replaced,
            Err(error) => (kept, Err(vec![error.to_string()])),
        };
        count_reload(&self.metrics, "service definition", &result);
        store
    }

    fn reopen(&self) {
        if let Err(error) = self.log.reopen() {
            error!(%error, "the log file stays as it was");
        }
    }
}

/// Logs how a reload went, every problem of it, and counts it.
fn count_reload(metrics: &Metrics, what: &str, result: &Result<(), Vec<String>>) {
    let outcome = match result {
        Ok(()) => {
            info!("the {what} has changed and is in force");
            Reload::Applied
        }
        Err(problems) => {
            for problem in problems {
                error!(problem, "the {what} is not taken over");
            }
            warn!("the last good {what} stays in force");
            Reload::Refused
        }
    };
    metrics.reloads.get_or_create(&ByReload { outcome }).inc();
}

fn start_log(settings: &logging::Settings, component: Component) -> anyhow::Result<Log> {
    let log = logging::start(settings, component).context("the log cannot be started")?;
    match process::raise_descriptor_limit() {
        Ok(limit) => info!(limit, version = super::version(), "started"),
        Err(error) => warn!(%error, "the limit on open files cannot be raised"),
    }
    Ok(log)
}

fn tell_where(addresses: &Addresses) {
    info!(
        client = ?addresses.client,
        tunnel = ?addresses.tunnel,
        health = ?addresses.health,
        admin = ?addresses.admin,
        "listening"
    );
    warn!(
        "client certificates are not checked against CRLs: a revoked certificate is accepted until it expires"
    );
}

/// The settings of a process do not change while it runs; a file that is wrong would only show at the next start.
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

/// What a composition found wrong, as problems of the file that it was built from.
pub(super) fn of_file(path: &Path, faults: Vec<String>) -> Vec<Problem> {
    let problem = |what| Problem {
        file: path.display().to_string(),
        key: String::new(),
        what,
    };
    faults.into_iter().map(problem).collect()
}
