//! A reader of DER that borrows everything, for structures too long to be taken apart in memory.

use std::fmt;

/// What is not as DER (X.690) has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DerError {
    /// The bytes end before the element does.
    Truncated {
        /// The bytes that the element and what precedes it in its parent take.
        expected: usize,
        /// The bytes that are there.
        found: usize,
    },
    /// Another element was expected, by its tag.
    Unexpected {
        /// The tag that was expected.
        expected: u8,
        /// The tag that stands there; none at the end.
        found: Option<u8>,
    },
    /// A length of the form that DER forbids.
    Length,
}

impl fmt::Display for DerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { expected, found } => {
                write!(f, "an element takes {expected} bytes and has {found}")
            }
            Self::Unexpected {
                expected,
                found: Some(found),
            } => write!(f, "tag {found:#04x} stands in the place of {expected:#04x}"),
            Self::Unexpected { expected, .. } => {
                write!(f, "it ends where tag {expected:#04x} should be")
            }
            Self::Length => f.write_str("a length is not written as DER has it"),
        }
    }
}

/// One element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// Tag, length and content.
    pub(super) raw: &'a [u8],
}

/// The elements of a run of bytes, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(&'a [u8]);

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// A context tag: primitive, or with `0x20` constructed.
pub(super) const fn context(number: u8) -> u8 {
    0x80 | number
}

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element, whatever it is.
    pub(super) fn next(&mut self) -> Result<Option<Element<'a>>, DerError> {
        let Some((&tag, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        let cut = |header: usize| DerError::Truncated {
            expected: header,
            found: self.0.len(),
        };
        let &first = rest.first().ok_or_else(|| cut(2))?;
        let (length, header) = if first < 0x80 {
            (usize::from(first), 2)
        } else {
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) {
                return Err(DerError::Length);
            }
            let bytes = rest.get(1..=count).ok_or_else(|| cut(2 + count))?;
            let length = bytes
                .iter()
                .fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
            if bytes[0] == 0 || length < 0x80 {
                return Err(DerError::Length);
            }
            (length, 2 + count)
        };
        let end = header.checked_add(length).ok_or(DerError::Length)?;
        let raw = self.0.get(..end).ok_or_else(|| cut(end))?;
        self.0 = &self.0[end..];
        let content = &raw[header..];
        Ok(Some(Element { tag, content, raw }))
    }

    /// The next element, which has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        let found = self.peek();
        if found != Some(tag) {
            return Err(DerError::Unexpected {
                expected: tag,
                found,
            });
        }
        let element = self.next()?;
        element.ok_or(DerError::Unexpected {
            expected: tag,
            found,
        })
    }

    /// The content of the next element, which has this tag, as elements.
    pub(super) fn inside(&mut self, tag: u8) -> Result<Self, DerError> {
        Ok(Self(self.take(tag)?.content))
    }

    /// The next element if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        match self.peek() {
            Some(found) if found == tag => self.next(),
            Some(_) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_one_after_the_other_and_faults_are_named() {
        let mut der = Der::new(&[SEQUENCE, 3, INTEGER, 1, 7, BOOLEAN, 1, 0xff]);
        let mut inside = der.inside(SEQUENCE).unwrap();
        assert_eq!(inside.take(INTEGER).unwrap().content, [7]);
        assert!(inside.is_empty());
        assert!(der.optional(INTEGER).unwrap().is_none());
        assert_eq!(der.optional(BOOLEAN).unwrap().unwrap().raw.len(), 3);
        assert!(der.next().unwrap().is_none());

        let fault = |bytes: &[u8]| Der::new(bytes).next().unwrap_err();
        let cut = |expected, found| DerError::Truncated { expected, found };
        assert_eq!(fault(&[SEQUENCE]), cut(2, 1));
        assert_eq!(fault(&[SEQUENCE, 3, 1]), cut(5, 3));
        assert_eq!(fault(&[SEQUENCE, 0x82, 1]), cut(4, 3));
        assert_eq!(
            fault(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]),
            cut(0xffff_ffff + 6, 6)
        );
        for indefinite_or_long in [&[SEQUENCE, 0x80, 0, 0][..], &[SEQUENCE, 0x81, 3, 1, 2, 3]] {
            assert_eq!(fault(indefinite_or_long), DerError::Length);
        }
        let wrong = Der::new(&[INTEGER, 1, 7]).take(SEQUENCE).unwrap_err();
        assert_eq!(wrong.to_string(), "tag 0x02 stands in the place of 0x30");
    }
}
