//! CRLs that change while a thousand clients are in their handshakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use opencmg::pki::issue::{Leaf, RevocationList, Validity};
use opencmg::pki::{Certificate, Crl};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::rig::{Plan, mutual};
use crate::client::get;
use crate::world::{eventually, now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_revoked_client_slips_through_a_change_of_crls_during_a_thousand_handshakes() {
    const CLIENTS: usize = 1_000;
    let mut plan = Plan::new();
    plan.settings.listener.connections_per_address = 2 * CLIENTS;
    let rig = plan.start().await;
    let (ca, days) = (&rig.pki.intermediate, Validity::days(now(), 9));
    let revoked = rig.pki.issue(ca, "revoked", &Leaf::client("revoked", days));
    let mut definition = rig.definition.clone();
    let list = RevocationList {
        revoked: vec![Certificate::parse(&revoked.chain[0]).unwrap().serial],
        ..RevocationList::empty(2, days)
    };
    let issuer = [ca.certificate().clone()];
    let crl = Crl::read(&ca.revoke(&list).unwrap(), &issuer).unwrap();
    definition.crls.push(Arc::new(crl));

    let connected = Arc::new(AtomicUsize::new(0));
    let swapped = watch::Sender::new(false);
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let client = rig.client_of(["revoked", "pc-1"][n % 2]);
        let (connected, mut swapped) = (Arc::clone(&connected), swapped.subscribe());
        clients.spawn(async move {
            let connection = client.connect().await;
            connected.fetch_add(1, Ordering::SeqCst);
            swapped.wait_for(|swapped| *swapped).await.unwrap();
            let Ok(mut open) = connection else {
                return (n, None);
            };
            let request = client.addressed(get(&mutual("SMS_MP/x")));
            let answer = open.send(request).await;
            (n, answer.ok().map(|answer| answer.status))
        });
    }
    eventually("a part of the handshakes is done", async || {
        connected.load(Ordering::SeqCst) >= CLIENTS / 5
    })
    .await;
    let handle = rig.handle.clone();
    let applied = tokio::task::spawn_blocking(move || handle.apply(Arc::new(definition)));
    applied.await.unwrap().unwrap();
    let before = connected.load(Ordering::SeqCst);
    swapped.send_replace(true);
    for (n, status) in clients.join_all().await {
        match n % 2 {
            0 => assert!(
                status.is_none_or(|status| status == StatusCode::FORBIDDEN),
                "a revoked client is served: {status:?}"
            ),
            _ => assert_eq!(status, Some(StatusCode::OK), "a good client was harmed"),
        }
    }
    assert!(before < CLIENTS, "no handshake was under way at the change");
    rig.finish().await;
}
