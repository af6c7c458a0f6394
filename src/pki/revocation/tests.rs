use super::*;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity};
use crate::pki::{Anchors, Limits, Path, Usage};

const NOW: u64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.saturating_add_signed(seconds)))
}

fn days(from: i64, to: i64) -> Validity {
    Validity {
        not_before: at(from * DAY),
        not_after: at(to * DAY),
    }
}

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

/// A root, an issuing CA and a client below it.
struct World {
    root: Authority,
    issuing: Authority,
    client: Vec<CertificateDer<'static>>,
}

impl World {
    fn new() -> Self {
        let root = Authority::root("Root", key(), days(-10, 1000)).unwrap();
        let issuing = root.intermediate("Issuing", key(), days(-10, 900)).unwrap();
        let issuing = issuing.with_crl_points(&["http://crl.test/issuing.crl"]);
        let leaf = Leaf::client("pc-1", days(-1, 300));
        let client = issuing.issue(&leaf, &key()).unwrap().chain;
        Self {
            root,
            issuing,
            client,
        }
    }

    fn serial(&self, index: usize) -> String {
        Certificate::parse(&self.client[index]).unwrap().serial
    }

    fn crl(&self, ca: &Authority, number: u64, revoked: &[String], validity: Validity) -> Arc<Crl> {
        let list = RevocationList {
            revoked: revoked.to_vec(),
            ..RevocationList::empty(number, validity)
        };
        let der = ca.revoke(&list).unwrap();
        Arc::new(Crl::read(&der, &[ca.certificate().clone()]).unwrap())
    }

    fn of(&self, policy: Policy, crls: &[Arc<Crl>]) -> Revocation {
        let set = CrlSet::new(crls.iter().cloned(), at(0));
        Revocation::new(policy, Arc::new(set))
    }

    fn anchors(&self) -> Anchors {
        let root = [self.root.certificate().clone()];
        Anchors::build(&root, &[], Limits::default()).unwrap()
    }

    fn verify(&self, revocation: &Revocation, now: UnixTime) -> Result<Path, CertificateFault> {
        self.anchors()
            .verify(&self.client, Usage::Client, now, revocation)
    }
}

fn reason(found: Result<Path, CertificateFault>) -> Reason {
    found.expect_err("the path must not be believed").reason
}

#[test]
fn a_path_is_good_exactly_if_no_list_in_force_has_a_certificate_of_it() {
    let world = World::new();
    let week = days(-1, 7);
    let [root, issuing] = [&world.root, &world.issuing].map(|ca| world.crl(ca, 1, &[], week));
    let both = world.of(Policy::default(), &[root.clone(), issuing.clone()]);
    let path = world.verify(&both, at(0)).unwrap();
    assert_eq!(path.until, Some(at(8 * DAY)), "the end of the grace");

    let leaf = world.crl(&world.issuing, 2, &[world.serial(0)], week);
    let revoked = world.of(Policy::default(), &[root, issuing.clone(), leaf.clone()]);
    let fault = world.verify(&revoked, at(0)).unwrap_err();
    assert_eq!(
        (fault.reason, fault.which.as_str()),
        (Reason::CertificateRevoked, "CN=pc-1")
    );
    assert_eq!(
        fault.detail,
        format!(
            "was revoked: its serial number {} is on the CRL number 02 of \"CN=Issuing\" from 2027-01-14 08:00:00 UTC",
            world.serial(0)
        )
    );
    let intermediate = world.crl(&world.root, 2, &[world.serial(1)], week);
    let above = world.of(Policy::default(), &[intermediate.clone(), issuing.clone()]);
    let fault = world.verify(&above, at(0)).unwrap_err();
    assert_eq!(
        (fault.reason, fault.which.as_str()),
        (Reason::CertificateRevoked, "CN=Issuing")
    );
    let leaf_only = Policy {
        depth: Depth::Leaf,
        ..Policy::default()
    };
    world
        .verify(
            &world.of(leaf_only.clone(), &[intermediate, issuing]),
            at(0),
        )
        .unwrap();
    assert_eq!(
        reason(world.verify(&world.of(leaf_only, &[leaf]), at(0))),
        Reason::CertificateRevoked
    );
    world.verify(&Revocation::off(), at(0)).unwrap();
}

