//! The text form of distinguished names and of dates.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use x509_parser::oid_registry::Oid;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The short names of attribute types (RFC 4514 §3, and what Windows and OpenSSL add).
const SHORT_NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "E"),
];

/// Writes a name as RFC 4514 has it: the last RDN first, special characters escaped, so that no value can pass
/// for another attribute. Control characters are escaped too, since the text reaches logs and header fields.
pub(super) fn print_name(name: &X509Name<'_>) -> String {
    let rdns: Vec<_> = name.iter_rdn().collect();
    let rdns = rdns.iter().rev().map(|rdn| {
        let attributes: Vec<_> = rdn.iter().map(print_attribute).collect();
        attributes.join("+")
    });
    rdns.collect::<Vec<_>>().join(",")
}

fn print_attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let value = match value_text(attribute) {
        Some(text) => escape(&text),
        None => format!("#{}", hex(attribute.as_slice())),
    };
    format!("{}={value}", type_text(attribute.attr_type()))
}

fn type_text(oid: &Oid<'_>) -> String {
    let dotted = oid.to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == dotted);
    short.map_or_else(|| dotted.clone(), |(_, short)| (*short).to_owned())
}

/// The value as text, if its type is a string type.
pub(super) fn value_text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    const BMP_STRING: u32 = 30;
    let value = attribute.attr_value();
    if value.tag().0 == BMP_STRING {
        let units: Vec<_> = value
            .data
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect();
        return String::from_utf16(&units).ok();
    }
    // UTF8, Numeric, Printable, T61, IA5 and Visible strings; all but the first are mostly ASCII.
    const STRINGS: [u32; 6] = [12, 18, 19, 20, 22, 26];
    STRINGS
        .contains(&value.tag().0)
        .then(|| String::from_utf8_lossy(value.data).into_owned())
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (index, c) in text.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', c]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            c if c.is_control() => {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    out.push_str(&format!("\\{byte:02x}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an instant as people and logs read it, in UTC.
pub fn print_time(time: UnixTime) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|date| date.format(format).ok())
        .unwrap_or_else(|| format!("{} s after 1970", time.as_secs()))
}

/// An instant from the seconds of a certificate; what lies before 1970 counts as 1970.
pub(super) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
