//! `[[certificate]]`: the server names, with what they are served.

use std::collections::BTreeSet;

use super::files::Files;
use super::trust::Trust;
use crate::pki::{self, Hints, KeyPair, PkiError, UnixTime};
use crate::settings::Reader;
use crate::tls::{ClientCertificates, NameSettings, OnBadClientCertificate, Version};

/// The names that are served, in the order of the file, and the name of the service.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) service_name: String,
    pub(super) names: Vec<NameSettings>,
}

/// Reads `name` and every `[[certificate]]`.
pub(super) fn read(root: &Reader<'_>, files: &mut Files, trust: &Trust, now: UnixTime) -> Served {
    let tables = root.tables("certificate");
    if tables.is_empty() {
        root.fault(
            "certificate",
            "is missing (at least one [[certificate]] is needed)",
        );
    }
    let mut served = Served::default();
    let mut covered = Vec::new();
    for (index, reader) in tables.iter().enumerate() {
        let mut settings = read_settings(reader, trust);
        let Some(pair) = read_pair(reader, files) else {
            continue;
        };
        let server_name = settings.server_name.clone();
        for fault in pki::check_server_certificate(&pair, server_name.as_deref(), now) {
            reader.fault("file", fault);
        }
        covered.push(names_of(&pair));
        settings.key_pairs.push(pair);
        served.add(index, settings, reader);
    }
    // Without one certificate that could be read, every name would be outside it.
    let unread = covered.len() < tables.len();
    served.service_name = service_name(root, &covered, unread);
    served
}

impl Served {
    /// Adds a certificate: to the name that it shares with an earlier one, or as a name of its own.
    fn add(&mut self, index: usize, settings: NameSettings, reader: &Reader<'_>) {
        let same = |one: &NameSettings| match (&one.server_name, &settings.server_name) {
            (Some(one), Some(other)) => one == other,
            (None, None) => names_of_all(one) == names_of_all(&settings),
            (Some(_), None) | (None, Some(_)) => false,
        };
        let Some(first) = self.names.iter_mut().find(|one| same(one)) else {
            self.names.push(settings);
            return;
        };
        let rest = |one: &NameSettings| NameSettings {
            key_pairs: Vec::new(),
            ..one.clone()
        };
        if rest(first) != rest(&settings) {
            let what = format!(
                "serves the names of an earlier [[certificate]] with other settings \
                 (the same in both are allowed, or a server-name of its own; this is number {})",
                index + 1
            );
            reader.fault("file", what);
        }
        first.key_pairs.extend(settings.key_pairs);
    }
}

fn read_settings(reader: &Reader<'_>, trust: &Trust) -> NameSettings {
    let default = NameSettings::default();
    let asked = [
        ("request", ClientCertificates::Request),
        ("require", ClientCertificates::Require),
        ("never", ClientCertificates::Never),
    ];
    let on_bad = [
        ("refuse", OnBadClientCertificate::Refuse),
        ("alert", OnBadClientCertificate::Alert),
    ];
    let versions = [("1.2", Version::Tls12), ("1.3", Version::Tls13)];
    let settings = NameSettings {
        server_name: reader.parsed("server-name", "a host name or *.domain", server_name),
        key_pairs: Vec::new(),
        client_certificates: reader.choice(
            "client-certificates",
            &asked,
            default.client_certificates,
        ),
        on_bad_client_certificate: reader.choice(
            "on-bad-client-certificate",
            &on_bad,
            default.on_bad_client_certificate,
        ),
        hints: read_hints(reader, trust),
        min_version: reader.choice("min-version", &versions, default.min_version),
        max_version: reader.choice("max-version", &versions, default.max_version),
        cipher_suites: reader.texts("cipher-suites"),
        http2: reader.boolean("http2", default.http2),
        sessions: number(reader.integer("sessions", default.sessions as u64, 0..=1_000_000)),
        tickets: number(reader.integer("tickets", default.tickets as u64, 0..=4)),
    };
    if settings.min_version > settings.max_version {
        reader.fault("min-version", "is above max-version");
    }
    settings
}

#[derive(Clone, Copy)]
enum HintWord {
    All,
    None,
    List,
}

