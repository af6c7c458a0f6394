use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::drain::Drain;

struct Served {
    address: SocketAddr,
    drain: Drain,
    ready: Arc<AtomicBool>,
    tasks: Tasks,
}

async fn served(make: impl FnOnce(Views, Health) -> Router) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, ready) = (Drain::new(), Arc::new(AtomicBool::new(false)));
    let asked = Arc::clone(&ready);
    let health = Health {
        draining: drain.watch(),
        is_ready: Arc::new(move || asked.load(Ordering::Relaxed)),
    };
    let views = Views {
        metrics: Metrics::new(),
        status: Arc::new(|| serde_json::json!({ "tunnels": [] })),
    };
    let tasks = Tasks::new();
    tasks.spawn(serve(
        listener,
        make(views, health),
        tasks.clone(),
        drain.watch(),
    ));
    Served {
        address,
        drain,
        ready,
        tasks,
    }
}

impl Served {
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{request}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn status(&self, path: &str) -> u16 {
        let answer = self
            .ask(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1"))
            .await;
        answer["HTTP/1.1 ".len()..][..3].parse().unwrap()
    }

    async fn finish(self) {
        self.drain.force();
        self.tasks.join().await;
    }
}

#[tokio::test]
async fn health_tells_a_drain_and_readiness_tells_a_missing_tunnel() {
    let served = served(|_, health| health_router(health)).await;
    assert_eq!(served.status("/healthz").await, 200);
    assert_eq!(served.status("/readyz").await, 503);
    served.ready.store(true, Ordering::Relaxed);
    assert_eq!(served.status("/readyz").await, 200);
    served.drain.start();
    assert_eq!(served.status("/healthz").await, 503);
    assert_eq!(served.status("/readyz").await, 503);
    served.finish().await;
}

#[tokio::test]
async fn the_health_port_shows_health_and_nothing_else() {
    let served = served(|_, health| health_router(health)).await;
    for path in ["/", "/metrics", "/status"] {
        assert_eq!(served.status(path).await, 404, "{path}");
    }
    let by_name = served
        .ask("GET /healthz HTTP/1.1\r\nHost: gw.example")
        .await;
    assert!(by_name.starts_with("HTTP/1.1 200 "), "{by_name}");
    served.finish().await;
}

#[tokio::test]
async fn administration_serves_every_listed_path() {
    let served = served(router).await;
    served.ready.store(true, Ordering::Relaxed);
    for (path, _) in PATHS {
        assert_eq!(served.status(path).await, 200, "{path}");
    }
    let metrics = served.ask("GET /metrics HTTP/1.0").await;
    assert!(
        metrics.contains("application/openmetrics-text"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    let status = served
        .ask("GET /status HTTP/1.1\r\nHost: localhost:9440")
        .await;
    assert!(status.ends_with("{\"tunnels\":[]}"), "{status}");
    let posted = served.ask("POST /status HTTP/1.1\r\nHost: localhost").await;
    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    served.finish().await;
}

#[tokio::test]
async fn a_name_that_points_at_the_loopback_address_is_refused() {
    let served = served(router).await;
    for host in [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "\u{7f}",
    ] {
        let answer = served
            .ask(&format!("GET /status HTTP/1.1\r\nHost: {host}"))
            .await;
        assert!(!answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    for host in ["127.0.0.1:9440", "[::1]:9440", "LOCALHOST"] {
        let answer = served
            .ask(&format!("GET /status HTTP/1.1\r\nHost: {host}"))
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    served.finish().await;
}

#[tokio::test]
async fn idle_connections_are_bounded_and_forced_shut() {
    let served = served(|_, health| health_router(health)).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(TcpStream::connect(served.address).await.unwrap());
    }
    let mut beyond = TcpStream::connect(served.address).await.unwrap();
    assert!(matches!(beyond.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    served.finish().await;
    for mut stream in idle {
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}
