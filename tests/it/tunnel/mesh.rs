//! The supervisor: who is dialled, when, and which tunnels are kept.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opencmg::metrics::{ByDial, ByPeer, Dial};
use opencmg::reason::Reason;
use opencmg::tasks::Tasks;
use opencmg::tunnel::{Hello, Instance, RegistrySettings, SupervisorSettings};
use tokio::time::{Instant, sleep};

use super::{
    ConnectionPoint, Gateway, connection_point, connection_point_with, echo, gateway, gateway_of,
    policy, supervisor_settings, until,
};

fn refused() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionRefused)
}

/// Instances that all say that all of them are live.
fn instances(count: u16) -> Vec<Gateway> {
    let make = |index| gateway_of(RegistrySettings::default(), index, &["cp"]);
    let all: Vec<Gateway> = (0..count).map(make).collect();
    let live: Vec<Instance> = (0..count).map(instance).collect();
    for (index, gateway) in (0..count).zip(&all) {
        let hello = Hello {
            live: live.clone(),
            ..Hello::alone("gw.test", instance(index))
        };
        gateway.registry.announce(hello);
    }
    all
}

fn instance(index: u16) -> Instance {
    Instance {
        index,
        run: format!("run-{index}"),
    }
}

/// How many tunnels that take requests lead to each instance.
fn met(point: &ConnectionPoint) -> BTreeMap<u16, usize> {
    let mut met = BTreeMap::new();
    for tunnel in point.supervisor.view() {
        if let (Some(instance), false) = (tunnel.instance, tunnel.draining) {
            *met.entry(instance.index).or_default() += 1;
        }
    }
    met
}

