//! One connection as the gateway accepts it: the handshake, and the verification of what the client presented.
//!
//! Client and gateway are in this process and joined by a pipe, so that a figure is the work of both ends without the network's.

#![allow(missing_docs, reason = "criterion's macros make the functions")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use opencmg::identity::Trust;
use opencmg::metrics::Metrics;
use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Leaf, Validity};
use opencmg::pki::{Anchors, KeyPair, Limits, UnixTime, Usage};
use opencmg::tls::{
    KeyExchange, LoadClient, LoadClientSettings, NameSettings, Port, ServerSettings, ServerTls,
    Sessions,
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio_rustls::TlsConnector;

const HOST: &str = "gw.opencmg.test";
// A flight of a handshake never waits for the other end.
const PIPE: usize = 64 << 10;

/// Both ends.
struct Ends {
    server: ServerTls,
    trust: Trust,
    root: Authority,
    client: KeyPair,
}

impl Ends {
    fn new(algorithm: KeyAlgorithm) -> Self {
        let key = || Key::generate(algorithm).unwrap();
        let validity = Validity::days(UnixTime::now(), 30);
        let root = Authority::root("Root", key(), validity).unwrap();
        let issuer = Authority::intermediate(&root, "Intermediate", key(), validity).unwrap();
        let leaf = Leaf::server(&[HOST], validity);
        let name = NameSettings {
            key_pairs: vec![issuer.issue(&leaf, &key()).unwrap()],
            ..NameSettings::default()
        };
        let settings = ServerSettings {
            names: vec![name],
            strict_sni: false,
            tunnel_server_name: format!("tunnel.{HOST}"),
        };
        let server = ServerTls::build(&settings, Arc::new(|_| Ok(())), Arc::new(|_| Ok(())));
        let anchors = Anchors::build(
            &[root.certificate().clone()],
            &[issuer.certificate().clone()],
            Limits::default(),
        );
        Self {
            server: server.unwrap(),
            trust: Trust::new(anchors.unwrap(), Usage::Client, Metrics::new()),
            client: issuer
                .issue(&Leaf::client("pc-1", validity), &key())
                .unwrap(),
            root,
        }
    }

    fn client(&self, key_exchange: KeyExchange, sessions: Sessions) -> TlsConnector {
        let settings = LoadClientSettings {
            ca: vec![self.root.certificate().clone()],
            key_pair: Some(self.client.clone()),
            key_exchange,
            suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
            alpn: b"http/1.1",
            sessions,
        };
        LoadClient::build(&settings).unwrap().configuration().into()
    }

    /// One connection until the client has read a byte, and with it the ticket; says whether it was resumed.
    async fn connect(&self, client: &TlsConnector) -> bool {
        let (near, far) = tokio::io::duplex(PIPE);
        let accept = async {
            let mut accepted = self.server.accept(near, Port::Client).await.unwrap();
            let live = self.trust.admit(accepted.presented());
            assert!(live.identity().is_some());
            accepted.stream.write_all(b"!").await.unwrap();
            accepted.stream.flush().await.unwrap();
            accepted.resumed
        };
        let dial = async {
            let name = ServerName::try_from(HOST).unwrap();
            let mut stream = client.connect(name, far).await.unwrap();
            stream.read_u8().await.unwrap()
        };
        tokio::join!(accept, dial).0
    }
}

fn handshake(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("handshake");
    for (name, algorithm) in [
        ("ec", KeyAlgorithm::EcdsaP256),
        ("rsa", KeyAlgorithm::Rsa2048),
    ] {
        let ends = Ends::new(algorithm);
        for (kind, key_exchange, sessions) in [
            ("full", KeyExchange::X25519, Sessions::None),
            (
                "full_post_quantum",
                KeyExchange::X25519MlKem768,
                Sessions::None,
            ),
            ("resumed", KeyExchange::X25519, Sessions::Kept),
        ] {
            let client = ends.client(key_exchange, sessions);
            runtime.block_on(ends.connect(&client));
            group.bench_function(format!("{name}_{kind}"), |b| {
                b.iter(|| {
                    let is_resumed = runtime.block_on(ends.connect(&client));
                    assert_eq!(is_resumed, sessions == Sessions::Kept);
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, handshake);
criterion_main!(benches);
