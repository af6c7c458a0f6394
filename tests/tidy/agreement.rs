//! The README, the samples of configuration and the code agree.

use std::collections::BTreeSet;
use std::process::Command;

use opencmg::message::refusal::{Hop, Refusal};
use opencmg::metrics::{Families, PREFIX, PROCESS_LIST};
use opencmg::reason::{Reason, Side};
use opencmg::role::{Kind, endpoints_of};

use crate::tree::{self, none};

/// How the settings' reader is asked for a key.
const ASKING: &[&str] = &[
    "text",
    "optional_text",
    "texts",
    "optional_path",
    "path_of",
    "paths",
    "boolean",
    "integer",
    "duration",
    "size",
    "choice",
    "parsed",
    "parsed_list",
    "table",
    "tables",
];

#[test]
fn the_readme_lists_every_reason_with_its_side_and_meaning() {
    let rows = rows("Reasons");
    let listed: Vec<_> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(
        listed,
        reasons,
        "the table as it would have to be:\n{}",
        reasons_table()
    );
    let table: Vec<_> = rows
        .iter()
        .map(|row| format!("| {} |", row.join(" | ")))
        .collect();
    assert_eq!(table.join("\n"), reasons_table());
}

#[test]
fn the_readme_lists_every_metric_with_its_help() {
    let families = Families::LIST.iter().chain(PROCESS_LIST);
    let wanted: Vec<_> = families
        .map(|(name, help)| (format!("`{PREFIX}_{name}`"), *help))
        .collect();
    let rows = rows("Metrics");
    let listed: Vec<_> = rows
        .iter()
        .map(|row| (row[0].clone(), row[1].as_str()))
        .collect();
    let table: Vec<_> = wanted
        .iter()
        .map(|(name, help)| format!("| {name} | {help} |"))
        .collect();
    assert_eq!(
        listed,
        wanted,
        "the table as it would have to be:\n{}",
        table.join("\n")
    );
    assert!(
        wanted.len() >= 30,
        "only {} metrics were visited",
        wanted.len()
    );
}

#[test]
fn every_metric_is_moved_somewhere() {
    let declared = tree::read("src/metrics.rs");
    let fields: Vec<_> = declared
        .lines()
        .filter(|line| line.starts_with("    ") && line.contains(" = \"") && line.ends_with("\";"))
        .filter_map(|line| line.trim().split_once(": ").map(|(field, _)| field))
        .collect();
    assert_eq!(fields.len(), Families::LIST.len());
    let sources = tree::under("src", &["rs"]);
    let others: Vec<_> = sources
        .iter()
        .filter(|file| file.path != "src/metrics.rs")
        .collect();
    let is_moved = |field: &&str| {
        let word = format!(".{field}");
        let follows = |rest: &str| rest.starts_with(|c: char| !c.is_alphanumeric() && c != '_');
        let is_in = |text: &str| {
            text.match_indices(&word)
                .any(|(at, _)| follows(&text[at + word.len()..]))
        };
        others.iter().any(|file| is_in(&file.text))
    };
    let unmoved: Vec<_> = fields
        .iter()
        .filter(|field| !is_moved(field))
        .map(|f| (*f).to_owned())
        .collect();
    none("metrics that nothing moves", &unmoved);
}

#[test]
fn the_readme_lists_every_endpoint_of_every_kind() {
    let rows = rows("Kinds and endpoints");
    let listed: BTreeSet<_> = rows
        .iter()
        .map(|row| {
            (
                row[0].trim_matches('`').to_owned(),
                row[1].trim_matches('`').to_owned(),
            )
        })
        .collect();
    let kinds = Kind::WORDS.iter().map(|(_, kind)| *kind);
    let wanted: BTreeSet<_> = kinds
        .flat_map(|kind| {
            endpoints_of(kind)
                .into_iter()
                .map(move |e| (kind.as_str().to_owned(), e.name))
        })
        .collect();
    assert_eq!(listed, wanted);
    for row in &rows {
        let endpoints = Kind::WORDS.iter().flat_map(|(_, kind)| endpoints_of(*kind));
        let endpoint = endpoints
            .into_iter()
            .find(|e| format!("`{}`", e.name) == row[1])
            .unwrap();
        let methods: Vec<_> = endpoint.methods.iter().map(|m| m.as_str()).collect();
        assert_eq!(row[2], methods.join(" "), "{}", row[1]);
        assert_eq!(
            row[3],
            opencmg::units::print_size(endpoint.body_limit),
            "{}",
            row[1]
        );
    }
}

