//! The frames of an HTTP/2 client, counted between TLS and the parser.
//!
//! The parser has budgets of its own for what makes it hold or reset something (CONTINUATION, empty and small DATA, streams
//! above the limit, streams that it has to reset). What is left is counted here: frames that carry nothing and cost an
//! answer or a look, and streams that are opened to be reset.

use std::mem;

use crate::frames::{
    Budget, CONTINUATION, DATA, Flood, HEADERS, Head, Heads, PREFACE, PUSH_PROMISE, RST_STREAM,
};

const END_HEADERS: u8 = 4;

/// PING, SETTINGS, PRIORITY, WINDOW_UPDATE and frames of other kinds: enough for a client that acknowledges each piece of a
/// fast answer, far too few to keep a core busy.
const IDLE_FRAMES: Budget = Budget::new(2_000, 200);

/// RST_STREAM: what nghttp2 allows. A request that is taken back has cost us its way through the tunnel.
const RESETS: Budget = Budget::new(1_000, 33);

/// How many idle frames a request comes with: its priority, an update of it, two windows.
const EARNED_BY_REQUEST: u32 = 4;

/// How many bytes of answers a client may acknowledge with one window update more.
const BYTES_PER_UPDATE: usize = 1 << 10;

/// Follows the frames of one client, and those to it.
#[derive(Debug)]
pub(super) struct Frames {
    heads: Heads,
    bodies: Bodies,
    /// Whether a request head is on its way: from the start of HEADERS to the end of the frame that ends it.
    in_head: bool,
    /// Whether the frame that is on its way ends the head.
    ends_head: bool,
    began: bool,
    started: bool,
    sent: usize,
    idle: Budget,
    resets: Budget,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            heads: Heads::after(PREFACE),
            bodies: Bodies::new(),
            in_head: false,
            ends_head: true,
            began: false,
            started: false,
            sent: 0,
            idle: IDLE_FRAMES,
            resets: RESETS,
        }
    }

    /// Follows bytes from the client.
    ///
    /// # Errors
    /// A budget is spent.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        if !self.started && !bytes.is_empty() {
            self.started = true;
            // The preface is a head, too: a client that stops within it is waited for as long as for one.
            self.begin_head();
        }
        while let Some(head) = self.heads.next(&mut bytes) {
            self.end();
            self.begin(head)?;
        }
        if self.heads.is_between() {
            self.end();
        }
        Ok(())
    }

    /// Follows bytes to the client, which it may acknowledge; returns how many of them are of bodies.
    pub(super) fn sent(&mut self, bytes: &[u8]) -> usize {
        self.sent += bytes.len();
        self.idle
            .earn(u32::try_from(self.sent / BYTES_PER_UPDATE).unwrap_or(u32::MAX));
        self.sent %= BYTES_PER_UPDATE;
        self.bodies.count(bytes)
    }

    /// Whether a request head is on its way and not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_head
    }

    /// Whether a request head has begun since the last call.
    pub(super) fn take_began(&mut self) -> bool {
        mem::take(&mut self.began)
    }

    /// The frame before is whole.
    fn end(&mut self) {
        if mem::take(&mut self.ends_head) {
            self.in_head = false;
        }
    }

    fn begin(&mut self, Head { kind, flags }: Head) -> Result<(), Flood> {
        match kind {
            DATA => {}
            // A client may not promise anything, but the parser waits for the end of what it promises.
            HEADERS | PUSH_PROMISE => {
                if kind == HEADERS {
                    self.idle.earn(EARNED_BY_REQUEST);
                }
                self.begin_head();
                self.ends_head = flags & END_HEADERS != 0;
            }
            CONTINUATION => self.ends_head = flags & END_HEADERS != 0,
            RST_STREAM => self.resets.spend()?,
            _ => self.idle.spend()?,
        }
        Ok(())
    }

    fn begin_head(&mut self) {
        self.in_head = true;
        self.began = true;
    }
}

/// Tells bodies from all else in the frames to a client.
#[derive(Debug)]
struct Bodies {
    heads: Heads,
    in_body: bool,
}

impl Bodies {
    fn new() -> Self {
        Self {
            heads: Heads::after(0),
            in_body: false,
        }
    }

