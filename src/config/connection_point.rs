//! `connection-point.toml`: what one connection point is, which gateways it dials and what it publishes.

use std::path::{Path, PathBuf};

use crate::connection_point::Settings;
use crate::logging;
use crate::pki::{self, UnixTime};
use crate::settings::{Problem, Reader, Source};

/// What `connection-point.toml` says.
#[derive(Clone, Debug)]
pub struct ConnectionPoint {
    /// The settings that the connection point is built from.
    pub settings: Settings,
    /// Where and how is logged.
    pub log: logging::Settings,
}

/// Reads and checks `connection-point.toml`, and the certificate that it authenticates with.
///
/// # Errors
/// Everything that is wrong with it, in the order of its keys.
pub fn load_connection_point(path: &Path, now: UnixTime) -> Result<ConnectionPoint, Vec<Problem>> {
    let inspected = inspect_connection_point(path, now);
    let (connection_point, problems) = inspected.map_err(|problem| vec![problem])?;
    problems
        .is_empty()
        .then_some(connection_point)
        .ok_or(problems)
}

/// Reads `connection-point.toml` and goes on where it is wrong: returns what it says, with defaults in the place of
/// faults, and every fault.
///
/// # Errors
/// One problem, if it cannot be read or is not TOML.
pub fn inspect_connection_point(
    path: &Path,
    now: UnixTime,
) -> Result<(ConnectionPoint, Vec<Problem>), Problem> {
    let source = Source::load(path)?;
    let root = source.root();
    let connection_point = read(&root);
    check_files(&root, &connection_point.settings, now);
    drop(root);
    Ok((connection_point, source.finish()))
}

pub(super) fn read(root: &Reader<'_>) -> ConnectionPoint {
    ConnectionPoint {
        settings: Settings::read(root),
        log: logging::Settings::read_without_access(&root.table("log")),
    }
}

/// Looks at every file that is named, also beside other faults, so that everything is told at once.
fn check_files(root: &Reader<'_>, settings: &Settings, now: UnixTime) {
    let named = |path: &Path| !path.as_os_str().is_empty();
    if named(&settings.certificate) && named(&settings.key) {
        check_certificate(root, settings, now);
    }
    for (index, gateway) in settings.gateways.iter().enumerate() {
        check_authorities(root, &format!("gateway[{index}].ca"), &gateway.ca);
    }
    for (index, role) in settings.roles.iter().enumerate() {
        check_authorities(root, &format!("role[{index}].ca"), &role.backend.ca);
        // What is in them is judged where they are used.
        let files = [
            ("certificate", &role.backend.certificate),
            ("key", &role.backend.key),
        ];
        for (key, path) in files {
            let Some(path) = path else { continue };
            if let Err(error) = std::fs::File::open(path) {
                let what = format!("{}: cannot be read: {error}", path.display());
                root.fault(&format!("role[{index}].{key}"), what);
            }
        }
    }
}

fn check_authorities(root: &Reader<'_>, key: &str, files: &[PathBuf]) {
    for (index, path) in files.iter().enumerate() {
        let fault = |what: String| {
            root.fault(
                &format!("{key}[{index}]"),
                format!("{}: {what}", path.display()),
            );
        };
        match std::fs::read(path) {
            Err(error) => fault(format!("cannot be read: {error}")),
            Ok(bytes) => {
                if let Err(error) = pki::read_certificates(&bytes) {
                    fault(error.to_string());
                }
            }
        }
    }
}

fn check_certificate(root: &Reader<'_>, settings: &Settings, now: UnixTime) {
    let fault = |key: &str, what: String| root.fault(&format!("connection-point.{key}"), what);
    let read = |key: &str, path: &Path| {
        let result = std::fs::read(path);
        result
            .map_err(|error| fault(key, format!("{}: cannot be read: {error}", path.display())))
            .ok()
    };
    let certificate = read("certificate", &settings.certificate);
    let key = read("key", &settings.key);
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return;
    };
    match pki::load_pem(&certificate, &key) {
        Ok(pair) => {
            for what in pki::check_connection_point_certificate(&pair, now) {
                fault(
                    "certificate",
                    format!("{}: {what}", settings.certificate.display()),
                );
            }
        }
        Err(error) => {
            let path = settings.certificate.display();
            fault("certificate", format!("{path}: {error}"));
        }
    }
}
