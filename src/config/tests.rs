use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Value;

use super::*;
use crate::settings::Reader;

fn sample(name: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

/// What is left of a sample when the lines that begin so are keys, and not comments.
fn uncommented(text: &str, marks: &[&str]) -> String {
    let is_key = |rest: &str| {
        let key = rest.split(" = ").next().unwrap_or_default();
        rest.contains(" = ")
            && key
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let line = |line: &str| {
        let rest = marks.iter().find_map(|mark| line.strip_prefix(mark));
        rest.filter(|rest| is_key(rest)).unwrap_or(line).to_owned()
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Every key of a file, in the form of `Source::asked`.
fn keys_of(text: &str) -> BTreeSet<String> {
    fn walk(path: &str, table: &toml::Table, keys: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            keys.insert(path.clone());
            match value {
                Value::Table(table) => walk(&path, table, keys),
                Value::Array(members) => {
                    for table in members.iter().filter_map(Value::as_table) {
                        walk(&format!("{path}[]"), table, keys);
                    }
                }
                Value::String(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_) => {}
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk("", &text.parse().unwrap(), &mut keys);
    keys
}

/// Reads a text; returns what was read as text, the keys asked for and the problems.
fn read_as(
    path: &Path,
    text: &str,
    read: impl Fn(&Reader<'_>, &Path) -> String,
) -> (String, BTreeSet<String>, Vec<String>) {
    let folder = path.parent().unwrap();
    let source = Source::parse("sample", folder, text).unwrap();
    let value = read(&source.root(), folder);
    let asked = source.asked();
    let problems = source.finish().iter().map(Problem::to_string).collect();
    (value, asked, problems)
}

/// Asserts that a sample shows every key that is read, with the default that is in force; returns how many keys.
fn assert_complete(name: &str, read: impl Fn(&Reader<'_>, &Path) -> String) -> usize {
    let (path, text) = sample(name);
    let (as_it_is, _, problems) = read_as(&path, &text, &read);
    assert_eq!(problems, [""; 0], "{name}");

    let (with_defaults, ..) = read_as(&path, &uncommented(&text, &["# "]), &read);
    assert_eq!(with_defaults, as_it_is, "{name}: a default differs");

    let whole = uncommented(&text, &["# ", "## "]);
    let (_, asked, problems) = read_as(&path, &whole, &read);
    assert_eq!(problems, [""; 0], "{name}");
    assert_eq!(keys_of(&whole), asked, "{name}");
    asked.len()
}

#[test]
fn the_samples_show_every_key_with_its_default() {
    let gateway = assert_complete("gateway.toml", |root, folder| {
        format!("{:?}", gateway::read(root, folder))
    });
    assert_eq!(gateway, 44);
    let connection_point = assert_complete("connection-point.toml", |root, _| {
        format!("{:?}", connection_point::read(root))
    });
    assert_eq!(connection_point, 60);
}

#[test]
fn a_role_is_told_by_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.toml");
    let role = |text: &str| {
        std::fs::write(&path, text).unwrap();
        role_of(&path).map_err(|problem| problem.what)
    };
    assert_eq!(role("[gateway]\n"), Ok(Role::Gateway));
    // The connection point has a list of gateways.
    assert_eq!(
        role("[connection-point]\n[[gateway]]\n"),
        Ok(Role::ConnectionPoint)
    );
    assert!(
        role("[log]\n")
            .unwrap_err()
            .starts_with("configures neither role")
    );
    assert!(role("[").unwrap_err().starts_with("is not TOML"));
}

#[test]
fn one_address_cannot_be_listened_on_twice() {
    let text = "[gateway]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\ntunnel-listen = [\"127.0.0.1:1\"]\n\
                health = \"127.0.0.1:2\"\nadmin = \"127.0.0.1:0\"\n";
    let (_, _, problems) = read_as(Path::new("/etc/f"), text, |root, folder| {
        format!("{:?}", gateway::read(root, folder))
    });
    assert_eq!(
        problems,
        [
            "sample: gateway.health: 127.0.0.1:2 is the address of listen[1] already",
            "sample: gateway.tunnel-listen[0]: 127.0.0.1:1 is the address of listen[0] already",
        ]
    );
}
