//! `expiring`: everything of a configuration that expires, with what breaks then.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, explain, print};
use crate::alerts::Expiring;
use crate::config::{self, Role};
use crate::pki::{CrlSet, UnixTime, print_time};
use crate::settings::Problem;
use crate::{connection_point, gateway, service};

/// What `expiring` takes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// gateway.toml, connection-point.toml or service.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Lists only what ends within so many days
    #[arg(long, value_name = "DAYS")]
    within: Option<u32>,
}

/// Prints what expires, the next first.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let now = UnixTime::now();
    let (mut all, problems) = of(&options.config, now)?;
    for problem in &problems {
        // Nothing is left to do when the terminal is gone.
        let _ = writeln!(std::io::stderr(), "note: {problem}");
    }
    if let Some(days) = options.within {
        all.retain(|one| one.days_left(now) < i64::from(days));
    }
    all.sort_by(|a, b| (a.ends, a.r#use, &a.name).cmp(&(b.ends, b.r#use, &b.name)));
    all.dedup();
    if all.is_empty() {
        print("nothing expires")?;
        return Ok(());
    }
    print(format!(
        "{:>5}  {:<23}  {:<19}  name; what breaks",
        "days", "ends", "use"
    ))?;
    for one in &all {
        print(format!(
            "{:>5}  {}  {:<19}  {}; {}",
            one.days_left(now),
            print_time(one.ends),
            one.r#use.as_str(),
            one.name,
            one.r#use.breaks()
        ))?;
    }
    match options.within.is_some() || all.iter().any(|one| now > one.ends) {
        true => Err(Failure::Said),
        false => Ok(()),
    }
}

/// What expires of a configuration, as far as it can be read, and what is wrong with it.
fn of(config: &Path, now: UnixTime) -> Result<(Vec<Expiring>, Vec<Problem>), Vec<Problem>> {
    let role = match service::is_definition(config) {
        true => Role::Gateway,
        false => config::role_of(config).map_err(|problem| vec![problem])?,
    };
    match role {
        Role::Gateway => {
            let (definition, problems) = explain::definition(config)?;
            // One that was followed by another is not in force, wherever it still lies.
            let crls = CrlSet::new(definition.crls.iter().cloned(), now);
            Ok((gateway::expiring(&definition, crls.iter()), problems))
        }
        Role::ConnectionPoint => {
            let inspected = config::inspect_connection_point(config, now);
            let (point, problems) = inspected.map_err(|problem| vec![problem])?;
            Ok((connection_point::expiring(&point.settings), problems))
        }
    }
}
