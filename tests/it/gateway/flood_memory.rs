//! Every flood, one after the other, against one gateway in a process of its own.

use opencmg::cli::builtin::{BuiltIn, Options};

use super::frames::{
    CONTINUATION, DATA, END_STREAM, HEADERS, PRIORITY, Peer, field, frame, headers, kept_field,
    ping, request, reset, settings, window,
};
use crate::client::{Client, get};
use crate::world::{Plan, eventually, mutual};

/// How many connections a round needs.
const FLOODS: usize = 12;

/// How often all floods come, before and after memory is looked at.
const ROUNDS: u32 = 40;

/// How much the peak may rise above that of the warm-up, for what an allocator keeps. One bomb unpacked is four times as much.
const SLACK_KIB: u64 = 16 << 10;

async fn flood(client: &Client, kind: usize) {
    let get = request("GET", &mutual("SMS_MP/x"));
    let post = request("POST", &mutual("CCM_System/x"));
    let window_shut = [(4, u32::from(kind != 10) * 65_535)];
    let mut peer = Peer::connect(client, &window_shut).await;
    let bomb = |name, value: &str, size| {
        let mut block = [&get[..], &kept_field(name, value)].concat();
        block.resize(size, 0x80 | 62);
        headers(1, END_STREAM, &block)
    };
    let open = |n: u32| headers(2 * n + 1, END_STREAM, &get);
    let mut send = async |most: u32, bytes: &dyn Fn(u32) -> Vec<u8>| peer.flood(most, bytes).await;
    match kind {
        0 => drop(send(1_000, &|_| ping().repeat(100)).await),
        1 => drop(send(1_000, &|n| settings(&[(4, 65_535 - n % 2)]).repeat(100)).await),
        2 => drop(send(1_000, &|_| window(0, 1).repeat(100)).await),
        3 => drop(
            send(1_000, &|_| {
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(100)
            })
            .await,
        ),
        4 => drop(send(5_000, &|n| [open(n), reset(2 * n + 1)].concat()).await),
        5 => drop(
            send(5_000, &|n| {
                [open(n), window(2 * n + 1, (1 << 31) - 1)].concat()
            })
            .await,
        ),
        6 => drop(send(5_000, &open).await),
        7 => {
            send(1, &|_| frame(HEADERS, END_STREAM, 1, &get)).await;
            send(1_000, &|_| {
                frame(CONTINUATION, 0, 1, &field("x", "y").repeat(1_000))
            })
            .await;
        }
        8 => drop(send(1, &|_| bomb("x-bomb", &"b".repeat(3_900), 16_000)).await),
        9 => drop(send(1, &|_| bomb("cookie", "a=b", 16_000)).await),
        10 => drop(send(100, &open).await),
        _ => {
            send(1, &|_| headers(1, 0, &post)).await;
            send(1_000, &|_| frame(DATA, 0, 1, b"").repeat(100)).await;
        }
    }
    if kind == 10 {
        assert!(peer.is_heard().await, "answers wait for their windows");
    } else {
        peer.end().await;
    }
}

#[tokio::test]
async fn a_gateway_under_every_flood_keeps_its_memory() {
    let management_point = BuiltIn::management_point(Options::default()).await.unwrap();
    let url = management_point.url();
    let world = Plan::new().connection_point(&url, &url).start().await;
    let client = world.client("pc-1");
    let mut neighbour = client.connect_h2().await.unwrap();
    let gateway = &world.gateways[0];
    let mut round = async || {
        for kind in 0..FLOODS {
            flood(&client, kind).await;
            let request = client.addressed(get(&mutual("SMS_MP/.sms_aut?MPLIST")));
            assert_eq!(neighbour.send(request).await.unwrap().status, 200);
        }
        eventually("only the neighbour is connected", async || {
            gateway.metric("opencmg_connections_open", "").await == 1.0
        })
        .await;
    };
    // The allocator needs a while to have what it needs.
    for _ in 0..ROUNDS {
        round().await;
    }
    let before = gateway.memory_kib("VmHWM");
    for _ in 0..ROUNDS {
        round().await;
    }
    let after = gateway.memory_kib("VmHWM");
    assert!(after <= before + SLACK_KIB, "from {before} to {after} KiB");
    let refused = gateway.metric("opencmg_connections_refused_total", "too-many-frames");
    // The client of the shut windows went by itself.
    assert_eq!(
        refused.await,
        2.0 * f64::from(ROUNDS) * (FLOODS as f64 - 1.0)
    );
    assert_eq!(gateway.metric("opencmg_tunnel_ends_total", "").await, 0.0);
    assert!(!gateway.log().contains("h2::"), "{}", gateway.log());
    world.finish().await;
    management_point.stop().await;
}
