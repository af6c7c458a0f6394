//! The structure of a list (RFC 5280 §5.1), read in place: a million entries are walked, never collected.

use rustls_pki_types::UnixTime;
use x509_parser::prelude::{ASN1Time, FromDer, X509Name};

use super::{CrlError, Scope};
use crate::pki::Serial;
use crate::pki::der::{
    BIT_STRING, BOOLEAN, Der, DerError, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, SEQUENCE,
    UTC_TIME, context,
};
use crate::pki::name::{print_name, unix_time};

const CONSTRUCTED: u8 = 0x20;

/// The OIDs of extensions, as their content.
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const DELTA_INDICATOR: &[u8] = &[0x55, 0x1d, 0x1b];
const ISSUING_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// Of Microsoft: when the CA publishes the next list, which is before this one goes stale.
const NEXT_PUBLISH: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x15, 0x04];

/// A list as it is written. Nothing of it is verified.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    /// What the signature is over.
    pub(super) signed: &'a [u8],
    /// The content of its AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) issuer_der: &'a [u8],
    pub(super) issuer: String,
    pub(super) this_update: UnixTime,
    pub(super) next_update: UnixTime,
    pub(super) next_publish: Option<UnixTime>,
    pub(super) number: Option<Serial>,
    pub(super) scope: Scope,
    /// How many entries there are.
    pub(super) entries: usize,
    revoked: Der<'a>,
}

/// What the extensions say.
struct Extensions {
    number: Option<Serial>,
    next_publish: Option<UnixTime>,
    scope: Scope,
}

impl<'a> Parsed<'a> {
    /// Takes a list apart and walks its entries once.
    ///
    /// # Errors
    /// What is not as it should be, or that it is of a kind that is passed over.
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, CrlError> {
        let mut outer = Der::new(der);
        let mut list = match outer.inside(SEQUENCE) {
            Err(DerError::Truncated { expected, found }) => {
                return Err(CrlError::Truncated { expected, found });
            }
            Err(DerError::Unexpected { .. }) => return Err(CrlError::NotACrl),
            other => other?,
        };
        if !outer.is_empty() {
            return Err(malformed("bytes follow it"));
        }
        let tbs = list.take(SEQUENCE)?;
        let algorithm = list.take(SEQUENCE)?.content;
        let Some((0, signature)) = list.take(BIT_STRING)?.content.split_first() else {
            return Err(malformed("its signature is not whole bytes"));
        };
        let mut fields = Der::new(tbs.content);
        // A certificate begins with [0].
        if fields.peek() == Some(context(0) | CONSTRUCTED) {
            return Err(CrlError::Certificate);
        }
        fields.optional(INTEGER)?;
        if fields.take(SEQUENCE)?.content != algorithm {
            return Err(malformed("it names two algorithms of its signature"));
        }
        let issuer_der = fields.take(SEQUENCE)?.raw;
        let (_, issuer) = X509Name::from_der(issuer_der)
            .map_err(|error| malformed(&format!("its issuer cannot be read: {error}")))?;
        let this_update = time(&mut fields)?.ok_or_else(|| malformed("it has no date"))?;
        let next_update = time(&mut fields)?.ok_or_else(|| {
            malformed("it does not say when the next one comes (nextUpdate), so that it could be believed for ever")
        })?;
        let revoked = fields.optional(SEQUENCE)?;
        let revoked = Der::new(revoked.map_or(&[], |list| list.content));
        let extensions = match fields.optional(context(0) | CONSTRUCTED)? {
            Some(explicit) => Extensions::parse(Der::new(explicit.content).inside(SEQUENCE)?)?,
            None => Extensions::none(),
        };
        let mut parsed = Self {
            signed: tbs.raw,
            algorithm,
            signature,
            issuer_der,
            issuer: print_name(&issuer),
            this_update,
            next_update,
            next_publish: extensions.next_publish,
            number: extensions.number,
            scope: extensions.scope,
            entries: 0,
            revoked,
        };
        let mut entries = 0;
        parsed.each_serial(|_| entries += 1)?;
        parsed.entries = entries;
        Ok(parsed)
    }

