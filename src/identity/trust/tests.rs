use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::*;
use crate::identity::live::Watch;
use crate::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, RevocationList, Validity};
use crate::pki::{Certificate, Crl, Limits, Policy};

fn key() -> Key {
    Key::generate(KeyAlgorithm::EcdsaP256).unwrap()
}

fn root(name: &str) -> Authority {
    Authority::root(name, key(), Validity::days(UnixTime::now(), 100)).unwrap()
}

fn anchors(roots: &[&Authority], intermediates: &[&Authority]) -> Anchors {
    let [roots, intermediates] = [roots, intermediates].map(|list| {
        list.iter()
            .map(|ca| ca.certificate().clone())
            .collect::<Vec<_>>()
    });
    Anchors::build(&roots, &intermediates, Limits::MAX).unwrap()
}

fn trust(anchors: Anchors) -> (Trust, Metrics) {
    let metrics = Metrics::new();
    (Trust::new(anchors, Usage::Client, metrics.clone()), metrics)
}

fn client(ca: &Authority, days: u64) -> Vec<CertificateDer<'static>> {
    let leaf = Leaf::client("pc-1.test", Validity::days(UnixTime::now(), days));
    ca.issue(&leaf, &key()).unwrap().chain
}

fn later(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        UnixTime::now().as_secs() + days * 86_400,
    ))
}

/// Whether `closed` is ready at once.
async fn fault_of(live: &mut Live) -> Option<CertificateFault> {
    tokio::select! {
        biased;
        fault = live.closed() => Some(fault),
        () = std::future::ready(()) => None,
    }
}

#[tokio::test]
async fn a_new_generation_closes_exactly_the_connections_that_no_longer_verify() {
    let (a, b) = (root("A"), root("B"));
    let (trust, metrics) = trust(anchors(&[&a, &b], &[]));
    let mut of_a = trust.admit(&client(&a, 10));
    let mut of_b = trust.admit(&client(&b, 10));
    let mut of_nobody = trust.admit(&client(&root("C"), 10));
    let mut without = trust.admit(&[]);
    assert_eq!(trust.live(), 2);
    assert_eq!(of_a.identity().unwrap().name, "pc-1.test");
    assert!(matches!(
        of_nobody.certificate(),
        ClientCertificate::Refused(_)
    ));
    assert_eq!(without.certificate(), ClientCertificate::Missing);

    assert_eq!(trust.replace(anchors(&[&b], &[])), 2);
    let fault = fault_of(&mut of_a).await.expect("its root is gone");
    assert_eq!(
        (fault.reason, fault.which.as_str()),
        (Reason::CertificateUnknownIssuer, "CN=pc-1.test")
    );
    assert_eq!(fault_of(&mut of_a).await, Some(fault.clone()));
    assert_eq!(of_a.certificate(), ClientCertificate::Refused(fault));
    for live in [&mut of_b, &mut of_nobody, &mut without] {
        assert_eq!(fault_of(live).await, None);
    }
    assert!(of_b.identity().is_some());
    assert!(metrics.encode().contains("opencmg_trust_generation 2"));
    assert!(metrics.encode().contains(
        "opencmg_trust_closed_connections_total{reason=\"certificate-unknown-issuer\"} 1"
    ));

    // Being trusted again does not bring a closing connection back.
    trust.replace(anchors(&[&a, &b], &[]));
    assert!(fault_of(&mut of_a).await.is_some());
    drop((of_a, of_b, of_nobody, without));
    assert_eq!(trust.live(), 0);
}

#[tokio::test]
async fn a_waiting_connection_is_woken_when_it_must_close() {
    let a = root("A");
    let (trust, _) = trust(anchors(&[&a], &[]));
    let mut live = trust.admit(&client(&a, 10));
    let waiting = async { live.closed().await };
    let replacing = async { trust.replace(anchors(&[&root("B")], &[])) };
    let (fault, _) = tokio::join!(waiting, replacing);
    assert_eq!(fault.reason, Reason::CertificateUnknownIssuer);
}

#[tokio::test]
async fn a_connection_lives_on_if_another_path_is_found() {
    let (a, b) = (root("A"), root("B"));
    let issuing_key = key();
    let pem = issuing_key.to_pem();
    let under_a = a
        .intermediate("Issuing", issuing_key, Validity::days(UnixTime::now(), 50))
        .unwrap();
    let same_key = Key::of(
        &crate::pki::load_pem(under_a.to_pem().as_bytes(), pem.as_bytes())
            .unwrap()
            .key,
    )
    .unwrap();
    let under_b = b
        .intermediate("Issuing", same_key, Validity::days(UnixTime::now(), 50))
        .unwrap();
    let (trust, _) = trust(anchors(&[&a], &[&under_a]));
    let leaf_only = client(&under_a, 10)[..1].to_vec();
    let mut live = trust.admit(&leaf_only);
    trust.replace(anchors(&[&b], &[&under_b]));
    assert_eq!(fault_of(&mut live).await, None);
    assert!(live.identity().is_some());
    trust.replace(anchors(&[&b], &[]));
    assert!(fault_of(&mut live).await.is_some());
}

