//! `explain-certificate`: what the gateway's verifier makes of a certificate, offline.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Args;

use super::files::read;
use super::{Failure, print};
use crate::config::{self, Gateway, Role};
use crate::gateway::Definition;
use crate::message::refusal::{Hop, Refusal};
use crate::pki::{
    self, Anchors, CertificateDer, CrlSet, Explanation, Limits, Link, Origin, PkiError, Revocation,
    UnixTime, Usage, leaf_first, print_time, read_certificates, read_pfx_certificates,
};
use crate::revocation::{self, Local};
use crate::service;
use crate::settings::Problem;

/// What `explain-certificate` takes.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The certificate with what its owner sends behind it: PEM, DER or PFX
    file: PathBuf,
    /// The gateway.toml, or service.toml, whose trust judges it; without it, a root in the file stands in
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The file whose first line is the password of a PFX file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Judges it as a connection point's, by the connection-point CA
    #[arg(long)]
    connection_point: bool,
}

/// By what a certificate is judged.
struct Trust {
    anchors: Anchors,
    revocation: Revocation,
    /// Whose it is, for the first line.
    of: String,
}

/// Explains one certificate.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let file = options.file.display();
    let presented = leaf_first(certificates(options)?);
    let trust = match &options.config {
        Some(config) => configured(config, options.connection_point)?,
        None => roots_of(&presented),
    };
    let now = UnixTime::now();
    let (whose, usage) = match options.connection_point {
        true => ("a connection point", Usage::ConnectionPoint),
        false => ("a client", Usage::Client),
    };
    let explained = trust
        .anchors
        .explain(&presented, usage, now, &trust.revocation);
    let explained = explained.map_err(|fault| anyhow!("{file}: {fault}"))?;
    let (count, of) = (presented.len(), trust.of);
    let s = if count == 1 { "" } else { "s" };
    print(format!(
        "{file}: {count} certificate{s}, judged as those of {whose} by {of} at {}\n",
        print_time(now)
    ))?;
    print(chain(&explained, now))?;
    print(checks(&explained))?;
    print(verdict(&explained, usage))?;
    explained.verdict.map(drop).map_err(|_| Failure::Said)
}

/// The certificates of the file, whatever its form.
fn certificates(options: &Options) -> Result<Vec<CertificateDer<'static>>, anyhow::Error> {
    let file = options.file.display();
    let bytes = read(&options.file)?;
    let password = match &options.password_file {
        None => None,
        Some(path) => {
            let text = String::from_utf8_lossy(&read(path)?).into_owned();
            Some(text.lines().next().unwrap_or_default().to_owned())
        }
    };
    let plain = read_certificates(&bytes);
    let pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    if pem || plain.is_ok() {
        return plain.with_context(|| file.to_string());
    }
    match read_pfx_certificates(&bytes, password.as_deref().unwrap_or_default()) {
        Ok(certificates) => Ok(certificates),
        Err(PkiError::WrongPassword) if password.is_none() => Err(anyhow!(
            "{file}: the PFX file has a password (--password-file is needed)"
        )),
        Err(PkiError::Malformed { .. }) => Err(anyhow!(
            "{file}: holds no certificate that can be read (PEM, DER and PFX are allowed)"
        )),
        Err(error) => Err(error).with_context(|| file.to_string()),
    }
}

/// The trust of a configuration. Faults elsewhere in it are told and do not matter.
fn configured(config: &Path, connection_point: bool) -> Result<Trust, Failure> {
    let (definition, problems) = definition(config)?;
    let built = match connection_point {
        true => Anchors::build(&definition.connection_point_ca, &[], Limits::MAX),
        false => Anchors::build(
            &definition.anchors,
            &definition.intermediates,
            definition.limits,
        ),
    };
    let anchors = match built {
        Ok(anchors) => anchors,
        Err(_) if !problems.is_empty() => return Err(problems.into()),
        Err(faults) => return Err(super::roles::of_file(config, faults).into()),
    };
    for problem in problems {
        // Nothing is left to do when the terminal is gone.
        let _ = writeln!(std::io::stderr(), "note: {problem}");
    }
    let set = if connection_point {
        "connection-point CA"
    } else {
        "trust"
    };
    let crls = CrlSet::new(definition.crls, UnixTime::now());
    Ok(Trust {
        anchors,
        // As in a gateway, connection points are revoked by taking them out of the service definition.
        revocation: match connection_point {
            true => Revocation::off(),
            false => Revocation::new(definition.revocation, Arc::new(crls)),
        },
        of: format!("the {set} of {}", definition.name),
    })
}