    /// Walks the entries. A serial number longer than a CA may give is of no certificate that verifies: passed over.
    pub(super) fn each_serial(&self, mut visit: impl FnMut(Serial)) -> Result<(), CrlError> {
        let mut revoked = self.revoked;
        while !revoked.is_empty() {
            let mut entry = revoked.inside(SEQUENCE)?;
            let serial = entry.take(INTEGER)?.content;
            if !matches!(entry.peek(), Some(UTC_TIME | GENERALIZED_TIME)) {
                return Err(malformed("an entry has no date"));
            }
            if let Some(serial) = Serial::new(serial) {
                visit(serial);
            }
        }
        Ok(())
    }
}

impl Extensions {
    fn none() -> Self {
        let scope = Scope {
            leaves: true,
            authorities: true,
            points: Vec::new(),
        };
        Self {
            number: None,
            next_publish: None,
            scope,
        }
    }

    fn parse(mut list: Der<'_>) -> Result<Self, CrlError> {
        let mut found = Self::none();
        while !list.is_empty() {
            let mut extension = list.inside(SEQUENCE)?;
            let oid = extension.take(OID)?.content;
            let critical = extension
                .optional(BOOLEAN)?
                .is_some_and(|b| b.content != [0]);
            let mut value = Der::new(extension.take(OCTET_STRING)?.content);
            match oid {
                CRL_NUMBER => {
                    found.number = Serial::new(value.take(INTEGER)?.content);
                    if found.number.is_none() {
                        return Err(malformed("its number is longer than 20 bytes"));
                    }
                }
                DELTA_INDICATOR => return Err(CrlError::Delta),
                ISSUING_POINT => found.scope = scope(value.inside(SEQUENCE)?)?,
                NEXT_PUBLISH => found.next_publish = time(&mut value)?,
                AUTHORITY_KEY_ID => {}
                // RFC 5280 §5.2: a list with a critical extension that is not understood says nothing.
                _ if critical => {
                    return Err(malformed(
                        "it has a critical extension that is not known here",
                    ));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The issuing distribution point (RFC 5280 §5.2.5).
fn scope(mut value: Der<'_>) -> Result<Scope, CrlError> {
    let mut points = Vec::new();
    if let Some(name) = value.optional(context(0) | CONSTRUCTED)? {
        let mut name = Der::new(name.content);
        let Some(full) = name.optional(context(0) | CONSTRUCTED)? else {
            return Err(CrlError::Partial(
                "its distribution point is named relative to its issuer",
            ));
        };
        let mut names = Der::new(full.content);
        while let Some(name) = names.next()? {
            if name.tag == context(6) {
                points.push(String::from_utf8_lossy(name.content).into_owned());
            }
        }
        if points.is_empty() {
            return Err(CrlError::Partial("its distribution point has no URL"));
        }
    }
    let (only_leaves, only_authorities) = (flag(&mut value, 1)?, flag(&mut value, 2)?);
    let some_reasons = value.optional(context(3))?.is_some();
    if flag(&mut value, 4)? {
        return Err(CrlError::Indirect);
    }
    if some_reasons {
        return Err(CrlError::Partial("of some reasons only"));
    }
    if flag(&mut value, 5)? {
        return Err(CrlError::Partial("of attribute certificates only"));
    }
    // What stands out of its order was not looked at, and may say that the list is none of all certificates.
    if !value.is_empty() {
        return Err(malformed("its issuing distribution point is not in order"));
    }
    Ok(Scope {
        leaves: !only_authorities,
        authorities: !only_leaves,
        points,
    })
}

/// A BOOLEAN with a context tag, which is absent where it is false.
fn flag(value: &mut Der<'_>, number: u8) -> Result<bool, DerError> {
    let flag = value.optional(context(number))?;
    Ok(flag.is_some_and(|flag| flag.content != [0]))
}

fn time(fields: &mut Der<'_>) -> Result<Option<UnixTime>, CrlError> {
    if !matches!(fields.peek(), Some(UTC_TIME | GENERALIZED_TIME)) {
        return Ok(None);
    }
    let Some(element) = fields.next()? else {
        return Ok(None);
    };
    let (_, time) = ASN1Time::from_der(element.raw)
        .map_err(|error| malformed(&format!("a date cannot be read: {error}")))?;
    Ok(Some(unix_time(time.timestamp())))
}

fn malformed(detail: &str) -> CrlError {
    CrlError::Malformed(detail.to_owned())
}

impl From<DerError> for CrlError {
    fn from(error: DerError) -> Self {
        Self::Malformed(error.to_string())
    }
}
