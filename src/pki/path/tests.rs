mod issuers;
mod sets;

use std::time::Duration;

use super::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};

use crate::pki::issue::{Authority as Ca, Key, KeyAlgorithm, Leaf, Purpose, Validity};

const NOW: u64 = 1_800_000_000;

fn at(days: i64) -> UnixTime {
    let seconds = NOW.saturating_add_signed(days * 86_400);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn days(from: i64, to: i64) -> Validity {
    Validity {
        not_before: at(from),
        not_after: at(to),
    }
}

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn root(name: &str) -> Ca {
    Ca::root(name, key(), days(-10, 3650)).unwrap()
}

/// A root, an intermediate, and a way to make clients below it.
struct World {
    root: Ca,
    issuing: Ca,
}

impl World {
    fn new() -> Self {
        let root = root("Root");
        let issuing = root
            .intermediate("Issuing", key(), days(-10, 1000))
            .unwrap();
        Self { root, issuing }
    }

    fn client(&self, validity: Validity) -> Vec<CertificateDer<'static>> {
        chain_of(&self.issuing, &Leaf::client("pc-1.test", validity))
    }

    fn anchors(&self, intermediates: &[&Ca]) -> Anchors {
        anchors(&[&self.root], intermediates)
    }
}

fn chain_of(ca: &Ca, leaf: &Leaf) -> Vec<CertificateDer<'static>> {
    ca.issue(leaf, &key()).unwrap().chain
}

fn ders(authorities: &[&Ca]) -> Vec<CertificateDer<'static>> {
    authorities
        .iter()
        .map(|ca| ca.certificate().clone())
        .collect()
}

fn anchors(roots: &[&Ca], intermediates: &[&Ca]) -> Anchors {
    Anchors::build(&ders(roots), &ders(intermediates), Limits::MAX).unwrap()
}

