//! `check` and `connection-point check`: what is wrong, before it is started.

use std::path::{Path, PathBuf};

use super::roles::{bind, busy_ports, of_file};
use super::{Failure, print};
use crate::config::{self, Role};
use crate::connection_point::{ConnectionPoint, preflight};
use crate::gateway::{Definition, Settings};
use crate::metrics::Metrics;
use crate::pki::UnixTime;
use crate::service;
use crate::settings::Problem;

/// Validates a file of either role, or the service definition, with everything that it points to, ports included. Nothing
/// is started or dialled.
pub(super) async fn file(path: PathBuf) -> Result<(), Failure> {
    if service::is_definition(&path) {
        return Ok(print(format!(
            "{}: {}",
            path.display(),
            definition(&path)?
        ))?);
    }
    let role = config::role_of(&path).map_err(|problem| vec![problem])?;
    let what = match role {
        Role::Gateway => gateway(&path).await?,
        Role::ConnectionPoint => connection_point(&path).await?,
    };
    Ok(print(format!("{}: {what}", path.display()))?)
}

async fn gateway(path: &Path) -> Result<String, Vec<Problem>> {
    let (config, mut problems) = config::inspect_gateway(path).map_err(|problem| vec![problem])?;
    let note = note_on(&config.settings);
    let definition = match service::load(&config.store, UnixTime::now()) {
        Ok(definition) if problems.is_empty() => definition,
        faulty => {
            // The ports are tried nevertheless, so that everything is told at once.
            problems.extend(faulty.err().unwrap_or_default());
            problems.extend(busy_ports(path, &config.settings));
            return Err(problems);
        }
    };
    let (name, roles) = (definition.name.clone(), definition.roles.len());
    let notes = notes_of(&definition);
    bind(path, config.settings, definition, &Metrics::new()).await?;
    let roles = count(roles, "role");
    Ok(format!(
        "all is well: a gateway of {name} with {roles}{note}{notes}"
    ))
}

fn definition(path: &Path) -> Result<String, Vec<Problem>> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let definition = service::load(folder, UnixTime::now())?;
    let roles = count(definition.roles.len(), "role");
    Ok(format!(
        "all is well: the service definition of {} with {roles}{}",
        definition.name,
        notes_of(&definition)
    ))
}

/// What an administrator should know of a definition, though nothing is wrong with it.
fn notes_of(definition: &Definition) -> String {
    let notes = definition.notes.iter();
    notes.map(|note| format!("\nnote: {note}")).collect()
}

/// A load balancer that carries tunnels and asks for readiness keeps an instance out that no tunnel has met.
fn note_on(settings: &Settings) -> &'static str {
    if settings.listener.proxy_protocol_from.is_empty() || !settings.tunnel_listen.is_empty() {
        return "";
    }
    "\nnote: the load balancer of listener.proxy-protocol-from carries tunnels, too: let it probe /healthz, not \
     /readyz, which fails until a tunnel is up"
}

async fn connection_point(path: &Path) -> Result<String, Vec<Problem>> {
    let config = config::load_connection_point(path, UnixTime::now())?;
    let (gateways, roles) = (config.settings.gateways.len(), config.settings.roles.len());
    let built = ConnectionPoint::build(config.settings, Metrics::new()).await;
    built.map_err(|faults| of_file(path, faults))?;
    let (gateways, roles) = (count(gateways, "gateway"), count(roles, "role"));
    Ok(format!(
        "all is well: a connection point of {gateways} with {roles}"
    ))
}

/// Tries what a connection point needs and prints a verdict a line.
pub(super) async fn connection_point_preflight(path: PathBuf) -> Result<(), Failure> {
    let config = config::load_connection_point(&path, UnixTime::now())?;
    let verdicts = preflight(&config.settings).await;
    for verdict in &verdicts {
        print(verdict.to_string())?;
    }
    if verdicts.iter().all(|verdict| verdict.ok) {
        Ok(())
    } else {
        Err(Failure::Said)
    }
}

/// A number of things.
pub(super) fn count(number: usize, what: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {what}{end}")
}
