//! What both ends say to each other besides requests: hello, refusal and roles, and HTTP/2's limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::settings::Wire;
use crate::reason::Reason;
use crate::role::PublishedRole;

/// What every path below begins with; no client's request may.
pub(super) const OWN_PREFIX: &str = "/.well-known/opencmg/";
/// `PUT`: the gateway says who it is ([`Hello`]).
pub const HELLO_PATH: &str = "/.well-known/opencmg/hello";
/// `PUT`: the gateway does not take this tunnel ([`Refused`]); the connection closes after it.
pub const REFUSAL_PATH: &str = "/.well-known/opencmg/refusal";
/// `GET`: a stream of JSON lines, each a full snapshot of what the connection point serves ([`RolesLine`]).
pub(super) const ROLES_PATH: &str = "/.well-known/opencmg/roles";
/// The media type of that stream.
pub(super) const ROLES_TYPE: &str = "application/jsonl";
/// The version of this protocol.
pub(super) const PROTOCOL: u32 = 1;
/// The longest line of the roles stream, bytes.
pub(super) const LINE_LIMIT: usize = 256 << 10;
/// How many roles one line may hold.
pub(super) const ROLES_LIMIT: usize = 1_000;
/// The shortest time between two lines.
pub(super) const LINE_PAUSE: Duration = Duration::from_secs(1);
/// The largest body of a hello or refusal, bytes.
pub(super) const NOTE_LIMIT: usize = 64 << 10;

/// One gateway instance: its index, and the random id of its run, which a restart changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// The index within the service, 0 to 15.
    pub index: u16,
    /// The random id of this run.
    pub run: String,
}

/// The gateway's first words on a tunnel, repeated when something in them changes. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The service's name.
    pub service: String,
    /// Who speaks.
    pub instance: Instance,
    /// The protocol version of the speaker.
    #[serde(default)]
    pub protocol: u32,
    /// Every instance that is live, as far as the speaker knows.
    #[serde(default)]
    pub live: Vec<Instance>,
    /// Whether the speaker drains and takes no new tunnel.
    #[serde(default)]
    pub draining: bool,
}

impl Hello {
    /// The hello of an instance that knows of itself only.
    pub fn alone(service: &str, instance: Instance) -> Self {
        Self {
            service: service.to_owned(),
            live: vec![instance.clone()],
            instance,
            protocol: PROTOCOL,
            draining: false,
        }
    }
}

/// Why a gateway does not take a tunnel. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The short code of a reason; a newer gateway may send one that is unknown here.
    pub reason: String,
    /// Whether only an administrator can mend it.
    #[serde(default)]
    pub permanent: bool,
    /// How long to wait before the next attempt, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Refused {
    /// The refusal for a reason; some reasons only an administrator can mend. The wait is rounded up to seconds, at least
    /// one: at 0 everyone would be back at once.
    pub fn new(reason: Reason, retry_after: Option<Duration>) -> Self {
        let permanent = matches!(
            reason,
            Reason::UnknownConnectionPoint | Reason::ConnectionPointRemoved
        );
        Self {
            reason: reason.as_str().to_owned(),
            permanent,
            retry_after_s: retry_after.map(|wait| wait.as_secs_f64().ceil().max(1.0) as u64),
        }
    }
}

/// One line of the roles stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RolesLine {
    /// Everything the connection point serves now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<PublishedRole>,
    /// Whether it takes no more requests on this tunnel; the last line of a stream.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// A line as it is read: a role that cannot be understood does not spoil the others.
#[derive(Deserialize)]
struct ReadLine {
    #[serde(default)]
    roles: Vec<serde_json::Value>,
    #[serde(default)]
    draining: bool,
}

