//! The settings of one backend: what `[[role]]` of `connection-point.toml` says about reaching it.

use std::path::PathBuf;
use std::time::Duration;

use crate::role::{Kind, RoleId};
use crate::settings::Reader;

use super::base::BaseUrl;

/// How the name in a backend's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// Against the subject alternative names only (RFC 9525).
    San,
    /// Against the subject alternative names, or the common name where the certificate has none.
    SanOrCommonName,
    /// Not at all, and the chain neither: the leaf has this SHA-256 fingerprint.
    Pinned([u8; 32]),
}

/// Where the password of a PFX file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// In the first line of a file.
    File(PathBuf),
    /// In an environment variable.
    Environment(String),
}

/// How one backend is reached.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    /// The role that it serves.
    pub id: RoleId,
    /// The kind of that role.
    pub kind: Kind,
    /// Where it is.
    pub url: BaseUrl,
    /// CA certificates that its certificate is verified against; the system's own when empty.
    pub ca: Vec<PathBuf>,
    /// The client certificate that it may ask for: PEM, leaf first, or PFX.
    pub certificate: Option<PathBuf>,
    /// The PEM key of a PEM certificate.
    pub key: Option<PathBuf>,
    /// The password of a PFX certificate.
    pub password: Option<Password>,
    /// The `Host` field in place of the URL's.
    pub host: Option<String>,
    /// The TLS server name in place of the URL's.
    pub server_name: Option<String>,
    /// The name that its certificate must have in place of the URL's.
    pub certificate_name: Option<String>,
    /// How that name is checked.
    pub name_check: NameCheck,
    /// Whether one backend connection belongs to one client connection, for NTLM and Negotiate.
    pub connection_auth: bool,
    /// The time for name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// The time from the end of the request to the head of the answer; long polls have none.
    pub response_timeout: Duration,
    /// The time within which a body must make progress; the answer to a long poll has none.
    pub progress_timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How many unused connections are kept.
    pub idle_connections: usize,
    /// The largest request head, in bytes.
    pub head_limit: usize,
    /// How many requests are under way at once.
    pub capacity: u32,
}

impl Default for BackendSettings {
    fn default() -> Self {
        Self {
            id: RoleId::new(1),
            kind: Kind::Web,
            url: BaseUrl::parse("http://localhost").unwrap_or_else(|| unreachable!()),
            ca: Vec::new(),
            certificate: None,
            key: None,
            password: None,
            host: None,
            server_name: None,
            certificate_name: None,
            // The common name is deprecated by RFC 9525.
            name_check: NameCheck::San,
            // It costs a connection per client, and ConfigMgr does not need it.
            connection_auth: false,
            // A SYN is sent again after 1 s and 3 s.
            connect_timeout: Duration::from_secs(5),
            // A management point computes some answers for minutes.
            response_timeout: Duration::from_secs(600),
            // Longer than any pause of a disk or an antivirus scan.
            progress_timeout: Duration::from_secs(120),
            // Below nginx's 75 s and IIS's 120 s, so that this side closes first.
            idle_timeout: Duration::from_secs(30),
            // Enough to ride out a burst, and few for a server to hold.
            idle_connections: 128,
            // http.sys refuses a head of 16 KiB with a bare 400.
            head_limit: 15 << 10,
            // Half the streams of one tunnel; each takes a socket here and there.
            capacity: 8_192,
        }
    }
}

impl BackendSettings {
    /// Reads the keys of one `[[role]]` that concern its backend.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let seconds = |low, high| Duration::from_secs(low)..=Duration::from_secs(high);
        let id = reader.parsed("id", "a decimal 64-bit number as a string", RoleId::parse);
        need(reader, "id", "a decimal 64-bit number as a string");
        need(reader, "url", URL_FORM);
        let settings = Self {
            id: id.unwrap_or(default.id),
            kind: reader.choice("kind", Kind::WORDS, Kind::ManagementPoint),
            url: reader
                .parsed("url", URL_FORM, BaseUrl::parse)
                .unwrap_or(default.url),
            ca: reader.paths("ca"),
            certificate: reader.optional_path("certificate"),
            key: reader.optional_path("key"),
            password: read_password(reader),
            host: reader.parsed("host", "host[:port]", authority),
            server_name: reader.parsed("server-name", "a host name", host_name),
            certificate_name: reader.parsed("certificate-name", "a host name", host_name),
            name_check: read_name_check(reader),
            connection_auth: reader.boolean("connection-auth", default.connection_auth),
            connect_timeout: reader.duration(
                "connect-timeout",
                default.connect_timeout,
                Duration::from_millis(100)..=Duration::from_secs(60),
            ),
            response_timeout: reader.duration(
                "response-timeout",
                default.response_timeout,
                seconds(1, 86_400),
            ),
            progress_timeout: reader.duration(
                "progress-timeout",
                default.progress_timeout,
                seconds(1, 3_600),
            ),
            idle_timeout: reader.duration("idle-timeout", default.idle_timeout, seconds(1, 3_600)),
            idle_connections: number(reader.integer(
                "idle-connections",
                default.idle_connections as u64,
                0..=4_096,
            )),
            head_limit: number(reader.size(
                "head-limit",
                default.head_limit as u64,
                4 << 10..=64 << 10,
            )),
            capacity: number(reader.integer("capacity", default.capacity.into(), 1..=16_384)),
        };
        settings.check_together(reader);
        settings
    }

    /// What must be true of several keys at once.
    fn check_together(&self, reader: &Reader<'_>) {
        if self.key.is_some() && self.certificate.is_none() {
            reader.fault("key", "needs a certificate (set certificate, too)");
        }
        let pfx = self.certificate.as_deref().is_some_and(is_pfx);
        if self.certificate.is_some() && !pfx && self.key.is_none() {
            reader.fault(
                "certificate",
                "needs a key (set key, or name a .pfx or .p12 file)",
            );
        }
        if !self.url.is_https() && self.certificate.is_some() {
            reader.fault("certificate", "is of no use to an http:// url");
        }
    }
}

