//! The package's own files, read for the other topics.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
#[derive(Debug)]
pub(crate) struct File {
    /// The path from the package's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// The lines before the tests: everything up to the first `#[cfg(test)]` on a module; none in a file of tests.
    pub(crate) fn production(&self) -> Vec<&str> {
        if self.path.ends_with("/tests.rs") || self.path.contains("/tests/") {
            return Vec::new();
        }
        let lines: Vec<_> = self.text.lines().collect();
        let is_start = |at: usize| {
            let gate = lines[at].starts_with("#[cfg(") && lines[at].contains("test");
            gate && lines[at + 1..]
                .iter()
                .find(|line| !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod "))
        };
        let end = (0..lines.len()).find(|at| is_start(*at));
        lines[..end.unwrap_or(lines.len())].to_vec()
    }

    /// The production lines that are neither blank nor comments.
    pub(crate) fn code(&self) -> Vec<&str> {
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
        self.production().into_iter().filter(is_code).collect()
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file under a folder with one of the extensions, in order.
pub(crate) fn under(folder: &str, extensions: &[&str]) -> Vec<File> {
    let mut files = Vec::new();
    collect(&root().join(folder), extensions, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(folder: &Path, extensions: &[&str], into: &mut Vec<File>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            collect(&path, extensions, into);
        } else if extensions.contains(&extension) {
            let name = path.strip_prefix(root()).unwrap();
            into.push(File {
                path: name.to_str().unwrap().replace('\\', "/"),
                text: fs::read_to_string(&path).unwrap(),
            });
        }
    }
}

/// Fails with every finding on a line of its own.
pub(crate) fn none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}
