//! `status`: asks a running process how it is, for somebody who was woken up by it.

mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use http::StatusCode;
use serde_json::Value;

use super::{Failure, print};
use crate::config::{self, Role};
use crate::fetch::{self, FetchError, Fetched, Limits, Validators};
use crate::pki::UnixTime;
use crate::settings::Problem;
use crate::units::Network;

/// The process is on this machine; one that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Some thousands of tunnels and roles.
const MAX_BYTES: u64 = 16 << 20;

/// What `status` takes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The gateway.toml or connection-point.toml that the process runs with
    #[arg(long, value_name = "FILE", required_unless_present = "address")]
    config: Option<PathBuf>,
    /// Where its administration listener is, if not where the file says
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Prints the answer as it is
    #[arg(long)]
    json: bool,
}

/// Prints how a process is.
pub(super) async fn run(options: Options) -> Result<(), Failure> {
    let role = options.config.as_deref().map(config::role_of).transpose();
    let role = role.map_err(|problem| vec![problem])?;
    let address = match (options.address, role, &options.config) {
        (Some(address), ..) => address,
        (None, Some(role), Some(file)) => admin_of(file, role)?,
        // The parser asks for one of the two.
        (None, ..) => return Ok(()),
    };
    let body = ask(&address).await?;
    let status = read(&address, &body)?;
    judge_role(&address, &status, role)?;
    if options.json {
        return Ok(print(String::from_utf8_lossy(&body))?);
    }
    let text = report::of(&status, UnixTime::now());
    Ok(print(text.trim_end())?)
}

/// Where a file puts the administration listener. What else is wrong with the file does not matter here.
fn admin_of(file: &Path, role: Role) -> Result<String, Vec<Problem>> {
    let (admin, key, mut problems) = match role {
        Role::Gateway => {
            let inspected = config::inspect_gateway(file);
            let (gateway, problems) = inspected.map_err(|problem| vec![problem])?;
            (gateway.settings.admin, "gateway.admin", problems)
        }
        Role::ConnectionPoint => {
            let inspected = config::inspect_connection_point(file, UnixTime::now());
            let (point, problems) = inspected.map_err(|problem| vec![problem])?;
            (point.settings.admin, "connection-point.admin", problems)
        }
    };
    problems.retain(|problem| problem.key == key);
    let what = match admin {
        _ if !problems.is_empty() => return Err(problems),
        Some(address) if address.port() != 0 => return Ok(address.to_string()),
        Some(_) => {
            "is any port that is free (the process tells it in its log as it starts; give it with --address)"
        }
        None => {
            "names no administration listener, and the process cannot be asked (\"127.0.0.1:9441\" is one; it takes a restart)"
        }
    };
    Err(vec![Problem {
        file: file.display().to_string(),
        key: key.to_owned(),
        what: what.to_owned(),
    }])
}

/// The body of `/status`.
async fn ask(address: &str) -> anyhow::Result<Vec<u8>> {
    let limits = Limits {
        timeout: TIMEOUT,
        max_bytes: MAX_BYTES,
        // Wherever the administrator says that it is.
        allow: ["0.0.0.0/0", "::/0"]
            .into_iter()
            .filter_map(Network::parse)
            .collect(),
        proxy: None,
    };
    let url = format!("http://{address}/status");
    match fetch::get(&limits, &url, &Validators::default()).await {
        Ok(Fetched::Changed { body, .. }) => Ok(body.to_vec()),
        Ok(Fetched::Unchanged) => Err(foreign(address, "it says that nothing has changed")),
        Err(error) => Err(explain(address, error)),
    }
}

fn explain(address: &str, error: FetchError) -> anyhow::Error {
    match error {
        FetchError::Url(..) => {
            anyhow!("{address} is no address to ask at (such as 127.0.0.1:9440 is allowed)")
        }
        FetchError::Name(error) => anyhow!("{address} cannot be resolved: {error}"),
        FetchError::Unreachable(error) => anyhow!("{error}").context(format!(
            "nothing answers at {address}: the process is not running, or its administration listener is elsewhere"
        )),
        FetchError::Slow(_) => anyhow!(
            "no answer of {address} within {} s: the process hangs, or the machine has more to do than it can",
            TIMEOUT.as_secs()
        ),
        FetchError::Status(StatusCode::FORBIDDEN) => {
            anyhow!("{address} refuses to answer: ask by IP address or localhost")
        }
        FetchError::TooLarge(_) => foreign(address, "its answer is larger than any of ours"),
        error @ (FetchError::Inside(_)
        | FetchError::Broken(_)
        | FetchError::Status(_)
        | FetchError::NoLocation
        | FetchError::Crowded(_)
        | FetchError::Memory(_)
        | FetchError::Redirects(_)) => foreign(address, &format!("/status {error}")),
    }
}

/// The document, if it is one of ours.
fn read(address: &str, body: &[u8]) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_slice(body)
        .map_err(|error| foreign(address, &format!("its answer is no JSON: {error}")))?;
    match status["tunnels"].is_array() && status["role"].is_string() {
        true => Ok(status),
        false => Err(foreign(address, "its answer is no status")),
    }
}

/// Where two processes have changed their ports, nobody should look at the wrong one.
fn judge_role(address: &str, status: &Value, role: Option<Role>) -> anyhow::Result<()> {
    let (wanted, other) = match role {
        Some(Role::Gateway) => ("gateway", "connection point"),
        Some(Role::ConnectionPoint) => ("connection-point", "gateway"),
        None => return Ok(()),
    };
    match status["role"] == wanted {
        true => Ok(()),
        false => Err(anyhow!(
            "at {address} a {other} answers, which is not the process of this file"
        )),
    }
}

fn foreign(address: &str, why: &str) -> anyhow::Error {
    anyhow!("what answers at {address} is no administration listener of opencmg: {why}")
}
