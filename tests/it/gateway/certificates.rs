//! Client certificates: which are accepted where, and what becomes of live connections when trust changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opencmg::pki::UnixTime;
use opencmg::pki::issue::{Leaf, Validity};

use super::rig::{Plan, crl, mutual, server};
use crate::client::get;
use crate::world::{eventually, now};

#[tokio::test]
async fn a_certificate_that_does_not_verify_is_named_in_the_phrase_and_counts_as_none() {
    let rig = Plan::new().start().await;
    let start = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        now().as_secs() - 86_400 * 30,
    ));
    let past = Validity::days(start, 1);
    rig.pki.issue(
        &rig.pki.intermediate,
        "expired",
        &Leaf::client("expired", past),
    );
    let long = Validity::days(now(), 30);
    let server_leaf = Leaf::server(&["x.opencmg.test"], long);
    rig.pki
        .issue(&rig.pki.intermediate, "wrong-usage", &server_leaf);
    for (name, phrase) in [
        ("expired", "CMGService_ClientCertificateExpired"),
        ("stranger", "CMGService_ClientCertificateUnknownIssuer"),
        ("wrong-usage", "CMGService_ClientCertificateWrongUsage"),
    ] {
        let client = rig.client_of(name);
        let answer = client.get(&mutual("SMS_MP/x")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.phrase.as_str()),
            (403, phrase)
        );
        assert_eq!(answer.headers["connection"], "close");
        // The backend judges, and the certificate is of no interest.
        assert_eq!(client.get(&server("ClientWebService/x")).await.status, 200);
    }
    assert_eq!(
        rig.anonymous()
            .get(&server("ClientWebService/x"))
            .await
            .status,
        200
    );
    assert_eq!(rig.client().get(&mutual("SMS_MP/x")).await.status, 200);
    rig.finish().await;
}

#[tokio::test]
async fn a_connection_whose_anchor_goes_is_closed_and_others_are_unharmed() {
    let rig = Plan::new().start().await;
    let path = mutual("SMS_MP/x");
    let mut definition = rig.definition.clone();
    definition
        .anchors
        .push(rig.pki.stranger.certificate().clone());
    definition.crls.push(crl(&rig.pki.stranger));
    rig.handle.apply(Arc::new(definition)).unwrap();
    let (first, second) = (rig.client(), rig.client_of("stranger"));
    let mut unharmed = first.connect().await.unwrap();
    let mut concerned = second.connect_h2().await.unwrap();
    assert_eq!(
        unharmed
            .send(first.addressed(get(&path)))
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(
        concerned
            .send(second.addressed(get(&path)))
            .await
            .unwrap()
            .status,
        200
    );

    rig.handle.apply(Arc::new(rig.definition.clone())).unwrap();
    rig.counts(
        "opencmg_connections_refused_total",
        "certificate-unknown-issuer",
        1.0,
    )
    .await;
    assert!(concerned.send(second.addressed(get(&path))).await.is_err());
    assert_eq!(
        unharmed
            .send(first.addressed(get(&path)))
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(second.get(&path).await.status, 403);
    rig.finish().await;
}

#[tokio::test]
async fn a_definition_with_a_fault_changes_nothing() {
    let rig = Plan::new().start().await;
    let mut definition = rig.definition.clone();
    definition.anchors.clear();
    let twice = definition.roles[0].clone();
    definition.roles.push(twice);
    let faults = rig.handle.apply(Arc::new(definition)).unwrap_err();
    assert!(
        faults.iter().any(|fault| fault.starts_with("trust: ")),
        "{faults:?}"
    );
    assert!(
        faults.iter().any(|fault| fault.contains("is there twice")),
        "{faults:?}"
    );
    let mut renamed = rig.definition.clone();
    renamed.name = "other.opencmg.test".to_owned();
    let faults = rig.handle.apply(Arc::new(renamed)).unwrap_err();
    assert!(faults[0].contains("make a second service"), "{faults:?}");
    assert_eq!(rig.client().get(&mutual("SMS_MP/x")).await.status, 200);
    rig.finish().await;
}

#[tokio::test]
async fn a_role_that_is_taken_out_is_unknown_and_one_that_is_put_in_is_served() {
    let rig = Plan::new().start().await;
    let path = server("Content/x");
    let mut definition = rig.definition.clone();
    let sup = definition.roles.remove(1);
    rig.handle.apply(Arc::new(definition.clone())).unwrap();
    assert_eq!(rig.anonymous().get(&path).await.status, 404);
    definition.roles.push(sup);
    rig.handle.apply(Arc::new(definition)).unwrap();
    eventually("the role is served again", async || {
        rig.anonymous().get(&path).await.status == 200
    })
    .await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_certificate_that_is_swapped_under_load_fails_no_request() {
    const SWAPS: usize = 20;
    let rig = Plan::new().start().await;
    let path = mutual("SMS_MP/x");
    let stop = Arc::new(AtomicBool::new(false));
    // Each client makes a connection for each request, and one of them keeps one open meanwhile.
    let asking = (0..4).map(|index| {
        let (client, path, stop) = (rig.client(), path.clone(), Arc::clone(&stop));
        async move {
            let mut open = client.connect().await.unwrap();
            let (mut served, mut shown) = (0_usize, BTreeSet::new());
            while !stop.load(Ordering::Relaxed) {
                let answer = client.send(get(&path)).await.unwrap();
                assert_eq!(answer.status, 200);
                served += 1;
                if index == 0 {
                    let answer = open.send(client.addressed(get(&path))).await.unwrap();
                    assert_eq!(answer.status, 200);
                    let tls = client.tls(&[]).await.unwrap();
                    shown.insert(tls.get_ref().1.peer_certificates().unwrap()[0].to_vec());
                }
            }
            (served, shown)
        }
    });
    let asking = crate::client::spawn_all(asking);
    for _ in 0..SWAPS {
        let leaf = Leaf::server(&["*.opencmg.test"], Validity::days(now(), 90));
        let mut definition = rig.definition.clone();
        definition.tls.names[0].key_pairs =
            vec![rig.pki.issue(&rig.pki.intermediate, "server", &leaf)];
        let fresh = definition.tls.names[0].key_pairs[0].chain[0].to_vec();
        rig.handle.apply(Arc::new(definition)).unwrap();
        let client = rig.client();
        eventually("the new certificate is shown", async || {
            let tls = client.tls(&[]).await.unwrap();
            tls.get_ref().1.peer_certificates().unwrap()[0].to_vec() == fresh
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let ended = asking.await;
    let served: usize = ended.iter().map(|(served, _)| served).sum();
    assert!(served >= SWAPS, "only {served} requests");
    assert!(ended[0].1.len() >= 2, "the client saw no swap");
    rig.finish().await;
}
