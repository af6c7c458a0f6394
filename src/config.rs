//! The two process files, `gateway.toml` and `connection-point.toml`: composed of each module's own settings.
//!
//! Nothing here knows a default or a limit; it reads section by section, adds what only shows across sections, and
//! returns either the whole or everything that is wrong. Rank 9: used by `cli`.

mod connection_point;
mod gateway;

use std::path::Path;

pub use connection_point::{ConnectionPoint, inspect_connection_point, load_connection_point};
pub use gateway::{Gateway, addresses, inspect_gateway, load_gateway};

use crate::settings::{Problem, Source};

/// Which role a file configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has a `[connection-point]`.
    ConnectionPoint,
    /// It has a `[gateway]`.
    Gateway,
}

/// Tells a file's role by its tables.
///
/// # Errors
/// One problem, if the file cannot be read, is not TOML or has neither table; a service definition is named as what it is.
pub fn role_of(path: &Path) -> Result<Role, Problem> {
    let text = std::fs::read_to_string(path);
    let table = text.ok().and_then(|text| text.parse::<toml::Table>().ok());
    let Some(table) = table else {
        // The loader words what is wrong with a file that cannot be read or parsed.
        return Source::load(path).map(|_| Role::Gateway);
    };
    // A service definition has a list of connection points.
    if table
        .get("connection-point")
        .is_some_and(toml::Value::is_table)
    {
        return Ok(Role::ConnectionPoint);
    }
    if table.contains_key("gateway") {
        return Ok(Role::Gateway);
    }
    let of_service = ["connection-points", "connection-point", "certificate"];
    let what = match of_service.iter().any(|key| table.contains_key(*key)) {
        true => {
            "is a service definition, which configures no process (the gateway.toml of a gateway that serves it is needed)"
        }
        false => "configures neither role (a [gateway] or a [connection-point] table is needed)",
    };
    Err(Problem {
        file: path.display().to_string(),
        key: String::new(),
        what: what.to_owned(),
    })
}

#[cfg(test)]
mod tests;
