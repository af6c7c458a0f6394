mod files;
mod sets;

use std::time::Duration;

use proptest::prelude::*;

use super::file::MAX_LISTS;
use super::*;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity, crl_to_pem};

const NOW: u64 = 1_800_000_000;

fn at(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.saturating_add_signed(seconds)))
}

fn hours(from: i64, to: i64) -> Validity {
    Validity {
        not_before: at(from * 3600),
        not_after: at(to * 3600),
    }
}

fn authority(algorithm: KeyAlgorithm) -> Authority {
    let key = Key::generate(algorithm).unwrap();
    Authority::root("Root", key, hours(-10, 10_000)).unwrap()
}

fn list(number: u64, revoked: &[&str]) -> RevocationList {
    RevocationList {
        revoked: revoked.iter().map(|serial| (*serial).to_owned()).collect(),
        ..RevocationList::empty(number, hours(-1, 24))
    }
}

fn read(der: &[u8], authority: &Authority) -> Result<Crl, CrlError> {
    Crl::read(der, &[authority.certificate().clone()])
}

fn serial(bytes: &[u8]) -> Serial {
    Serial::new(bytes).unwrap()
}

/// Writes one element of DER.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..0x80 => out.push(u8::try_from(short).unwrap()),
        long => {
            let bytes = long.to_be_bytes();
            let digits = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap()..];
            out.push(0x80 | u8::try_from(digits.len()).unwrap());
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical {
        element(0x01, &[0xff])
    } else {
        Vec::new()
    };
    let parts = [element(0x06, oid), critical, element(0x04, value)];
    element(0x30, &parts.concat())
}

/// A list with an extension behind its own; unsigned, which parsing does not look at.
fn with_extension(added: &[u8]) -> Vec<u8> {
    let der = authority(KeyAlgorithm::EcdsaP256)
        .revoke(&list(1, &[]))
        .unwrap();
    let mut outer = Der::new(&der).inside(SEQUENCE).unwrap();
    let tbs = outer.take(SEQUENCE).unwrap();
    let rest: Vec<_> = [outer.next().unwrap(), outer.next().unwrap()]
        .into_iter()
        .flat_map(|element| element.unwrap().raw.to_vec())
        .collect();
    let mut fields = Der::new(tbs.content);
    let mut kept = Vec::new();
    while let Some(field) = fields.next().unwrap() {
        if field.tag == 0xa0 {
            let own = Der::new(field.content)
                .inside(SEQUENCE)
                .unwrap()
                .next()
                .unwrap()
                .unwrap();
            kept.extend(element(0xa0, &element(0x30, &[own.raw, added].concat())));
        } else {
            kept.extend_from_slice(field.raw);
        }
    }
    element(0x30, &[element(0x30, &kept), rest].concat())
}

fn fault_with(added: &[u8]) -> CrlError {
    Parsed::parse(&with_extension(added)).unwrap_err()
}

const POINT: &[u8] = &[0x55, 0x1d, 0x1c];

#[test]
fn a_list_is_read_with_what_it_says() {
    for algorithm in [
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::EcdsaP384,
        KeyAlgorithm::Rsa2048,
    ] {
        let ca = authority(algorithm);
        let crl = read(
            &ca.revoke(&list(7, &["0a", "ff01", "03", "0a"])).unwrap(),
            &ca,
        )
        .unwrap();
        assert_eq!(
            (crl.issuer(), crl.number().unwrap().as_str()),
            ("CN=Root", "07")
        );
        assert_eq!(
            (crl.this_update(), crl.next_update()),
            (at(-3600), at(24 * 3600))
        );
        assert_eq!(crl.entries(), 3);
        assert!(crl.revokes(&serial(&[10])) && crl.revokes(&serial(&[0xff, 1])));
        assert!(!crl.revokes(&serial(&[4])) && !crl.revokes(&serial(&[1, 0xff])));
    }
}

#[test]
fn a_list_that_another_key_signed_is_refused_by_name() {
    let (ca, namesake) = (
        authority(KeyAlgorithm::EcdsaP256),
        authority(KeyAlgorithm::EcdsaP256),
    );
    let der = ca.revoke(&list(1, &[])).unwrap();
    assert_eq!(
        read(&der, &namesake).unwrap_err().to_string(),
        "was not signed with the key of \"CN=Root\", which it names as its issuer"
    );
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let other = Authority::root("Other", key, hours(-1, 1)).unwrap();
    assert_eq!(
        read(&der, &other).unwrap_err().to_string(),
        "is a CRL of \"CN=Root\", which is no trust anchor or intermediate here (list the CA's certificate among them)"
    );
    let both = [namesake.certificate().clone(), ca.certificate().clone()];
    let crl = Crl::read(&der, &both).unwrap();
    let facts = Certificate::parse(ca.certificate()).unwrap();
    assert_eq!(crl.issuer_key(), IssuerKey::of(&facts));

    let mut broken = der;
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    assert!(read(&broken, &ca).is_err());
}

