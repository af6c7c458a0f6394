//! The openssl and curl commands as clients, and what they saw.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::pki::Shown;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    V12,
    V13,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 from the backend.
    Served,
    /// 403 of the gateway, with this reason.
    Refused(&'static str),
    /// A TLS alert of this number; the gateway counts the handshake by this reason.
    Alert(u8, &'static str),
}

/// One client.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    pub gateway: SocketAddr,
    pub host: &'static str,
    pub path: &'a str,
    pub tls: Tls,
    pub shown: &'a Shown,
    /// The CA of the server's certificate.
    pub ca: &'a Path,
    /// The configuration of OpenSSL that it runs with.
    pub configuration: &'a Path,
}

/// An answer, or the alert in its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub resumed: bool,
    pub said: Said,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Answer {
        status: u16,
        phrase: String,
        reason: String,
    },
    Alert(u8),
}

/// Runs a client to its end.
pub fn run(mut command: Command, input: &str) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl and curl are installed");
    // It may have failed before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Status, phrase and the `reason` of the problem document, if there is one.
fn answer(text: &str) -> Option<Said> {
    let (line, rest) = text.split_once("\r\n")?;
    let (status, phrase) = line.split_once(' ').unwrap_or((line, ""));
    let reason = rest
        .split_once("\"reason\":\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    Some(Said::Answer {
        status: status.parse().ok()?,
        phrase: phrase.to_owned(),
        reason: reason
            .map(|(reason, _)| reason.to_owned())
            .unwrap_or_default(),
    })
}

impl Asking<'_> {
    /// One request with `openssl s_client`, which keeps its session in a file or takes it up.
    pub fn openssl(&self, session: (&str, &Path)) -> Seen {
        let mut command = Command::new("timeout");
        command.args([
            "30",
            "openssl",
            "s_client",
            "-ign_eof",
            "-nocommands",
            "-connect",
        ]);
        command
            .arg(self.gateway.to_string())
            .args(["-servername", self.host]);
        command.arg(self.tls.of_openssl());
        command
            .arg("-cert")
            .arg(&self.shown.leaf)
            .arg("-key")
            .arg(&self.shown.key);
        if let Some(rest) = &self.shown.rest {
            command.arg("-cert_chain").arg(rest);
        }
        command.env("OPENSSL_CONF", self.configuration);
        command.arg(session.0).arg(session.1);
        let input = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.host
        );
        let out = run(command, &input);
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        let all = format!("{self:?}:\n{stdout}\n{stderr}");
        let said = match stderr.split_once("SSL alert number ") {
            Some((_, number)) => {
                Said::Alert(number.lines().next().unwrap().trim().parse().expect(&all))
            }
            None => {
                let (_, rest) = stdout.split_once("HTTP/1.1 ").expect(&all);
                answer(rest).expect(&all)
            }
        };
        let resumed = stdout.contains("\nReused, TLSv1");
        assert!(
            resumed || matches!(said, Said::Alert(_)) || stdout.contains("\nNew, TLSv1"),
            "{all}"
        );
        Seen { resumed, said }
    }

    /// Two requests with curl, each on a connection of its own; the second takes up the session of the first if it may.
    pub fn curl(&self) -> Vec<Seen> {
        let port = self.gateway.port();
        let url = format!("https://{}:{port}{}", self.host, self.path);
        let version = self.tls.of_curl();
        let mut command = Command::new("curl");
        command.args(["-siv", "--http1.1", "--max-time", "30", "--noproxy", "*"]);
        command.args([&format!("--tlsv{version}"), "--tls-max", version]);
        command.args(["-H", "Connection: close"]);
        command
            .arg("--resolve")
            .arg(format!("{}:{port}:127.0.0.1", self.host));
        command
            .arg("--cacert")
            .arg(self.ca)
            .arg("--cert")
            .arg(&self.shown.chain)
            .arg("--key")
            .arg(&self.shown.key);
        command.args([&url, &url]);
        command.env("OPENSSL_CONF", self.configuration);
        let out = run(command, "");
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        let all = format!("{self:?}:\n{stdout}\n{stderr}");
        // Written as level and number in one: 2 is fatal.
        let number = |line: &str| {
            let (_, code) = line.split_once(" (IN), TLS alert, ")?.1.rsplit_once('(')?;
            let code: u32 = code.trim_end_matches("):").parse().ok()?;
            u8::try_from(code.checked_sub(2 << 8)?).ok()
        };
        let alerts: Vec<_> = stderr.lines().filter_map(number).map(Said::Alert).collect();
        let answers: Vec<_> = stdout
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|one| answer(one).expect(&all))
            .collect();
        let said = if answers.is_empty() { alerts } else { answers };
        assert_eq!(said.len(), 2, "{all}");
        let reused = stderr.matches("SSL re-using session ID").count();
        let resumed = |index: usize| index > 0 && reused > 0;
        said.into_iter()
            .enumerate()
            .map(|(index, said)| Seen {
                resumed: resumed(index),
                said,
            })
            .collect()
    }
}

impl Tls {
    fn of_openssl(self) -> &'static str {
        match self {
            Self::V12 => "-tls1_2",
            Self::V13 => "-tls1_3",
        }
    }

    fn of_curl(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}

impl Outcome {
    /// What a client must have seen for it.
    pub fn said(self) -> Said {
        let answer = |status, phrase: String, reason: &str| Said::Answer {
            status,
            phrase,
            reason: reason.to_owned(),
        };
        match self {
            Self::Served => answer(200, "OK".to_owned(), ""),
            Self::Refused(reason) => {
                let rest = reason.strip_prefix("certificate-").unwrap_or(reason);
                let words = rest
                    .split('-')
                    .map(|word| word[..1].to_uppercase() + &word[1..]);
                answer(
                    403,
                    format!("CMGService_ClientCertificate{}", words.collect::<String>()),
                    reason,
                )
            }
            Self::Alert(number, _) => Said::Alert(number),
        }
    }
}
