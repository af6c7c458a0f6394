//! Reads a TOML file into settings and records every fault with its key path, and goes on.
//!
//! A [`Source`] is one file. Its [`Reader`]s hand out checked values and write down each key that was asked for;
//! a key that nobody asked for is a fault when its reader is dropped. A fault never stops the reading: the
//! default stands in, and [`Source::finish`] returns everything that is wrong at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use toml::{Table, Value};

use crate::units;

static EMPTY: LazyLock<Table> = LazyLock::new(Table::new);

/// One thing that is wrong with a configuration, printed as `file: key: what is wrong (what is allowed)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file as it was named.
    pub file: String,
    /// The path of the key, for example `gateway.listen[0]`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.file, self.what)
        } else {
            write!(f, "{}: {}: {}", self.file, self.key, self.what)
        }
    }
}

impl std::error::Error for Problem {}

/// One configuration file: its table, its folder, and what was found wrong.
#[derive(Debug)]
pub struct Source {
    file: String,
    folder: PathBuf,
    table: Table,
    problems: RefCell<Vec<Problem>>,
    asked: RefCell<BTreeSet<String>>,
}

impl Source {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// One problem, if the file cannot be read or is not TOML (with line and column).
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let file = path.display().to_string();
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&file, &folder, &text),
            Err(error) => Err(Problem {
                file,
                key: String::new(),
                what: format!("cannot be read: {error}"),
            }),
        }
    }

    /// Parses a text; relative paths in it are meant from `folder`.
    ///
    /// # Errors
    /// One problem, if the text is not TOML (with line and column).
    pub fn parse(file: &str, folder: &Path, text: &str) -> Result<Self, Problem> {
        let table = text.parse::<Table>().map_err(|error| Problem {
            file: file.to_owned(),
            key: String::new(),
            what: format!(
                "is not TOML: {}",
                error.to_string().trim_end().replace('\n', "\n  ")
            ),
        })?;
        Ok(Self {
            file: file.to_owned(),
            folder: folder.to_owned(),
            table,
            problems: RefCell::default(),
            asked: RefCell::default(),
        })
    }

    /// The reader of the whole file.
    pub fn root(&self) -> Reader<'_> {
        Reader {
            source: self,
            table: &self.table,
            path: String::new(),
            asked: RefCell::default(),
        }
    }

    /// Records a fault that belongs to no single reader.
    pub fn fault(&self, key: &str, what: impl Into<String>) {
        let problem = Problem {
            file: self.file.clone(),
            key: key.to_owned(),
            what: what.into(),
        };
        self.problems.borrow_mut().push(problem);
    }

    /// Whether anything was found wrong so far.
    pub fn is_faulty(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// Every key that was asked for, with `[]` for the members of a list; what the samples are checked against.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    /// Everything that was found wrong, in the order of the keys.
    pub fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// A reader over one table of a [`Source`]. Dropping it reports the keys that nobody asked for.
#[derive(Debug)]
pub struct Reader<'s> {
    source: &'s Source,
    table: &'s Table,
    path: String,
    asked: RefCell<BTreeSet<&'static str>>,
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum of kinds of values; any other than the wanted one is a fault"
)]
impl<'s> Reader<'s> {
    /// The path of this table, for example `role[1]`; empty for the whole file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the file has the key.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the file has the key in a table of this one.
    pub fn has_in(&self, table: &str, key: &str) -> bool {
        let table = self.table.get(table).and_then(Value::as_table);
        table.is_some_and(|table| table.contains_key(key))
    }

    /// Records a fault of a key of this table.
    pub fn fault(&self, key: &str, what: impl Into<String>) {
        self.source.fault(&self.key(key), what);
    }

    /// A string that must be there; `None` after a fault.
    pub fn text(&self, key: &'static str) -> Option<String> {
        let text = self.optional_text(key);
        if text.is_none() && !self.has(key) {
            self.fault(key, "is missing (a string is needed)");
        }
        text
    }

    /// A string, if it is there.
    pub fn optional_text(&self, key: &'static str) -> Option<String> {
        match self.ask(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::String(_) => self.wrong(key, "is empty", "a string"),
            other => self.wrong(key, &kind_of(other), "a string"),
        }
    }