    /// How many of the bytes that come next are of bodies.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut found = 0;
        loop {
            if self.in_body {
                found += self.heads.left().min(bytes.len());
            }
            let Some(head) = self.heads.next(&mut bytes) else {
                return found;
            };
            self.in_body = head.kind == DATA;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const PING: u8 = 6;
    const FRAME_HEAD: usize = 9;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD + payload, b'x');
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        frames.received(&[b'p'; PREFACE as usize]).unwrap();
        assert!(!frames.is_in_head());
        frames.take_began();
        frames
    }

    fn until_flood(frames: &mut Frames, kind: u8) -> u32 {
        let one = frame(kind, 0, 0);
        (0..).find(|_| frames.received(&one).is_err()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_frames_have_a_budget_that_time_requests_and_answers_fill() {
        let mut frames = begun();
        assert_eq!(until_flood(&mut frames, PING), 2_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(until_flood(&mut frames, PING), 200);
        frames.received(&frame(HEADERS, END_HEADERS, 8)).unwrap();
        assert_eq!(until_flood(&mut frames, PING), EARNED_BY_REQUEST);
        frames.sent(&[0; 2 * BYTES_PER_UPDATE - 1]);
        frames.sent(&[0]);
        assert_eq!(until_flood(&mut frames, PING), 2);
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(until_flood(&mut frames, PING), 2_000);
    }

    #[tokio::test(start_paused = true)]
    async fn resets_have_a_budget_that_only_time_fills() {
        let mut frames = begun();
        let mut resets = 0;
        while frames.received(&frame(RST_STREAM, 0, 0)).is_ok() {
            resets += 1;
            frames.received(&frame(HEADERS, END_HEADERS, 8)).unwrap();
            frames.sent(&[0; 100_000]);
        }
        assert_eq!(resets, 1_000);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(until_flood(&mut frames, RST_STREAM), 66);
    }

    #[tokio::test]
    async fn a_head_lasts_from_headers_to_the_end_of_the_frame_that_ends_it() {
        let mut frames = Frames::new();
        frames.received(b"PRI").unwrap();
        assert!(frames.is_in_head(), "half a preface");
        frames.received(&[b'p'; PREFACE as usize - 3]).unwrap();
        assert!(!frames.is_in_head());
        frames.take_began();

        frames.received(&frame(HEADERS, 0, 20)).unwrap();
        assert!(frames.take_began() && frames.is_in_head());
        frames.received(&frame(CONTINUATION, 0, 0)).unwrap();
        assert!(!frames.take_began() && frames.is_in_head());
        let last = frame(CONTINUATION, END_HEADERS, 20);
        frames.received(&last[..28]).unwrap();
        assert!(frames.is_in_head());
        frames.received(&last[28..]).unwrap();
        assert!(!frames.is_in_head());

        let whole = frame(HEADERS, END_HEADERS, 0);
        frames.received(&whole).unwrap();
        assert!(frames.take_began() && !frames.is_in_head());
        frames.received(&frame(DATA, 0, 100)[..50]).unwrap();
        assert!(!frames.is_in_head());
    }

    #[test]
    fn of_what_is_sent_bodies_are_told_from_heads_and_acknowledgements() {
        let mut bytes = Vec::new();
        for (kind, payload) in [
            (4, 12),
            (HEADERS, 30),
            (DATA, 300),
            (PING, 8),
            (DATA, 0),
            (DATA, 7),
        ] {
            bytes.extend_from_slice(&frame(kind, 0, payload));
        }
        for size in [1, 5, 64, bytes.len()] {
            let mut frames = Frames::new();
            let found: usize = bytes.chunks(size).map(|part| frames.sent(part)).sum();
            assert_eq!(found, 307, "in pieces of {size}");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_followed_as_the_whole_is(cuts in prop::collection::vec(1_usize..40, 0..60)) {
            let mut bytes = vec![b'p'; PREFACE as usize];
            for (kind, flags, payload) in [(4, 0, 12), (HEADERS, 0, 30), (CONTINUATION, END_HEADERS, 7), (DATA, 1, 300), (PING, 0, 8), (RST_STREAM, 0, 4), (HEADERS, END_HEADERS, 0), (0xbe, 0, 77), (HEADERS, 0, 3)] {
                bytes.extend_from_slice(&frame(kind, flags, payload));
            }
            let mut whole = Frames::new();
            whole.received(&bytes).unwrap();
            let mut pieces = Frames::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.received(piece).unwrap();
                rest = after;
            }
            pieces.received(rest).unwrap();
            prop_assert_eq!((whole.idle.left(), whole.resets.left()), (pieces.idle.left(), pieces.resets.left()));
            prop_assert_eq!((whole.in_head, whole.heads.is_at_edge()), (true, true));
            prop_assert_eq!((pieces.in_head, pieces.heads.is_at_edge()), (true, true));
        }
    }
}