/// The CA names that clients are told. All by default, as other servers do; the lists of this service are short.
fn read_hints(reader: &Reader<'_>, trust: &Trust) -> Vec<Vec<u8>> {
    let words = [
        ("all", HintWord::All),
        ("none", HintWord::None),
        ("list", HintWord::List),
    ];
    let word = reader.choice("hints", &words, HintWord::All);
    let names = reader.texts("hint-names");
    let hints = match word {
        HintWord::All => Hints::All,
        HintWord::None => Hints::None,
        HintWord::List => Hints::List(names.clone()),
    };
    let listed = matches!(word, HintWord::List);
    if listed && names.is_empty() {
        let what = "is missing (hints = \"list\" needs subjects of anchors and intermediates)";
        reader.fault("hint-names", what);
    } else if !listed && reader.has("hint-names") {
        reader.fault("hint-names", "is of no use without hints = \"list\"");
    }
    let hints = trust.built.as_ref().map(|anchors| anchors.hints(&hints));
    match hints {
        Some(Ok(hints)) => hints,
        Some(Err(faults)) => {
            for fault in faults {
                reader.fault("hint-names", fault);
            }
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// Reads the certificate and its key: a PFX file, or PEM in one file or two.
fn read_pair(reader: &Reader<'_>, files: &mut Files) -> Option<KeyPair> {
    let key_path = reader.optional_path("key");
    let password = read_password(reader, files);
    let path = reader.path_of("file")?;
    let named = |what: String| format!("{}: {what}", path.display());
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(what) => {
            reader.fault("file", named(what));
            return None;
        }
    };
    let pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    let pair = if let Some(key_path) = key_path {
        match files.read(&key_path) {
            Ok(key) => pki::load_pem(&bytes, &key),
            Err(what) => {
                reader.fault("key", format!("{}: {what}", key_path.display()));
                return None;
            }
        }
    } else if pem {
        pki::load_pem(&bytes, &bytes)
    } else {
        let password = password?;
        let pair = pki::load_pfx(&bytes, password.as_deref().unwrap_or_default());
        if password.is_none() && matches!(pair, Err(PkiError::WrongPassword)) {
            let what =
                "is missing (the PFX file has a password; password-file or password-env is needed)";
            reader.fault("password-file", what);
            return None;
        }
        pair
    };
    match pair {
        Ok(pair) => Some(pair),
        Err(error) => {
            reader.fault("file", named(error.to_string()));
            None
        }
    }
}

/// The password of a PFX file, if one is named; nothing at all after a fault.
#[allow(
    clippy::option_option,
    reason = "a fault is not the same as no password"
)]
fn read_password(reader: &Reader<'_>, files: &mut Files) -> Option<Option<String>> {
    let file = reader.optional_path("password-file");
    let variable = reader.optional_text("password-env");
    match (file, variable) {
        (None, None) => Some(None),
        (Some(_), Some(_)) => {
            let what = "is there beside password-file (one of the two is allowed)";
            reader.fault("password-env", what);
            None
        }
        (Some(path), None) => match files.read_text(&path) {
            Ok(text) => Some(Some(text.lines().next().unwrap_or_default().to_owned())),
            Err(what) => {
                reader.fault("password-file", format!("{}: {what}", path.display()));
                None
            }
        },
        (None, Some(variable)) => match std::env::var(&variable) {
            Ok(password) => Some(Some(password)),
            Err(_) => {
                let what = format!("names the variable {variable}, which is not set");
                reader.fault("password-env", what);
                None
            }
        },
    }
}

/// The service's name: as given, else from the first certificate.
fn service_name(root: &Reader<'_>, covered: &[Vec<String>], unread: bool) -> String {
    let given = root.parsed("name", "a host name without wildcard", |text| {
        server_name(text).filter(|name| !name.starts_with('*'))
    });
    if let Some(name) = given {
        let names: Vec<_> = covered.iter().flatten().map(String::as_str).collect();
        if !unread && !names.iter().any(|pattern| covers(pattern, &name)) {
            let names = names.join(", ");
            root.fault(
                "name",
                format!("\"{name}\" is outside the certificates (they name {names})"),
            );
        }
        return name;
    }
    match covered.first().and_then(|names| names.first()) {
        Some(name) if name.starts_with('*') => {
            let what = format!(
                "is missing (the certificate is for {name}; the host name that clients use is needed)"
            );
            root.fault("name", what);
            String::new()
        }
        Some(name) => name.clone(),
        None => String::new(),
    }
}

/// The names of a pair's leaf, in lower case: its DNS names, else its common name.
fn names_of(pair: &KeyPair) -> Vec<String> {
    let Ok(leaf) = pair.leaf() else {
        return Vec::new();
    };
    let mut names = leaf.dns_names;
    if names.is_empty() {
        names.extend(leaf.common_name);
    }
    for name in &mut names {
        name.make_ascii_lowercase();
    }
    names
}

fn names_of_all(settings: &NameSettings) -> BTreeSet<String> {
    settings.key_pairs.iter().flat_map(names_of).collect()
}

/// Whether a certificate's name covers a host name: itself, or one label in place of the asterisk.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => name.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => pattern == name,
    }
}

/// A host name in lower case, or one with an asterisk as its first label.
fn server_name(text: &str) -> Option<String> {
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner)
    };
    let whole = text.len() <= 253 && labels.split('.').all(label);
    whole.then(|| text.to_ascii_lowercase())
}

fn number(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