#[test]
fn unknown_and_stale_are_denied_allowed_or_allowed_for_a_while() {
    let world = World::new();
    let week = days(-1, 7);
    let [root, issuing] = [&world.root, &world.issuing].map(|ca| world.crl(ca, 1, &[], week));
    let with = |unknown, stale| Policy {
        unknown,
        stale,
        ..Policy::default()
    };
    let unknown = |doubt| world.of(with(doubt, Doubt::Deny), std::slice::from_ref(&root));
    let stale = |doubt| world.of(with(Doubt::Deny, doubt), &[root.clone(), issuing.clone()]);

    let fault = world.verify(&unknown(Doubt::Deny), at(0)).unwrap_err();
    assert_eq!(fault.reason, Reason::RevocationUnknown);
    assert_eq!(fault.crl_of, Some(issuing.issuer_key()));
    assert_eq!(
        fault.detail,
        "may be revoked: no CRL of its issuer \"CN=Issuing\" that speaks of it has been at hand \
         (it names http://crl.test/issuing.crl)"
    );
    world.verify(&unknown(Doubt::Allow), at(6 * DAY)).unwrap();
    let graceful = unknown(Doubt::Grace);
    assert_eq!(world.verify(&graceful, at(0)).unwrap().until, Some(at(DAY)));
    world.verify(&graceful, at(DAY)).unwrap();
    assert_eq!(
        reason(world.verify(&graceful, at(DAY + 1))),
        Reason::RevocationUnknown
    );
    let there = graceful.with_crls(Arc::new(CrlSet::new(
        [root.clone(), issuing.clone()],
        at(0),
    )));
    world.verify(&there, at(DAY + 1)).unwrap();
    let gone = there.with_crls(Arc::clone(graceful.crls()));
    world.verify(&gone, at(DAY + 1)).unwrap();

    let end = 7 * DAY;
    assert_eq!(
        world.verify(&stale(Doubt::Deny), at(end)).unwrap().until,
        Some(at(end))
    );
    assert_eq!(
        reason(world.verify(&stale(Doubt::Deny), at(end + 1))),
        Reason::CrlStale
    );
    world.verify(&stale(Doubt::Allow), at(100 * DAY)).unwrap();
    world.verify(&stale(Doubt::Grace), at(end + DAY)).unwrap();
    let fault = world
        .verify(&stale(Doubt::Grace), at(end + DAY + 1))
        .unwrap_err();
    assert_eq!(fault.reason, Reason::CrlStale);
    assert!(
        fault.detail.ends_with("and the grace of 1d is over"),
        "{fault}"
    );
}

#[test]
fn what_is_wanted_is_told_with_the_certificate_of_its_issuer() {
    let world = World::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = {
        let told = Arc::clone(&told);
        Arc::new(move |wanted: Wanted| told.lock().unwrap().push(wanted))
    };
    let revocation = world.of(Policy::default(), &[]).telling(tell);
    assert_eq!(
        reason(world.verify(&revocation, at(0))),
        Reason::RevocationUnknown
    );
    let told = told.lock().unwrap();
    // The root names no distribution point for what it issued.
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].issuer, *world.issuing.certificate());
    assert_eq!(told[0].urls, ["http://crl.test/issuing.crl"]);
}

#[test]
fn a_path_around_a_revoked_cross_certificate_is_found() {
    let (old, new) = (
        Authority::root("Old", key(), days(-10, 1000)).unwrap(),
        Authority::root("New", key(), days(-10, 1000)).unwrap(),
    );
    let issuing = key();
    let again = Key::of(&issuing.to_der()).unwrap();
    let under_old = old
        .intermediate("Issuing", issuing, days(-10, 900))
        .unwrap();
    let under_new = new.intermediate("Issuing", again, days(-10, 900)).unwrap();
    let client = under_old
        .issue(&Leaf::client("pc-1", days(-1, 300)), &key())
        .unwrap()
        .chain;
    let ders = |list: [&Authority; 2]| list.map(|ca| ca.certificate().clone());
    let anchors = Anchors::build(
        &ders([&old, &new]),
        &ders([&under_old, &under_new]),
        Limits::default(),
    )
    .unwrap();
    let world = World::new();
    let serial = |ca: &Authority| Certificate::parse(ca.certificate()).unwrap().serial;
    for (revoking, other, cross, left) in [
        (&old, &new, &under_old, &under_new),
        (&new, &old, &under_new, &under_old),
    ] {
        let week = days(-1, 7);
        let crls = [
            world.crl(revoking, 1, &[serial(cross)], week),
            world.crl(other, 1, &[], week),
            world.crl(&under_old, 1, &[], week),
        ];
        let revocation = world.of(Policy::default(), &crls);
        let path = anchors
            .verify(&client, Usage::Client, at(0), &revocation)
            .unwrap();
        assert_eq!(path.certificates[1], *left.certificate());
    }
}

#[test]
fn a_grace_ends_though_lists_follow_each_other_that_do_not_speak_of_the_certificate() {
    let world = World::new();
    let week = days(-1, 7);
    let of_others = |number| {
        let list = RevocationList {
            points: vec!["http://crl.test/others.crl".to_owned()],
            ..RevocationList::empty(number, week)
        };
        let der = world.issuing.revoke(&list).unwrap();
        let issuers = [world.issuing.certificate().clone()];
        Arc::new(Crl::read(&der, &issuers).unwrap())
    };
    let policy = Policy {
        depth: Depth::Leaf,
        unknown: Doubt::Grace,
        ..Policy::default()
    };
    let first = world.of(policy, &[of_others(1)]);
    world.verify(&first, at(0)).unwrap();
    let set = CrlSet::new([of_others(2)], at(0));
    let second = first.with_crls(Arc::new(set));
    world.verify(&second, at(DAY)).unwrap();
    assert_eq!(
        reason(world.verify(&second, at(DAY + 1))),
        Reason::RevocationUnknown
    );
}

#[test]
fn a_refusal_says_that_the_list_at_hand_is_from_the_future() {
    let world = World::new();
    let root = world.crl(&world.root, 1, &[], days(-1, 7));
    let future = world.crl(&world.issuing, 1, &[], days(1, 7));
    let revocation = world.of(Policy::default(), &[root, future]);
    let fault = world.verify(&revocation, at(0)).unwrap_err();
    assert_eq!(fault.reason, Reason::RevocationUnknown);
    assert!(
        fault.detail.ends_with(" is from the future)"),
        "{}",
        fault.detail
    );
}
