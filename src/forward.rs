//! The request path of a connection point: from a tunnel's stream to a backend and back.
//!
//! It trusts the gateway no further than its own file: the path rule is repeated, and role, endpoint and method
//! must be published here.

mod settings;

pub use settings::RoleSettings;
