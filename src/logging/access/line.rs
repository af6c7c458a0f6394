//! One request as a line of the access log.

use std::fmt::{self, Display, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::AccessFormat;
use crate::reason::Reason;

/// What is written of one request. Text from peers may hold anything; it is escaped here.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When its head was read.
    pub time: OffsetDateTime,
    /// The id that all hops log.
    pub request_id: &'a str,
    /// Whose connection it came on.
    pub remote: IpAddr,
    /// The name in the client's verified certificate.
    pub client: Option<&'a str>,
    /// Role and endpoint that it was resolved to; at a connection point the role only.
    pub endpoint: Option<(&'a str, &'a str)>,
    /// The method.
    pub method: &'a str,
    /// The path with its query, as it was sent.
    pub path: &'a str,
    /// The status that was sent; `None` if no head was.
    pub status: Option<u16>,
    /// Why it was refused or failed.
    pub reason: Option<Reason>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// From the head to the end of the response.
    pub duration: Duration,
    /// The connection point whose tunnel carried it.
    pub connection_point: Option<&'a str>,
}

#[derive(Serialize)]
struct Json<'a> {
    time: &'a str,
    request_id: &'a str,
    remote: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    bytes_in: u64,
    bytes_out: u64,
    duration_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_point: Option<&'a str>,
}

impl Entry<'_> {
    /// The line without its end.
    pub(super) fn line(&self, format: AccessFormat) -> String {
        let time = self.time.format(&Rfc3339).unwrap_or_default();
        match format {
            AccessFormat::Text => self.text(&time).unwrap_or_default(),
            AccessFormat::Json => serde_json::to_string(&self.json(&time)).unwrap_or_default(),
        }
    }

    fn text(&self, time: &str) -> Result<String, fmt::Error> {
        let mut line = String::with_capacity(256 + self.path.len());
        let out = &mut line;
        write!(out, "time={time} request_id={}", self.request_id)?;
        write!(out, " remote={}", self.remote)?;
        quoted(out, "client", self.client)?;
        bare(out, "role", self.endpoint.map(|(role, _)| role))?;
        quoted(out, "endpoint", self.endpoint.map(|(_, endpoint)| endpoint))?;
        bare(out, "method", Some(self.method))?;
        quoted(out, "path", Some(self.path))?;
        bare(out, "status", self.status)?;
        bare(out, "reason", self.reason)?;
        write!(
            out,
            " bytes_in={} bytes_out={}",
            self.bytes_in, self.bytes_out
        )?;
        write!(out, " duration_s={:.6}", self.duration.as_secs_f64())?;
        quoted(out, "connection_point", self.connection_point)?;
        Ok(line)
    }

    fn json<'a>(&'a self, time: &'a str) -> Json<'a> {
        Json {
            time,
            request_id: self.request_id,
            remote: self.remote,
            client: self.client,
            role: self.endpoint.map(|(role, _)| role),
            endpoint: self.endpoint.map(|(_, endpoint)| endpoint),
            method: self.method,
            path: self.path,
            status: self.status,
            reason: self.reason.map(Reason::as_str),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration_s: self.duration.as_secs_f64(),
            connection_point: self.connection_point,
        }
    }
}

fn bare(out: &mut String, key: &str, value: Option<impl Display>) -> fmt::Result {
    match value {
        Some(value) => write!(out, " {key}={value}"),
        None => Ok(()),
    }
}

fn quoted(out: &mut String, key: &str, value: Option<&str>) -> fmt::Result {
    match value {
        // The escapes of Rust's debug form leave no quote, line end or control byte as it is.
        Some(value) => write!(out, " {key}={value:?}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use time::macros::datetime;

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            time: datetime!(2026-03-09 12:05:01.042 UTC),
            request_id: "6f1e",
            remote: Ipv4Addr::LOCALHOST.into(),
            client: Some("pc-1.corp"),
            endpoint: Some(("72057594037927937", "SMS_MP")),
            method: "GET",
            path: "/CCM_Proxy_MutualAuth/72057594037927937/SMS_MP/.sms_aut?MPLIST",
            status: Some(200),
            reason: None,
            bytes_in: 0,
            bytes_out: 512,
            duration: Duration::from_micros(1500),
            connection_point: Some("cp-1"),
        }
    }

    #[test]
    fn a_text_line_names_the_request_by_words() {
        assert_eq!(
            entry().line(AccessFormat::Text),
            "time=2026-03-09T12:05:01.042Z request_id=6f1e remote=127.0.0.1 client=\"pc-1.corp\" \
             role=72057594037927937 endpoint=\"SMS_MP\" method=GET \
             path=\"/CCM_Proxy_MutualAuth/72057594037927937/SMS_MP/.sms_aut?MPLIST\" status=200 \
             bytes_in=0 bytes_out=512 duration_s=0.001500 connection_point=\"cp-1\""
        );
    }

    #[test]
    fn a_json_line_has_the_same_words() {
        let line = Entry {
            status: None,
            reason: Some(Reason::ClientGone),
            ..entry()
        }
        .line(AccessFormat::Json);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["reason"], "client-gone");
        assert_eq!(read["role"], "72057594037927937");
        assert_eq!(read["duration_s"], 0.0015);
        assert_eq!(read.get("status"), None);
    }

    #[test]
    fn text_from_a_peer_cannot_forge_a_line_or_a_field() {
        let forged = Entry {
            client: Some("a\" status=200\nb"),
            path: "/\u{1b}[2J\r\nrequest_id=0",
            ..entry()
        };
        for format in [AccessFormat::Text, AccessFormat::Json] {
            let line = forged.line(format);
            assert!(!line.contains(char::is_control), "{line}");
        }
        let text = forged.line(AccessFormat::Text);
        assert!(text.contains("client=\"a\\\" status=200\\nb\""), "{text}");
    }
}
