//! The report of a status: what is wrong first, then what there is. Works on the document alone.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::check::count;
use crate::pki::{UnixTime, print_time};

/// A report of a gateway's or connection point's `/status`, in lines.
///
/// Names in it come from certificates and from peers: what could steer a terminal is replaced.
pub(super) fn of(status: &Value, now: UnixTime) -> String {
    let mut out = Report(String::new());
    let is_gateway = status["role"] == "gateway";
    let service = match is_gateway {
        true => format!(
            " {}, instance {}",
            text(&status["service"]),
            number(&status["instance"]["index"])
        ),
        false => String::new(),
    };
    let kind = if is_gateway {
        "gateway"
    } else {
        "connection point"
    };
    let (version, up) = (text(&status["version"]), span(number(&status["uptime_s"])));
    out.line(format!("{kind}{service}: version {version}, up {up}"));
    out.line(match status["draining"] == true {
        true => "it is draining: it takes no new work".to_owned(),
        false => "it takes work".to_owned(),
    });
    out.section("Needs attention", attention(status, is_gateway, now));
    out.section("Tunnels", rows(&status["tunnels"], tunnel));
    out.section(
        "Roles",
        rows(&status["roles"], |role| one_role(role, status)),
    );
    if is_gateway {
        out.section("Trust", trust(&status["trust"], now));
    }
    out.section("Listens", listens(&status["addresses"]));
    out.0
}

struct Report(String);

impl Report {
    fn line(&mut self, line: impl AsRef<str>) {
        // Writing to a string never fails.
        let _ = writeln!(self.0, "{}", line.as_ref());
    }

    fn section(&mut self, title: &str, lines: Vec<String>) {
        if title == "Listens" && lines.is_empty() {
            return;
        }
        self.line(format!("\n{title}"));
        if lines.is_empty() {
            self.line("  nothing");
        }
        for line in lines {
            self.line(format!("  {line}"));
        }
    }
}

/// What keeps, or soon will keep, somebody from being served.
fn attention(status: &Value, is_gateway: bool, now: UnixTime) -> Vec<String> {
    let mut lines = Vec::new();
    if list(&status["tunnels"]).is_empty() {
        lines.push(match is_gateway {
            true => "no connection point has a tunnel: every request is answered 503".to_owned(),
            false => "no tunnel to any gateway: nothing is published".to_owned(),
        });
    } else if is_gateway {
        let lost = |role: &&Value| serving(role, status) == 0;
        let lost = list(&status["roles"]).iter().filter(lost);
        lines.extend(lost.map(|role| format!("no tunnel serves the role {}", id(role))));
    }
    if !is_gateway {
        let ill = list(&status["roles"])
            .iter()
            .filter(|role| role["healthy"] != true);
        lines.extend(ill.map(|role| format!("the backend of the role {} is unhealthy", id(role))));
    }
    let revocation = &status["trust"]["revocation"];
    let stale = list(&revocation["crls"])
        .iter()
        .filter(|crl| crl["stale"] == true);
    lines.extend(stale.map(|crl| {
        let late = now.as_secs().saturating_sub(number(&crl["next_update"]));
        format!(
            "the CRL of {} is stale since {}",
            text(&crl["issuer"]),
            span(late)
        )
    }));
    let pending = list(&revocation["pending"]).iter();
    lines.extend(pending.map(|title| {
        let title = text(title);
        format!("{title} is from the future: is a clock wrong, here or at its CA?")
    }));
    let failing = list(&revocation["fetched"])
        .iter()
        .filter(|place| number(&place["failures"]) > 0);
    lines.extend(failing.map(|place| {
        format!(
            "a CRL{} cannot be fetched ({} in a row): {}",
            of_issuers(place),
            many(number(&place["failures"]), "time"),
            text(&place["last_error"])
        )
    }));
    lines.extend(
        list(&status["alerts"])
            .iter()
            .map(|alert| expiring(alert, now)),
    );
    lines
}

fn expiring(alert: &Value, now: UnixTime) -> String {
    let ends = number(&alert["ends"]);
    let when = match ends.checked_sub(now.as_secs()) {
        Some(left) => format!("ends in {} ({})", span(left), time(ends)),
        None => format!("has ended ({})", time(ends)),
    };
    let (what, name, breaks) = (
        text(&alert["use"]),
        text(&alert["name"]),
        text(&alert["breaks"]),
    );
    format!("{what} {name} {when}: {breaks}")
}