impl RolesLine {
    /// Parses one line; the number is how many of its roles were not understood and are left out.
    ///
    /// # Errors
    /// What is wrong with the line as a whole.
    pub fn parse(line: &[u8]) -> Result<(Self, usize), String> {
        let read: ReadLine = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if read.roles.len() > ROLES_LIMIT {
            let count = read.roles.len();
            return Err(format!("{count} roles in a line (at most {ROLES_LIMIT})"));
        }
        let said = read.roles.len();
        let understood = |value| serde_json::from_value(value).ok();
        let roles: Vec<PublishedRole> = read.roles.into_iter().filter_map(understood).collect();
        let lost = said - roles.len();
        Ok((
            Self {
                roles,
                draining: read.draining,
            },
            lost,
        ))
    }
}

/// The connection window: as large as HTTP/2 allows, so that streams never share one that a stalled one fills.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// The largest DATA frame that is taken: with its head of nine bytes it fills four TLS records.
const FRAME: u32 = (64 << 10) - 9;

/// The table of header fields that a gateway may keep with a connection point: some sixty client certificates, which come
/// again with each request of a client. A longer one would be searched for longer than it saves.
const FIELD_TABLE: u32 = 64 << 10;

/// How many bytes one stream may have queued for the peer.
const SEND_BUFFER: usize = 256 << 10;

/// The gateway's end of the connection.
pub(super) fn client(wire: &Wire) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(wire.stream_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(wire.header_list)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        // Streams that clients left early are remembered until the peer has heard of it; a tunnel lives for weeks
        // and may not be ended by a total over its life.
        .max_concurrent_reset_streams(wire.streams as usize)
        .max_local_error_reset_streams(None);
    builder
}

/// The connection point's end of the connection.
pub(super) fn server(wire: &Wire) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(wire.stream_window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(wire.header_list)
        .header_table_size(FIELD_TABLE)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(wire.streams)
        // RFC 8441: WebSockets.
        .enable_connect_protocol()
        .max_concurrent_reset_streams(wire.streams as usize)
        // Many clients may leave at once (a load balancer that restarts): that is no attack of the gateway.
        .max_pending_accept_reset_streams(wire.streams as usize)
        .max_local_error_reset_streams(None);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::{Health, RoleId};

    #[test]
    fn unknown_fields_are_ignored_and_unknown_roles_left_out() {
        let line = br#"{"roles":[{"id":"5","health":"healthy","capacity":9,"new":1},{"id":"6","health":"odd","capacity":1}],"more":{}}"#;
        let (line, lost) = RolesLine::parse(line).unwrap();
        assert_eq!(lost, 1);
        assert!(!line.draining);
        assert_eq!(
            line.roles,
            [PublishedRole {
                id: RoleId::new(5),
                health: Health::Healthy,
                capacity: 9
            }]
        );
        let (line, _) = RolesLine::parse(br#"{"draining":true}"#).unwrap();
        assert!(line.draining && line.roles.is_empty());
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"draining":true}"#
        );
        let hello = r#"{"service":"s","instance":{"index":3,"run":"r"},"later":true}"#;
        assert_eq!(
            serde_json::from_str::<Hello>(hello).unwrap().instance.index,
            3
        );
    }

    #[test]
    fn a_refused_connection_point_is_never_told_to_come_again_at_once() {
        for (wait, told) in [(0, 1), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (5_000, 5)] {
            let wait = Duration::from_millis(wait);
            let refused = Refused::new(Reason::Draining, Some(wait));
            assert_eq!(refused.retry_after_s, Some(told), "{wait:?}");
        }
        assert_eq!(
            Refused::new(Reason::TooManyTunnels, None).retry_after_s,
            None
        );
    }

    #[test]
    fn a_line_with_too_many_roles_is_refused() {
        let role = r#"{"id":"5","health":"healthy","capacity":9}"#;
        let line = format!(r#"{{"roles":[{}]}}"#, vec![role; ROLES_LIMIT + 1].join(","));
        let error = RolesLine::parse(line.as_bytes()).unwrap_err();
        assert_eq!(error, "1001 roles in a line (at most 1000)");
    }
}
