//! Who imports whom: ranks, and the exact list.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{self, File, none};

/// A module imports modules of a lower rank only; the table of `src/lib.rs` shows the same.
const RANKS: &[&[&str]] = &[
    &[
        "units",
        "reason",
        "tasks",
        "drain",
        "pieces",
        "frames",
        "allowance",
        "timer",
    ],
    &["settings"],
    &["role", "metrics", "logging", "process"],
    &["pki", "message", "fetch"],
    &["alerts", "tls", "identity", "instances", "revocation"],
    &["routing", "tunnel", "backend"],
    &["listener", "proxy", "forward", "load"],
    &["admin"],
    &["gateway", "connection_point"],
    &["config", "service"],
    &["cli"],
];

/// Modules behind a cargo feature, to which the documentation has no link.
const OPTIONAL: &[&str] = &["load"];

/// What each module imports of this crate: no more, no less.
const IMPORTS: &[(&str, &str)] = &[
    ("admin", "drain metrics tasks"),
    ("alerts", "metrics pki"),
    (
        "backend",
        "allowance message metrics pki reason role settings tasks timer",
    ),
    (
        "cli",
        "alerts config connection_point drain fetch gateway listener load logging message metrics pki process revocation service settings tasks tls tunnel units",
    ),
    (
        "config",
        "connection_point gateway logging pki process settings",
    ),
    (
        "connection_point",
        "admin alerts allowance backend drain forward metrics pieces pki process reason role settings tasks tls tunnel",
    ),
    ("fetch", "units"),
    (
        "forward",
        "allowance backend message metrics reason role settings tasks tunnel",
    ),
    (
        "gateway",
        "admin alerts drain identity instances listener logging metrics pki proxy reason revocation role routing settings tasks tls tunnel",
    ),
    ("identity", "message metrics pki reason settings"),
    ("instances", "settings"),
    (
        "listener",
        "drain metrics pieces reason settings tasks tls units",
    ),
    ("load", "tasks tls"),
    ("logging", "reason settings"),
    ("message", "reason role timer"),
    ("metrics", "reason"),
    ("pki", "reason settings units"),
    (
        "proxy",
        "allowance drain frames identity logging message metrics pki reason role routing settings tasks tunnel units",
    ),
    ("revocation", "fetch metrics pki settings tasks units"),
    ("routing", "message metrics role units"),
    (
        "service",
        "gateway message metrics pki revocation role routing settings tls units",
    ),
    ("settings", "units"),
    ("tls", "pki reason"),
    (
        "tunnel",
        "allowance drain frames message metrics pieces reason role settings tasks",
    ),
];

#[test]
fn modules_import_exactly_what_the_list_says() {
    let found = imports();
    let mut findings = Vec::new();
    for (module, imported) in &found {
        let listed = IMPORTS.iter().find(|(name, _)| name == module);
        let listed: BTreeSet<_> = listed
            .iter()
            .flat_map(|(_, names)| names.split_whitespace())
            .collect();
        let imported: BTreeSet<_> = imported.keys().map(String::as_str).collect();
        for name in imported.difference(&listed) {
            let at = &found[module][*name];
            findings.push(format!(
                "{module} imports {name}, which is not listed ({at})"
            ));
        }
        for name in listed.difference(&imported) {
            findings.push(format!(
                "{module} is listed with {name} and does not import it"
            ));
        }
    }
    let as_code: Vec<_> = found
        .iter()
        .filter(|(_, imported)| !imported.is_empty())
        .map(|(module, imported)| {
            let names: Vec<_> = imported.keys().map(String::as_str).collect();
            format!("    (\"{module}\", \"{}\"),", names.join(" "))
        })
        .collect();
    let hint = format!("the list as it would have to be:\n{}", as_code.join("\n"));
    none(
        &format!("{hint}\nbut first see whether the import belongs there"),
        &findings,
    );
    let order: Vec<_> = IMPORTS.iter().map(|(module, _)| *module).collect();
    assert!(order.is_sorted(), "the list is not in order");
}

#[test]
fn imports_lead_to_a_lower_rank() {
    let mut findings = Vec::new();
    let mut edges = 0;
    for (module, imported) in imports() {
        for (name, at) in imported {
            edges += 1;
            let [from, to] =
                [&module, &name].map(|m| rank(m).unwrap_or_else(|| panic!("{m} has no rank")));
            if to >= from {
                findings.push(format!(
                    "{module} (rank {from}) imports {name} (rank {to}) in {at}"
                ));
            }
        }
    }
    none("imports that do not lead to a lower rank", &findings);
    assert!(edges >= 40, "only {edges} imports were found");
}

#[test]
fn every_module_has_a_rank_and_the_map_in_lib_rs_shows_it() {
    let lib = tree::read("src/lib.rs");
    let declared: BTreeSet<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let ranked: BTreeSet<_> = RANKS.iter().copied().flatten().copied().collect();
    assert_eq!(declared, ranked);
    for (rank, modules) in RANKS.iter().enumerate() {
        let row = format!(
            "//! | {rank} | {} |",
            modules
                .iter()
                .map(|m| if OPTIONAL.contains(m) {
                    format!("`{m}`")
                } else {
                    format!("[`{m}`]")
                })
                .collect::<Vec<_>>()
                .join(", ")
        );
        assert!(lib.contains(&row), "src/lib.rs has no row {row}");
    }
}

#[test]
fn no_path_climbs_out_of_its_module() {
    let mut findings = Vec::new();
    for file in sources() {
        let depth = file.path.matches('/').count() - 1;
        let out = "super::".repeat(depth + 1);
        for line in file
            .code()
            .iter()
            .filter(|line| line.starts_with("use ") && line.contains(&out))
        {
            findings.push(format!("{}: {line}", file.path));
        }
    }
    none("imports that reach the crate's root by `super`", &findings);
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|modules| modules.contains(&module))
}

fn sources() -> Vec<File> {
    let files = tree::under("src", &["rs"]);
    let modules = |file: &File| !["src/lib.rs", "src/main.rs"].contains(&file.path.as_str());
    files.into_iter().filter(modules).collect()
}

/// Per module: what it imports outside its tests, and the first file that does.
fn imports() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for file in sources() {
        let module = module_of(&file.path);
        let imported = found.entry(module.clone()).or_default();
        for name in names_in(&file.code().join("\n")) {
            if name != module {
                imported.entry(name).or_insert_with(|| file.path.clone());
            }
        }
    }
    found
}

fn module_of(path: &str) -> String {
    let inside = path.strip_prefix("src/").unwrap();
    let end = inside.find(['/', '.']).unwrap();
    inside[..end].to_owned()
}

/// The modules named after `crate::`, also in braces.
fn names_in(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(top_level_of(group));
        } else {
            names.insert(identifier(rest));
        }
    }
    names
}

fn top_level_of(group: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let mut names = vec![identifier(group.trim_start())];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn imports_are_found_in_every_form() {
    let code = "use crate::tls;\nuse crate::{\n    pki::{self, Path},\n    role,\n};\nfn f() -> crate::units::Size {}";
    let names: Vec<_> = names_in(code).into_iter().collect();
    assert_eq!(names, ["pki", "role", "tls", "units"]);
}
