//! `[[role]]`: what is published, and which connection points may serve it.

use std::collections::BTreeSet;
use std::str::FromStr;

use http::Method;

use crate::message::headers::CertificateFields;
use crate::role::{Endpoint, Kind, RoleId, Scheme, endpoints_of};
use crate::routing::RoleSettings;
use crate::settings::Reader;

const ID: &str = "a decimal 64-bit number as a string";
const NAME: &str = "a leading name, then whole path segments, as in \"CCM_System/request\"";

// Above any kind's own limit; a body is streamed, so that the limit guards the backend and not this process.
const MOST_BODY: u64 = 1 << 40;

// A scan sends some 50 requests; a hundred computers behind one address are served without a pause.
const RATE_PER_ADDRESS: u64 = 200;

/// Reads every `[[role]]`; `listed` are the connection points of the service.
pub(super) fn read(root: &Reader<'_>, listed: &[String]) -> Vec<RoleSettings> {
    let tables = root.tables("role");
    if tables.is_empty() {
        root.fault("role", "is missing (at least one [[role]] is needed)");
    }
    let mut ids = BTreeSet::new();
    let mut roles = Vec::new();
    for reader in &tables {
        let Some(role) = read_role(reader, listed) else {
            continue;
        };
        if !ids.insert(role.id) {
            reader.fault("id", format!("{} is there twice (each id once)", role.id));
        }
        roles.push(role);
    }
    roles
}

fn read_role(reader: &Reader<'_>, listed: &[String]) -> Option<RoleSettings> {
    let id = reader.parsed("id", ID, RoleId::parse);
    let has_kind = reader.has("kind");
    // What stands in for a kind that is wrong must ask for nothing more.
    let kind = reader.choice("kind", Kind::WORDS, Kind::ManagementPoint);
    for key in ["id", "kind"].into_iter().filter(|key| !reader.has(key)) {
        let needed = if key == "id" { ID.to_owned() } else { kinds() };
        reader.fault(key, format!("is missing ({needed} is needed)"));
    }
    let fields = match kind {
        Kind::ManagementPoint | Kind::SoftwareUpdatePoint => CertificateFields::None,
        Kind::Web => CertificateFields::Leaf,
    };
    let root_host = reader.parsed("root-host", "a host name", host);
    if has_kind && kind == Kind::Web && root_host.is_none() {
        let what = "is missing (a role of kind \"web\" is published at the root of a host name)";
        reader.fault("root-host", what);
    }
    let rate = reader.integer("rate-per-address", RATE_PER_ADDRESS, 0..=100_000);
    let settings = RoleSettings {
        id: id.unwrap_or(RoleId::new(0)),
        kind,
        endpoints: read_endpoints(reader, kind),
        connection_points: read_connection_points(reader, listed),
        root_host,
        // IIS does not compress answers to requests with this field.
        via: reader.boolean("via", kind == Kind::Web),
        client_certificate: reader.choice("client-certificate", CertificateFields::WORDS, fields),
        rate_per_address: u32::try_from(rate).ok().filter(|rate| *rate > 0),
    };
    id.map(|_| settings)
}

/// The names that may serve the role; all of the service when the key is not there.
fn read_connection_points(reader: &Reader<'_>, listed: &[String]) -> Vec<String> {
    if !reader.has("connection-points") {
        reader.texts("connection-points");
        return listed.to_vec();
    }
    let allowed = match listed {
        [] => "no [[connection-point]] is listed; one of them".to_owned(),
        names => format!("one of \"{}\"", names.join("\", \"")),
    };
    reader.parsed_list("connection-points", &allowed, |text| {
        let name = text.to_ascii_lowercase();
        listed.contains(&name).then_some(name)
    })
}

/// The endpoints of the kind, with what `[[role.endpoint]]` changes, adds or takes away.
fn read_endpoints(reader: &Reader<'_>, kind: Kind) -> Vec<Endpoint> {
    let mut endpoints = endpoints_of(kind);
    let mut seen = BTreeSet::new();
    for table in reader.tables("endpoint") {
        let name = table.parsed("name", NAME, endpoint_name);
        if !table.has("name") {
            table.fault("name", format!("is missing ({NAME}, is needed)"));
        }
        let at = name.as_ref().and_then(|name| {
            let same = |endpoint: &Endpoint| endpoint.name.eq_ignore_ascii_case(name);
            endpoints.iter().position(same)
        });
        let known = at.map(|at| endpoints[at].clone());
        let (endpoint, off) = read_endpoint(&table, name.clone(), known, kind);
        let Some(name) = name else { continue };
        if !seen.insert(name.to_ascii_lowercase()) {
            table.fault(
                "name",
                format!("\"{name}\" is there twice (each name once)"),
            );
            continue;
        }
        match (at, off) {
            (Some(at), true) => drop(endpoints.remove(at)),
            (Some(at), false) => endpoints[at] = endpoint,
            (None, true) => table.fault("off", "is of no use: the kind brings no such endpoint"),
            (None, false) => endpoints.push(endpoint),
        }
    }
    if endpoints.is_empty() {
        let what = "is missing (a role of kind \"web\" names its endpoints in [[role.endpoint]])";
        reader.fault("endpoint", what);
    }
    endpoints
}

/// One endpoint, and whether it is not to be published.
fn read_endpoint(
    table: &Reader<'_>,
    name: Option<String>,
    known: Option<Endpoint>,
    kind: Kind,
) -> (Endpoint, bool) {
    let default = known.unwrap_or_else(|| Endpoint {
        name: name.unwrap_or_default(),
        scheme: match kind {
            Kind::ManagementPoint => Scheme::Token,
            Kind::SoftwareUpdatePoint => Scheme::Backend,
            Kind::Web => Scheme::Certificate,
        },
        methods: vec![Method::GET, Method::HEAD],
        body_limit: 32 << 20,
        long_poll: false,
        sticky: false,
        websocket: false,
    });
    let methods = table.parsed_list("methods", "a method that is forwarded", method);
    let endpoint = Endpoint {
        scheme: table.choice("scheme", Scheme::WORDS, default.scheme),
        methods: if table.has("methods") {
            methods
        } else {
            default.methods
        },
        body_limit: table.size("body-limit", default.body_limit, 0..=MOST_BODY),
        long_poll: table.boolean("long-poll", default.long_poll),
        sticky: table.boolean("sticky", default.sticky),
        websocket: table.boolean("websocket", default.websocket),
        name: default.name,
    };
    (endpoint, table.boolean("off", false))
}

fn endpoint_name(text: &str) -> Option<String> {
    let plain = |segment: &str| {
        let bytes = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(bytes)
    };
    text.split('/').all(plain).then(|| text.to_owned())
}

// CONNECT makes a tunnel of its own and TRACE sends back what a client's script must not see.
fn method(text: &str) -> Option<Method> {
    let method = Method::from_str(text).ok()?;
    (!matches!(method, Method::CONNECT | Method::TRACE)).then_some(method)
}

fn host(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    (text.bytes().all(plain) && !text.starts_with('.')).then(|| text.to_ascii_lowercase())
}

fn kinds() -> String {
    let words: Vec<_> = Kind::WORDS
        .iter()
        .map(|(word, _)| format!("\"{word}\""))
        .collect();
    format!("one of {}", words.join(", "))
}
