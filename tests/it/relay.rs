//! A TCP relay that misbehaves at command: it delays, swallows, freezes, corrupts, cuts and half-closes, and counts bytes.
//!
//! It stands between any two ends of a test. Commands hold for every connection through the relay; each is level-triggered, except
//! [`Relay::cut`] and [`Relay::half_close`], which concern the connections that are open at the call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opencmg::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

// What is on the way while a delay is set: 256 chunks of 16 KiB at most, then the sender feels it.
const CHUNKS: usize = 256;
const CHUNK: usize = 16 << 10;

/// A direction through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who dialled the relay to the target.
    ToTarget,
    /// From the target to who dialled.
    FromTarget,
}

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are passed on.
    Pass,
    /// They are taken and vanish; no end notices.
    Swallow,
    /// One bit of each chunk is another.
    Corrupt,
    /// They are not even taken, so that the sender's window fills.
    Freeze,
}

#[derive(Clone, Copy, Debug)]
struct Orders {
    modes: [Mode; 2],
    delay: Duration,
    refuse: bool,
    cuts: u64,
    half_closes: [u64; 2],
    target: SocketAddr,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: [AtomicU64; 2],
    accepted: AtomicU64,
    ended: AtomicU64,
}

/// A relay in front of one target. Dropping it cuts everything.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    orders: watch::Sender<Orders>,
    counts: Arc<Counts>,
    tasks: Tasks,
}

