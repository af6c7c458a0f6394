use std::time::Duration;

use super::*;
use crate::pki::issue::{Authority as Ca, Key, KeyAlgorithm, Leaf, Purpose, Validity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};

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

/// A CA below `root` made with rcgen, for what an [`Ca`] does not make.
fn raw_ca(
    parent: &rcgen::Issuer<'_, rcgen::KeyPair>,
    name: &str,
    is_ca: IsCa,
) -> (
    CertificateDer<'static>,
    rcgen::Issuer<'static, rcgen::KeyPair>,
) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = is_ca;
    params.not_before = time::OffsetDateTime::from_unix_timestamp(0).unwrap();
    let made = params.signed_by(&key, parent).unwrap();
    (made.der().clone(), rcgen::Issuer::new(params, key))
}

fn raw_root() -> (
    CertificateDer<'static>,
    rcgen::Issuer<'static, rcgen::KeyPair>,
) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = params.self_signed(&key).unwrap();
    (made.der().clone(), rcgen::Issuer::new(params, key))
}

#[test]
fn an_issuer_that_is_no_ca_is_named() {
    let (root, issuer) = raw_root();
    let (middle, issuer) = raw_ca(&issuer, "No CA", IsCa::ExplicitNoCa);
    let (leaf, _) = raw_ca(&issuer, "pc-1.test", IsCa::ExplicitNoCa);
    let anchors = Anchors::build(&[root], &[], Limits::default()).unwrap();
    assert_fault(
        verify(&anchors, &[leaf, middle]),
        Reason::CertificateInvalid,
        "CN=No CA",
        "is not a CA's",
    );
}

#[test]
fn an_issuer_that_may_not_sign_certificates_is_named() {
    let (root, issuer) = raw_root();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Only CRLs");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let middle = params.signed_by(&key, &issuer).unwrap().der().clone();
    let (leaf, _) = raw_ca(
        &rcgen::Issuer::new(params, key),
        "pc-1.test",
        IsCa::ExplicitNoCa,
    );
    let anchors = Anchors::build(&[root], &[], Limits::default()).unwrap();
    assert_fault(
        verify(&anchors, &[leaf, middle]),
        Reason::CertificateInvalid,
        "CN=Only CRLs",
        "is not a CA's",
    );
}

#[test]
fn a_path_longer_than_a_ca_allows_is_refused() {
    let (root, issuer) = raw_root();
    let (first, issuer) = raw_ca(&issuer, "Short", IsCa::Ca(BasicConstraints::Constrained(0)));
    let (second, issuer) = raw_ca(&issuer, "Deep", IsCa::Ca(BasicConstraints::Unconstrained));
    let (leaf, _) = raw_ca(&issuer, "pc-1.test", IsCa::ExplicitNoCa);
    let anchors = Anchors::build(&[root], &[], Limits::default()).unwrap();
    assert_fault(
        verify(&anchors, &[leaf, second, first]),
        Reason::CertificateInvalid,
        "CN=Short",
        "allows 0 CA certificates below it",
    );
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

#[test]
fn a_set_is_built_whole_or_every_problem_is_told() {
    let world = World::new();
    let others = [root("A"), root("B")];
    let leaf = world.client(days(-1, 1)).remove(0);
    let three = ders(&[&world.root, &others[0], &others[1]]);
    assert_eq!(
        Anchors::build(&three, &[], Limits::default()).unwrap_err(),
        ["3 trust anchors are given (2 are allowed; max-anchors raises this up to 16)"]
    );
    Anchors::build(
        &three,
        &[],
        Limits {
            anchors: 3,
            intermediates: 4,
        },
    )
    .unwrap();
    // One that is given twice counts once.
    Anchors::build(
        &[three.clone(), three[..1].to_vec()].concat()[1..],
        &[],
        Limits {
            anchors: 3,
            intermediates: 4,
        },
    )
    .unwrap();
    let wrong = Anchors::build(
        &[ders(&[&world.issuing]), vec![leaf]].concat(),
        &ders(&[&world.root]),
        Limits::default(),
    );
    assert_eq!(
        wrong.unwrap_err(),
        [
            "the trust anchor \"CN=pc-1.test\" is not a CA certificate",
            "the trust anchor \"CN=Issuing\" is no root but issued by \"CN=Root\" (list it as an intermediate, and its root as a trust anchor)",
            "the intermediate \"CN=Root\" is a root (list it as a trust anchor)",
        ]
    );
    assert_eq!(
        Anchors::build(&[], &[], Limits::default()).unwrap_err(),
        ["no trust anchor is given (at least one root is needed)"]
    );
}

#[test]
fn hints_are_all_none_or_the_listed_names() {
    let world = World::new();
    let anchors = world.anchors(&[&world.issuing]);
    assert_eq!(anchors.hints(&Hints::None).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(anchors.hints(&Hints::All).unwrap().len(), 2);
    let issuing = Certificate::parse(world.issuing.certificate()).unwrap();
    let list = Hints::List(vec!["CN=Issuing".to_owned()]);
    assert_eq!(anchors.hints(&list).unwrap(), [issuing.subject_der]);
    let list = Hints::List(vec!["CN=Nobody".to_owned()]);
    assert_eq!(
        anchors.hints(&list).unwrap_err(),
        [
            "no trust anchor and no intermediate has the name \"CN=Nobody\" (one of \"CN=Root\", \"CN=Issuing\" is allowed)"
        ]
    );
}

#[test]
fn the_crls_of_configured_intermediates_are_wanted_from_their_issuers() {
    let (root, other) = (root("Root"), root("Other"));
    let root = root.with_crl_points(&["http://crl.test/root.crl"]);
    let issuing = root
        .intermediate("Issuing", key(), days(-10, 1000))
        .unwrap();
    let astray = other
        .intermediate("Astray", key(), days(-10, 1000))
        .unwrap();
    let wanted = anchors(&[&root], &[&issuing, &astray]).wanted();
    assert_eq!(wanted.len(), 1);
    assert_eq!(wanted[0].issuer, *root.certificate());
    assert_eq!(wanted[0].urls, ["http://crl.test/root.crl"]);
}
