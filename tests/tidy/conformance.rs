//! The table of conformance names tests that exist.

use std::collections::BTreeSet;

use crate::tree::{self, none};

const TABLE: &str = "docs/conformance.md";

/// What stands in place of a test where an item is not met; the outcome then says why.
const NOT_MET: &str = "—";

#[test]
fn every_row_of_the_conformance_table_names_tests_that_exist_or_says_why_not() {
    let tests = tests();
    let text = tree::read(TABLE);
    let mut findings = Vec::new();
    let mut visited = 0;
    let mut names_tests = true;
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if ["Item", "Limit"].contains(&cells[0]) {
            // What a limit does is shown where it is named: its table need not name tests.
            names_tests = cells.last() == Some(&"Tests");
            continue;
        }
        if cells[0].starts_with("---") || !names_tests {
            continue;
        }
        visited += 1;
        // Between the outcome and its proof may stand what the peer sees.
        let [item, outcome, .., proof] = cells[..] else {
            findings.push(format!("not three cells: {line}"));
            continue;
        };
        if proof == NOT_MET {
            if !outcome.starts_with("Not ") {
                findings.push(format!("{item}: no test, and the outcome does not say why"));
            }
            continue;
        }
        let names: Vec<_> = proof.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            findings.push(format!("{item}: names no test"));
        }
        let exists = |name: &str| tests.contains(name) || is_file(name);
        let missing = names.iter().filter(|name| !exists(name));
        findings.extend(missing.map(|name| format!("{item}: there is no test {name}")));
    }
    none("rows of docs/conformance.md", &findings);
    assert!(visited >= 20, "only {visited} rows were visited");
    assert!(tests.len() >= 300, "only {} tests were found", tests.len());
}

/// Tests of other suites are named by the file that runs them.
fn is_file(name: &str) -> bool {
    name.contains('/') && tree::root().join(name).is_file()
}

/// The names of all tests in Rust.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in tree::under("src", &["rs"])
        .iter()
        .chain(&tree::under("tests", &["rs"]))
    {
        let mut is_test = false;
        for line in file.text.lines().map(str::trim) {
            let signature = line.strip_prefix("async ").unwrap_or(line);
            if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else if let Some(rest) = signature.strip_prefix("fn ") {
                if std::mem::take(&mut is_test) {
                    names.insert(rest.split('(').next().unwrap_or_default().to_owned());
                }
            } else {
                is_test = false;
            }
        }
    }
    names
}
