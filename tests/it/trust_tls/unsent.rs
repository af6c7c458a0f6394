//! What may wait in the kernel to be sent: little to a client, as much as the system allows to a tunnel.

use std::time::Duration;

use opencmg::drain::Drain;
use opencmg::listener::{Arrived, Handler, Listener, Settings, bind};
use opencmg::metrics::Metrics;
use opencmg::tasks::Tasks;
use opencmg::tls::{Port, Purpose};
use socket2::SockRef;
use tokio::sync::mpsc;

use super::server::{Offer, Pki, built};
use super::{D5, name};

/// Tells of each connection what it is for and its `TCP_NOTSENT_LOWAT`.
#[derive(Clone)]
struct Teller(mpsc::UnboundedSender<(Purpose, u32)>);

impl Handler for Teller {
    async fn serve(&self, arrived: Arrived) {
        let tcp = arrived.accepted.stream.get_ref().0.get_ref().get_ref();
        let unsent = SockRef::from(tcp).tcp_notsent_lowat().unwrap();
        self.0.send((arrived.accepted.purpose, unsent)).unwrap();
    }
}

#[tokio::test]
async fn little_waits_to_be_sent_to_a_client_and_a_tunnel_has_the_limit_of_the_system() {
    let pki = Pki::new();
    let (tls, _clients, _points) = built(&pki, vec![name(&pki, &["gw.test"])], true);
    let (tasks, drain) = (Tasks::new(), Drain::new());
    let (teller, mut told) = mpsc::unbounded_channel();
    let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener::new(Settings::default(), tls, Metrics::new(), tasks.clone());
    let draining = drain.watch();
    let accept = async move {
        listener
            .accept(socket, Port::Client, Teller(teller), draining)
            .await
    };
    tasks.spawn(accept);
    let client = Offer::to("gw.test").alpn(&[b"http/1.1"]);
    let tunnel = Offer::to("gw.test")
        .alpn(&[D5])
        .with(&pki.connection_point());
    for (offer, expected) in [
        (client, (Purpose::Client { http2: false }, 128 << 10)),
        (tunnel, (Purpose::Tunnel, 0)),
    ] {
        let _stream = offer.open(address).await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(20), told.recv());
        assert_eq!(next.await.unwrap().unwrap(), expected);
    }
    tasks.abort();
    tasks.join().await;
}
