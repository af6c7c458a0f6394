//! The service definition: a folder with `service.toml` and the certificates that it names.
//!
//! [`load`] reads and checks the whole and returns either a definition or everything that is wrong with it.
//! [`Files`] remembers the contents of every file that was read and tells when one of them has changed. Rank 9.

mod certificate;
mod files;
mod role;
mod trust;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::gateway::Definition;
use crate::metrics::Metrics;
use crate::pki::{Crl, UnixTime, print_time};
use crate::routing::Routes;
use crate::settings::{Problem, Reader, Source};
use crate::tls::{ServerSettings, ServerTls, TUNNEL_LABEL, VerifyFn};

pub use files::{Files, POLL};

/// The file that names all others.
pub const FILE: &str = "service.toml";

/// Whether a file is a service definition: its name tells it from the two process files.
pub fn is_definition(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == FILE)
}

/// Reads and checks the service definition of a folder.
///
/// # Errors
/// Everything that is wrong with it, by file and key.
pub fn load(folder: &Path, now: UnixTime) -> Result<Definition, Vec<Problem>> {
    load_with_files(folder, now).1
}

/// Reads and checks the service definition of a folder; also returns the contents of each file that was read or
/// missed, so that [`Files::changed`] can tell when to read again.
pub fn load_with_files(folder: &Path, now: UnixTime) -> (Files, Result<Definition, Vec<Problem>>) {
    let mut files = Files::default();
    let loaded = load_from(folder, &mut files, now);
    (files, loaded)
}

/// Reads the service definition of a folder and goes on where it is wrong: returns what it says, without what could
/// not be read, and every fault.
///
/// # Errors
/// One problem, if `service.toml` cannot be read or is not TOML.
pub fn inspect(folder: &Path, now: UnixTime) -> Result<(Definition, Vec<Problem>), Problem> {
    inspect_from(folder, &mut Files::default(), now)
}

fn load_from(folder: &Path, files: &mut Files, now: UnixTime) -> Result<Definition, Vec<Problem>> {
    let (definition, problems) =
        inspect_from(folder, files, now).map_err(|problem| vec![problem])?;
    problems.is_empty().then_some(definition).ok_or(problems)
}

fn inspect_from(
    folder: &Path,
    files: &mut Files,
    now: UnixTime,
) -> Result<(Definition, Vec<Problem>), Problem> {
    let path = folder.join(FILE);
    let file = path.display().to_string();
    let text = files.read_text(&path).map_err(|what| Problem {
        file: file.clone(),
        key: String::new(),
        what,
    })?;
    let source = Source::parse(&file, folder, &text)?;
    let root = source.root();
    let definition = read(&root, files, now);
    if !source.is_faulty() {
        check_together(&root, &definition);
    }
    drop(root);
    Ok((definition, source.finish()))
}

/// Reads the definition from the root of `service.toml`, without judging whether it was whole.
fn read(root: &Reader<'_>, files: &mut Files, now: UnixTime) -> Definition {
    let trust = trust::read(&root.table("trust"), files);
    let served = certificate::read(root, files, &trust, now);
    let connection_points = read_names(root);
    let notes = trust.notes.into_iter();
    let notes = notes.chain(trust.crls.iter().filter_map(|crl| note_on(crl, now)));
    let notes = notes.collect();
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
        revocation: trust.revocation,
        fetching: trust.fetching,
        crls: trust.crls,
        notes,
    }
}

/// What an administrator should know of the date of a CRL.
fn note_on(crl: &Crl, now: UnixTime) -> Option<String> {
    if !crl.has_come(now) {
        let clocks = "of no force before (is a clock wrong, here or at the CA?)";
        return Some(format!("{} is from the future: {clocks}", crl.title()));
    }
    let due = print_time(crl.next_update());
    (crl.next_update() < now).then(|| {
        format!(
            "{} is stale: it should have been followed by another at {due}",
            crl.title()
        )
    })
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

#[cfg(test)]
mod tests;
