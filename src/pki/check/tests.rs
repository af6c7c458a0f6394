use std::time::Duration;

use super::*;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Purpose, Validity};

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)) // 2027-01-15 08:00 UTC
}

fn later(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs() + days * 86_400))
}

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn issuing() -> Authority {
    let root = Authority::root("Root", key(), Validity::days(now(), 1000)).unwrap();
    root.intermediate("Issuing", key(), Validity::days(now(), 100))
        .unwrap()
}

fn pair(leaf: &Leaf) -> KeyPair {
    issuing().issue(leaf, &key()).unwrap()
}

fn server(names: &[&str]) -> Leaf {
    Leaf::server(names, Validity::days(now(), 30))
}

#[test]
fn a_fit_certificate_has_no_problem_for_the_names_it_covers() {
    let fit = pair(&server(&["gw.test", "*.a.test"]));
    for name in [
        None,
        Some("gw.test"),
        Some("GW.test"),
        Some("x.a.test"),
        Some("*.a.test"),
    ] {
        assert_eq!(
            check_server_certificate(&fit, name, now()),
            Vec::<String>::new(),
            "{name:?}"
        );
    }
    for name in [
        "a.test",
        "y.x.a.test",
        "*.b.test",
        "other.test",
        "not a name",
    ] {
        let expected = format!(
            "the certificate \"CN=gw.test\" does not cover \"{name}\" (it names gw.test, *.a.test)"
        );
        assert_eq!(
            check_server_certificate(&fit, Some(name), now()),
            [expected]
        );
    }
}

#[test]
fn every_problem_is_told_with_the_certificate_and_its_dates() {
    let mut leaf = server(&["gw.test"]);
    leaf.purpose = Purpose::Client;
    let mut bad = pair(&leaf);
    bad.key = key().to_der();
    assert_eq!(
        check_server_certificate(&bad, Some("other.test"), later(31)),
        [
            "the private key does not belong to the certificate \"CN=gw.test\"",
            "the certificate \"CN=gw.test\" expired at 2027-02-14 08:00:00 UTC (it is 2027-02-15 08:00:00 UTC)",
            "the certificate \"CN=gw.test\" is not meant for server authentication (its extended key usage must name serverAuth or be absent)",
            "the certificate \"CN=gw.test\" does not cover \"other.test\" (it names gw.test)",
        ]
    );
}

#[test]
fn dates_of_the_whole_chain_are_checked() {
    let fit = pair(&Leaf::server(&["gw.test"], Validity::days(now(), 300)));
    assert_eq!(
        check_server_certificate(&fit, None, later(200)),
        [
            "the certificate \"CN=Issuing\" expired at 2027-04-25 08:00:00 UTC (it is 2027-08-03 08:00:00 UTC)"
        ]
    );
    let mut early = server(&["gw.test"]);
    early.validity.not_before = later(1);
    assert_eq!(
        check_server_certificate(&pair(&early), None, now()),
        [
            "the certificate \"CN=gw.test\" is not valid before 2027-01-16 08:00:00 UTC (it is 2027-01-15 08:00:00 UTC)"
        ]
    );
}

#[test]
fn a_chain_that_does_not_hold_together_is_told() {
    let fit = pair(&server(&["gw.test"]));
    // Another CA of the same name, as after a renewal with a new key.
    let namesake = issuing().certificate().clone();
    let loaded = KeyPair::new(&[namesake, fit.chain[0].clone()], fit.key.clone_key()).unwrap();
    assert_eq!(
        check_server_certificate(&loaded, None, now()),
        ["the certificate \"CN=gw.test\" was not signed with the key of \"CN=Issuing\""]
    );
    let other = Authority::root("Other", key(), Validity::days(now(), 10)).unwrap();
    let mixed = KeyPair {
        chain: vec![fit.chain[0].clone(), other.certificate().clone()],
        key: fit.key.clone_key(),
    };
    assert_eq!(
        check_server_certificate(&mixed, None, now()),
        [
            "the certificate \"CN=gw.test\" is issued by \"CN=Issuing\", but \"CN=Other\" follows it in the chain"
        ]
    );
}

#[test]
fn a_ca_certificate_is_no_servers() {
    let root_key = key();
    let der = root_key.to_der();
    let root = Authority::root("Root", root_key, Validity::days(now(), 10)).unwrap();
    let pair = KeyPair::new(&[root.certificate().clone()], der).unwrap();
    assert_eq!(
        check_server_certificate(&pair, None, now()),
        ["the certificate \"CN=Root\" is a CA certificate, not a server's"]
    );
}
