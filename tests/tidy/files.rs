//! How files look: a header, a size, names, words of comments, reasons of dependencies.

use crate::tree::{self, none};

const LINES_MAX: usize = 400;
const BANNED_NAMES: &[&str] = &[
    "mod", "util", "utils", "helper", "helpers", "manager", "common",
];
// A comment says how things are, not how they were or will be.
const BANNED_WORDS: &[&str] = &["no longer", "previously", "TODO", "FIXME", "for now"];

#[test]
fn every_source_file_begins_with_a_sentence_on_what_it_is() {
    let mut findings = Vec::new();
    let files = tree::under("src", &["rs"]);
    for file in files.iter().filter(|file| !file.production().is_empty()) {
        let header: Vec<_> = file
            .text
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .collect();
        let header = header.join(" ");
        let is_sentence = ['.', ':', '?'].iter().any(|end| header.contains(*end));
        if header.len() < 20 || !is_sentence {
            findings.push(file.path.clone());
        }
        if header.contains("Placeholder") {
            findings.push(format!("{} is a placeholder", file.path));
        }
    }
    none("files without a header of a sentence", &findings);
    assert!(files.len() >= 80, "only {} files were visited", files.len());
}

#[test]
fn no_source_file_is_longer_than_a_reader_bears() {
    let mut findings = Vec::new();
    for file in tree::under("src", &["rs"]) {
        let lines = file.code().len();
        if lines > LINES_MAX {
            findings.push(format!("{}: {lines}", file.path));
        }
    }
    none("files of more than 400 production lines", &findings);
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let mut findings = Vec::new();
    for file in tree::under("src", &["rs"])
        .iter()
        .chain(&tree::under("tests", &["rs"]))
    {
        let mut parts = file.path.trim_end_matches(".rs").split('/');
        if parts.any(|part| BANNED_NAMES.contains(&part)) {
            findings.push(file.path.clone());
        }
    }
    none("files with a banned name", &findings);
}

#[test]
fn comments_are_timeless() {
    let mut findings = Vec::new();
    let mut comments = 0;
    for folder in ["src", "tests", "benches"] {
        for file in tree::under(folder, &["rs"]) {
            for (number, line) in file.text.lines().enumerate() {
                let Some(at) = line
                    .find("// ")
                    .or_else(|| line.find("//!"))
                    .or_else(|| line.find("///"))
                else {
                    continue;
                };
                comments += 1;
                let comment = &line[at..];
                if BANNED_WORDS.iter().any(|word| comment.contains(word)) {
                    findings.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
    }
    none("comments with a banned word", &findings);
    assert!(comments > 1000, "only {comments} comments were visited");
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let manifest = tree::read("Cargo.toml");
    let mut inside = false;
    let mut visited = 0;
    let mut findings = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside && line.contains('=') {
            visited += 1;
            let reason = line.rsplit_once(" # ").map_or("", |(_, reason)| reason);
            if reason.len() < 10 {
                findings.push(line.to_owned());
            }
        }
    }
    none("dependencies without a reason", &findings);
    assert!(visited >= 40, "only {visited} dependencies were visited");
}

#[test]
fn every_exception_from_a_lint_says_why() {
    let forms = ["allow", "expect"].map(|word| format!("[{word}("));
    let mut visited = 0;
    let mut findings = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for file in tree::under(folder, &["rs"]) {
            for (at, _) in forms
                .iter()
                .flat_map(|form| file.text.match_indices(form.as_str()))
            {
                visited += 1;
                let attribute = file.text[at..].split(']').next().unwrap_or_default();
                if !attribute.contains("reason") {
                    findings.push(format!("{}: {attribute}", file.path));
                }
            }
        }
    }
    none("exceptions without a reason", &findings);
    assert!(visited >= 5, "only {visited} exceptions were visited");
}
