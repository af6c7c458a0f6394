//! The lists in a file: DER, or PEM (RFC 7468).
//!
//! A file may be large, and nobody has vouched for it: PEM is decoded in small pieces, so that it takes three quarters of its
//! size beside itself and no more.

use std::borrow::Cow;
use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::CrlError;
use crate::pki::der::SEQUENCE;

/// How many lists a file may hold: each costs a signature, and is told of.
pub(super) const MAX_LISTS: usize = 256;

/// The lists in a file: PEM with any number of them up to 256, each once, or DER with one. Text before and between PEM is
/// passed over.
///
/// # Errors
/// What the file is instead, as far as it can be told.
pub fn read_crl_file(bytes: &[u8]) -> Result<Vec<Cow<'_, [u8]>>, CrlError> {
    // Of editors on Windows, before text.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match bytes.trim_ascii_start().first() {
        None => return Err(CrlError::Empty),
        Some(b'<') => return Err(CrlError::Html),
        Some(&SEQUENCE) if bytes[0] == SEQUENCE => return Ok(vec![Cow::Borrowed(bytes)]),
        Some(_) => {}
    }
    let (mut lists, mut seen, mut has_certificate) = (Vec::new(), HashSet::new(), false);
    let mut rest = bytes;
    while let Some(section) = next_section(&mut rest)? {
        has_certificate |= section.label == b"CERTIFICATE";
        if section.label != b"X509 CRL" {
            continue;
        }
        let der = decode(section.text)?;
        if !seen.insert(Sha256::digest(&der)) {
            continue;
        }
        if lists.len() == MAX_LISTS {
            return Err(CrlError::TooMany(MAX_LISTS));
        }
        lists.push(Cow::Owned(der));
    }
    match (lists.is_empty(), has_certificate) {
        (false, _) => Ok(lists),
        (true, true) => Err(CrlError::Certificate),
        (true, false) => Err(CrlError::NotACrl),
    }
}

struct Section<'a> {
    label: &'a [u8],
    /// Base64 with white space.
    text: &'a [u8],
}

/// Takes the next section of PEM off the text, with all before it.
fn next_section<'a>(rest: &mut &'a [u8]) -> Result<Option<Section<'a>>, CrlError> {
    const LONGEST_LABEL: usize = 64;
    let Some((_, begun)) = split(rest, b"-----BEGIN ") else {
        return Ok(None);
    };
    let label = begun.get(..LONGEST_LABEL).unwrap_or(begun);
    let (label, _) = split(label, b"-----").ok_or_else(|| malformed("it begins nothing"))?;
    let begun = &begun[label.len() + 5..];
    let (text, ended) =
        split(begun, b"-----END ").ok_or_else(|| malformed("a section has no end"))?;
    let line_end = [label, b"-----"].concat();
    *rest = ended
        .strip_prefix(&line_end[..])
        .ok_or_else(|| malformed("a section does not end as it begins"))?;
    Ok(Some(Section { label, text }))
}

/// What stands before and after the first place of a text.
fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = memchr::memmem::find(bytes, at)?;
    Some((&bytes[..start], &bytes[start + at.len()..]))
}

fn decode(text: &[u8]) -> Result<Vec<u8>, CrlError> {
    const PIECE: usize = 4096;
    let mut der = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let mut pending = Vec::with_capacity(PIECE + 3);
    let mut pieces = text.chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        pending.extend(piece.iter().filter(|byte| !byte.is_ascii_whitespace()));
        let whole = match pieces.peek() {
            Some(_) => pending.len() / 4 * 4,
            None => pending.len(),
        };
        // Padding is an end.
        let is_ended = der.len() % 3 != 0 && whole > 0;
        let decoded = STANDARD.decode_vec(&pending[..whole], &mut der);
        match decoded {
            Ok(()) if !is_ended => drop(pending.drain(..whole)),
            Ok(()) => return Err(malformed("text follows its padding")),
            Err(error) => return Err(malformed(&error.to_string())),
        }
    }
    Ok(der)
}

fn malformed(what: &str) -> CrlError {
    CrlError::Malformed(format!("its PEM cannot be read: {what}"))
}
