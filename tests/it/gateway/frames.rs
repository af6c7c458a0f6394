//! HTTP/2 written frame by frame, for what no HTTP library would send.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::rig::HOST;
use crate::client::{Client, spawn};
use crate::world::within;

const LONG: std::time::Duration = std::time::Duration::from_secs(30);

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A whole request head in one frame.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, block)
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"pingpong")
}

pub fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in pairs {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// A field that is kept out of the table, its name in full.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        string(&mut bytes, text.as_bytes());
    }
    bytes
}

/// A field that enters the table as its newest entry, which index 62 then names.
pub fn kept_field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = field(name, value);
    bytes[0] = 0x40;
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        short @ ..127 => bytes.push(u8::try_from(short).unwrap()),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128 + 128).unwrap());
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
    }
    bytes.extend_from_slice(text);
}

/// The fields of a block.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().map(|(name, value)| field(name, value));
    fields.collect::<Vec<_>>().concat()
}

/// The block of a good request.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "https"),
        (":authority", HOST),
        (":path", path),
    ])
}

/// What became of a connection or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stream was answered.
    Status(u16),
    /// The stream was reset with a code.
    Reset(u32),
    /// The connection was given up with a code.
    GoAway(u32),
    /// The connection was closed without a word.
    Closed,
}

/// What a connection runs over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Our end of a connection.
pub struct Peer {
    write: WriteHalf<Box<dyn Io>>,
    read: mpsc::UnboundedReceiver<Frame>,
    reading: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Peer {
    /// A connection after both prefaces, with these settings of ours.
    pub async fn connect(client: &Client, ours: &[(u16, u32)]) -> Self {
        let mut peer = Self::silent(client).await;
        assert!(peer.send(&[PREFACE, &settings(ours)].concat()).await);
        peer.next_of(SETTINGS).await.unwrap();
        assert!(peer.send(&frame(SETTINGS, ACK, 0, b"")).await);
        peer
    }

    /// A connection on which nothing was sent.
    pub async fn silent(client: &Client) -> Self {
        Self::over(client.tls(&[b"h2"]).await.unwrap())
    }

    /// A connection on which nothing was sent.
    pub fn over(io: impl Io + 'static) -> Self {
        let (from, write) = tokio::io::split(Box::new(io) as Box<dyn Io>);
        let (to, read) = mpsc::unbounded_channel();
        let reading = spawn(async move {
            let _ = pump(from, to).await;
        });
        Self {
            write,
            read,
            reading,
        }
    }

    /// Sends bytes; `false` if the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok() && self.write.flush().await.is_ok()
    }

    /// The next frame; none if the connection is closed.
    pub async fn next(&mut self) -> Option<Frame> {
        within(LONG, "a frame comes, or the end", self.read.recv()).await
    }

    /// The next frame of a kind.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Whether the gateway has taken in everything that was sent.
    pub async fn is_heard(&mut self) -> bool {
        self.send(&ping()).await && self.next_of(PING).await.is_some()
    }

    /// Sends as long as the gateway takes it, `most` times at most; whether it was stopped.
    pub async fn flood(&mut self, most: u32, mut bytes: impl FnMut(u32) -> Vec<u8>) -> bool {
        for round in 0..most {
            if self.read.is_closed() || !self.send(&bytes(round)).await {
                return true;
            }
        }
        false
    }

    /// What became of a stream, or of the connection before.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some(frame) = self.next().await else {
                return Outcome::Closed;
            };
            match frame.kind {
                // A refusal that closes the connection comes after word of it.
                GOAWAY if code(&frame.payload[4..]) == NO_ERROR => {}
                GOAWAY => return Outcome::GoAway(code(&frame.payload[4..])),
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(code(&frame.payload));
                }
                HEADERS if frame.stream == stream => {
                    return Outcome::Status(status(&frame.payload));
                }
                _ => {}
            }
        }
    }

    /// Waits for the end; the code of the last GOAWAY, if there was one.
    pub async fn end(&mut self) -> Outcome {
        let mut outcome = Outcome::Closed;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                outcome = Outcome::GoAway(code(&frame.payload[4..]));
            }
        }
        outcome
    }

    /// The bytes of an answer's body, to its end.
    pub async fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await.unwrap();
            if frame.kind == DATA && frame.stream == stream {
                body.extend_from_slice(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    return body;
                }
            }
        }
    }
}

async fn pump(
    mut from: ReadHalf<Box<dyn Io>>,
    to: mpsc::UnboundedSender<Frame>,
) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload).await?;
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: code(&head[5..]),
            payload,
        };
        if to.send(frame).is_err() {
            return Ok(());
        }
    }
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The status that the first block of an answer begins with (RFC 7541 appendix A and, of its digits, appendix B).
fn status(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        [0x48 | 0x08, length, text @ ..] if length & 0x80 != 0 => {
            let text = &text[..usize::from(length & 0x7f)];
            let bits = text
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            let (mut left, mut status) = (8 * text.len(), 0);
            for _ in 0..3 {
                let short = bits >> (left - 5) & 31;
                let digit = if short <= 2 {
                    left -= 5;
                    short
                } else {
                    left -= 6;
                    (bits >> left & 63) - 0b01_1001 + 3
                };
                status = 10 * status + digit;
            }
            u16::try_from(status).unwrap()
        }
        [0x48 | 0x08, 3, a, b, c, ..] => String::from_utf8(vec![*a, *b, *c])
            .unwrap()
            .parse()
            .unwrap(),
        other => panic!("no status: {other:x?}"),
    }
}