    /// A list of strings; empty if it is not there.
    pub fn texts(&self, key: &'static str) -> Vec<String> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let Value::Array(members) = value else {
            let _: Option<()> = self.wrong(key, &kind_of(value), "a list of strings");
            return Vec::new();
        };
        let text = |(index, member): (usize, &Value)| match member {
            Value::String(text) => Some(text.clone()),
            other => self.wrong(&format!("{key}[{index}]"), &kind_of(other), "a string"),
        };
        members.iter().enumerate().filter_map(text).collect()
    }

    /// A path, meant from the folder of the file.
    pub fn optional_path(&self, key: &'static str) -> Option<PathBuf> {
        self.optional_text(key)
            .map(|text| self.source.folder.join(text))
    }

    /// A path that must be there, meant from the folder of the file; `None` after a fault.
    pub fn path_of(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(|text| self.source.folder.join(text))
    }

    /// A list of paths, each meant from the folder of the file.
    pub fn paths(&self, key: &'static str) -> Vec<PathBuf> {
        self.texts(key)
            .into_iter()
            .map(|text| self.source.folder.join(text))
            .collect()
    }

    /// A boolean.
    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        match self.ask(key) {
            None => default,
            Some(Value::Boolean(value)) => *value,
            Some(other) => self
                .wrong(key, &kind_of(other), "true or false")
                .unwrap_or(default),
        }
    }

    /// A whole number within a range.
    pub fn integer(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
        match self.ask(key) {
            None => default,
            Some(Value::Integer(value)) => match u64::try_from(*value) {
                Ok(value) if range.contains(&value) => value,
                Ok(_) | Err(_) => self
                    .wrong(key, &format!("is {value}"), &allowed())
                    .unwrap_or(default),
            },
            Some(other) => self
                .wrong(key, &kind_of(other), &allowed())
                .unwrap_or(default),
        }
    }

    /// A duration with its unit, within a range.
    pub fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let allowed = || {
            let [low, high] = [range.start(), range.end()].map(|d| units::print_duration(*d));
            format!("a duration from \"{low}\" to \"{high}\"")
        };
        self.measured(key, units::parse_duration, &range, allowed)
            .unwrap_or(default)
    }

    /// A size with its unit, within a range; bytes.
    pub fn size(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let allowed = || {
            let [low, high] = [range.start(), range.end()].map(|b| units::print_size(*b));
            format!("a size from \"{low}\" to \"{high}\"")
        };
        self.measured(key, units::parse_size, &range, allowed)
            .unwrap_or(default)
    }

    /// One of several words.
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let allowed = || {
            let words: Vec<_> = words
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            format!("one of {}", words.join(", "))
        };
        match self.ask(key) {
            None => default,
            Some(Value::String(text)) => match words.iter().find(|(word, _)| word == text) {
                Some((_, value)) => *value,
                None => self
                    .wrong(key, &format!("is \"{text}\""), &allowed())
                    .unwrap_or(default),
            },
            Some(other) => self
                .wrong(key, &kind_of(other), &allowed())
                .unwrap_or(default),
        }
    }

    /// A string that a parser takes; `allowed` ends the message of a fault.
    pub fn parsed<T>(
        &self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.optional_text(key)?;
        parse(&text).or_else(|| self.wrong(key, &format!("is \"{text}\""), allowed))
    }

    /// A list of strings that a parser takes; `allowed` ends the message of a fault.
    pub fn parsed_list<T>(
        &self,
        key: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let member = |(index, text): (usize, String)| {
            parse(&text).or_else(|| {
                self.wrong(
                    &format!("{key}[{index}]"),
                    &format!("is \"{text}\""),
                    allowed,
                )
            })
        };
        self.texts(key)
            .into_iter()
            .enumerate()
            .filter_map(member)
            .collect()
    }

    /// The reader of a table; of an empty one if it is not there.
    pub fn table(&self, key: &'static str) -> Self {
        let table = match self.ask(key) {
            Some(Value::Table(table)) => table,
            Some(other) => {
                let _: Option<()> = self.wrong(key, &kind_of(other), "a table");
                &EMPTY
            }
            None => &EMPTY,
        };
        self.child(self.key(key), table)
    }

    /// The readers of a list of tables; none if it is not there.
    pub fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let members = value
            .as_array()
            .filter(|members| members.iter().all(Value::is_table));
        let Some(members) = members else {
            let _: Option<()> = self.wrong(key, &kind_of(value), "a list of tables, [[…]]");
            return Vec::new();
        };
        let member = |(index, member): (usize, &'s Value)| {
            let path = self.key(&format!("{key}[{index}]"));
            self.child(path, member.as_table().unwrap_or(&EMPTY))
        };
        members.iter().enumerate().map(member).collect()
    }

    fn child(&self, path: String, table: &'s Table) -> Self {
        Self {
            source: self.source,
            table,
            path,
            asked: RefCell::default(),
        }
    }

    fn measured<T: PartialOrd>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
        range: &RangeInclusive<T>,
        allowed: impl FnOnce() -> String,
    ) -> Option<T> {
        match self.ask(key)? {
            Value::String(text) => match parse(text) {
                Some(value) if range.contains(&value) => Some(value),
                Some(_) | None => self.wrong(key, &format!("is \"{text}\""), &allowed()),
            },
            other => self.wrong(key, &kind_of(other), &allowed()),
        }
    }

    fn ask(&self, key: &'static str) -> Option<&'s Value> {
        self.asked.borrow_mut().insert(key);
        self.source
            .asked
            .borrow_mut()
            .insert(without_indices(&self.key(key)));
        self.table.get(key)
    }

    fn wrong<T>(&self, key: &str, what: &str, allowed: &str) -> Option<T> {
        self.fault(key, format!("{what} ({allowed} is allowed)"));
        None
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for key in self
            .table
            .keys()
            .filter(|key| !asked.contains(key.as_str()))
        {
            let allowed: Vec<_> = asked.iter().copied().collect();
            let are = if allowed.len() == 1 { "is" } else { "are" };
            let allowed = allowed.join(", ");
            self.fault(key, format!("is not a key here ({allowed} {are} allowed)"));
        }
    }
}

