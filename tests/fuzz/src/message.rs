//! Paths, header fields, and what a connection point publishes.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opencmg::message::{headers, path};
use opencmg::metrics::Metrics;
use opencmg::role::{Kind, RoleId, endpoints_of};
use opencmg::routing::{RoleSettings, Route, Routes};
use std::sync::LazyLock;

/// A management point and a software update point, the first also at the root of a host.
pub fn routes(metrics: &Metrics) -> Routes {
    let role = |id, kind, root_host: Option<&str>| RoleSettings {
        id: RoleId::new(id),
        kind,
        endpoints: endpoints_of(kind),
        connection_points: vec!["cp-1".to_owned()],
        root_host: root_host.map(str::to_owned),
        via: false,
        client_certificate: headers::CertificateFields::None,
        rate_per_address: None,
    };
    let roles = vec![
        role(1, Kind::ManagementPoint, Some("mp.test")),
        role(2, Kind::SoftwareUpdatePoint, None),
    ];
    Routes::build("gw.test", roles, metrics).expect("good roles")
}

static ROUTES: LazyLock<Routes> = LazyLock::new(|| routes(&Metrics::new()));

/// Where a target leads: what passes the rule lies under its endpoint, however often it is decoded.
pub fn routing(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else {
        return;
    };
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if path::check(target).is_err() {
        return;
    }
    let before = place(target);
    let mut decoded = path::without_query(target).as_bytes().to_vec();
    for _ in 0..4 {
        decoded = unescape(&decoded);
        let canonical = canonical(&decoded);
        // What is no text is no path of ours.
        if let (Some(before), Ok(text)) = (&before, std::str::from_utf8(&canonical)) {
            assert!(
                text.to_ascii_lowercase()
                    .starts_with(&before.to_ascii_lowercase()),
                "{target:?} leads to {text:?}, not below {before:?}"
            );
        }
    }
}

/// The path up to the endpoint that a target leads to.
fn place(target: &str) -> Option<String> {
    let Some(Route::Endpoint(published, _)) = ROUTES.resolve("mp.test", target) else {
        return None;
    };
    let external = path::external(target).map_or("", |external| external.base);
    let name = &published.endpoint.name;
    let whole = format!("{external}/{name}");
    assert!(
        target.get(..whole.len())?.eq_ignore_ascii_case(&whole),
        "{target:?} is not at {whole:?}"
    );
    Some(whole)
}

fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|two| std::str::from_utf8(two).ok());
        let code = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The path without its dot segments, as a server behind us may see it.
fn canonical(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.join(&b'/')
}

/// Header fields one a line, on their way through; the first line is the host that `Forwarded` names.
pub fn fields(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let host = lines.next().unwrap_or_default();
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(0));
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            let _ = fields.try_append(name, value);
        }
    }
    let mark = HeaderValue::from_static("gw.test");
    let _ = headers::came_through(&fields, &mark);
    let mut answer = fields.clone();
    let passing = headers::Passing {
        our_word: false,
        trailers: false,
    };
    headers::strip_response(&mut answer, passing);
    assert!(!answer.contains_key(&headers::PROXY_STATUS));
    headers::hide_details(&mut answer);
    let before = fields.remove(&headers::SERVICE);
    let present = headers::Present::of(&fields);
    headers::strip_request(&mut fields, present);
    for name in fields.keys() {
        let name = name.as_str().replace('_', "-");
        let ours = ["opencmg-", "x-forwarded-", "client-cert", "x-ssl-"];
        assert!(
            !ours.iter().any(|ours| name.starts_with(ours)),
            "{name} passed"
        );
        let hop = [
            "connection",
            "keep-alive",
            "transfer-encoding",
            "upgrade",
            "forwarded",
        ];
        assert!(!hop.contains(&name.as_str()), "{name} passed");
    }
    headers::set_service(&mut fields, before, &mark);
    assert!(headers::came_through(&fields, &mark));
    if let Ok(host) = http::uri::Authority::try_from(host) {
        let client = headers::ClientConnection::new(7, [192, 0, 2, 1].into());
        client.set_origin(&mut fields, &headers::RequestId::random());
        let origin = headers::Origin::take(&mut fields).expect("it was just set");
        let present = headers::Present::of(&fields);
        origin.write_out(&mut fields, host.as_str(), present);
        let forwarded = &fields["forwarded"];
        let text = forwarded.to_str().expect("visible ASCII");
        let inner = text.strip_prefix("for=192.0.2.1;host=\"");
        let inner = inner.and_then(|rest| rest.strip_suffix("\";proto=https"));
        assert!(
            inner.is_some_and(|host| !host.contains(['"', '\\'])),
            "{text}"
        );
    }
}

/// A line of what a connection point publishes: what is understood is said again in the same way.
pub fn roles(bytes: &[u8]) {
    if let Ok((line, _)) = opencmg::tunnel::RolesLine::parse(bytes) {
        let again = serde_json::to_vec(&line).expect("JSON");
        let (same, lost) = opencmg::tunnel::RolesLine::parse(&again).expect("our own line");
        assert_eq!((same, lost), (line, 0));
    }
}
