//! What can be published: role ids, kinds, endpoints with their scheme and limits, and the catalogue of kinds.
//!
//! Pure values, shared by both roles and by the wire between them. No I/O.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use foldhash::fast::RandomState;
use http::Method;
use serde::{Deserialize, Serialize};

/// A role's id: the decimal 64-bit number in its external URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleId(u64);

impl RoleId {
    /// The id of a number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// Parses 1 to 20 decimal digits without sign or leading zero.
    pub fn parse(text: &str) -> Option<Self> {
        // A sign, which numbers may have elsewhere, is none of these.
        match text.as_bytes().first()? {
            b'1'..=b'9' => text.parse().ok().map(Self),
            _ => None,
        }
    }
}

/// A value per role. Strangers ask for roles, but put none in, so that the hash may be a fast one.
pub type ByRoleId<T> = HashMap<RoleId, T, RandomState>;

impl fmt::Display for RoleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// JSON numbers lose digits above 2^53, so an id is a string on the wire.
impl From<RoleId> for String {
    fn from(id: RoleId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RoleId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a role id is a decimal 64-bit number")
    }
}

/// The kind of a role, which brings its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A ConfigMgr management point.
    ManagementPoint,
    /// A WSUS server.
    SoftwareUpdatePoint,
    /// Any other web service; its endpoints are named one by one.
    Web,
}

impl Kind {
    /// The words of the configuration.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("management-point", Self::ManagementPoint),
        ("software-update-point", Self::SoftwareUpdatePoint),
        ("web", Self::Web),
    ];

    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManagementPoint => "management-point",
            Self::SoftwareUpdatePoint => "software-update-point",
            Self::Web => "web",
        }
    }
}

/// How a request to an endpoint is authenticated outside `CCM_Proxy_MutualAuth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A verified client certificate.
    Certificate,
    /// A token, in the `Authorization` field or ConfigMgr's own.
    Token,
    /// Passed on untouched: the backend judges.
    Backend,
    /// Open to everyone.
    Public,
}

impl Scheme {
    /// The words of the configuration.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("certificate", Self::Certificate),
        ("token", Self::Token),
        ("backend", Self::Backend),
        ("public", Self::Public),
    ];
}

/// One path prefix of a role, with its authentication scheme, methods and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The prefix: whole path segments without a leading or trailing slash, compared without regard to case.
    pub name: String,
    /// How requests are authenticated under `CCM_Proxy_ServerAuth` and at a host's root.
    pub scheme: Scheme,
    /// The methods that pass.
    pub methods: Vec<Method>,
    /// The largest request body, in bytes.
    pub body_limit: u64,
    /// Whether a request may wait for its answer without end.
    pub long_poll: bool,
    /// Whether one client's requests go to one connection point.
    pub sticky: bool,
    /// Whether a `GET` may open a WebSocket.
    pub websocket: bool,
}

impl Endpoint {
    /// Whether the method passes.
    pub fn allows(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The endpoints that a kind brings, in the order of the README's table; none for [`Kind::Web`].
pub fn endpoints_of(kind: Kind) -> Vec<Endpoint> {
    match kind {
        Kind::ManagementPoint => management_point(),
        Kind::SoftwareUpdatePoint => software_update_point(),
        Kind::Web => Vec::new(),
    }
}

fn management_point() -> Vec<Endpoint> {
    let read = "GET HEAD";
    let message = "GET HEAD POST CCM_POST";
    let endpoint = |name, methods, body_limit| Endpoint {
        name: str::to_owned(name),
        scheme: Scheme::Token,
        methods: methods_of(methods),
        body_limit,
        long_poll: false,
        sticky: false,
        websocket: false,
    };
    let incoming = "GET HEAD PUT PROPFIND BITS_POST CCM_POST";
    vec![
        endpoint("CCM_System", message, 32 * MIB),
        endpoint("CCM_System_TokenAuth", message, 32 * MIB),
        Endpoint {
            sticky: true,
            ..endpoint("CCM_Incoming", incoming, 4 * GIB)
        },
        endpoint("SMS_MP", message, 32 * MIB),
        endpoint("SMS_MP_TokenAuth", message, 32 * MIB),
        endpoint("CCM_STS", "GET HEAD POST", 64 * KIB),
        endpoint("CCM_Client", "GET HEAD PROPFIND", 64 * KIB),
        Endpoint {
            long_poll: true,
            ..endpoint("BGB", "GET HEAD POST CCM_POST", MIB)
        },
        endpoint("CMUserService", &format!("{read} POST"), 32 * MIB),
    ]
}

fn software_update_point() -> Vec<Endpoint> {
    let endpoint = |name, methods| Endpoint {
        name: str::to_owned(name),
        scheme: Scheme::Backend,
        methods: methods_of(methods),
        body_limit: 16 * MIB,
        long_poll: false,
        sticky: false,
        websocket: false,
    };
    vec![
        endpoint("ClientWebService", "GET HEAD POST"),
        endpoint("SimpleAuthWebService", "GET HEAD POST"),
        endpoint("ReportingWebService", "GET HEAD POST"),
        endpoint("SelfUpdate", "GET HEAD"),
        endpoint("Content", "GET HEAD PROPFIND"),
    ]
}

fn methods_of(words: &str) -> Vec<Method> {
    words
        .split(' ')
        .filter_map(|word| Method::from_str(word).ok())
        .collect()
}

/// Whether a backend can serve now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Connections succeed, or none was needed yet.
    Healthy,
    /// The last attempts to connect did not succeed.
    Unhealthy,
}

/// One role as a connection point publishes it: availability only, never authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedRole {
    /// Which role.
    pub id: RoleId,
    /// Whether its backend can serve now.
    pub health: Health,
    /// How many requests at once the connection point takes for it.
    pub capacity: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_ids_are_decimal_64_bit_numbers_without_leading_zero() {
        assert_eq!(
            RoleId::parse("72057594037927937"),
            Some(RoleId::new(72_057_594_037_927_937))
        );
        for text in [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1e3",
            "18446744073709551616",
            "x",
        ] {
            assert_eq!(RoleId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_role_id_keeps_its_digits_on_the_wire() {
        let role = PublishedRole {
            id: RoleId::new(72_057_594_037_927_937),
            health: Health::Healthy,
            capacity: 5,
        };
        let json = serde_json::to_string(&role).unwrap();
        assert!(json.contains("\"72057594037927937\""), "{json}");
        assert_eq!(serde_json::from_str::<PublishedRole>(&json).unwrap(), role);
    }

    #[test]
    fn the_kinds_bring_every_endpoint_of_the_design() {
        assert_eq!(endpoints_of(Kind::ManagementPoint).len(), 9);
        assert_eq!(endpoints_of(Kind::SoftwareUpdatePoint).len(), 5);
        for endpoint in [Kind::ManagementPoint, Kind::SoftwareUpdatePoint]
            .map(endpoints_of)
            .concat()
        {
            assert!(!endpoint.methods.is_empty(), "{}", endpoint.name);
        }
    }
}
