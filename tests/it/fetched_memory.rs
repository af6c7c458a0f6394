//! What CRLs take while they are fetched, before anybody has vouched for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opencmg::cli::builtin::{BuiltIn, Options};
use opencmg::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::get;
use crate::publisher::Publisher;
use crate::world::{Plan, World, eventually, mp_list};

/// As many as leave one fetch to a good list.
const ENDLESS: usize = 7;

const MIB: usize = 1 << 20;

/// How much an endless body sends before it falls silent.
const SENT: usize = 24 * MIB;

/// A server whose answers never end.
struct Endless {
    address: SocketAddr,
    /// How many answers were taken, and how many were given up.
    taken: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Endless {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, given_up) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let tasks = Tasks::new();
        let (inner, counts) = (tasks.clone(), (Arc::clone(&taken), Arc::clone(&given_up)));
        tasks.spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let (taken, given_up) = counts.clone();
                inner.spawn(async move {
                    match send(&mut tcp).await {
                        Ok(()) => {
                            taken.fetch_add(1, Ordering::SeqCst);
                            std::future::pending::<()>().await;
                        }
                        Err(_) => {
                            given_up.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        Self {
            address,
            taken,
            given_up,
            tasks,
        }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl World {
    /// Makes the gateway fetch CRLs.
    fn fetch(&self, urls: &[String]) {
        let lines =
            format!("[trust.revocation]\nallow-addresses = [\"127.0.0.0/8\"]\nurls = {urls:?}\n");
        let file = self.dir.path().join("service/service.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen("[trust.revocation]\n", &lines, 1)).unwrap();
    }
}

async fn send(tcp: &mut TcpStream) -> std::io::Result<()> {
    let mut head = [0; 1024];
    let _ = tcp.read(&mut head).await?;
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    tcp.write_all(head).await?;
    let chunk = [format!("{MIB:x}\r\n").as_bytes(), &[b'0'; MIB], b"\r\n"].concat();
    for _ in 0..SENT / MIB {
        tcp.write_all(&chunk).await?;
    }
    Ok(())
}

#[tokio::test]
async fn endless_crls_take_the_memory_of_one_and_hold_up_no_small_one() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let (endless, publisher) = (Endless::start().await, Publisher::start().await);
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let gateway = &world.gateways[0];
    world
        .pki
        .revoke(&world.pki.intermediate, "two", 2, &["pc-1"]);
    let list = std::fs::read(world.pki.file("two.crl")).unwrap();
    publisher.publish("/two.crl", &list);
    let urls = (0..ENDLESS).map(|index| format!("http://{}/{index}", endless.address));
    let urls: Vec<_> = urls.chain([publisher.url("/two.crl")]).collect();
    let before = gateway.memory_kib("VmHWM");
    world.fetch(&urls);

    eventually("all but one are given up for now", async || {
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        (count(&endless.taken), count(&endless.given_up)) == (1, ENDLESS - 1)
    })
    .await;
    eventually("the good list is in force", async || {
        // A client that is revoked while it asks loses its connection.
        let answer = world.client("pc-1").send(get(&mp_list())).await;
        answer.is_ok_and(|answer| answer.phrase == "CMGService_ClientCertificateRevoked")
    })
    .await;
    let took = (gateway.memory_kib("VmHWM") - before) as usize * 1024;
    let bound = SENT + ENDLESS * 8 * MIB + 32 * MIB;
    assert!(took < bound, "{} MiB", took / MIB);
    world.finish().await;
    backend.stop().await;
}

#[tokio::test]
async fn a_large_crl_as_pem_takes_no_more_than_itself_twice() {
    let backend = BuiltIn::management_point(Options::default()).await.unwrap();
    let publisher = Publisher::start().await;
    let world = Plan::new()
        .connection_point(&backend.url(), &backend.url())
        .start()
        .await;
    let gateway = &world.gateways[0];
    let text = "MIIBMIIBMIIBMIIB\n".repeat(64 * MIB / 17);
    let pem = format!("-----BEGIN X509 CRL-----\n{text}-----END X509 CRL-----\n");
    publisher.publish("/large.crl", pem.as_bytes());
    let before = gateway.memory_kib("VmHWM");
    world.fetch(&[publisher.url("/large.crl")]);
    gateway.says("/large.crl is not a well-formed CRL").await;
    let took = (gateway.memory_kib("VmHWM") - before) as usize * 1024;
    assert!(took < 2 * pem.len(), "{} MiB", took / MIB);
    world.finish().await;
    backend.stop().await;
}
