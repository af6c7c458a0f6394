//! The path rule: what may be forwarded byte for byte, and how a prefix matches.
//!
//! Servers behind us unescape, collapse and resolve paths in their own ways (http.sys does all three). A path
//! passes only if none of that can lead it out of the endpoint that it was matched to; what passes is never
//! rewritten. Both roles apply the same rule.

use std::fmt;

use crate::role::RoleId;

/// The longest path and query taken, in bytes; http.sys refuses a longer request line.
pub const MAX_LENGTH: usize = 16 * 1024;

/// The prefix of requests that are authenticated by a client certificate.
pub const MUTUAL_AUTH: &str = "CCM_Proxy_MutualAuth";

/// The prefix of requests that are authenticated by their endpoint's scheme.
pub const SERVER_AUTH: &str = "CCM_Proxy_ServerAuth";

const ROUNDS: usize = 3;

/// What is wrong with a path: a fixed text for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath(pub &'static str);

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadPath {}

/// An external path taken apart: `/CCM_Proxy_MutualAuth/<role id>` and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External<'p> {
    /// The prefix and the role id as the client wrote them, with the leading slash and without a trailing one.
    pub base: &'p str,
    /// Whether the prefix is [`MUTUAL_AUTH`] rather than [`SERVER_AUTH`].
    pub mutual: bool,
    /// The role.
    pub role: RoleId,
    /// The rest with its query: empty, or beginning with `/` or `?`.
    pub rest: &'p str,
}

/// Judges a path with its query (origin-form, RFC 9112 §3.2.1).
///
/// # Errors
/// The path does not begin with `/`, is too long, holds a byte that is not visible ASCII, `#`, `\`, or, after
/// percent-decoding up to three times, a `.` or `..` segment, an encoded `/` or `\`, a control byte, an overlong
/// encoding, an encoding that another round would still change, or has an empty first segment; or a `%` of the path
/// is not followed by two hexadecimal digits (RFC 3986 §2.1), which servers read in ways of their own.
pub fn check(path_and_query: &str) -> Result<(), BadPath> {
    if path_and_query.len() > MAX_LENGTH {
        return Err(BadPath("the path and query are too long"));
    }
    match is_plain(path_and_query) {
        true => Ok(()),
        false => check_closely(path_and_query),
    }
}

fn check_closely(path_and_query: &str) -> Result<(), BadPath> {
    if !path_and_query.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadPath("a byte is not visible ASCII"));
    }
    if path_and_query.contains('#') {
        return Err(BadPath("a fragment is not part of a request"));
    }
    let path = without_query(path_and_query);
    if path.contains('\\') {
        return Err(BadPath("a backslash"));
    }
    let segments = path
        .strip_prefix('/')
        .ok_or(BadPath("the path does not begin with a slash"))?;
    if segments.starts_with('/') {
        return Err(BadPath("the first segment is empty"));
    }
    segments.split('/').try_for_each(check_segment)
}

// What a byte asks for: nothing, all rules wherever it is, all rules in front of the query, a look at where the query
// begins, or one at where the dots are.
const CLOSE: u8 = 1;
const CLOSE_IN_PATH: u8 = 2;
const QUERY: u8 = 4;
const DOTS: u8 = 8;

const LOOKS: [u8; 256] = {
    let mut looks = [CLOSE; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        looks[byte as usize] = match byte {
            b'#' => CLOSE,
            b'%' | b'\\' => CLOSE_IN_PATH,
            b'?' => QUERY,
            b'.' => DOTS,
            _ => 0,
        };
        byte += 1;
    }
    looks
};

/// What all bytes ask for together. None ends the loop early: a branch for each would cost more than the table.
fn looks(text: &[u8]) -> u8 {
    text.iter()
        .fold(0, |looks, byte| looks | LOOKS[usize::from(*byte)])
}

/// Whether one look at each byte finds a path harmless, as it does most.
fn is_plain(path_and_query: &str) -> bool {
    let mut asked = looks(path_and_query.as_bytes());
    if asked & CLOSE != 0 {
        return false;
    }
    let mut path = path_and_query.as_bytes();
    if asked & QUERY != 0 && asked & (CLOSE_IN_PATH | DOTS) != 0 {
        path = without_query(path_and_query).as_bytes();
        asked = looks(path);
    }
    let begins = path.first() == Some(&b'/') && path.get(1) != Some(&b'/');
    begins && asked & CLOSE_IN_PATH == 0 && (asked & DOTS == 0 || are_names(path))
}

/// Whether every segment that begins with a dot goes on with a letter or digit: it is none of dots.
fn are_names(path: &[u8]) -> bool {
    let at = |index: usize| path.get(index).copied();
    let begins = |index: &usize| at(*index) == Some(b'/') && at(index + 1) == Some(b'.');
    let mut dotted = (0..path.len()).filter(begins);
    dotted.all(|index| at(index + 2).is_some_and(|next| next.is_ascii_alphanumeric()))
}

