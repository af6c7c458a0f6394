//! What a client sends after its handshake, through the whole request path. No tunnel is there: nothing is ever answered
//! with 2xx but the service's own metadata.

use std::sync::LazyLock;
use std::time::Duration;

use opencmg::drain::Drain;
use opencmg::identity::Trust;
use opencmg::logging::AccessLog;
use opencmg::metrics::Metrics;
use opencmg::pki::issue::{Authority, Key, KeyAlgorithm, Validity};
use opencmg::pki::{Anchors, Limits, UnixTime, Usage};
use opencmg::proxy::{Connection, Parts, Proxy, Settings};
use opencmg::tunnel::{
    Budget, BudgetSettings, Hello, Instance, Random, Registry, RegistrySettings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::message::routes;

struct Gateway {
    runtime: tokio::runtime::Runtime,
    proxy: Proxy,
    trust: Trust,
    _drain: Drain,
}

static GATEWAY: LazyLock<std::sync::Mutex<Gateway>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let metrics = Metrics::new();
    let instance = Instance {
        index: 0,
        run: "r".to_owned(),
    };
    let budget = Budget::new(BudgetSettings::default(), metrics.clone());
    let registry = Registry::new(
        RegistrySettings::default(),
        Hello::alone("gw.test", instance),
        budget,
        metrics.clone(),
        Random::seeded(1),
    );
    let drain = Drain::new();
    let proxy = Proxy::new(Parts {
        settings: Settings::default(),
        routes: routes(&metrics),
        registry,
        metrics: metrics.clone(),
        access: AccessLog::off(),
        instance: 0,
        draining: drain.watch(),
    });
    let key = Key::generate(KeyAlgorithm::EcdsaP256).expect("a key");
    let year = Validity::days(
        UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600)),
        365,
    );
    let root = Authority::root("Root", key, year).expect("a root");
    let anchors =
        Anchors::build(&[root.certificate().clone()], &[], Limits::default()).expect("anchors");
    std::sync::Mutex::new(Gateway {
        runtime,
        proxy,
        trust: Trust::new(anchors, Usage::Client, metrics),
        _drain: drain,
    })
});

fn talk(sent: &[u8], http2: bool) -> Vec<u8> {
    let gateway = GATEWAY.lock().expect("one thread");
    let talk = async {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (mut read, mut write) = tokio::io::split(ours);
        let served = gateway.proxy.serve(Connection {
            stream: theirs,
            http2,
            remote: ([192, 0, 2, 1], 1).into(),
            server_name: None,
            certificate_required: false,
            live: gateway.trust.admit(&[]),
        });
        let client = async {
            // The gateway may have closed.
            let _ = write.write_all(sent).await;
            let _ = write.shutdown().await;
        };
        let mut answer = Vec::new();
        let heard = async {
            let _ = read.read_to_end(&mut answer).await;
        };
        let all = async { tokio::join!(served, client, heard) };
        // Time is simulated: a connection without an end is one that outlives its every time-out.
        let hour = Duration::from_secs(3_600);
        assert!(tokio::time::timeout(hour, all).await.is_ok(), "no end");
        answer
    };
    gateway.runtime.block_on(talk)
}

/// HTTP/1.1.
pub fn request(bytes: &[u8]) {
    let answer = talk(bytes, false);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "no answer of HTTP/1.1: {answer:?}"
    );
    assert!(
        !answer.starts_with(b"HTTP/1.1 2") || answer.windows(9).any(|part| part == b"service\":"),
        "served without a tunnel: {}",
        String::from_utf8_lossy(&answer)
    );
}

/// HTTP/2, the preface and empty settings sent.
pub fn http2(bytes: &[u8]) {
    let before = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    talk(&[&before[..], bytes].concat(), true);
}