#[tokio::test]
async fn a_chain_that_ends_closes_its_connection_when_the_time_comes() {
    let a = root("A");
    let (trust, _) = trust(anchors(&[&a], &[]));
    let mut short = trust.admit(&client(&a, 1));
    let mut long = trust.admit(&client(&a, 10));
    trust.recheck_expired(UnixTime::now());
    assert_eq!(fault_of(&mut short).await, None);
    trust.recheck_expired(later(2));
    assert_eq!(
        fault_of(&mut short).await.unwrap().reason,
        Reason::CertificateExpired
    );
    assert_eq!(fault_of(&mut long).await, None);
    trust.recheck_expired(later(11));
    assert_eq!(
        fault_of(&mut long).await.unwrap().reason,
        Reason::CertificateExpired
    );
}

#[test]
fn verifying_alone_counts_and_remembers_and_follows_the_generation() {
    let (a, b) = (root("A"), root("B"));
    let (trust, metrics) = trust(anchors(&[&a], &[]));
    let chain = client(&a, 10);
    trust.verify(&chain).unwrap();
    trust.verify(&chain).unwrap();
    trust.replace(anchors(&[&b], &[]));
    assert_eq!(
        trust.verify(&chain).unwrap_err().reason,
        Reason::CertificateUnknownIssuer
    );
    let text = metrics.encode();
    for outcome in ["verified", "remembered", "refused"] {
        let line = format!("opencmg_certificate_verifications_total{{outcome=\"{outcome}\"}} 1");
        assert!(text.contains(&line), "{text}");
    }
}

/// Admits two chains over and over on three threads until after a change, and returns what became of each.
fn admitted_around(
    trust: &Trust,
    [first, second]: [&[CertificateDer<'static>]; 2],
    live_before: usize,
    change: impl FnOnce(),
) -> Vec<(Live, Live)> {
    const ADMITTING: usize = 3;
    let changed = AtomicBool::new(false);
    let start = std::sync::Barrier::new(ADMITTING + 1);
    let admit = || {
        let mut admitted = Vec::new();
        start.wait();
        while !changed.load(Ordering::SeqCst) {
            admitted.push((trust.admit(first), trust.admit(second)));
        }
        admitted
    };
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..ADMITTING).map(|_| scope.spawn(admit)).collect();
        start.wait();
        while trust.live() < live_before {
            std::thread::yield_now();
        }
        change();
        changed.store(true, Ordering::SeqCst);
        let admitted = tasks.into_iter().flat_map(|task| task.join().unwrap());
        admitted.collect()
    })
}

/// Whoever is admitted around a swap must be judged by the generation that the swap put in force.
#[test]
fn no_connection_slips_through_a_swap_during_its_admission() {
    const ROUNDS: usize = 10;
    let (a, b) = (root("A"), root("B"));
    let [both, only_b] = [anchors(&[&a, &b], &[]), anchors(&[&b], &[])];
    let (trust, _) = trust(both.clone());
    let [of_a, of_b] = [client(&a, 10), client(&b, 10)];
    for _ in 0..ROUNDS {
        let admitted = admitted_around(&trust, [&of_a, &of_b], 20, || {
            trust.replace(only_b.clone());
        });
        for (of_a, of_b) in admitted {
            assert!(
                of_a.identity().is_none(),
                "a chain of the removed root counts as verified"
            );
            assert!(
                of_b.identity().is_some(),
                "a chain of the kept root was closed"
            );
        }
        assert_eq!(trust.live(), 0);
        trust.replace(both.clone());
    }
}

/// Revocation under a policy that wants a CRL of every CA.
fn strict(crls: Vec<Arc<Crl>>) -> Revocation {
    Revocation::new(
        Policy::default(),
        Arc::new(CrlSet::new(crls, UnixTime::now())),
    )
}

