//! Sizes and durations as people write them: `"32 MiB"`, `"500ms"`, `"24h"`; and what counts as one address.
//!
//! Rank 0: imports nothing of this crate. Used by `settings` to read and by messages to print.

mod network;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

pub use network::Network;

const DURATION_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Parses a whole number with one unit of `ms`, `s`, `min` (or `m`), `h`, `d`; blanks between are allowed.
///
/// Returns `None` for anything else, including a number without a unit and an overflow.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor).map(Duration::from_millis)
}

/// Parses a whole number with one unit of `B`, `KiB`, `MiB`, `GiB`; blanks between are allowed.
///
/// Returns the bytes, or `None` for anything else.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Prints a duration in the largest unit that divides it, in the form [`parse_duration`] reads.
pub fn print_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (name, factor) = DURATION_UNITS
        .into_iter()
        .filter(|(name, _)| *name != "m")
        .find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor))
        .unwrap_or(("s", 1_000));
    format!("{}{name}", ms / factor)
}

/// Prints a size in the largest unit that divides it, in the form [`parse_size`] reads.
pub fn print_size(bytes: u64) -> String {
    let (name, factor) = SIZE_UNITS
        .into_iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(("B", 1));
    format!("{} {name}", bytes / factor)
}

/// What a limit per address counts: the IPv4 address, or the /64 of an IPv6 address, which one household has to itself.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_they_print() {
        for text in ["1ms", "1500ms", "30s", "10min", "36h", "7d", "0s"] {
            assert_eq!(print_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["1 B", "32 MiB", "16 KiB", "4 GiB", "0 B"] {
            assert_eq!(print_size(parse_size(text).unwrap()), text);
        }
    }

    #[test]
    fn a_number_without_a_unit_or_with_another_is_refused() {
        for text in [
            "30",
            "",
            "s",
            "-1s",
            "1.5s",
            "1 week",
            "99999999999999999999s",
            "1 s s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in [
            "30",
            "",
            "MiB",
            "-1 B",
            "1.5 MiB",
            "1 MB",
            "18446744073709551615 KiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