fn kind_of(value: &Value) -> String {
    let kind = match value {
        Value::String(text) => return format!("is \"{text}\""),
        Value::Integer(number) => return format!("is {number}"),
        Value::Float(number) => return format!("is {number}"),
        Value::Boolean(value) => return format!("is {value}"),
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    };
    format!("is {kind}")
}

fn without_indices(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => {
                inside = true;
                out.push_str("[]");
            }
            ']' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
pub mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl FnOnce(Reader<'_>)) -> Vec<String> {
        let source = Source::parse("f.toml", Path::new("/etc"), text).unwrap();
        read(source.root());
        source.finish().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_fault_of_a_file_is_reported_with_its_path_and_what_is_allowed() {
        let text = "a = 1\nb = \"5 parsecs\"\nc = 99\nd = \"maybe\"\n[[t]]\nx = true\n";
        let found = problems(text, |root| {
            assert_eq!(root.text("a"), None);
            let range = Duration::from_secs(1)..=Duration::from_secs(60);
            assert_eq!(
                root.duration("b", Duration::from_secs(5), range),
                Duration::from_secs(5)
            );
            assert_eq!(root.integer("c", 1, 1..=16), 1);
            assert!(root.choice("d", &[("yes", true), ("no", false)], true));
            for table in root.tables("t") {
                assert_eq!(table.text("name"), None);
            }
        });
        assert_eq!(
            found,
            [
                "f.toml: a: is 1 (a string is allowed)",
                "f.toml: b: is \"5 parsecs\" (a duration from \"1s\" to \"1min\" is allowed)",
                "f.toml: c: is 99 (a whole number from 1 to 16 is allowed)",
                "f.toml: d: is \"maybe\" (one of \"yes\", \"no\" is allowed)",
                "f.toml: t[0].name: is missing (a string is needed)",
                "f.toml: t[0].x: is not a key here (name is allowed)",
            ]
        );
    }

    #[test]
    fn keys_asked_for_are_listed_without_indices() {
        let source = Source::parse("f", Path::new(""), "[[t]]\n[[t]]\n").unwrap();
        for table in source.root().tables("t") {
            table.optional_text("name");
        }
        let asked: Vec<_> = source.asked().into_iter().collect();
        assert_eq!(asked, ["t", "t[].name"]);
    }
}
