//! Serial numbers, of one width so that a million of them is one array.

use std::fmt;

/// The serial number of a certificate: at most 20 bytes (RFC 5280 §4.1.2.2), right-aligned, so that the order is that
/// of the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; Self::BYTES]);

impl Serial {
    /// The longest that a CA may give.
    pub const BYTES: usize = 20;

    /// From the content of the INTEGER; none if it is longer than a CA may make it.
    pub fn new(integer: &[u8]) -> Option<Self> {
        let zeros = integer.iter().take_while(|byte| **byte == 0).count();
        let digits = &integer[zeros..];
        let start = Self::BYTES.checked_sub(digits.len())?;
        let mut serial = [0; Self::BYTES];
        serial[start..].copy_from_slice(digits);
        Some(Self(serial))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        for byte in &self.0[zeros.min(Self::BYTES - 1)..] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_ordered_as_numbers_and_printed_without_leading_zeros() {
        let serial = |bytes: &[u8]| Serial::new(bytes).unwrap();
        assert_eq!(serial(&[0, 0xff]), serial(&[0xff]));
        assert!(serial(&[2]) < serial(&[1, 0]));
        assert_eq!(serial(&[0, 0x8a, 0]).to_string(), "8a00");
        assert_eq!(serial(&[]).to_string(), "00");
        assert!(Serial::new(&[1; 21]).is_none());
        assert!(Serial::new(&[&[0][..], &[1; 20]].concat()).is_some());
    }
}