fn crl(ca: &Authority, number: u64, revoked: &[&[CertificateDer<'static>]]) -> Arc<Crl> {
    let serial = |chain: &&[CertificateDer<'static>]| Certificate::parse(&chain[0]).unwrap().serial;
    let list = RevocationList {
        revoked: revoked.iter().map(serial).collect(),
        ..RevocationList::empty(number, Validity::days(UnixTime::now(), 7))
    };
    let der = ca.revoke(&list).unwrap();
    Arc::new(Crl::read(&der, &[ca.certificate().clone()]).unwrap())
}

fn set(crls: Vec<Arc<Crl>>) -> Arc<CrlSet> {
    Arc::new(CrlSet::new(crls, UnixTime::now()))
}

fn revoking(anchors: Anchors, crls: Vec<Arc<Crl>>) -> (Trust, Metrics) {
    let metrics = Metrics::new();
    let (usage, settings) = (Usage::Client, Settings::default());
    let trust = Trust::with_settings(anchors, strict(crls), usage, metrics.clone(), settings);
    (trust, metrics)
}

#[tokio::test]
async fn other_crls_close_exactly_who_is_on_them_and_look_at_nobody_elses() {
    const UNAFFECTED: usize = 9_000;
    let (a, b) = (root("A"), root("B"));
    let (trust, metrics) = revoking(
        anchors(&[&a, &b], &[]),
        vec![crl(&a, 1, &[]), crl(&b, 1, &[])],
    );
    let [revoked, of_a, of_b] = [client(&a, 10), client(&a, 10), client(&b, 10)];
    let many: Vec<_> = (0..UNAFFECTED).map(|_| trust.admit(&of_b)).collect();
    let mut live = [trust.admit(&revoked), trust.admit(&of_a)];
    let verdict = |live: &Live| match &live.0 {
        Watch::Indexed { entry, .. } => entry.verified().unwrap(),
        Watch::Fixed(_) => panic!("not verified"),
    };
    let before: Vec<_> = many.iter().map(verdict).collect();
    let second = crl(&a, 2, &[&revoked]);
    assert_eq!(
        trust.replace_crls(set(vec![second.clone(), crl(&b, 1, &[])])),
        2
    );
    // The one of B is signed anew, so that it is another list of the same content.
    assert_eq!(
        fault_of(&mut live[0]).await.unwrap().reason,
        Reason::CertificateRevoked
    );
    assert_eq!(fault_of(&mut live[1]).await, None);
    assert!(many.iter().all(|live| live.identity().is_some()));

    let between: Vec<_> = many.iter().map(verdict).collect();
    let list_of_b = trust
        .revocation()
        .crls()
        .iter()
        .find(|crl| crl.issuer() == "CN=B")
        .cloned();
    let third = set(vec![crl(&a, 3, &[&revoked]), list_of_b.unwrap()]);
    assert_eq!(trust.replace_crls(Arc::clone(&third)), 3);
    let after: Vec<_> = many.iter().map(verdict).collect();
    let same =
        |x: &[Arc<Verified>], y: &[Arc<Verified>]| x.iter().zip(y).all(|(x, y)| Arc::ptr_eq(x, y));
    assert!(!same(&before, &between), "a list of B was replaced");
    assert!(
        same(&between, &after),
        "a connection was looked at that no change concerned"
    );
    assert_eq!(trust.replace_crls(third), 3, "nothing differs");
    assert!(
        metrics
            .encode()
            .contains("opencmg_trust_closed_connections_total{reason=\"certificate-revoked\"} 1")
    );
    assert_eq!(
        trust.verify(&revoked).unwrap_err().reason,
        Reason::CertificateRevoked
    );
    // Nothing is left of who has gone.
    drop((many, live));
    assert_eq!(trust.live(), 0);
    assert!(trust.index.connections.is_empty());
}

#[tokio::test]
async fn a_crl_that_passes_its_grace_closes_whom_it_speaks_of() {
    let a = root("A");
    let (trust, _) = revoking(anchors(&[&a], &[]), vec![crl(&a, 1, &[])]);
    let mut live = trust.admit(&client(&a, 50));
    trust.recheck_expired(later(8));
    assert_eq!(
        fault_of(&mut live).await,
        None,
        "the grace of a day is not over"
    );
    trust.recheck_expired(later(9));
    assert_eq!(fault_of(&mut live).await.unwrap().reason, Reason::CrlStale);
}

#[test]
fn no_revoked_client_slips_through_a_change_of_crls_during_its_admission() {
    const ROUNDS: u64 = 10;
    let a = root("A");
    let [revoked, good] = [client(&a, 10), client(&a, 10)];
    let (trust, _) = revoking(anchors(&[&a], &[]), vec![crl(&a, 1, &[])]);
    for round in 1..=ROUNDS {
        let admitted = admitted_around(&trust, [&revoked, &good], 100, || {
            trust.replace_crls(set(vec![crl(&a, 2 * round, &[&revoked])]));
        });
        for (revoked, good) in admitted {
            assert!(
                revoked.identity().is_none(),
                "a revoked client counts as verified"
            );
            assert!(
                good.identity().is_some(),
                "a client that is not revoked was closed"
            );
        }
        assert!(trust.index.connections.is_empty());
        trust.replace_crls(set(vec![crl(&a, 2 * round + 1, &[])]));
    }
}

#[tokio::test]
async fn a_root_that_was_renewed_with_its_key_stands_in_when_the_old_one_has_ended() {
    let (key, day) = (key(), 86_400);
    let der = key.to_der();
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let now = UnixTime::now().as_secs();
    let past = Validity {
        not_before: at(now - 9 * day),
        not_after: at(now - day),
    };
    let old = Authority::root("A", key, past).unwrap();
    let validity = Validity::days(UnixTime::now(), 100);
    let renewed = Authority::root("A", Key::of(&der).unwrap(), validity).unwrap();
    let (trust, _) = trust(anchors(&[&old, &renewed], &[]));
    let mut live = trust.admit(&client(&old, 50));
    assert!(live.identity().is_some(), "{:?}", live.certificate());
    trust.recheck_expired(later(49));
    assert_eq!(fault_of(&mut live).await, None);
    trust.replace(anchors(&[&old], &[]));
    let fault = fault_of(&mut live).await.unwrap();
    assert_eq!(fault.reason, Reason::CertificateExpired);
}
