//! Several instances and several connection points: who keeps tunnels to whom.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use opencmg::cli::builtin::{BuiltIn, Options};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::{get, spawn};
use crate::world::{Node, Plan, eventually, mutual};

/// A balancer that gives connections to its targets in turn, as the one address of a cloud service does.
struct Balancer {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    accept: JoinHandle<()>,
}

impl Balancer {
    async fn start(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let accept = spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let target = targets[count.fetch_add(1, Ordering::SeqCst) % targets.len()];
                spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self {
            address,
            accepted,
            accept,
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn tunnels(node: &Node) -> usize {
    let Ok(status) = serde_json::from_str::<serde_json::Value>(&node.status().await) else {
        return 0;
    };
    status["tunnels"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn every_connection_point_keeps_its_tunnels_to_every_instance() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let plan = Plan::new()
        .instances(2)
        .connection_point(&url, &url)
        .connection_point(&url, &url);
    let world = plan.start().await;
    for gateway in &world.gateways {
        eventually("two tunnels of each", async || tunnels(gateway).await == 4).await;
        let client = world.client("pc-1").at(gateway.address);
        let answer = client.get(&mutual("SMS_MP/.sms_aut?MPLIST")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn instances_behind_one_address_are_all_met() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = backend.url();
    let mut world = Plan::new()
        .instances(2)
        .connection_point(&url, &url)
        .start()
        .await;
    let addresses: Vec<_> = world
        .gateways
        .iter()
        .map(|gateway| gateway.address)
        .collect();
    world.connection_points[0].stop().await;
    let balancer = Balancer::start(addresses.clone()).await;
    let file = world.dir.path().join("cp-1.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let listed = format!("[\"{}\", \"{}\"]", addresses[0], addresses[1]);
    let shared = text.replace(&listed, &format!("[\"{}\"]", balancer.address));
    assert_ne!(text, shared);
    std::fs::write(&file, shared).unwrap();
    world.connection_points[0].start();
    for gateway in &world.gateways {
        eventually("two tunnels to each instance", async || {
            tunnels(gateway).await == 2
        })
        .await;
    }
    assert!(balancer.accepted.load(Ordering::SeqCst) >= 4);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_sticky_endpoint_keeps_one_client_at_one_connection_point() {
    let [one, two] = [
        BuiltIn::management_point(Options::default()).await.unwrap(),
        BuiltIn::management_point(Options::default()).await.unwrap(),
    ];
    let plan = Plan::new()
        .instances(2)
        .connection_point(&one.url(), &one.url())
        .connection_point(&two.url(), &two.url());
    let world = plan.start().await;
    for gateway in &world.gateways {
        let client = world.client("pc-1").at(gateway.address);
        let mut connection = client.connect().await.unwrap();
        for _ in 0..20 {
            let request = client.addressed(get(&mutual("CCM_Incoming/nothing")));
            connection.send(request).await.unwrap();
        }
    }
    let seen = [one.requests(), two.requests()];
    assert!(
        seen == [40, 0] || seen == [0, 40],
        "both instances choose the same one: {seen:?}"
    );
    world.finish().await;
    one.stop().await;
    two.stop().await;
}