/// Takes a prefix of whole segments off a path, comparing ASCII letters without regard to case.
///
/// `prefix` has neither a leading nor a trailing slash. What is returned is empty or begins with `/` or `?`.
pub fn strip_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let path = path.strip_prefix('/')?;
    let (head, rest) = path.split_at_checked(prefix.len())?;
    let whole = matches!(rest.as_bytes().first(), None | Some(b'/' | b'?'));
    (whole && !prefix.is_empty() && head.eq_ignore_ascii_case(prefix)).then_some(rest)
}

/// Takes an external path apart; `None` if it has neither prefix or no role id.
pub fn external(path: &str) -> Option<External<'_>> {
    let (rest, mutual) = match strip_prefix(path, MUTUAL_AUTH) {
        Some(rest) => (rest, true),
        None => (strip_prefix(path, SERVER_AUTH)?, false),
    };
    let segment = rest.strip_prefix('/')?;
    let end = segment.bytes().position(|byte| matches!(byte, b'/' | b'?'));
    let end = end.unwrap_or(segment.len());
    let (id, rest) = segment.split_at(end);
    let base = &path[..path.len() - rest.len()];
    let role = RoleId::parse(id)?;
    Some(External {
        base,
        mutual,
        role,
        rest,
    })
}

/// The part before the query.
pub fn without_query(path_and_query: &str) -> &str {
    path_and_query
        .split_once('?')
        .map_or(path_and_query, |(path, _)| path)
}

fn check_segment(segment: &str) -> Result<(), BadPath> {
    if !segment.contains('%') {
        // It is visible ASCII without a separator: only its dots can harm.
        return check_dots(segment.as_bytes());
    }
    if !is_well_encoded(segment.as_bytes()) {
        return Err(BadPath("a percent sign without two hexadecimal digits"));
    }
    let mut current = segment.as_bytes().to_vec();
    for _ in 0..ROUNDS {
        if has_percent_u(&current) {
            return Err(BadPath("a %u encoding"));
        }
        let decoded: Vec<u8> = percent_encoding::percent_decode(&current).collect();
        check_decoded(&decoded)?;
        if decoded == current {
            return Ok(());
        }
        current = decoded;
    }
    let settled = percent_encoding::percent_decode(&current).eq(current.iter().copied());
    match settled && !has_percent_u(&current) {
        true => Ok(()),
        false => Err(BadPath("encoded more than three times")),
    }
}

fn check_dots(segment: &[u8]) -> Result<(), BadPath> {
    if !matches!(segment.first(), Some(b'.' | b' ')) {
        return Ok(());
    }
    // Some servers take what follows a semicolon for a parameter of the segment and drop it.
    let name = segment
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or(segment);
    // Windows drops blanks and dots at the end of a name, so `.. ` would be `..` there.
    if !name.is_empty() && name.iter().all(|byte| matches!(byte, b'.' | b' ')) {
        return Err(BadPath("a dot segment"));
    }
    Ok(())
}

fn check_decoded(segment: &[u8]) -> Result<(), BadPath> {
    check_dots(segment)?;
    if segment.iter().any(|byte| matches!(byte, b'/' | b'\\')) {
        return Err(BadPath("an encoded separator"));
    }
    if segment.iter().any(u8::is_ascii_control) {
        return Err(BadPath("a control byte"));
    }
    if segment.windows(2).any(is_overlong) {
        return Err(BadPath("an overlong encoding"));
    }
    Ok(())
}

fn is_well_encoded(segment: &[u8]) -> bool {
    let mut parts = segment.split(|byte| *byte == b'%').skip(1);
    parts.all(|part| part.len() >= 2 && part[..2].iter().all(u8::is_ascii_hexdigit))
}

/// `%uXXXX`, which http.sys decodes and RFC 3986 does not know.
fn has_percent_u(segment: &[u8]) -> bool {
    segment.windows(6).any(|window| {
        window[0] == b'%'
            && window[1].eq_ignore_ascii_case(&b'u')
            && window[2..].iter().all(u8::is_ascii_hexdigit)
    })
}

