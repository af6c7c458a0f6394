//! What one `[[role]]` of `connection-point.toml` publishes: a backend and its endpoints.

use std::str::FromStr;

use http::Method;

use crate::backend::BackendSettings;
use crate::role::{Endpoint, Kind, Scheme, endpoints_of};
use crate::settings::Reader;

/// One published role as the connection point's own file has it.
#[derive(Clone, Debug, Default)]
pub struct RoleSettings {
    /// How its backend is reached; also says id and kind.
    pub backend: BackendSettings,
    /// What of it can be asked for.
    pub endpoints: Vec<Endpoint>,
}

impl RoleSettings {
    /// Reads one `[[role]]`: the endpoints of its kind, then what `[[role.endpoint]]` changes or adds.
    pub fn read(reader: &Reader<'_>) -> Self {
        let backend = BackendSettings::read(reader);
        let mut endpoints = endpoints_of(backend.kind);
        for table in reader.tables("endpoint") {
            read_endpoint(&table, &mut endpoints);
        }
        if endpoints.is_empty() && backend.kind == Kind::Web {
            let what =
                "is missing (a role of kind \"web\" names its endpoints in [[role.endpoint]])";
            reader.fault("endpoint", what);
        }
        Self { backend, endpoints }
    }
}

fn read_endpoint(reader: &Reader<'_>, endpoints: &mut Vec<Endpoint>) {
    let allowed = "path segments without a slash at either end";
    let name = reader.parsed("name", allowed, prefix);
    if !reader.has("name") {
        reader.fault("name", format!("is missing ({allowed} are needed)"));
    }
    let methods = reader.parsed_list("methods", "an HTTP method", |text| {
        Method::from_str(text).ok()
    });
    let has_long_poll = reader.has("long-poll");
    let long_poll = reader.boolean("long-poll", false);
    let websocket = reader.boolean("websocket", false);
    let Some(name) = name else { return };
    let known = endpoints
        .iter_mut()
        .find(|endpoint| endpoint.name.eq_ignore_ascii_case(&name));
    if let Some(endpoint) = known {
        if !methods.is_empty() {
            endpoint.methods = methods;
        }
        if has_long_poll {
            endpoint.long_poll = long_poll;
        }
        endpoint.websocket = websocket;
    } else {
        let read_only = || vec![Method::GET, Method::HEAD];
        endpoints.push(Endpoint {
            name,
            scheme: Scheme::Backend,
            methods: if methods.is_empty() {
                read_only()
            } else {
                methods
            },
            // The gateway limits bodies; what it lets through is taken here.
            body_limit: u64::MAX,
            long_poll,
            sticky: false,
            websocket,
        });
    }
}

fn prefix(text: &str) -> Option<String> {
    let plain = |segment: &str| {
        let bytes = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(bytes)
    };
    text.split('/').all(plain).then(|| text.to_owned())
}