/// Whether a certificate file is PFX by its name.
pub fn is_pfx(path: &std::path::Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|e| e.eq_ignore_ascii_case("pfx") || e.eq_ignore_ascii_case("p12"))
}

const URL_FORM: &str = "http[s]://host[:port][/prefix]";

fn need(reader: &Reader<'_>, key: &str, allowed: &str) {
    if !reader.has(key) {
        reader.fault(key, format!("is missing ({allowed} is needed)"));
    }
}

fn number<T: TryFrom<u64> + Default>(value: u64) -> T {
    T::try_from(value).unwrap_or_default()
}

fn read_password(reader: &Reader<'_>) -> Option<Password> {
    let file = reader.optional_path("password-file");
    let variable = reader.optional_text("password-env");
    if file.is_some() && variable.is_some() {
        reader.fault(
            "password-env",
            "stands beside password-file (one of them is allowed)",
        );
    }
    file.map(Password::File)
        .or_else(|| variable.map(Password::Environment))
}

fn read_name_check(reader: &Reader<'_>) -> NameCheck {
    let pin = reader.parsed(
        "fingerprint",
        "a SHA-256 fingerprint of 64 hexadecimal digits",
        fingerprint,
    );
    let words = [
        ("san", NameWord::San),
        ("san-or-cn", NameWord::SanOrCommonName),
    ];
    let word = reader.choice("name-check", &words, NameWord::San);
    match (pin, word) {
        (Some(pin), _) => NameCheck::Pinned(pin),
        (None, NameWord::San) => NameCheck::San,
        (None, NameWord::SanOrCommonName) => NameCheck::SanOrCommonName,
    }
}

#[derive(Clone, Copy)]
enum NameWord {
    San,
    SanOrCommonName,
}

fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut pin = [0; 32];
    for (byte, pair) in pin.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(pin)
}

fn authority(text: &str) -> Option<String> {
    let whole = !text.contains('/') && BaseUrl::parse(&format!("http://{text}")).is_some();
    whole.then(|| text.to_owned())
}

fn host_name(text: &str) -> Option<String> {
    let url = BaseUrl::parse(&format!("http://{text}"))?;
    (url.host().eq_ignore_ascii_case(text)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Source;

    fn read(text: &str) -> (BackendSettings, Vec<String>) {
        let source = Source::parse("f", std::path::Path::new("/etc"), text).unwrap();
        let settings = BackendSettings::read(&source.root());
        let faults = source.finish();
        (settings, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_role_needs_an_id_and_a_url_and_has_defaults_for_the_rest() {
        let (settings, faults) = read("id = \"5\"\nurl = \"https://mp.corp.example\"");
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(settings.id, RoleId::new(5));
        assert_eq!(settings.name_check, NameCheck::San);
        assert_eq!(settings.idle_timeout, Duration::from_secs(30));
        let (_, faults) = read("");
        assert_eq!(
            faults,
            [
                "f: id: is missing (a decimal 64-bit number as a string is needed)",
                "f: url: is missing (http[s]://host[:port][/prefix] is needed)",
            ]
        );
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let base = "id = \"5\"\nurl = \"http://mp\"\n";
        let (_, faults) = read(&format!("{base}certificate = \"c.pem\""));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].contains("is of no use to an http:// url"),
            "{faults:?}"
        );
        assert!(faults[1].contains("needs a key"), "{faults:?}");
        let (_, faults) = read(&format!("{base}key = \"c.key\""));
        assert!(faults[0].contains("needs a certificate"), "{faults:?}");
        let (_, faults) = read(&format!(
            "{base}password-file = \"a\"\npassword-env = \"B\"\nhost = \"a/b\"\nfingerprint = \"12\""
        ));
        assert_eq!(faults.len(), 3, "{faults:?}");
    }

    #[test]
    fn a_fingerprint_is_read_with_and_without_colons() {
        let plain = "0a".repeat(32);
        let colons = ["0A"; 32].join(":");
        for text in [plain, colons] {
            let (settings, faults) = read(&format!(
                "id = \"5\"\nurl = \"https://mp\"\nfingerprint = \"{text}\""
            ));
            assert!(faults.is_empty(), "{faults:?}");
            assert_eq!(settings.name_check, NameCheck::Pinned([10; 32]));
        }
    }
}