/// The service definition that a gateway.toml names, or that a service.toml is, as far as it can be read; with the CRLs
/// that the gateway keeps on disk beside its own.
pub(super) fn definition(config: &Path) -> Result<(Definition, Vec<Problem>), Vec<Problem>> {
    let (folder, kept, mut problems) = if service::is_definition(config) {
        let folder = config.parent().unwrap_or_else(|| Path::new(""));
        (folder.to_owned(), Local::default(), Vec::new())
    } else {
        let (gateway, problems) = gateway(config).map_err(|problem| vec![problem])?;
        (gateway.store, gateway.settings.revocation, problems)
    };
    match service::inspect(&folder, UnixTime::now()) {
        Ok((mut definition, found)) => {
            problems.extend(found);
            let authorities = definition.anchors.iter().chain(&definition.intermediates);
            let authorities: Vec<_> = authorities.cloned().collect();
            definition
                .crls
                .extend(revocation::kept(&kept, &authorities));
            Ok((definition, problems))
        }
        Err(problem) => {
            problems.push(problem);
            Err(problems)
        }
    }
}

fn gateway(config: &Path) -> Result<(Gateway, Vec<Problem>), Problem> {
    match config::role_of(config)? {
        Role::Gateway => config::inspect_gateway(config),
        Role::ConnectionPoint => Err(Problem {
            file: config.display().to_string(),
            key: String::new(),
            what: "configures a connection point, which verifies no client (gateway.toml or service.toml is needed)"
                .to_owned(),
        }),
    }
}

/// What roots in the file itself would say, if somebody trusted them.
fn roots_of(presented: &[CertificateDer<'static>]) -> Trust {
    let is_root = |der: &&CertificateDer<'_>| {
        pki::Certificate::parse(der).is_ok_and(|facts| facts.is_ca && facts.is_self_issued())
    };
    let roots: Vec<_> = presented.iter().filter(is_root).cloned().collect();
    match Anchors::build(&roots, &[], Limits::MAX) {
        Ok(anchors) => Trust {
            anchors,
            revocation: Revocation::off(),
            of: "whoever trusts the root in the file (--config names a gateway's trust)".to_owned(),
        },
        Err(_) => Trust {
            anchors: Anchors::default(),
            revocation: Revocation::off(),
            of: "no trust at all (--config names a gateway's)".to_owned(),
        },
    }
}

fn chain(explained: &Explanation, now: UnixTime) -> String {
    let mut out = String::new();
    for (index, link) in explained.links.iter().enumerate() {
        let facts = &link.facts;
        // Writing to a string never fails.
        let _ = writeln!(out, "{:<2} {}, {}", index + 1, facts.title(), origin(link));
        let mut line = |what: &str, text: &str| {
            let _ = writeln!(out, "     {what:<11} {text}");
        };
        line("issued by", &format!("\"{}\"", facts.issuer));
        if !facts.dns_names.is_empty() {
            line("names", &facts.dns_names.join(", "));
        }
        line("serial", &facts.serial);
        line("valid", &validity(link, now));
        line("key", &facts.key.to_string());
        line("signed with", &facts.signature);
        line("fingerprint", &facts.fingerprint);
    }
    out
}

fn origin(link: &Link) -> &'static str {
    match link.origin {
        Origin::Presented => "in the file",
        Origin::Configured => "a configured intermediate",
        Origin::Anchor => "a trust anchor",
    }
}

fn validity(link: &Link, now: UnixTime) -> String {
    let (from, to) = (link.facts.not_before, link.facts.not_after);
    let left = to.as_secs().checked_sub(now.as_secs());
    let left = match left {
        Some(seconds) => format!("{} days left", seconds / 86_400),
        None => "expired".to_owned(),
    };
    format!("{} to {} ({left})", print_time(from), print_time(to))
}

fn checks(explained: &Explanation) -> String {
    let line = |check: &pki::Check| {
        let mark = if check.ok { "ok  " } else { "FAIL" };
        format!("{mark} {:<11} {}\n", check.what, check.found)
    };
    let mut out: String = explained.checks.iter().map(line).collect();
    for url in &explained.missing_at {
        let _ = writeln!(out, "     the missing certificate may be had at {url}");
    }
    out
}

fn verdict(explained: &Explanation, usage: Usage) -> String {
    match (&explained.verdict, usage) {
        (Ok(path), _) => format!("accepted until {}", print_time(path.not_after)),
        (Err(fault), Usage::Client) => {
            let refusal = Refusal::new(fault.reason);
            let (status, phrase) = (refusal.status().as_u16(), refusal.phrase(Hop::Gateway));
            format!("refused: {fault}\nthe client is answered {status} {phrase}")
        }
        (Err(fault), Usage::ConnectionPoint) => format!("refused: {fault}"),
    }
}
