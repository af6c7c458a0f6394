//! One connection point that serves two services: two gateways, each with a definition of its own.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use opencmg::backend::{BackendSettings, BaseUrl};
use opencmg::connection_point::{ConnectionPoint, GatewaySettings, Handle, Settings};
use opencmg::forward::RoleSettings;
use opencmg::metrics::{ByPeer, Metrics};
use opencmg::role::{Kind, RoleId, endpoints_of};
use opencmg::tunnel::BudgetSettings;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::backend_servers::Server;
use crate::client::{full, spawn};
use crate::world::{
    HOST, MANAGEMENT_POINT, Node, Plan, SOFTWARE_UPDATE_POINT, World, eventually, mutual, server,
    within,
};

const OTHER: &str = "other.opencmg.test";

/// A world with a second service, which publishes the software update point alone, and a connection point of both.
struct Two {
    world: World,
    other: Node,
    handle: Handle,
    metrics: Metrics,
    running: JoinHandle<()>,
}

fn role(id: &str, kind: Kind, url: &str) -> RoleSettings {
    RoleSettings {
        backend: BackendSettings {
            id: RoleId::parse(id).unwrap(),
            kind,
            url: BaseUrl::parse(url).unwrap(),
            ..BackendSettings::default()
        },
        endpoints: endpoints_of(kind),
    }
}

impl Two {
    async fn start(url: &str, budget: BudgetSettings) -> Self {
        let mut world = Plan::new().connection_point(url, url).start().await;
        world.connection_points[0].stop().await;
        let definition = format!(
            "name = \"{OTHER}\"\n\
             [[certificate]]\nfile = \"../pki/server.pfx\"\npassword-file = \"../pki/server.password\"\n\
             [trust]\nanchors = [\"../pki/root.pem\"]\nintermediates = [\"../pki/intermediate.pem\"]\n\
             [trust.revocation]\ncrls = [\"../pki/root.crl\", \"../pki/intermediate.crl\"]\n\
             [connection-points]\nca = [\"../pki/connection-point-ca.pem\"]\n\
             [[connection-point]]\nname = \"cp-1\"\n\
             [[role]]\nid = \"{SOFTWARE_UPDATE_POINT}\"\nkind = \"software-update-point\"\nconnection-points = [\"cp-1\"]\n"
        );
        let other = world.other_service(&definition).await;
        let gateway = |name: &str, address: SocketAddr| GatewaySettings {
            name: name.to_owned(),
            addresses: vec![address.to_string()],
            ca: vec![world.pki.file("root.pem")],
            way: None,
        };
        let settings = Settings {
            certificate: world.pki.file("cp-1.pem"),
            key: world.pki.file("cp-1.key"),
            gateways: vec![
                gateway(HOST, world.gateways[0].address),
                gateway(OTHER, other.address),
            ],
            roles: vec![
                role(MANAGEMENT_POINT, Kind::ManagementPoint, url),
                role(SOFTWARE_UPDATE_POINT, Kind::SoftwareUpdatePoint, url),
            ],
            budget,
            drain_deadline: Duration::from_secs(2),
            ..Settings::default()
        };
        let metrics = Metrics::new();
        let point = ConnectionPoint::build(settings, metrics.clone()).await;
        let point = point.unwrap();
        let handle = point.handle();
        let running = spawn(point.run());
        world.gateways[0].has_tunnels(1).await;
        other.has_tunnels(1).await;
        Self {
            world,
            other,
            handle,
            metrics,
            running,
        }
    }

    async fn ask(&self, path: &str) -> (u16, Bytes) {
        let answer = self.world.client("pc-1").get(path).await;
        (answer.status.as_u16(), answer.body)
    }

    async fn ask_other(&self, path: &str) -> (u16, Bytes) {
        let client = self.world.client("pc-1").at(self.other.address);
        let answer = client.named(OTHER).get(path).await;
        (answer.status.as_u16(), answer.body)
    }

    /// How many tunnels lead to a service.
    fn tunnels(&self, name: &str) -> i64 {
        let tunnels = &self.metrics.tunnels;
        tunnels.get_or_create(&ByPeer::new(name)).get()
    }

    async fn finish(mut self) {
        self.handle.drain();
        within(Duration::from_secs(10), "it drains", self.running)
            .await
            .unwrap();
        self.other.stop().await;
        self.world.finish().await;
    }
}

#[tokio::test]
async fn a_connection_point_serves_two_services_and_the_loss_of_one_leaves_the_other_unharmed() {
    let backend =
        Server::nginx("server { listen @ADDRESS@; location / { return 200 one; } }").await;
    let mut two = Two::start(&backend.url("http"), BudgetSettings::default()).await;
    let one = || (200, Bytes::from("one"));
    assert_eq!(two.ask(&mutual("SMS_MP/x")).await, one());
    assert_eq!(two.ask(&server("Content/x")).await, one());
    assert_eq!(two.ask_other(&server("Content/x")).await, one());
    let (status, _) = two.ask_other(&mutual("SMS_MP/x")).await;
    assert_eq!(status, 404, "the other service does not publish it");
    eventually("two tunnels to each", async || {
        (two.tunnels(HOST), two.tunnels(OTHER)) == (2, 2)
    })
    .await;

    two.other.kill();
    eventually("the loss is noticed", async || two.tunnels(OTHER) == 0).await;
    for _ in 0..50 {
        assert_eq!(two.ask(&mutual("SMS_MP/x")).await, one());
    }
    assert_eq!(two.tunnels(HOST), 2);
    assert!(two.handle.is_ready());
    let ends = two.world.gateways[0]
        .metric("opencmg_tunnel_ends_total", "")
        .await;
    two.other.start();
    two.other.has_tunnels(1).await;
    assert_eq!(two.ask_other(&server("Content/x")).await, one());
    let after = two.world.gateways[0]
        .metric("opencmg_tunnel_ends_total", "")
        .await;
    assert!(
        ends.total_cmp(&after).is_eq(),
        "the loss of one gateway ended tunnels of the other"
    );
    two.finish().await;
}

/// A backend that accepts and never reads.
fn deaf_backend() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(128).unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            held.push(tcp);
        }
    });
    address
}

#[tokio::test]
async fn both_services_share_the_one_budget_of_the_connection_point() {
    // Of one service's uploads alone so few bytes could wait that they would not even be counted. The windows of all
    // together are to be an eighth of the budget, which two halvings make them.
    let window = 256 << 10;
    let budget = BudgetSettings {
        bytes: 24 * window,
        ..BudgetSettings::default()
    };
    let two = Two::start(&format!("http://{}", deaf_backend()), budget).await;
    let own = two.world.client("pc-1");
    let other = own.at(two.other.address).named(OTHER);
    let body = Bytes::from(vec![7; 8 << 20]);
    let uploads: Vec<_> = [&own, &other]
        .into_iter()
        .cycle()
        .take(8)
        .map(|client| {
            let (client, body) = (client.clone(), body.clone());
            spawn(async move {
                let request = Request::post(server("ClientWebService/client.asmx"));
                let _ = client.send(request.body(full(body)).unwrap()).await;
            })
        })
        .collect();
    let all = i64::try_from(8 * (window >> 2)).unwrap();
    // What other tests of this process read ahead counts as well.
    eventually("the uploads of both are counted together", async || {
        two.metrics.buffered_bytes.get() >= all
    })
    .await;
    assert_eq!(two.metrics.buffer_budget_bytes.get(), 12 * all);
    uploads.iter().for_each(JoinHandle::abort);
    two.finish().await;
}
