//! Thousands of connections that live on while the CRL of one client changes.

use std::fs;
use std::time::Duration;

use futures_util::StreamExt;
use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::pki::issue::{
    Authority, Key, KeyAlgorithm, Leaf, Validity, certificates_to_pem, crl_to_pem,
};

use crate::client::Connection;
use crate::served::is_served;
use crate::world::{Node, Pki, Plan, World, eventually, now, within};

const CONNECTED: usize = 9_000;

/// What a revoked client may still have.
const IN_FORCE: Duration = Duration::from_secs(5);

/// Writes the CRLs of both CAs into the one file that the service names.
fn publish(pki: &Pki) {
    let lists = ["main.crl", "branch.crl"].map(|name| fs::read(pki.file(name)).unwrap());
    pki.write(
        "intermediate.crl",
        lists.map(|der| crl_to_pem(&der)).concat(),
    );
}

/// How many of these have their next request answered.
async fn served(connections: impl Iterator<Item = &mut Connection>) -> usize {
    let asked = futures_util::stream::iter(connections).map(is_served);
    let answers = asked.buffer_unordered(100);
    answers
        .filter(|served| std::future::ready(*served))
        .count()
        .await
}

async fn looked_at(gateway: &Node) -> f64 {
    gateway
        .metric("opencmg_trust_rechecked_connections_total", "")
        .await
}

async fn closed(gateway: &Node) -> f64 {
    gateway
        .metric("opencmg_trust_closed_connections_total", "")
        .await
}

/// A second CA of clients, in force.
async fn add_branch(world: &World) -> Authority {
    let pki = &world.pki;
    let key = Key::generate(KeyAlgorithm::EcdsaP256).unwrap();
    let year = Validity::days(now(), 365);
    let branch = Authority::intermediate(&pki.root, "Branch CA", key, year).unwrap();
    for name in ["branch-1", "branch-2"] {
        pki.issue(&branch, name, &Leaf::client(name, year));
    }
    let both = [pki.intermediate.certificate(), branch.certificate()].map(Clone::clone);
    pki.write("intermediate.pem", certificates_to_pem(&both));
    pki.revoke(&pki.intermediate, "main", 2, &[]);
    pki.revoke(&branch, "branch", 2, &[]);
    publish(pki);
    eventually("both CAs are in force", async || {
        let connection = world.client("branch-1").connect().await;
        is_served(&mut connection.unwrap()).await
    })
    .await;
    branch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_thousand_connections_are_untouched_while_one_client_is_revoked() {
    opencmg::process::raise_descriptor_limit().unwrap();
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let plan = Plan::new().connection_point(&backend.url(), &backend.url());
    let world = plan.start().await;
    let (pki, gateway) = (&world.pki, &world.gateways[0]);
    let branch = add_branch(&world).await;
    let mut few = Vec::new();
    for name in ["branch-1", "branch-2", "pc-1"] {
        let mut connection = world.client(name).connect().await.unwrap();
        assert!(is_served(&mut connection).await);
        few.push(connection);
    }
    let client = world.client("pc-2");
    let connected = futures_util::stream::iter(0..CONNECTED).map(async |_| {
        let mut connection = client.connect().await.unwrap();
        assert!(is_served(&mut connection).await);
        connection
    });
    let connected = connected.buffer_unordered(100).collect();
    let mut connected: Vec<_> = within(Duration::from_secs(60), "all are in", connected).await;
    eventually("each is live, and nobody else", async || {
        let status: serde_json::Value = serde_json::from_str(&gateway.status().await).unwrap();
        status["trust"]["live"] == CONNECTED + few.len()
    })
    .await;
    let (looked_before, closed_before) = (looked_at(gateway).await, closed(gateway).await);

    // A list of another CA than theirs: nobody looks at them.
    pki.revoke(&branch, "branch", 3, &["branch-1"]);
    publish(pki);
    let gone = eventually("the revoked client is closed", async || {
        !is_served(&mut few[0]).await
    });
    within(IN_FORCE, "the CRL", gone).await;
    assert_eq!(
        served(connected.iter_mut().chain(&mut few[1..])).await,
        CONNECTED + 2
    );
    let looked = looked_at(gateway).await - looked_before;
    assert_eq!(looked, 2.0, "the two of that CA");
    assert_eq!(closed(gateway).await - closed_before, 1.0);

    // Their own list: all are looked at, and one is closed.
    pki.revoke(&pki.intermediate, "main", 3, &["pc-1"]);
    publish(pki);
    let gone = eventually("the revoked client is closed", async || {
        !is_served(&mut few[2]).await
    });
    within(IN_FORCE, "the CRL", gone).await;
    eventually("all of them were looked at", async || {
        looked_at(gateway).await - looked_before == (CONNECTED + 3) as f64
    })
    .await;
    assert_eq!(
        served(connected.iter_mut().chain(&mut few[1..2])).await,
        CONNECTED + 1
    );
    assert_eq!(closed(gateway).await - closed_before, 2.0);
    drop((connected, few));
    world.finish().await;
    backend.stop().await;
}
