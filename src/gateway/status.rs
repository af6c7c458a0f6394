//! What `/status` shows of a gateway.

use serde_json::{Value, json};

use super::{Addresses, Core};
use crate::pki::UnixTime;
use crate::role::RoleId;
use crate::tunnel::TunnelView;

/// The state of a gateway as JSON.
pub(super) fn of(core: &Core, addresses: &Addresses) -> Value {
    let definition = core.definition();
    json!({
        "role": "gateway",
        "service": definition.name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": core.started.elapsed().as_secs(),
        "instance": core.instance,
        "draining": core.drain.watch().is_draining(),
        "addresses": {
            "client": addresses.client,
            "tunnel": addresses.tunnel,
            "health": addresses.health,
            "admin": addresses.admin,
        },
        "trust": {
            "generation": core.clients.generation(),
            "live": core.clients.live(),
            "revocation": revocation(core),
        },
        "alerts": core.expiry.view(),
        "roles": definition.roles.iter().map(|role| json!({
            "id": role.id,
            "kind": role.kind,
            "connection_points": role.connection_points,
        })).collect::<Vec<_>>(),
        "tunnels": core.registry.view().iter().map(tunnel).collect::<Vec<_>>(),
    })
}

fn tunnel(view: &TunnelView) -> Value {
    json!({
        "connection_point": view.peer,
        "remote": view.remote,
        "age_s": view.age.as_secs(),
        "in_flight": view.in_flight,
        "long_polls": view.long_polls,
        "requests": view.requests,
        "draining": view.draining,
        "roles": view.roles.iter().map(RoleId::to_string).collect::<Vec<_>>(),
    })
}

fn revocation(core: &Core) -> Value {
    let revocation = core.clients.revocation();
    let fetched = core.refresher.view();
    let now = UnixTime::now().as_secs();
    let crls = revocation.crls().iter().map(|crl| {
        let key = crl.issuer_key().short();
        let faults = fetched.iter().filter(|place| place.keys.contains(&key));
        json!({
            "issuer": crl.issuer(),
            "key": key,
            "number": crl.number(),
            "entries": crl.entries(),
            "age_s": now.saturating_sub(crl.this_update().as_secs()),
            "next_update": crl.next_update().as_secs(),
            "stale": now > crl.next_update().as_secs(),
            "last_error": faults.filter_map(|place| place.last_error.as_ref()).next(),
        })
    });
    json!({
        "checked": revocation.policy().check,
        "crls": crls.collect::<Vec<_>>(),
        "pending": revocation.crls().pending().iter().map(|crl| crl.title()).collect::<Vec<_>>(),
        "fetched": fetched,
    })
}
