//! The frames of HTTP/2 (RFC 9113 §4.1), followed in the bytes of a connection, and budgets for those that cost more than they
//! carry. Rank 0: imports nothing of this crate.

use tokio::time::Instant;

/// The client connection preface (RFC 9113 §3.4).
pub const PREFACE: u32 = 24;

/// The kinds of frames that somebody here tells apart (RFC 9113 §6).
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const PUSH_PROMISE: u8 = 5;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

const FRAME_HEAD: usize = 9;

/// The head of a frame, as far as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
}

/// Finds the heads of frames in bytes that come in pieces of any size.
#[derive(Debug)]
pub struct Heads {
    head: [u8; FRAME_HEAD],
    /// How much of a frame's head is there.
    have: usize,
    /// How much of a frame's payload is still to come.
    left: u32,
}

impl Heads {
    /// Frames that begin after so many bytes: [`PREFACE`] of what a client sends, none of what a server does.
    pub const fn after(bytes: u32) -> Self {
        Self {
            head: [0; FRAME_HEAD],
            have: 0,
            left: bytes,
        }
    }

    /// The head of the next frame that begins in `bytes`, which are then behind it; `None` when none are left. The frame
    /// before it is whole.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let passed = bytes.len().min(self.left as usize);
        *bytes = &bytes[passed..];
        self.left -= u32::try_from(passed).unwrap_or(self.left);
        let passed = bytes.len().min(FRAME_HEAD - self.have);
        self.head[self.have..self.have + passed].copy_from_slice(&bytes[..passed]);
        *bytes = &bytes[passed..];
        self.have += passed;
        if self.have < FRAME_HEAD {
            return None;
        }
        self.have = 0;
        let [high, mid, low, kind, flags, stream @ ..] = self.head;
        self.left = u32::from_be_bytes([0, high, mid, low]);
        // The first bit is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Some(Head {
            kind,
            flags,
            stream,
        })
    }

    /// How much of the payload of the frame that has begun is still to come.
    pub fn left(&self) -> usize {
        self.left as usize
    }

    /// Whether every frame that has begun is whole but for its head.
    pub fn is_between(&self) -> bool {
        self.left == 0
    }

    /// Whether no frame has begun that is not whole.
    #[cfg(test)]
    pub fn is_at_edge(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// More frames than their budget allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood;

/// What a connection may send of a kind of frames: so many at once, and so many a second in the long run.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    full: u32,
    per_second: u32,
    left: u32,
    /// Since when nothing came in but what was earned.
    since: Option<Instant>,
}

impl Budget {
    /// A full budget.
    pub const fn new(full: u32, per_second: u32) -> Self {
        Self {
            full,
            per_second,
            left: full,
            since: None,
        }
    }

    /// How many frames are left, without what time has brought.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Allows so many frames more, up to the full budget.
    pub fn earn(&mut self, frames: u32) {
        self.left = self.full.min(self.left.saturating_add(frames));
    }

    /// Takes one frame. The clock is looked at only when nothing is left.
    ///
    /// # Errors
    /// The budget is spent.
    pub fn spend(&mut self) -> Result<(), Flood> {
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
        if self.left == 0 {
            let now = Instant::now();
            let past = self.since.replace(now).map_or(0, |since| {
                now.duration_since(since).as_millis() * u128::from(self.per_second) / 1_000
            });
            self.left = u32::try_from(past).map_or(self.full, |past| past.min(self.full));
        }
        self.left = self.left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }
}