#[tokio::test(start_paused = true)]
async fn two_tunnels_lead_to_every_address() {
    let all = [
        gateway_of(RegistrySettings::default(), 0, &["cp"]),
        gateway_of(RegistrySettings::default(), 1, &["cp"]),
    ];
    let to = all.clone();
    let route = move |address: &str| Ok(to[usize::from(address == "b")].clone());
    let point = connection_point("cp", supervisor_settings(&["a", "b"]), route, echo);
    until(|| met(&point) == BTreeMap::from([(0, 2), (1, 2)])).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(point.dials.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn instances_that_share_an_address_are_all_met_and_the_surplus_is_closed() {
    let all = instances(4);
    let (to, turn) = (all.clone(), AtomicUsize::new(0));
    // A balancer that prefers some instances.
    let route = move |_: &str| {
        let order = [0, 0, 1, 0, 2, 1, 0, 3];
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        Ok(to[order[turn % order.len()]].clone())
    };
    let point = connection_point("cp", supervisor_settings(&["lb"]), route, echo);
    let wanted: BTreeMap<u16, usize> = (0..4).map(|index| (index, 2)).collect();
    until(|| met(&point) == wanted).await;
    sleep(Duration::from_secs(5)).await;
    for gateway in &all {
        assert_eq!(gateway.registry.view().len(), 2);
    }
    let dials = point.dials.lock().unwrap().clone();
    for five in dials.windows(5) {
        assert!(
            five[4].1 - five[0].1 >= Duration::from_secs(1),
            "more than 4 dials a second"
        );
    }
    let count = dials.len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(
        point.dials.lock().unwrap().len(),
        count,
        "all are met, and yet it dials"
    );
}

#[tokio::test(start_paused = true)]
async fn two_addresses_of_one_instance_make_no_more_tunnels_than_one() {
    let gateway = gateway(&["cp"]);
    let to = gateway.clone();
    let route = move |_: &str| Ok(to.clone());
    let point = connection_point("cp", supervisor_settings(&["a", "b"]), route, echo);
    until(|| met(&point) == BTreeMap::from([(0, 2)])).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(met(&point), BTreeMap::from([(0, 2)]));
    assert_eq!(gateway.registry.view().len(), 2);
    assert!(point.dials.lock().unwrap().len() <= 4);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_met_is_an_alert_and_no_storm() {
    let all = instances(2);
    let to = all[0].clone();
    let route = move |_: &str| Ok(to.clone());
    let point = connection_point("cp", supervisor_settings(&["lb"]), route, echo);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(point.supervisor.absent(), [instance(1)]);
    let before = point.dials.lock().unwrap().len();
    sleep(Duration::from_secs(3600)).await;
    let dials = point.dials.lock().unwrap().len() - before;
    assert!(dials <= 130, "{dials} dials in an hour");
    assert!(dials >= 60, "{dials} dials in an hour: it has given up");
    assert_eq!(met(&point), BTreeMap::from([(0, 2)]));
}

#[tokio::test(start_paused = true)]
async fn pauses_between_dials_grow_to_half_a_minute_and_end_when_the_gateway_is_back() {
    let gateway = gateway(&["cp"]);
    let up = Arc::new(AtomicBool::new(false));
    let (to, is_up) = (gateway.clone(), Arc::clone(&up));
    let route = move |_: &str| {
        if is_up.load(Ordering::Relaxed) {
            Ok(to.clone())
        } else {
            Err(refused())
        }
    };
    let point = connection_point("cp", supervisor_settings(&["a"]), route, echo);
    sleep(Duration::from_secs(3600)).await;
    let dials = point.dials.lock().unwrap().clone();
    let last: Vec<Duration> = dials
        .windows(2)
        .skip(20)
        .map(|two| two[1].1 - two[0].1)
        .collect();
    assert!(
        last.iter().all(|pause| *pause <= Duration::from_secs(31)),
        "{last:?}"
    );
    assert!(
        last.iter().any(|pause| *pause >= Duration::from_secs(20)),
        "{last:?}"
    );
    up.store(true, Ordering::Relaxed);
    let began = Instant::now();
    gateway.tunnels(2).await;
    assert!(began.elapsed() < Duration::from_secs(31));
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_lost_after_a_stable_time_is_back_at_once() {
    let gateway = gateway(&["cp"]);
    let to = gateway.clone();
    let point = connection_point(
        "cp",
        supervisor_settings(&["a"]),
        move |_| Ok(to.clone()),
        echo,
    );
    gateway.tunnels(2).await;
    sleep(Duration::from_secs(120)).await;
    gateway.tasks.abort();
    let began = Instant::now();
    until(|| point.dials.lock().unwrap().len() > 2).await;
    assert!(
        began.elapsed() <= Duration::from_millis(300),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_the_gateway_asks_for_is_kept() {
    let settings = RegistrySettings {
        retry_after: Duration::from_secs(120),
        ..RegistrySettings::default()
    };
    let gateway = gateway_of(settings, 0, &["cp"]);
    gateway.drain.start();
    let to = gateway.clone();
    let settings = SupervisorSettings {
        tunnels: 1,
        ..supervisor_settings(&["a"])
    };
    let point = connection_point("cp", settings, move |_| Ok(to.clone()), echo);
    sleep(Duration::from_secs(200)).await;
    let dials = point.dials.lock().unwrap().clone();
    assert_eq!(dials.len(), 2);
    let pause = dials[1].1 - dials[0].1;
    assert!(
        pause >= Duration::from_secs(120) && pause <= Duration::from_secs(181),
        "{pause:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_permanent_refusal_is_tried_again_after_minutes_and_heals() {
    let gateway = gateway(&[]);
    let to = gateway.clone();
    let settings = SupervisorSettings {
        tunnels: 1,
        ..supervisor_settings(&["a"])
    };
    let point = connection_point("cp", settings, move |_| Ok(to.clone()), echo);
    sleep(Duration::from_secs(290)).await;
    assert_eq!(point.dials.lock().unwrap().len(), 1);
    let refusals = super::reasons(
        &gateway.metrics,
        "tunnel_refusals",
        Reason::UnknownConnectionPoint,
    );
    assert_eq!(refusals, 1);
    gateway.registry.apply(policy(&["cp"]));
    sleep(Duration::from_secs(170)).await;
    gateway.ready().await;
}

/// For an hour of tunnels that live ten minutes: always two serve, none is older, and no more are dialled than that takes.
/// `tunnels` tells the age of each, and whether it drains.
async fn replaced_in_time(
    point: &ConnectionPoint,
    tunnels: impl AsyncFn() -> Vec<(Duration, bool)>,
) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3600) {
        let tunnels = tunnels().await;
        let serving = tunnels.iter().filter(|(_, draining)| !draining).count();
        let after = began.elapsed();
        assert!(serving >= 2, "after {after:?} only {serving} tunnels serve");
        let oldest = tunnels.iter().map(|(age, _)| *age).max();
        assert!(oldest < Some(Duration::from_secs(605)), "{oldest:?}");
        sleep(Duration::from_millis(500)).await;
    }
    let dials = point.dials.lock().unwrap().len();
    assert!((12..=16).contains(&dials), "{dials}");
}

#[tokio::test(start_paused = true)]
async fn an_old_tunnel_is_replaced_before_it_is_closed() {
    let gateway = gateway(&["cp"]);
    let to = gateway.clone();
    let settings = SupervisorSettings {
        max_age: Duration::from_secs(600),
        ..supervisor_settings(&["a"])
    };
    let point = connection_point("cp", settings, move |_| Ok(to.clone()), echo);
    gateway.tunnels(2).await;
    replaced_in_time(&point, async || {
        let view = gateway.registry.view();
        gateway.get("/").await.unwrap();
        view.iter().map(|t| (t.age, t.draining)).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_drains_is_not_crowded_and_its_wait_is_kept() {
    let gateway = gateway(&["cp"]);
    let to = gateway.clone();
    let point = connection_point(
        "cp",
        supervisor_settings(&["a"]),
        move |_| Ok(to.clone()),
        echo,
    );
    gateway.tunnels(2).await;
    gateway.drain.start();
    sleep(Duration::from_secs(50)).await;
    let looks = point.dials.lock().unwrap().len() - 2;
    assert!(
        (15..=25).contains(&looks),
        "{looks} looks for a successor in 50 s"
    );
    gateway.get("/").await.unwrap();
    gateway.drain.force();
    until(|| gateway.registry.view().is_empty()).await;
    let before = point.dials.lock().unwrap().len();
    sleep(Duration::from_millis(1900)).await;
    assert_eq!(
        point.dials.lock().unwrap().len(),
        before,
        "the wait it asked for was not kept"
    );
}

#[tokio::test(start_paused = true)]
async fn the_successor_of_an_instance_is_met_while_the_old_one_still_drains() {
    let old = gateway(&["cp"]);
    let next = gateway_of(RegistrySettings::default(), 0, &["cp"]);
    let run = Instance {
        run: "the next".to_owned(),
        ..instance(0)
    };
    next.registry.announce(Hello::alone("gw.test", run));
    let now = Arc::new(Mutex::new(Some(old.clone())));
    let at = Arc::clone(&now);
    let route = move |_: &str| at.lock().unwrap().clone().ok_or_else(refused);
    let point = connection_point("cp", supervisor_settings(&["a"]), route, echo);
    old.tunnels(2).await;
    old.drain.start();
    // Nobody listens for longer than any pause between dials that grow.
    *now.lock().unwrap() = None;
    sleep(Duration::from_secs(40)).await;
    *now.lock().unwrap() = Some(next.clone());
    let began = Instant::now();
    next.tunnels(2).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    old.get("/").await.unwrap();
    let dials = point.dials.lock().unwrap().len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(
        point.dials.lock().unwrap().len(),
        dials,
        "it is met, and yet it is looked for"
    );
}

/// A gateway that never says hello, as foreign ones do.
async fn silent_gateway(io: tokio::io::DuplexStream) {
    let (_sender, connection) = h2::client::handshake(io).await.unwrap();
    let _ = connection.await;
}

#[tokio::test(start_paused = true)]
async fn an_old_tunnel_to_a_gateway_that_says_nothing_is_replaced_before_it_is_closed() {
    let settings = SupervisorSettings {
        max_age: Duration::from_secs(600),
        ..supervisor_settings(&["a"])
    };
    let tasks = Tasks::new();
    let spawner = tasks.clone();
    let point = connection_point_with("cp", settings, echo, move |_| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        spawner.spawn(silent_gateway(theirs));
        // As long as a slow line takes: a tunnel that is closed first is missed for so long.
        async move {
            sleep(Duration::from_secs(2)).await;
            Ok(ours)
        }
    });
    until(|| point.supervisor.view().len() == 2).await;
    replaced_in_time(&point, async || {
        let view = point.supervisor.view();
        view.iter().map(|t| (t.age, t.draining)).collect()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_point_counts_its_tunnels_and_their_bytes_by_gateway() {
    let gateway = gateway(&["cp"]);
    let to = gateway.clone();
    let point = connection_point(
        "cp",
        supervisor_settings(&["a"]),
        move |_| Ok(to.clone()),
        echo,
    );
    gateway.tunnels(2).await;
    let sent = super::request("POST", "/", vec![0; 100_000]);
    gateway.send(super::NEED, sent).await.unwrap();
    let (metrics, peer) = (&point.metrics, ByPeer::new("gw"));
    assert_eq!(metrics.tunnels.get_or_create(&peer).get(), 2);
    assert_eq!(metrics.tunnel_streams.get_or_create(&peer).get(), 0);
    let received = metrics.tunnel_received_bytes.get_or_create(&peer).get();
    let sent = metrics.tunnel_sent_bytes.get_or_create(&peer).get();
    assert!((100_000..110_000).contains(&received), "{received}");
    assert!((100..10_000).contains(&sent), "{sent}");
    let ups = ByDial { outcome: Dial::Up };
    gateway.drain.start();
    until(|| point.dials.lock().unwrap().len() > 2).await;
    assert_eq!(metrics.tunnel_dials.get_or_create(&ups).get(), 2);
    point.drain.start();
    point.tasks.join().await;
    assert_eq!(metrics.tunnels.get_or_create(&peer).get(), 0);
}