fn tunnel(tunnel: &Value) -> String {
    let peer = ["connection_point", "gateway"].map(|key| text(&tunnel[key]));
    let peer = peer.concat();
    let instance = match tunnel["instance"].as_u64() {
        Some(index) => format!(" instance {index}"),
        None => String::new(),
    };
    let draining = if tunnel["draining"] == true {
        ", draining"
    } else {
        ""
    };
    format!(
        "{peer}{instance} ({}): up {}, {} and {} under way, {}{draining}",
        text(&tunnel["remote"]),
        span(number(&tunnel["age_s"])),
        many(number(&tunnel["in_flight"]), "request"),
        many(number(&tunnel["long_polls"]), "long poll"),
        count(list(&tunnel["roles"]).len(), "role"),
    )
}

fn one_role(role: &Value, status: &Value) -> String {
    if let Some(healthy) = role["healthy"].as_bool() {
        let health = if healthy { "healthy" } else { "unhealthy" };
        return format!("{}: {health}", id(role));
    }
    let names = list(&role["connection_points"]).iter().map(text);
    format!(
        "{} ({}): served by {}, of {}",
        id(role),
        text(&role["kind"]),
        count(serving(role, status), "tunnel"),
        names.collect::<Vec<_>>().join(", ")
    )
}

/// How many tunnels take requests for a role.
fn serving(role: &Value, status: &Value) -> usize {
    let id = id(role);
    let serves = |tunnel: &&Value| {
        tunnel["draining"] != true && list(&tunnel["roles"]).iter().any(|role| text(role) == id)
    };
    list(&status["tunnels"]).iter().filter(serves).count()
}

fn trust(trust: &Value, now: UnixTime) -> Vec<String> {
    let revocation = &trust["revocation"];
    let mut lines = vec![
        format!(
            "generation {}, {} with a verified certificate",
            number(&trust["generation"]),
            many(number(&trust["live"]), "connection")
        ),
        match revocation["checked"] == true {
            true => "revocation is checked".to_owned(),
            false => "revocation is not checked".to_owned(),
        },
    ];
    for crl in list(&revocation["crls"]) {
        lines.push(one_crl(crl, now));
        if let Some(error) = crl["last_error"].as_str() {
            lines.push(format!("  last error: {}", clean(error)));
        }
    }
    lines.extend(list(&revocation["fetched"]).iter().map(place));
    lines
}

fn one_crl(crl: &Value, now: UnixTime) -> String {
    let next = number(&crl["next_update"]);
    let due = match next.checked_sub(now.as_secs()) {
        Some(left) => format!("next update in {}", span(left)),
        None => "next update overdue".to_owned(),
    };
    let title = match crl["number"].as_str() {
        Some(number) => format!("CRL {} ", clean(number)),
        None => "CRL ".to_owned(),
    };
    format!(
        "{title}of {} (key {}): {} revoked, {} old, {due} ({})",
        text(&crl["issuer"]),
        text(&crl["key"]),
        number(&crl["entries"]),
        span(number(&crl["age_s"])),
        time(next)
    )
}

fn place(place: &Value) -> String {
    let failures = number(&place["failures"]);
    let how = match (failures, list(&place["issuers"]).is_empty()) {
        (0, true) => "not fetched yet".to_owned(),
        (0, false) => "well".to_owned(),
        (failures, _) => format!("failed {} in a row", many(failures, "time")),
    };
    let next = match place["next_attempt_s"].as_u64() {
        Some(seconds) => format!(", asked again in {}", span(seconds)),
        None => String::new(),
    };
    let from = match text(&place["url"]) {
        url if url.is_empty() => "no place to fetch from".to_owned(),
        url => format!("fetched from {url}"),
    };
    format!("{from}{}: {how}{next}", of_issuers(place))
}

fn of_issuers(place: &Value) -> String {
    let issuers: Vec<_> = list(&place["issuers"]).iter().map(text).collect();
    match issuers.is_empty() {
        true => String::new(),
        false => format!(" of {}", issuers.join(" and ")),
    }
}

fn listens(addresses: &Value) -> Vec<String> {
    let all = addresses.as_object().into_iter().flatten();
    let line = |(key, value): (&String, &Value)| {
        let addresses = match value.as_array() {
            Some(all) => all.iter().map(text).collect::<Vec<_>>().join(", "),
            None => text(value),
        };
        (!addresses.is_empty()).then(|| format!("{}: {addresses}", clean(key)))
    };
    all.filter_map(line).collect()
}

fn rows(value: &Value, line: impl Fn(&Value) -> String) -> Vec<String> {
    list(value).iter().map(line).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn id(role: &Value) -> String {
    text(&role["id"])
}

fn many(number: u64, what: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), what)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A string without control characters; nothing for any other value.
fn text(value: &Value) -> String {
    value.as_str().map(clean).unwrap_or_default()
}

fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn time(seconds: u64) -> String {
    print_time(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        seconds,
    )))
}

/// A span of seconds in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn report(status: &Value) -> String {
        of(status, UnixTime::since_unix_epoch(Duration::from_secs(NOW)))
    }

    #[test]
    fn what_is_wrong_with_a_gateway_stands_first() {
        let status = json!({
            "role": "gateway", "service": "gw.contoso.com", "version": "1.2.3", "uptime_s": 11_100,
            "instance": {"index": 3}, "draining": false,
            "addresses": {"client": ["[::]:443"], "tunnel": [], "health": null, "admin": "127.0.0.1:9440"},
            "trust": {"generation": 4, "live": 120, "revocation": {
                "checked": true,
                "crls": [
                    {"issuer": "CN=A", "key": "aa", "number": "02", "entries": 17, "age_s": 90_000,
                     "next_update": NOW - 7_200, "stale": true, "last_error": "cannot be reached: refused"},
                ],
                "pending": ["the CRL number 9 of CN=F"],
                "fetched": [
                    {"url": "http://a/a.crl", "issuers": ["CN=A"], "failures": 2,
                     "last_error": "cannot be reached: refused", "next_attempt_s": 30},
                    {"url": "http://b/b.crl", "issuers": [], "failures": 0, "next_attempt_s": 0},
                ],
            }},
            "alerts": [{"use": "server", "name": "\"CN=gw\"", "ends": NOW + 3 * 86_400, "breaks": "all refuse it"}],
            "roles": [
                {"id": "1", "kind": "management-point", "connection_points": ["cp-1", "cp-2"]},
                {"id": "2", "kind": "web", "connection_points": ["cp-2"]},
            ],
            "tunnels": [
                {"connection_point": "cp-1", "remote": "192.0.2.7:5000", "age_s": 59, "in_flight": 2,
                 "long_polls": 5, "draining": false, "roles": ["1"]},
                {"connection_point": "cp-2", "remote": "192.0.2.8:5000", "age_s": 3_599, "in_flight": 0,
                 "long_polls": 0, "draining": true, "roles": ["1", "2"]},
            ],
        });
        assert_eq!(
            report(&status),
            "\
gateway gw.contoso.com, instance 3: version 1.2.3, up 3 h 5 min
it takes work

Needs attention
  no tunnel serves the role 2
  the CRL of CN=A is stale since 2 h 0 min
  the CRL number 9 of CN=F is from the future: is a clock wrong, here or at its CA?
  a CRL of CN=A cannot be fetched (2 times in a row): cannot be reached: refused
  server \"CN=gw\" ends in 3 d 0 h (2027-01-18 08:00:00 UTC): all refuse it

Tunnels
  cp-1 (192.0.2.7:5000): up 59 s, 2 requests and 5 long polls under way, 1 role
  cp-2 (192.0.2.8:5000): up 59 min, 0 requests and 0 long polls under way, 2 roles, draining

Roles
  1 (management-point): served by 1 tunnel, of cp-1, cp-2
  2 (web): served by 0 tunnels, of cp-2

Trust
  generation 4, 120 connections with a verified certificate
  revocation is checked
  CRL 02 of CN=A (key aa): 17 revoked, 1 d 1 h old, next update overdue (2027-01-15 06:00:00 UTC)
    last error: cannot be reached: refused
  fetched from http://a/a.crl of CN=A: failed 2 times in a row, asked again in 30 s
  fetched from http://b/b.crl: not fetched yet, asked again in 0 s

Listens
  admin: 127.0.0.1:9440
  client: [::]:443
"
        );
    }

    #[test]
    fn a_connection_point_without_tunnels_says_so_and_no_name_steers_the_terminal() {
        let status = json!({
            "role": "connection-point", "version": "1.2.3", "uptime_s": 200_000, "draining": true, "tunnels": [],
            "alerts": [{"use": "gateway-ca", "name": "\u{1b}[2Jx\nNeeds", "ends": NOW - 1, "breaks": "y"}],
            "roles": [{"id": "1", "healthy": false}],
        });
        assert_eq!(
            report(&status),
            "\
connection point: version 1.2.3, up 2 d 7 h
it is draining: it takes no new work

Needs attention
  no tunnel to any gateway: nothing is published
  the backend of the role 1 is unhealthy
  gateway-ca \u{fffd}[2Jx\u{fffd}Needs has ended (2027-01-15 07:59:59 UTC): y

Tunnels
  nothing

Roles
  1: unhealthy
"
        );
    }
}
