//! What the administration port shows of a connection point.

use serde_json::{Value, json};

use super::Shared;
use crate::role::{Health, PublishedRole, RoleId};
use crate::tunnel::TunnelView;

/// Tunnels and roles as they are now.
pub(super) fn of(shared: &Shared) -> Value {
    let tunnels: Vec<_> = shared.views().iter().map(tunnel).collect();
    let roles = shared.forward.roles();
    let roles: Vec<_> = roles.borrow().iter().map(role).collect();
    json!({
        "role": "connection-point",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": shared.started.elapsed().as_secs(),
        "draining": shared.drain.watch().is_draining(),
        "alerts": shared.expiry.view(),
        "tunnels": tunnels,
        "roles": roles,
    })
}

fn tunnel(view: &TunnelView) -> Value {
    json!({
        "gateway": view.peer,
        "remote": view.remote,
        "instance": view.instance.as_ref().map(|instance| instance.index),
        "age_s": view.age.as_secs(),
        "in_flight": view.in_flight,
        "long_polls": view.long_polls,
        "draining": view.draining,
        "roles": view.roles.iter().map(RoleId::to_string).collect::<Vec<_>>(),
    })
}

fn role(role: &PublishedRole) -> Value {
    json!({
        "id": role.id.to_string(),
        "healthy": role.health == Health::Healthy,
        "capacity": role.capacity,
    })
}
