//! What systemd is told: the notification protocol over a socket of ours in its place, and the units that are shipped.

use std::fs;
use std::path::Path;

use tokio::net::UnixDatagram;

use crate::world::{Plan, within};

#[tokio::test]
async fn the_service_manager_hears_of_start_reload_life_and_stop() {
    let mut world = Plan::new().start_without_tunnels().await;
    let path = world.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let gateway = &mut world.gateways[0];
    gateway.stop().await;
    gateway.set("NOTIFY_SOCKET", path.to_str().unwrap());
    gateway.set("WATCHDOG_USEC", "400000");
    gateway.start();
    assert_eq!(next(&socket, "READY").await, "READY=1\n");
    gateway.accepts().await;
    assert_eq!(next(&socket, "WATCHDOG").await, "WATCHDOG=1\n");

    gateway.signal("HUP");
    let reloading = next(&socket, "RELOADING").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert_eq!(next(&socket, "READY").await, "READY=1\n");

    gateway.signal("TERM");
    assert_eq!(next(&socket, "STOPPING").await, "STOPPING=1\n");
    gateway.exits().await;
    world.gateways.clear();
    world.finish().await;
}

#[test]
fn the_units_start_commands_that_exist_and_give_the_drain_its_time() {
    for role in ["gateway", "connection-point"] {
        let path = format!("deploy/opencmg-{role}.service");
        let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let value = |key: &str| {
            unit.lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap()
        };
        let file = format!("/etc/opencmg/{role}.toml");
        let start = format!("/usr/local/bin/opencmg {role} --config {file}");
        assert_eq!(value("ExecStart="), start);
        let check = format!("/usr/local/bin/opencmg check {file}");
        assert_eq!(value("ExecStartPre="), check);
        assert_eq!(value("Type="), "notify");
        assert!(value("RestartPreventExitStatus=").contains("78"));
        let stop: u64 = value("TimeoutStopSec=").parse().unwrap();
        let drain = opencmg::gateway::Settings::default().drain_deadline;
        assert!(stop > drain.as_secs(), "{stop} s for a drain of {drain:?}");
    }
}

/// The next notice that begins with the word; others that come meanwhile (the watchdog's) are passed over.
async fn next(socket: &UnixDatagram, word: &str) -> String {
    let wanted = async {
        let mut buffer = [0; 512];
        loop {
            let taken = socket.recv(&mut buffer).await.unwrap();
            let text = String::from_utf8(buffer[..taken].to_vec()).unwrap();
            if text.starts_with(word) {
                return text;
            }
        }
    };
    within(std::time::Duration::from_secs(30), word, wanted).await
}
