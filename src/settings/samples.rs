//! What the sample files are tested with: they show every key that is read, with the default that is in force.
//!
//! A line `# key = value` of a sample shows a default, a line `## key = value` an example of a key without one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Problem, Reader, Source};

/// What reading a text gave.
#[derive(Debug)]
pub struct Outcome {
    /// What was read, in its debug form.
    pub value: String,
    /// The keys that were asked for.
    pub asked: BTreeSet<String>,
    /// What was found wrong.
    pub problems: Vec<String>,
}

/// The path and the text of a file in `config/`.
pub fn sample(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

/// Reads a text whose paths are meant from a folder.
pub fn read(text: &str, folder: &Path, read: impl Fn(&Reader<'_>) -> String) -> Outcome {
    let source = Source::parse("sample", folder, text).unwrap();
    let value = read(&source.root());
    let asked = source.asked();
    let problems = source.finish().iter().map(Problem::to_string).collect();
    Outcome {
        value,
        asked,
        problems,
    }
}

/// Asserts that a sample has no fault, that its defaults are those in force, and that it shows every key that is read.
/// `faults` are those of its examples. Returns how many keys it shows.
pub fn assert_complete(
    name: &str,
    folder: &Path,
    faults: &[&str],
    read_value: impl Fn(&Reader<'_>) -> String,
) -> usize {
    let (_, text) = sample(name);
    let as_it_is = read(&text, folder, &read_value);
    assert_eq!(as_it_is.problems, [""; 0], "{name}");

    let with_defaults = read(&uncommented(&text, &["# "]), folder, &read_value);
    assert_eq!(with_defaults.problems, [""; 0], "{name}");
    assert_eq!(
        with_defaults.value, as_it_is.value,
        "{name}: a default differs"
    );

    let whole = uncommented(&text, &["# ", "## "]);
    let with_examples = read(&whole, folder, &read_value);
    assert_eq!(with_examples.problems, faults, "{name}");
    assert_eq!(keys_of(&whole), with_examples.asked, "{name}");
    with_examples.asked.len()
}

/// A sample whose commented keys with one of these marks are keys.
fn uncommented(text: &str, marks: &[&str]) -> String {
    let is_key = |rest: &str| {
        let (key, _) = rest.split_once(" = ").unwrap_or_default();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !key.is_empty() && key.bytes().all(plain)
    };
    let line = |line: &str| {
        let rest = marks.iter().find_map(|mark| line.strip_prefix(mark));
        rest.filter(|rest| is_key(rest)).unwrap_or(line).to_owned()
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Every key of a text, in the form of [`Source::asked`].
fn keys_of(text: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    walk("", &text.parse().unwrap(), &mut keys);
    keys
}

fn walk(path: &str, table: &Table, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if let Value::Table(table) = value {
            walk(&path, table, keys);
        }
        for table in value.as_array().into_iter().flatten() {
            if let Value::Table(table) = table {
                walk(&format!("{path}[]"), table, keys);
            }
        }
        keys.insert(path);
    }
}