/// The first two bytes of a UTF-8 sequence that is longer than its character needs (RFC 3629 §3): lenient
/// decoders turn such a sequence into a separator or a dot.
fn is_overlong(pair: &[u8]) -> bool {
    matches!(
        pair,
        [0xC0 | 0xC1, 0x80..=0xBF] | [0xE0, 0x80..=0x9F] | [0xF0, 0x80..=0x8F]
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_paths_of_configmgr_pass() {
        for path in [
            "/CCM_Proxy_MutualAuth/72057594037927937/SMS_MP/.sms_aut?MPLIST2&CM1",
            "/SMS_MP/.sms_pol?{0E38FF7D-9B31-4B5C-A0E2-3C0E6C9A1A11}.SHA256:AB12",
            "/Content/8A/0102030405.cab",
            "/SMS_MP/.sms_aut?a=..%2f..%5c\\",
            "/CCM_Incoming/%7BA1%7D/100%25",
            "/a/%C3%A4/b//c",
            "/a/...b",
            "/",
        ] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn what_a_server_behind_could_lead_elsewhere_is_refused() {
        for path in [
            "",
            "*",
            "a",
            "http://h/",
            "//a",
            "/a/../b",
            "/a/..%20/b",
            "/a/.../b",
            "/a/%20.",
            "/a/.",
            "/a/./b",
            "/a/%2e%2E/b",
            "/a/%252e%252e/b",
            "/a/%25252e./b",
            "/a/%2525252e%2525252e/b",
            "/a/..;x=1/b",
            "/a/..%3bx/b",
            "/a/..%5cb",
            "/a\\b",
            "/a/%2fb",
            "/a/%252Fb",
            "/a/%00",
            "/a/%0d%0a",
            "/a/%7f",
            "/a/%u002e%u002e/b",
            "/a/%zz",
            "/a/100%",
            "/a/%4/b",
            "/a/%25u002e/b",
            "/a/%c0%ae%c0%ae/b",
            "/a/%e0%80%af",
            "/a#b",
            "/a?b#c",
            "/a b",
            "/\u{e4}",
        ] {
            assert!(check(path).is_err(), "{path}");
        }
        assert!(check(&format!("/{}", "a".repeat(MAX_LENGTH))).is_err());
    }

    #[test]
    fn a_prefix_matches_whole_segments_without_regard_to_case() {
        assert_eq!(
            strip_prefix("/ccm_SYSTEM/request", "CCM_System"),
            Some("/request")
        );
        assert_eq!(strip_prefix("/CCM_System?x", "CCM_System"), Some("?x"));
        assert_eq!(strip_prefix("/CCM_System", "CCM_System"), Some(""));
        assert_eq!(strip_prefix("/a/B/c", "A/b"), Some("/c"));
        assert_eq!(strip_prefix("/CCM_System_TokenAuth", "CCM_System"), None);
        assert_eq!(strip_prefix("/CCM_Syste", "CCM_System"), None);
        assert_eq!(strip_prefix("CCM_System", "CCM_System"), None);
        assert_eq!(strip_prefix("/x", ""), None);
        assert_eq!(strip_prefix("/\u{e4}\u{e4}", "abc"), None);
    }

    #[test]
    fn an_external_path_is_taken_apart_into_base_role_and_rest() {
        let found = external("/ccm_proxy_mutualauth/72057594037927937/SMS_MP/x?y").unwrap();
        assert_eq!(found.base, "/ccm_proxy_mutualauth/72057594037927937");
        assert_eq!(found.rest, "/SMS_MP/x?y");
        assert!(found.mutual);
        assert_eq!(found.role, RoleId::new(72_057_594_037_927_937));
        let found = external("/CCM_Proxy_ServerAuth/5").unwrap();
        assert_eq!((found.rest, found.mutual), ("", false));
        for path in [
            "/CCM_Proxy_ServerAuth",
            "/CCM_Proxy_ServerAuth/",
            "/CCM_Proxy_ServerAuth/05/x",
            "/x/5/y",
        ] {
            assert_eq!(external(path), None, "{path}");
        }
    }

    /// The most that a server may do to a path: decode until nothing changes, turn backslashes, drop empty
    /// segments and parameters, resolve dots.
    fn canonical(path: &str) -> Option<Vec<String>> {
        let mut bytes = without_query(path).as_bytes().to_vec();
        for _ in 0..8 {
            bytes = percent_encoding::percent_decode(&bytes).collect();
        }
        let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
        let mut out: Vec<String> = Vec::new();
        for segment in text.split('/') {
            match segment.split(';').next().unwrap_or_default() {
                "" | "." => {}
                ".." => {
                    out.pop()?;
                }
                segment => out.push(segment.to_ascii_lowercase()),
            }
        }
        Some(out)
    }

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[a-zA-Z0-9._;%{}]{0,6}",
            1 => Just("/".to_owned()),
            1 => Just("..".to_owned()),
            1 => Just("%2e".to_owned()),
            1 => Just("%252e".to_owned()),
            1 => Just("%25".to_owned()),
            1 => Just("2f".to_owned()),
            1 => Just("%5C".to_owned()),
            1 => Just("%00".to_owned()),
            1 => "\\PC{0,3}",
        ]
    }

    proptest! {
        #[test]
        fn what_is_plain_at_one_look_passes_all_rules(pieces in prop::collection::vec(piece(), 0..12)) {
            let path = format!("/{}", pieces.concat());
            if is_plain(&path) {
                prop_assert_eq!(check_closely(&path), Ok(()));
            }
        }

        #[test]
        fn what_passes_lies_under_its_endpoint_in_canonical_form(pieces in prop::collection::vec(piece(), 0..12)) {
            let path = format!("/CCM_System/{}", pieces.concat());
            if check(&path).is_ok() {
                let canonical = canonical(&path);
                prop_assert!(
                    canonical.as_ref().is_some_and(|segments| segments.first().is_some_and(|s| s == "ccm_system")),
                    "{path} became {canonical:?}"
                );
            }
        }
    }
}
