//! A look at the request line of HTTP/1.1 before the parser has it: the parser cuts a fragment off and says nothing.

use memchr::memchr;

/// How far a request line has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Empty lines may come before it (RFC 9112 §2.2).
    Before,
    /// In the method, where a `#` is a letter like others.
    Method,
    /// Behind the method.
    Target,
    /// It is over.
    Past,
}

impl Line {
    /// Goes on with the next bytes; returns whether the line holds a `#` behind its method.
    pub(super) fn look(&mut self, bytes: &[u8]) -> bool {
        if *self == Self::Past {
            return false;
        }
        let mut rest = bytes;
        if *self == Self::Before {
            let blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            rest = &rest[rest.iter().take_while(blank).count()..];
            if rest.is_empty() {
                return false;
            }
            *self = Self::Method;
        }
        // Mostly there is none in the whole line, which is found out fast.
        let end = memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        if memchr(b'#', line).is_none() {
            *self = match (end, line.contains(&b' ')) {
                (Some(_), _) => Self::Past,
                (None, true) => Self::Target,
                (None, false) => *self,
            };
            return false;
        }
        for byte in rest {
            match (*self, byte) {
                (_, b'\n') => {
                    *self = Self::Past;
                    return false;
                }
                (Self::Method, b' ') => *self = Self::Target,
                (Self::Target, b'#') => return true,
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(parts: &[&str]) -> bool {
        let mut line = Line::Before;
        parts
            .iter()
            .fold(false, |found, part| line.look(part.as_bytes()) | found)
    }

    #[test]
    fn a_fragment_is_seen_in_the_request_line_only_however_it_is_cut() {
        assert!(look(&["GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n"]));
        assert!(look(&["\r\n", "\r\nGET /a", "#", "b HTTP/1.1\r\n"]));
        assert!(look(&["G#T", " /a#b"]));
        assert!(!look(&["G#", "T /a HTTP/1.1\r\n"]));
        assert!(!look(&["G#T /a HTTP/1.1\r\nX: #\r\n"]));
        assert!(!look(&["GET /a HTTP/1.1\r\nX: #\r\n\r\n"]));
        assert!(!look(&["GET /a", " HTTP/1.1\r\nX: ", "#\r\n\r\n"]));
        assert!(!look(&["\r\n", "GET /a HTTP/1.1\r\n", "#"]));
    }
}