fn verify(anchors: &Anchors, presented: &[CertificateDer<'_>]) -> Result<Path, CertificateFault> {
    anchors.verify(presented, Usage::Client, at(0), &Revocation::off())
}

#[track_caller]
fn assert_fault(found: Result<Path, CertificateFault>, reason: Reason, which: &str, part: &str) {
    let fault = found.expect_err("the chain must not verify");
    assert_eq!(
        (fault.reason, fault.which.as_str()),
        (reason, which),
        "{fault}"
    );
    assert!(fault.detail.contains(part), "{fault}");
}

#[test]
fn a_chain_verifies_with_its_intermediate_sent_or_configured_and_in_any_order() {
    let world = World::new();
    let chain = world.client(days(-1, 30));
    let path = verify(&world.anchors(&[]), &chain).unwrap();
    assert_eq!(path.certificates, chain);
    assert_eq!(path.not_after, at(30));
    assert_eq!(path.leaf.dns_names, ["pc-1.test"]);

    let path = verify(&world.anchors(&[&world.issuing]), &chain[..1]).unwrap();
    assert_eq!(path.certificates, chain);

    let other = root("Other");
    let mixed = [
        &chain[0],
        world.root.certificate(),
        other.certificate(),
        &chain[1],
    ]
    .map(Clone::clone);
    assert_eq!(
        verify(&world.anchors(&[]), &mixed).unwrap().certificates,
        chain
    );
}

#[test]
fn nothing_presented_is_missing() {
    assert_fault(
        verify(&World::new().anchors(&[]), &[]),
        Reason::CertificateMissing,
        "",
        "",
    );
}

#[test]
fn dates_are_checked_for_the_leaf_the_intermediate_and_the_anchor() {
    let world = World::new();
    let expired = world.client(days(-5, -1));
    assert_fault(
        verify(&world.anchors(&[]), &expired),
        Reason::CertificateExpired,
        "CN=pc-1.test",
        "expired at 2027-01-14 08:00:00 UTC; it is 2027-01-15 08:00:00 UTC",
    );
    let early = world.client(days(1, 5));
    assert_fault(
        verify(&world.anchors(&[]), &early),
        Reason::CertificateNotYetValid,
        "CN=pc-1.test",
        "is valid from 2027-01-16",
    );
    let old = world
        .root
        .intermediate("Old Issuing", key(), days(-9, -1))
        .unwrap();
    let chain = chain_of(&old, &Leaf::client("pc-2.test", days(-1, 1)));
    assert_fault(
        verify(&world.anchors(&[]), &chain),
        Reason::CertificateExpired,
        "CN=Old Issuing",
        "expired",
    );
    let ended = Ca::root("Ended Root", key(), days(-9, -1)).unwrap();
    let chain = chain_of(&ended, &Leaf::client("pc-3.test", days(-1, 1)));
    assert_fault(
        verify(&anchors(&[&ended], &[]), &chain),
        Reason::CertificateExpired,
        "CN=Ended Root",
        "expired",
    );
}

#[test]
fn a_missing_issuer_is_named() {
    let world = World::new();
    let chain = world.client(days(-1, 1));
    assert_fault(
        verify(&world.anchors(&[]), &chain[..1]),
        Reason::CertificateUnknownIssuer,
        "CN=pc-1.test",
        "\"CN=Issuing\", which is no trust anchor",
    );
    let stranger = root("Stranger Root");
    assert_fault(
        verify(&anchors(&[&stranger], &[]), &chain),
        Reason::CertificateUnknownIssuer,
        "CN=Issuing",
        "\"CN=Root\"",
    );
    let mut with_root = chain;
    with_root.push(world.root.certificate().clone());
    assert_fault(
        verify(&anchors(&[&stranger], &[]), &with_root),
        Reason::CertificateUnknownIssuer,
        "CN=Root",
        "signed by its own key",
    );
}

#[test]
fn a_ca_of_the_same_name_with_another_key_is_told_apart() {
    let (ours, theirs) = (root("Root"), root("Root"));
    let chain = chain_of(&theirs, &Leaf::client("pc-1.test", days(-1, 1)));
    assert_fault(
        verify(&anchors(&[&ours], &[]), &chain),
        Reason::CertificateUnknownIssuer,
        "CN=pc-1.test",
        "known here with another key only",
    );
    // A renewed CA keeps its name: with both keys configured, either's certificates verify.
    verify(&anchors(&[&ours, &theirs], &[]), &chain).unwrap();
}

#[test]
fn a_tampered_certificate_is_invalid() {
    let world = World::new();
    let mut chain = world.client(days(-1, 1));
    let mut leaf = chain[0].to_vec();
    let at = leaf
        .windows(9)
        .rposition(|part| part == b"pc-1.test")
        .unwrap();
    leaf[at] = b'q';
    chain[0] = leaf.into();
    assert_fault(
        verify(&world.anchors(&[]), &chain),
        Reason::CertificateInvalid,
        "CN=pc-1.test",
        "did not make",
    );
}

#[test]
fn usage_must_name_client_authentication_or_nothing() {
    let world = World::new();
    let mut leaf = Leaf::client("pc-1.test", days(-1, 1));
    leaf.purpose = Purpose::Server;
    assert_fault(
        verify(&world.anchors(&[]), &chain_of(&world.issuing, &leaf)),
        Reason::CertificateWrongUsage,
        "CN=pc-1.test",
        "client authentication",
    );
    leaf.purpose = Purpose::Any;
    verify(&world.anchors(&[]), &chain_of(&world.issuing, &leaf)).unwrap();
}

#[test]
fn a_ca_certificate_is_no_client() {
    let world = World::new();
    assert_fault(
        verify(&world.anchors(&[]), &ders(&[&world.issuing])),
        Reason::CertificateInvalid,
        "CN=Issuing",
        "is a CA certificate",
    );
}

#[test]
fn a_peer_cannot_keep_the_path_builder_busy() {
    // Fifteen CAs of one name that signed each other in a ring, and none that is trusted.
    let name = "Ring";
    let keys: Vec<_> = (0..15)
        .map(|_| rcgen::KeyPair::generate().unwrap())
        .collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signed = |child: usize| {
        let issuer = rcgen::Issuer::from_params(&params, &keys[(child + 1) % keys.len()]);
        params
            .signed_by(&keys[child], &issuer)
            .unwrap()
            .der()
            .clone()
    };
    let mut presented: Vec<_> = (0..15).map(signed).collect();
    let issuer = rcgen::Issuer::from_params(&params, &keys[0]);
    let leaf = CertificateParams::default();
    presented.insert(
        0,
        leaf.signed_by(&rcgen::KeyPair::generate().unwrap(), &issuer)
            .unwrap()
            .der()
            .clone(),
    );
    let anchors = World::new().anchors(&[]);
    let started = tokio::time::Instant::now();
    let fault = verify(&anchors, &presented).unwrap_err();
    assert_eq!(fault.reason, Reason::CertificateUnknownIssuer, "{fault}");
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );

    presented.push(presented[1].clone());
    let fault = verify(&anchors, &presented).unwrap_err();
    assert!(fault.detail.contains("17 certificates"), "{fault}");
}

#[test]
fn a_path_still_holds_exactly_while_its_certificates_are_known() {
    let world = World::new();
    let chain = world.client(days(-1, 30));
    let configured = world.anchors(&[&world.issuing]);
    let path = verify(&configured, &chain[..1]).unwrap();
    let [sent, whole] = [&chain[..1], &chain[..]].map(bytes);
    let holds = |anchors: &Anchors, presented: &[Bytes]| {
        anchors.still_holds(&path.anchor, &whole, presented)
    };
    assert!(holds(&configured, &sent));
    assert!(!holds(&world.anchors(&[]), &sent));
    assert!(holds(&world.anchors(&[]), &whole));
    assert!(!holds(
        &anchors(&[&root("Other")], &[&world.issuing]),
        &whole
    ));
}

fn bytes(certificates: &[CertificateDer<'_>]) -> Vec<Bytes> {
    certificates
        .iter()
        .map(|der| Bytes::copy_from_slice(der))
        .collect()
}
