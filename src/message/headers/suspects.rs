//! Names that may have to go from a head, told by their first two letters: few of a message do, and only those are looked at
//! closely.

use super::{HOP_BY_HOP, from_clients};

/// What [`super::strip`] compares for a head besides the two lists.
const OTHERS: &[&str] = &["content-length", "opencmg-", "trailer", "x-request-id"];

/// For each first letter the second letters that a list has after it, a bit for each.
const SECONDS: [u32; 26] = {
    let mut seconds = [0; 26];
    let lists = [HOP_BY_HOP, from_clients::NAMES, OTHERS];
    let mut list = 0;
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            let name = lists[list][at].as_bytes();
            seconds[(name[0] - b'a') as usize] |= second(name[1]);
            at += 1;
        }
        list += 1;
    }
    seconds
};

/// The bit of a second letter. Digits share one, as do all bytes that stand for `-`.
const fn second(byte: u8) -> u32 {
    match byte {
        // In a list it stands for any letter.
        b'*' => u32::MAX,
        b'a'..=b'z' => 1 << (byte - b'a'),
        b'0'..=b'9' => 1 << 26,
        _ => 1 << 27,
    }
}

/// Whether a name, in lower case, may be one of the lists in some spelling. None of theirs is shorter than two letters or
/// begins with anything else than one.
pub(super) fn contain(name: &str) -> bool {
    match name.as_bytes() {
        [first @ b'a'..=b'z', next, ..] => SECONDS[usize::from(first - b'a')] & second(*next) != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // That no name is forgotten here is asserted where names are compared.
    #[test]
    fn every_name_of_the_lists_is_suspect_in_every_spelling() {
        for name in [HOP_BY_HOP, from_clients::NAMES, OTHERS].concat() {
            for dash in ["-", "_", ".", "~", "!"] {
                let name = name.replace('-', dash);
                assert!(contain(&name), "{name}");
            }
        }
        for name in [
            "accept",
            "host",
            "user-agent",
            "date",
            "server",
            "etag",
            "x",
            "_x",
        ] {
            assert!(!contain(name), "{name}");
        }
    }
}
