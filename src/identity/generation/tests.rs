use super::*;
use crate::pki::Limits;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity};

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn generation(root: &Authority, capacity: usize) -> Generation {
    let anchors = Anchors::build(&[root.certificate().clone()], &[], Limits::default()).unwrap();
    Generation::new(1, anchors, Revocation::off(), Usage::Client, capacity)
}

/// A generation that trusts a root, and an authority below it.
fn with_intermediate(now: UnixTime) -> (Generation, Authority) {
    let validity = Validity::days(now, 100);
    let root = Authority::root("Root", key(), validity).unwrap();
    let issuing = root.intermediate("Issuing", key(), validity).unwrap();
    (generation(&root, 4), issuing)
}

#[test]
fn a_chain_is_remembered_until_it_ends_and_the_memory_is_bounded() {
    let now = UnixTime::now();
    let root = Authority::root("Root", key(), Validity::days(now, 100)).unwrap();
    let generation = generation(&root, 4);
    let client = |name: &str| {
        let leaf = Leaf::client(name, Validity::days(now, 10));
        root.issue(&leaf, &key()).unwrap().chain
    };
    let first = client("pc-0.test");
    let found = |presented: &[CertificateDer<'_>]| generation.verify(presented, now).unwrap().1;
    assert_eq!(found(&first), Found::Computed);
    assert_eq!(found(&first), Found::Remembered);
    for n in 1..20 {
        assert_eq!(found(&client(&format!("pc-{n}.test"))), Found::Computed);
        // What is used stays.
        assert_eq!(found(&first), Found::Remembered);
        let remembered = generation.remembered();
        assert!(remembered.young.len() + remembered.old.len() <= 4);
    }
    let later =
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs() + 11 * 86_400));
    let fault = generation.verify(&first, later).unwrap_err();
    assert_eq!(fault.reason, crate::reason::Reason::CertificateExpired);
}

#[test]
fn only_what_was_presented_byte_for_byte_is_remembered() {
    let now = UnixTime::now();
    let (generation, issuing) = with_intermediate(now);
    let leaf = Leaf::client("pc-1.test", Validity::days(now, 10));
    let chain = issuing.issue(&leaf, &key()).unwrap().chain;
    let found = |presented: &[CertificateDer<'_>]| generation.verify(presented, now);
    assert_eq!(found(&chain).unwrap().1, Found::Computed);
    assert_eq!(found(&chain).unwrap().1, Found::Remembered);

    let fault = found(&chain[..1]).unwrap_err();
    assert_eq!(
        fault.reason,
        crate::reason::Reason::CertificateUnknownIssuer
    );
    let renamed = {
        let mut der = chain[0].to_vec();
        let at = der.windows(9).position(|name| name == b"pc-1.test");
        der[at.unwrap() + 3] = b'2';
        [CertificateDer::from(der), chain[1].clone()]
    };
    found(&renamed).unwrap_err();
    let doubled = [chain[0].clone(), chain[0].clone()];
    found(&doubled).unwrap_err();
    assert_eq!(found(&chain).unwrap().1, Found::Remembered);
}

#[test]
fn an_identity_is_named_by_its_first_dns_name_and_shares_what_was_presented() {
    let now = UnixTime::now();
    let (generation, issuing) = with_intermediate(now);
    let mut leaf = Leaf::client("PC-1.Test", Validity::days(now, 10));
    leaf.common_name = "Computer, \"1\"".to_owned();
    let chain = issuing.issue(&leaf, &key()).unwrap().chain;
    let (verified, _) = generation.verify(&chain, now).unwrap();
    let identity = &verified.identity;
    assert_eq!(identity.name, "pc-1.test");
    assert_eq!(identity.subject, "CN=Computer\\, \\\"1\\\"");
    assert_eq!(identity.issuer, "CN=Issuing");
    assert_eq!(identity.chain.len(), 2);
    assert_eq!(identity.leaf, *chain[0]);
    assert_eq!(identity.leaf.as_ptr(), verified.chain.presented[0].as_ptr());

    leaf.names.clear();
    let chain = issuing.issue(&leaf, &key()).unwrap().chain;
    assert_eq!(
        generation.verify(&chain, now).unwrap().0.identity.name,
        "Computer, \"1\""
    );
}
