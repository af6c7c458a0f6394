//! The service definition: a folder with `service.toml` and the certificates that it names.
//!
//! [`load`] reads and checks the whole and returns either a definition or everything that is wrong with it.
//! [`Store`] remembers the contents of every file that was read, so that [`Store::changed`] knows when to read
//! again: by contents, not by dates, since a copied or restored file keeps its old date. Rank 9.

mod certificate;
mod files;
mod role;
mod trust;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::gateway::Definition;
use crate::metrics::Metrics;
use crate::pki::UnixTime;
use crate::routing::Routes;
use crate::settings::{Problem, Reader, Source};
use crate::tls::{ServerSettings, ServerTls, TUNNEL_LABEL, VerifyFn};

use files::Files;

/// The file that names all others.
pub const FILE: &str = "service.toml";

/// How often the files are looked at. A change is in force within two seconds.
pub const POLL: Duration = Duration::from_millis(500);

// A certificate and its key are replaced one after the other: wait until both are there.
const SETTLE: Duration = Duration::from_millis(200);
const MOST_SETTLES: u32 = 4;

/// Reads and checks the service definition of a folder.
///
/// # Errors
/// Everything that is wrong with it, by file and key.
pub fn load(folder: &Path, now: UnixTime) -> Result<Definition, Vec<Problem>> {
    Store::new(folder).load(now)
}

/// Calls `on_change` with the definition, or with what is wrong with it, whenever a file has changed. Never
/// returns; the caller ends it with the process.
///
/// # Cancel safety
/// Dropping the future ends the watch between two polls.
pub async fn watch(mut store: Store, mut on_change: impl FnMut(Result<Definition, Vec<Problem>>)) {
    loop {
        store.changed().await;
        on_change(store.load(UnixTime::now()));
    }
}

/// A folder with a service definition, and what was last read from it.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    files: Files,
}

impl Store {
    /// A folder of which nothing has been read.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            files: Files::default(),
        }
    }

    /// Reads and checks the definition, and remembers the contents of each file that it read or missed.
    ///
    /// # Errors
    /// Everything that is wrong with it, by file and key.
    pub fn load(&mut self, now: UnixTime) -> Result<Definition, Vec<Problem>> {
        self.files = Files::default();
        let path = self.folder.join(FILE);
        let text = self.files.read_text(&path).map_err(|what| {
            vec![Problem {
                file: path.display().to_string(),
                key: String::new(),
                what,
            }]
        })?;
        let source = Source::parse(&path.display().to_string(), &self.folder, &text)
            .map_err(|problem| vec![problem])?;
        let root = source.root();
        let definition = read(&root, &mut self.files, now);
        if !source.is_faulty() {
            check_together(&root, &definition);
        }
        drop(root);
        let problems = source.finish();
        problems.is_empty().then_some(definition).ok_or(problems)
    }

    /// Returns once the contents of a file differ from what was last read, and have settled.
    ///
    /// # Cancel safety
    /// Safe: nothing is remembered but by [`Store::load`].
    pub async fn changed(&self) {
        let mut last = self.files.clone();
        loop {
            tokio::time::sleep(POLL).await;
            last = look(last).await;
            if last == self.files {
                continue;
            }
            for _ in 0..MOST_SETTLES {
                tokio::time::sleep(SETTLE).await;
                let next = look(last.clone()).await;
                if next == last {
                    break;
                }
                last = next;
            }
            return;
        }
    }
}

/// Reads the same files once more, off the threads that serve.
async fn look(files: Files) -> Files {
    let again = files.clone();
    let looked = tokio::task::spawn_blocking(move || again.again()).await;
    looked.unwrap_or(files)
}

/// Reads the definition from the root of `service.toml`, without judging whether it was whole.
fn read(root: &Reader<'_>, files: &mut Files, now: UnixTime) -> Definition {
    let trust = trust::read(&root.table("trust"), files);
    let served = certificate::read(root, files, &trust, now);
    let connection_points = read_names(root);
    Definition {
        tls: ServerSettings {
            tunnel_server_name: format!("{TUNNEL_LABEL}.{}", served.service_name),
            names: served.names,
            strict_sni: root.boolean("strict-sni", false),
        },
        name: served.service_name,
        connection_point_ca: trust::read_connection_points(&root.table("connection-points"), files),
        roles: role::read(root, &connection_points),
        connection_points,
        anchors: trust.anchors,
        intermediates: trust.intermediates,
        limits: trust.limits,
    }
}

/// What shows only once everything is put together: names that collide, and routes that do.
fn check_together(root: &Reader<'_>, definition: &Definition) {
    let unjudged: VerifyFn = Arc::new(|_| Ok(()));
    let tls = ServerTls::build(&definition.tls, Arc::clone(&unjudged), unjudged);
    for fault in tls.err().unwrap_or_default() {
        root.fault("certificate", fault);
    }
    let routes = Routes::build(&definition.name, definition.roles.clone(), &Metrics::new());
    for fault in routes.err().unwrap_or_default() {
        root.fault("role", fault);
    }
}

fn read_names(root: &Reader<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut seen = BTreeSet::new();
    for reader in root.tables("connection-point") {
        let Some(name) = reader.text("name") else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        if !seen.insert(name.clone()) {
            reader.fault(
                "name",
                format!("\"{name}\" is there twice (each name once)"),
            );
        }
        names.push(name);
    }
    names
}
