//! What is built from a definition, before any of it is in force.

use std::collections::{HashMap, HashSet};

use tracing::{info, warn};

use super::Definition;
use crate::metrics::Metrics;
use crate::pki::Anchors;
use crate::role::RoleId;
use crate::routing::Routes;
use crate::tunnel::Policy;

/// Everything of a definition but its TLS, which needs the trust to be there.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) clients: Anchors,
    pub(super) connection_points: Anchors,
    pub(super) routes: Routes,
    pub(super) policy: Policy,
}

impl Built {
    /// Builds all of it.
    ///
    /// # Errors
    /// Everything that is wrong with any of it.
    pub(super) fn build(definition: &Definition, metrics: &Metrics) -> Result<Self, Vec<String>> {
        let (anchors, intermediates) = (&definition.anchors, &definition.intermediates);
        let clients = Anchors::build(anchors, intermediates, definition.limits);
        let connection_points = Anchors::build(
            &definition.connection_point_ca,
            &[],
            crate::pki::Limits::MAX,
        );
        let routes = Routes::build(&definition.name, definition.roles.clone(), metrics);
        match (clients, connection_points, routes) {
            (Ok(clients), Ok(connection_points), Ok(routes)) => Ok(Self {
                clients,
                connection_points,
                routes,
                policy: policy_of(definition),
            }),
            (clients, connection_points, routes) => {
                let mut faults = Vec::new();
                faults.extend(titled("trust", clients.err()));
                faults.extend(titled("connection-points", connection_points.err()));
                faults.extend(routes.err().into_iter().flatten());
                Err(faults)
            }
        }
    }
}

fn titled(title: &str, faults: Option<Vec<String>>) -> Vec<String> {
    let faults = faults.into_iter().flatten();
    faults.map(|fault| format!("{title}: {fault}")).collect()
}

/// Which connection point may serve which roles.
fn policy_of(definition: &Definition) -> Policy {
    let roles_of = |name: &String| -> HashSet<RoleId> {
        let roles = definition.roles.iter();
        let serves = roles.filter(|role| {
            let mut names = role.connection_points.iter();
            names.any(|listed| listed.eq_ignore_ascii_case(name))
        });
        serves.map(|role| role.id).collect()
    };
    let names = definition.connection_points.iter();
    Policy {
        connection_points: names
            .map(|name| (name.to_ascii_lowercase(), roles_of(name)))
            .collect::<HashMap<_, _>>(),
    }
}

/// Tells what an administrator should know of a definition, though nothing is wrong with it.
pub(super) fn tell_notes(definition: &Definition, metrics: &Metrics) {
    let checked = definition.revocation.check;
    metrics.revocation_checked.set(i64::from(checked));
    if !checked {
        warn!("no CRL is checked: a certificate that was revoked is accepted until it expires");
    }
    for note in &definition.notes {
        warn!("{note}");
    }
    for crl in &definition.crls {
        info!(entries = crl.entries(), "a file brings {}", crl.title());
    }
}
