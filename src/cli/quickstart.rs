//! `quickstart`: a gateway, a connection point and two backends in one process, with a throw-away PKI.
//!
//! Names and files are fixed, so that scripts can rely on them; ports other than the gateway's are chosen freely
//! and printed. Everything lies in one folder, which a second run takes over.

mod certificates;
mod client;
mod folder;
mod once;
mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;

use super::roles::SAME_SIGNAL;
use super::{Failure, print};
use crate::logging::{self, Component};
use crate::pki::UnixTime;
use crate::process::{Signal, Signals};

use folder::Folder;
use world::World;

/// The host name that clients use.
const GATEWAY_NAME: &str = "gw.opencmg.test";
/// The host name at whose root the management point is published.
const ROOT_NAME: &str = "mp.opencmg.test";
/// The name of the connection point.
const CONNECTION_POINT_NAME: &str = "cp-1.opencmg.test";
/// The role id of the management point.
const MANAGEMENT_POINT: &str = "72057594037927937";
/// The role id of the software update point.
const SOFTWARE_UPDATE_POINT: &str = "72057594037927938";

/// What `quickstart` takes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The folder for PKI and configuration; made where it is not there, taken over where quickstart made it
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    dir: PathBuf,
    /// Sends one request of each kind through the whole chain, prints a table and ends; exit code 1 if one is wrong
    #[arg(long)]
    once: bool,
    /// A management point in place of the built-in one
    #[arg(long, value_name = "URL")]
    management_point: Option<String>,
    /// A software update point in place of the built-in one
    #[arg(long, value_name = "URL")]
    software_update_point: Option<String>,
    /// The gateway's port on 127.0.0.1; 0 is any that is free
    #[arg(long, value_name = "N", default_value_t = 8443)]
    port: u16,
}

/// Runs until a signal comes, or until every request of `--once` is answered.
pub(super) async fn run(options: Options) -> Result<(), Failure> {
    let mut signals = Signals::listen().context("signals cannot be handled")?;
    let folder = Folder::take(&options.dir)?;
    certificates::renew(&folder, UnixTime::now()).context("the PKI cannot be made")?;
    start_log(options.once)?;
    let world = tokio::select! {
        biased;
        () = stop(&mut signals) => return Ok(()),
        world = World::start(&folder, &options) => world?,
    };
    let result = if options.once {
        tokio::select! {
            biased;
            () = stop(&mut signals) => Err(anyhow!("ended by a signal").into()),
            result = send_once(&folder, &world) => result,
        }
    } else {
        print(greeting(&folder, &world))?;
        stop(&mut signals).await;
        Ok(())
    };
    world.finish(second_stop(&mut signals)).await;
    result
}

fn start_log(once: bool) -> anyhow::Result<()> {
    let settings = logging::Settings {
        // The table is all that `--once` has to say as long as nothing is wrong.
        level: if once {
            LevelFilter::ERROR
        } else {
            LevelFilter::INFO
        },
        ..logging::Settings::default()
    };
    logging::start(&settings, Component::Gateway).context("the log cannot be started")?;
    Ok(())
}

async fn stop(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

/// Returns at a request to stop that is not the echo of the first.
async fn second_stop(signals: &mut Signals) {
    let first = Instant::now();
    while first.elapsed() < SAME_SIGNAL {
        stop(signals).await;
    }
}

async fn send_once(folder: &Folder, world: &World) -> Result<(), Failure> {
    let clients = world.clients(folder)?;
    let rows = once::run(clients, world.known()).await;
    print(table(&rows))?;
    match rows.iter().filter(|row| row.fault.is_some()).count() {
        0 => Ok(()),
        _ => Err(Failure::Said),
    }
}

fn table(rows: &[once::Row]) -> String {
    let width = |of: fn(&once::Row) -> usize| rows.iter().map(of).max().unwrap_or_default();
    let request = width(|row| row.request.len());
    let status = width(|row| row.status.len());
    let mut out = format!("{:request$}  {:status$}  time\n", "request", "status");
    for row in rows {
        let time = milliseconds(row.time);
        let fault = row.fault.as_ref().map(|fault| format!("  WRONG: {fault}"));
        let fault = fault.unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:request$}  {:status$}  {time}{fault}",
            row.request, row.status
        );
    }
    let wrong = rows.iter().filter(|row| row.fault.is_some()).count();
    let _ = write!(out, "{} right, {wrong} wrong", rows.len() - wrong);
    out
}

fn milliseconds(time: Duration) -> String {
    format!("{:>8.1} ms", time.as_secs_f64() * 1000.0)
}

fn greeting(folder: &Folder, world: &World) -> String {
    let address = world.address();
    let port = address.port();
    let path = |name: &str| quoted(&folder.absolute(name));
    let mut out = String::from("ready\n\n");
    for (what, place) in world.places() {
        let _ = writeln!(out, "{what:22}{place}");
    }
    let _ = writeln!(out, "{:22}{}", "files", folder.absolute("").display());
    let _ = write!(
        out,
        "\nTry it, with the client certificate and without:\n\n\
         curl --cacert {} --cert {} --key {} --resolve {GATEWAY_NAME}:{port}:{} \
         'https://{GATEWAY_NAME}:{port}/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/.sms_aut?MPLIST2&CM1'\n\n\
         Ctrl-C ends it.",
        path("pki/root.pem"),
        path("clients/pc-1.pem"),
        path("clients/pc-1.key"),
        address.ip(),
    );
    out
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
