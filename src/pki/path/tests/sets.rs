//! Sets of anchors and intermediates.

use super::*;

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