#[test]
fn a_ca_that_may_not_sign_lists_is_refused() {
    let ca = authority(KeyAlgorithm::EcdsaP256);
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Root");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let key = rcgen::KeyPair::from_pem(&ca.key_to_pem()).unwrap();
    let without = params.self_signed(&key).unwrap().der().clone();
    let der = ca.revoke(&list(1, &[])).unwrap();
    let error = Crl::read(&der, &[without]).unwrap_err();
    assert_eq!(error, CrlError::MayNotSign("CN=Root".to_owned()));
}

#[test]
fn what_is_no_list_is_told_by_what_it_is() {
    let ca = authority(KeyAlgorithm::EcdsaP256);
    let der = ca.revoke(&list(1, &["0a"])).unwrap();
    assert_eq!(read_crl_file(b" \n").unwrap_err(), CrlError::Empty);
    for page in [
        "<!DOCTYPE html><html></html>",
        "\n<html>",
        "<?xml version='1.0'?>",
    ] {
        assert_eq!(read_crl_file(page.as_bytes()).unwrap_err(), CrlError::Html);
    }
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    for other in ["hello", "1 is no tag here", &key.to_pem()] {
        assert_eq!(
            read_crl_file(other.as_bytes()).unwrap_err(),
            CrlError::NotACrl
        );
    }
    let certificate = [
        read_crl_file(ca.to_pem().as_bytes()).unwrap_err(),
        read(ca.certificate(), &ca).unwrap_err(),
    ];
    assert_eq!(certificate, [CrlError::Certificate, CrlError::Certificate]);
    assert!(
        certificate[0]
            .to_string()
            .starts_with("is a certificate, not a CRL")
    );
    let cut = &der[..der.len() - 5];
    let found = (der.len(), cut.len());
    assert_eq!(
        read(cut, &ca).unwrap_err().to_string(),
        format!("is cut off: it takes {} bytes and has {}", found.0, found.1)
    );
    let long = [&der[..], &[0]].concat();
    assert!(matches!(read(&long, &ca), Err(CrlError::Malformed(_))));
    assert_eq!(read_crl_file(&der).unwrap(), [&der[..]]);
}

#[test]
fn lists_that_do_not_speak_of_all_certificates_are_skipped() {
    let delta = fault_with(&extension(&[0x55, 0x1d, 0x1b], true, &element(0x02, &[1])));
    assert!(delta.is_skipped(), "{delta}");
    let point = |inside: &[u8]| fault_with(&extension(POINT, true, &element(0x30, inside)));
    assert_eq!(point(&element(0x84, &[0xff])), CrlError::Indirect);
    for partial in [element(0x83, &[1, 0x40]), element(0x85, &[0xff])] {
        assert!(point(&partial).is_skipped());
    }
    let disordered = point(&[element(0x82, &[0xff]), element(0x81, &[0xff])].concat());
    assert!(
        disordered.to_string().contains("not in order"),
        "{disordered}"
    );
    let unknown = fault_with(&extension(&[0x55, 0x1d, 0x7f], true, &[5, 0]));
    assert!(
        unknown.to_string().contains("critical extension"),
        "{unknown}"
    );
    assert!(!unknown.is_skipped());
    let harmless = with_extension(&extension(&[0x55, 0x1d, 0x7f], false, &[5, 0]));
    Parsed::parse(&harmless).unwrap();
}

#[test]
fn the_publication_that_windows_announces_is_read() {
    let oid = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x15, 0x04];
    let value = element(0x17, b"270115080000Z");
    let der = with_extension(&extension(&oid, false, &value));
    let next = Parsed::parse(&der).unwrap().next_publish.unwrap();
    assert_eq!(next.as_secs(), NOW);
}

#[test]
fn a_certificate_says_where_its_list_is() {
    let ca = authority(KeyAlgorithm::EcdsaP256).with_crl_points(&["ldap:///cn=x", "http://c/1"]);
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let pair = ca.issue(&Leaf::client("pc-1", hours(-1, 1)), &key).unwrap();
    let facts = Certificate::parse(&pair.chain[0]).unwrap();
    assert_eq!(facts.crl_points, ["ldap:///cn=x", "http://c/1"]);
    assert_eq!(facts.number.unwrap().to_string(), facts.serial);
    assert!(Certificate::parse(ca.certificate()).unwrap().signs_crls);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(cut in 0_usize..600, at in 0_usize..600, byte: u8) {
        static DER: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            authority(KeyAlgorithm::EcdsaP256).revoke(&list(1, &["0a", "0b"])).unwrap()
        });
        let mut pem = crl_to_pem(&DER).into_bytes();
        let place = at % pem.len();
        pem[place] = byte;
        pem.truncate(cut.max(place + 1));
        let _ = read_crl_file(&pem);
        let mut der = DER.clone();
        let at = at % der.len();
        der[at] = byte;
        der.truncate(cut.max(at + 1));
        let _ = Parsed::parse(&der);
        let _ = read_crl_file(&der);
    }
}
