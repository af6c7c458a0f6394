//! Pipes that break: cut, swallow, delay, half-close.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opencmg::tasks::Tasks;
use opencmg::tunnel::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What befalls one direction of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Fair,
    Delay(Duration),
    Swallow,
}

/// One pipe between a connection point and an instance.
#[derive(Clone)]
pub struct Pipe {
    pub remote: SocketAddr,
    pub born: Instant,
    cut: CancellationToken,
    half_close: [CancellationToken; 2],
    weather: Arc<Mutex<[Weather; 2]>>,
}

impl Pipe {
    /// Makes a pipe: its two ends and the handle that breaks it.
    pub fn new(remote: SocketAddr, tasks: &Tasks) -> (DuplexStream, DuplexStream, Self) {
        let (left, left_inner) = tokio::io::duplex(1 << 16);
        let (right, right_inner) = tokio::io::duplex(1 << 16);
        let pipe = Self {
            remote,
            born: Instant::now(),
            cut: CancellationToken::new(),
            half_close: [CancellationToken::new(), CancellationToken::new()],
            weather: Arc::new(Mutex::new([Weather::Fair; 2])),
        };
        let (left_in, left_out) = tokio::io::split(left_inner);
        let (right_in, right_out) = tokio::io::split(right_inner);
        for (direction, from, to) in [(0, left_in, right_out), (1, right_in, left_out)] {
            let this = pipe.clone();
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = this.cut.cancelled() => (),
                    () = this.pump(direction, from, to) => (),
                }
            });
        }
        (left, right, pipe)
    }

    async fn pump(
        &self,
        direction: usize,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) {
        let mut buffer = vec![0; 1 << 14];
        loop {
            let read = tokio::select! {
                biased;
                () = self.half_close[direction].cancelled() => 0,
                read = from.read(&mut buffer) => read.unwrap_or(0),
            };
            let weather = self.weather.lock().unwrap()[direction];
            match weather {
                // Neither bytes nor an end pass; only a cut ends it.
                Weather::Swallow if read == 0 => self.cut.cancelled().await,
                Weather::Swallow => continue,
                Weather::Delay(by) => tokio::time::sleep(by).await,
                Weather::Fair => (),
            }
            if read == 0 {
                let _ = to.shutdown().await;
                // The other direction may live on.
                return self.cut.cancelled().await;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return self.cut.cancel();
            }
        }
    }

    /// Breaks the pipe in one of many ways; returns the word for it.
    pub fn strike(&self, random: &Random) -> &'static str {
        let direction = random.below(2);
        let mut weather = self.weather.lock().unwrap();
        match random.below(7) {
            0 | 1 => {
                self.cut.cancel();
                "cut"
            }
            2 => {
                self.half_close[direction].cancel();
                "half-close"
            }
            3 => {
                *weather = [Weather::Swallow; 2];
                "swallow"
            }
            4 => {
                weather[direction] = Weather::Swallow;
                "swallow one way"
            }
            // What was swallowed is gone: bytes that follow a gap are nothing that TCP does.
            _ if weather[direction] == Weather::Swallow => "nothing",
            _ => {
                weather[direction] = Weather::Delay(random.upto(Duration::from_millis(300)));
                "delay"
            }
        }
    }

    /// Whether every byte that is sent arrives, soon or late.
    pub fn is_sound(&self) -> bool {
        let weather = self.weather.lock().unwrap();
        let closed = |token: &CancellationToken| token.is_cancelled();
        !closed(&self.cut)
            && !self.half_close.iter().any(closed)
            && !weather.contains(&Weather::Swallow)
    }

    /// Mends what can be mended.
    pub fn calm(&self) {
        let mut weather = self.weather.lock().unwrap();
        for way in weather.iter_mut() {
            if matches!(way, Weather::Delay(_)) {
                *way = Weather::Fair;
            }
        }
    }
}