#[test]
fn the_readme_lists_every_command_that_the_program_has() {
    let listed: BTreeSet<_> = rows("Commands")
        .iter()
        .map(|row| {
            row[0]
                .trim_matches('`')
                .trim_start_matches("opencmg ")
                .split(" --")
                .next()
                .unwrap()
                .to_owned()
        })
        .map(|command| {
            command
                .split([' '])
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let mut wanted = BTreeSet::new();
    for command in commands_of(&[]) {
        let inner = commands_of(&[&command]);
        wanted.extend(inner.iter().map(|inner| format!("{command} {inner}")));
        wanted.insert(command);
    }
    assert_eq!(listed, wanted);
    assert!(
        wanted.len() >= 5,
        "only {} commands were visited",
        wanted.len()
    );
}

#[test]
fn a_sample_shows_every_key_that_is_read() {
    let samples = tree::under("config", &["toml"]);
    assert_eq!(
        samples.len(),
        3,
        "gateway.toml, connection-point.toml and service/service.toml"
    );
    let shown: BTreeSet<_> = samples
        .iter()
        .flat_map(|sample| keys_of(&sample.text))
        .collect();
    let sources = tree::under("src", &["rs"]);
    let code: Vec<_> = sources.iter().map(|file| file.code().join("\n")).collect();
    let read: BTreeSet<_> = code.iter().flat_map(|code| keys_asked(code)).collect();
    let missing: Vec<_> = read.difference(&shown).cloned().collect();
    none("keys that are read and that no sample shows", &missing);
    // Some are asked for by a function around the reader, so any literal will do.
    let is_read = |key: &&String| code.iter().any(|code| code.contains(&format!("\"{key}\"")));
    let unknown: Vec<_> = shown.iter().filter(|key| !is_read(key)).cloned().collect();
    none("keys of a sample that nothing reads", &unknown);
    assert!(read.len() >= 60, "only {} keys were visited", read.len());
}

#[test]
fn links_of_the_readme_lead_somewhere() {
    let readme = tree::read("README.md");
    let mut visited = 0;
    let mut findings = Vec::new();
    for (at, _) in readme.match_indices("](") {
        let link = readme[at + 2..].split(')').next().unwrap_or_default();
        if link.starts_with("http") || link.starts_with('#') {
            continue;
        }
        visited += 1;
        if !tree::root().join(link).exists() {
            findings.push(link.to_owned());
        }
    }
    none("links of the README that lead nowhere", &findings);
    assert!(visited >= 5, "only {visited} links were visited");
}

#[test]
fn the_readme_sets_up_with_two_commands() {
    let readme = tree::read("README.md");
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Set up\n"))
        .unwrap();
    let commands: Vec<_> = section
        .split("```sh\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap_or_default().lines())
        .collect();
    assert_eq!(commands, ["cargo run --release -- quickstart", "tests/run"]);
}

/// The cells of the first table of a section of the README, without its head.
fn rows(section: &str) -> Vec<Vec<String>> {
    let readme = tree::read("README.md");
    let title = format!("## {section}\n");
    let start = readme
        .find(&title)
        .unwrap_or_else(|| panic!("the README has no section {section}"));
    let lines = readme[start..]
        .lines()
        .skip_while(|line| !line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    lines
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(cells)
        .collect()
}

fn reasons_table() -> String {
    let row = |reason: &Reason| {
        let side = reason.side();
        let hop = match side {
            Side::Client | Side::Gateway | Side::Tunnel => Hop::Gateway,
            Side::ConnectionPoint | Side::Backend => Hop::ConnectionPoint,
        };
        let refusal = Refusal::new(*reason);
        let (status, phrase) = (refusal.status().as_u16(), refusal.phrase(hop));
        format!(
            "| `{reason}` | {} | {status} | `{phrase}` | {} |",
            side.as_str(),
            reason.what()
        )
    };
    Reason::ALL.iter().map(row).collect::<Vec<_>>().join("\n")
}

fn commands_of(command: &[&str]) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_opencmg");
    let out = Command::new(program)
        .args(command)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(out.stdout).unwrap();
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect()
}

/// The keys and the names of tables in a sample, also those that stand in a comment as `# key = value`.
fn keys_of(sample: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in sample.lines() {
        let line = line.trim().trim_start_matches('#').trim();
        if let Some(table) = line.strip_prefix('[') {
            let end = table.find(']').unwrap_or(table.len());
            keys.extend(
                table.trim_start_matches('[')
                    [..end.min(table.trim_start_matches('[').find(']').unwrap_or(0))]
                    .split('.')
                    .map(str::to_owned),
            );
        } else if let Some((key, _)) = line.split_once(" = ") {
            let is_key = !key.is_empty()
                && key
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            keys.extend(is_key.then(|| key.to_owned()));
        }
    }
    keys
}

fn keys_asked(code: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (at, _) in code.match_indices("(\"").chain(code.match_indices("(\n")) {
        let before = &code[..at];
        let start = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |i| i + 1);
        let is_call = before[..start].ends_with('.') && ASKING.contains(&&before[start..]);
        let Some(literal) = code[at + 1..]
            .trim_start()
            .strip_prefix('"')
            .filter(|_| is_call)
        else {
            continue;
        };
        keys.insert(literal.split('"').next().unwrap_or_default().to_owned());
    }
    keys
}
