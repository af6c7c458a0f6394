//! Sets of lists.

use super::*;

#[test]
fn a_set_keeps_the_newest_of_each_key_and_says_what_it_knows() {
    let (old_key, new_key) = (
        authority(KeyAlgorithm::EcdsaP256),
        authority(KeyAlgorithm::EcdsaP256),
    );
    let crl = |ca: &Authority, list: &RevocationList| {
        std::sync::Arc::new(read(&ca.revoke(list).unwrap(), ca).unwrap())
    };
    let [a, b] = [&old_key, &new_key]
        .map(|ca| IssuerKey::of(&Certificate::parse(ca.certificate()).unwrap()));
    let ten = serial(&[10]);
    let second = crl(&old_key, &list(2, &["0a"]));
    let set = CrlSet::new(
        [
            second.clone(),
            crl(&old_key, &list(1, &[])),
            crl(&new_key, &list(1, &[])),
        ],
        at(0),
    );
    assert_eq!(
        set.look_up(a, &ten, false, &[], at(0)),
        Listed::Revoked(second)
    );
    assert!(matches!(
        set.look_up(b, &ten, false, &[], at(0)),
        Listed::Good(_)
    ));
    assert!(matches!(
        set.look_up(b, &ten, false, &[], at(25 * 3600)),
        Listed::Stale(_)
    ));
    assert!(matches!(
        set.look_up(a, &ten, false, &[], at(25 * 3600)),
        Listed::Revoked(_)
    ));
    assert_eq!(
        CrlSet::default().look_up(a, &ten, false, &[], at(0)),
        Listed::Unknown
    );
    let changed = CrlSet::new([crl(&old_key, &list(3, &[]))], at(0)).difference(&set);
    assert_eq!(
        changed
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>(),
        [a, b].into()
    );

    let future = RevocationList {
        validity: hours(2, 3),
        ..list(9, &[])
    };
    let set = CrlSet::new([crl(&old_key, &future)], at(0));
    assert_eq!(set.look_up(a, &ten, false, &[], at(0)), Listed::Unknown);
    assert_eq!(set.pending().len(), 1);
    assert!(!set.is_due(at(0)) && set.is_due(at(2 * 3600)));
    let set = CrlSet::new(
        [crl(&old_key, &future), crl(&old_key, &list(1, &["0a"]))],
        at(0),
    );
    assert!(matches!(
        set.look_up(a, &ten, false, &[], at(0)),
        Listed::Revoked(_)
    ));
}

#[test]
fn a_partitioned_list_speaks_only_of_the_certificates_that_point_to_it() {
    let ca = authority(KeyAlgorithm::EcdsaP256);
    let key = IssuerKey::of(&Certificate::parse(ca.certificate()).unwrap());
    let part = |number, revoked: &[&str], url: &str| {
        let list = RevocationList {
            points: vec![url.to_owned()],
            ..list(number, revoked)
        };
        std::sync::Arc::new(read(&ca.revoke(&list).unwrap(), &ca).unwrap())
    };
    let set = CrlSet::new(
        [part(1, &["0a"], "http://c/1"), part(2, &[], "http://c/2")],
        at(0),
    );
    let look_up = |points: &[&str], is_ca| {
        let points: Vec<_> = points.iter().map(|url| (*url).to_owned()).collect();
        set.look_up(key, &serial(&[10]), is_ca, &points, at(0))
    };
    assert!(matches!(
        look_up(&["ldap:///x", "http://c/1"], false),
        Listed::Revoked(_)
    ));
    assert!(matches!(look_up(&["http://c/2"], false), Listed::Good(_)));
    assert_eq!(look_up(&["http://c/1"], true), Listed::Unknown);
    assert_eq!(look_up(&[], false), Listed::Unknown);
}