impl Relay {
    /// Listens on a free loopback port and relays to the target.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let orders = watch::Sender::new(Orders {
            modes: [Mode::Pass; 2],
            delay: Duration::ZERO,
            refuse: false,
            cuts: 0,
            half_closes: [0; 2],
            target,
        });
        let relay = Self {
            address,
            orders,
            counts: Arc::default(),
            tasks: Tasks::new(),
        };
        let accepting = accept(
            listener,
            relay.orders.subscribe(),
            Arc::clone(&relay.counts),
            relay.tasks.clone(),
        );
        relay.tasks.spawn(accepting);
        relay
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends connections made from here on to another target.
    pub fn retarget(&self, target: SocketAddr) {
        self.orders.send_modify(|orders| orders.target = target);
    }

    /// Holds every byte back by this long, both ways, without lowering the throughput.
    pub fn delay(&self, delay: Duration) {
        self.orders.send_modify(|orders| orders.delay = delay);
    }

    /// Sets what becomes of one direction.
    pub fn set(&self, way: Way, mode: Mode) {
        self.orders
            .send_modify(|orders| orders.modes[way as usize] = mode);
    }

    /// Lets every byte vanish from here on, both ways; the connections stay open.
    pub fn swallow(&self) {
        self.set(Way::ToTarget, Mode::Swallow);
        self.set(Way::FromTarget, Mode::Swallow);
    }

    /// Passes bytes again, both ways.
    pub fn pass(&self) {
        self.set(Way::ToTarget, Mode::Pass);
        self.set(Way::FromTarget, Mode::Pass);
    }

    /// Closes new connections at once, or serves them again.
    pub fn refuse(&self, refuse: bool) {
        self.orders.send_modify(|orders| orders.refuse = refuse);
    }

    /// Resets every open connection at both ends.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Ends one direction of every open connection as a clean end of stream; the other goes on.
    pub fn half_close(&self, way: Way) {
        self.orders
            .send_modify(|orders| orders.half_closes[way as usize] += 1);
    }

    /// Bytes taken in one direction, swallowed ones included.
    pub fn bytes(&self, way: Way) -> u64 {
        self.counts.bytes[way as usize].load(Ordering::Relaxed)
    }

    /// Connections taken since the start.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Connections open.
    pub fn open(&self) -> u64 {
        let ended = self.counts.ended.load(Ordering::Relaxed);
        self.accepted() - ended
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

async fn accept(
    listener: TcpListener,
    orders: watch::Receiver<Orders>,
    counts: Arc<Counts>,
    tasks: Tasks,
) {
    while let Ok((near, _)) = listener.accept().await {
        if orders.borrow().refuse {
            reset(&near);
            continue;
        }
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        let (orders, counts) = (orders.clone(), Arc::clone(&counts));
        tasks.spawn(async move {
            relay(near, orders, &counts).await;
            counts.ended.fetch_add(1, Ordering::Relaxed);
        });
    }
}

async fn relay(mut near: TcpStream, mut orders: watch::Receiver<Orders>, counts: &Counts) {
    let now = *orders.borrow_and_update();
    let Ok(mut far) = TcpStream::connect(now.target).await else {
        return reset(&near);
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    let there = direction(
        Way::ToTarget,
        near_read,
        far_write,
        orders.clone(),
        counts,
        now.half_closes[0],
    );
    let back = direction(
        Way::FromTarget,
        far_read,
        near_write,
        orders.clone(),
        counts,
        now.half_closes[1],
    );
    let was_cut = tokio::select! {
        biased;
        _ = orders.wait_for(|orders| orders.cuts > now.cuts) => true,
        _ = async { tokio::join!(there, back) } => false,
    };
    if was_cut {
        reset(&near);
        reset(&far);
    }
}

/// Moves one direction until its end: a reader stamps chunks with the time they are due, a writer waits for it.
async fn direction(
    way: Way,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut orders: watch::Receiver<Orders>,
    counts: &Counts,
    closes: u64,
) {
    let (send, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let (reading, writing) = (orders.clone(), orders.clone());
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            thawed(way, reading.clone()).await;
            let taken = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(taken) => taken,
            };
            counts.bytes[way as usize].fetch_add(taken as u64, Ordering::Relaxed);
            let at = Instant::now() + reading.borrow().delay;
            if send.send((at, buffer[..taken].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async {
        while let Some((at, mut chunk)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            let mode = writing.borrow().modes[way as usize];
            if mode == Mode::Corrupt {
                let middle = chunk.len() / 2;
                chunk[middle] ^= 1;
            }
            if mode != Mode::Swallow && to.write_all(&chunk).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        biased;
        _ = orders.wait_for(|orders| orders.half_closes[way as usize] > closes) => {}
        _ = async { tokio::join!(read, write) } => {}
    }
    // A swallowing relay swallows the end of the stream as well.
    let _ = orders
        .wait_for(|orders| matches!(orders.modes[way as usize], Mode::Pass | Mode::Corrupt))
        .await;
    let _ = to.shutdown().await;
}

async fn thawed(way: Way, mut orders: watch::Receiver<Orders>) {
    let _ = orders
        .wait_for(|orders| orders.modes[way as usize] != Mode::Freeze)
        .await;
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[tokio::test]
async fn the_relay_passes_both_ways_and_counts() {
    let (relay, mut near, mut far) = pair().await;
    near.write_all(b"there").await.unwrap();
    assert_eq!(read(&mut far, 5).await, b"there");
    far.write_all(b"and back").await.unwrap();
    assert_eq!(read(&mut near, 8).await, b"and back");
    assert_eq!(
        (relay.bytes(Way::ToTarget), relay.bytes(Way::FromTarget)),
        (5, 8)
    );
    drop(near);
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_relay_delays_without_losing_order() {
    let (relay, mut near, mut far) = pair().await;
    relay.delay(Duration::from_millis(50));
    let start = Instant::now();
    for n in 0..10_u8 {
        near.write_all(&[n; 1000]).await.unwrap();
    }
    let got = read(&mut far, 10_000).await;
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert!(
        got.chunks(1000)
            .enumerate()
            .all(|(n, c)| c.iter().all(|b| usize::from(*b) == n))
    );
}

#[tokio::test]
async fn the_relay_swallows_and_neither_end_notices() {
    let (relay, mut near, mut far) = pair().await;
    relay.swallow();
    near.write_all(b"lost").await.unwrap();
    until(|| relay.bytes(Way::ToTarget) == 4).await;
    let silence = tokio::time::timeout(Duration::from_millis(50), far.read(&mut [0; 1])).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(relay.open(), 1);
    relay.pass();
    near.write_all(b"kept").await.unwrap();
    assert_eq!(read(&mut far, 4).await, b"kept");
}

#[tokio::test]
async fn the_relay_corrupts_a_bit_and_goes_on() {
    let (relay, mut near, mut far) = pair().await;
    relay.set(Way::ToTarget, Mode::Corrupt);
    near.write_all(&[0; 100]).await.unwrap();
    let ones: u32 = read(&mut far, 100)
        .await
        .iter()
        .map(|byte| byte.count_ones())
        .sum();
    assert!(ones > 0);
    relay.pass();
    near.write_all(b"whole").await.unwrap();
    assert_eq!(read(&mut far, 5).await, b"whole");
}

#[tokio::test]
async fn the_relay_freezes_until_the_sender_cannot_send() {
    let (relay, mut near, mut far) = pair().await;
    relay.set(Way::ToTarget, Mode::Freeze);
    let chunk = vec![0; 1 << 20];
    let mut sent = 0;
    while let Ok(wrote) = tokio::time::timeout(Duration::from_millis(100), near.write(&chunk)).await
    {
        sent += wrote.unwrap();
        assert!(sent < 256 << 20, "the sender is never held back");
    }
    relay.pass();
    assert_eq!(read(&mut far, sent).await.len(), sent);
}

#[tokio::test]
async fn the_relay_cuts_both_ends_and_refuses() {
    let (relay, mut near, mut far) = pair().await;
    relay.cut();
    assert!(near.read(&mut [0; 1]).await.is_err(), "a reset, not an end");
    assert!(far.read(&mut [0; 1]).await.is_err(), "a reset, not an end");
    until(|| relay.open() == 0).await;
    relay.refuse(true);
    let mut refused = TcpStream::connect(relay.address()).await.unwrap();
    assert!(!matches!(refused.read(&mut [0; 1]).await, Ok(1)));
    assert_eq!(relay.accepted(), 1);
}

#[tokio::test]
async fn the_relay_half_closes_one_way_only() {
    let (relay, mut near, mut far) = pair().await;
    relay.half_close(Way::ToTarget);
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    far.write_all(b"still here").await.unwrap();
    assert_eq!(read(&mut near, 10).await, b"still here");
}

async fn pair() -> (Relay, TcpStream, TcpStream) {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = Relay::start(target.local_addr().unwrap()).await;
    let near = TcpStream::connect(relay.address()).await.unwrap();
    let (far, _) = target.accept().await.unwrap();
    (relay, near, far)
}

async fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    stream.read_exact(&mut out).await.unwrap();
    out
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met)
        .await
        .unwrap();
}
