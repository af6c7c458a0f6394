//! The frames of an HTTP/2 client, counted between TLS and the parser.
//!
//! The parser has budgets of its own for what makes it hold or reset something (CONTINUATION, empty and small DATA, streams
//! above the limit, streams that it has to reset). What is left is counted here: frames that carry nothing and cost an
//! answer or a look, and streams that are opened to be reset.

use std::mem;

use crate::frames::{
    Budget, CONTINUATION, DATA, Flood, GOAWAY, HEADERS, Head, Heads, PREFACE, PUSH_PROMISE,
    RST_STREAM,
};

const END_STREAM: u8 = 1;
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
    open: Open,
    /// The frames to the client, and whether the one that is on its way is of a body.
    answers: Heads,
    in_body: bool,
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
            open: Open::default(),
            answers: Heads::after(0),
            in_body: false,
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
    pub(super) fn sent(&mut self, mut bytes: &[u8]) -> usize {
        self.sent += bytes.len();
        self.idle
            .earn(u32::try_from(self.sent / BYTES_PER_UPDATE).unwrap_or(u32::MAX));
        self.sent %= BYTES_PER_UPDATE;
        let mut bodies = 0;
        loop {
            if self.in_body {
                bodies += self.answers.left().min(bytes.len());
            }
            let Some(head) = self.answers.next(&mut bytes) else {
                return bodies;
            };
            self.in_body = head.kind == DATA;
            match head.kind {
                DATA | HEADERS if head.flags & END_STREAM == 0 => {}
                DATA | HEADERS | RST_STREAM => self.open.end(head.stream),
                GOAWAY => self.open.closing = true,
                _ => {}
            }
        }
    }

    /// How many streams the client has opened whose answers are not sent to their ends.
    pub(super) fn open(&self) -> usize {
        self.open.streams.len()
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

    fn begin(&mut self, head: Head) -> Result<(), Flood> {
        let Head {
            kind,
            flags,
            stream,
        } = head;
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
            RST_STREAM => {
                self.open.end(stream);
                self.resets.spend()?;
            }
            _ => self.idle.spend()?,
        }
        // Half a head is nothing that will be answered.
        if matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0 {
            self.open.begin(stream);
        }
        Ok(())
    }

    fn begin_head(&mut self) {
        self.in_head = true;
        self.began = true;
    }
}

/// The streams of which not all was sent that there will be, as the frames of both directions tell.
#[derive(Debug, Default)]
struct Open {
    /// As many as the parser allows, and those of one read that it is about to refuse.
    streams: Vec<u32>,
    newest: u32,
    /// Whether the client was told that no more streams are looked at.
    closing: bool,
}

impl Open {
    /// A head of the client's, which may be trailers.
    fn begin(&mut self, stream: u32) {
        if stream > self.newest && !self.closing {
            self.newest = stream;
            self.streams.push(stream);
        }
    }

    fn end(&mut self, stream: u32) {
        if let Some(at) = self.streams.iter().position(|open| *open == stream) {
            self.streams.swap_remove(at);
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

    /// As `frame`, of a stream.
    fn of(stream: u8, kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = frame(kind, flags, payload);
        frame[8] = stream;
        frame
    }

    #[test]
    fn of_what_is_sent_bodies_are_told_from_heads_and_acknowledgements() {
        let frames = [
            (4, 12),
            (HEADERS, 30),
            (DATA, 300),
            (PING, 8),
            (DATA, 0),
            (DATA, 7),
        ];
        let bytes: Vec<u8> = frames
            .map(|(kind, payload)| frame(kind, 0, payload))
            .concat();
        for size in [1, 5, 64, bytes.len()] {
            let mut frames = Frames::new();
            let found: usize = bytes.chunks(size).map(|part| frames.sent(part)).sum();
            assert_eq!(found, 307, "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_stream_is_open_until_its_answer_is_sent_or_either_side_resets_it() {
        let mut frames = begun();
        for (stream, open) in [(1, 1), (3, 2), (5, 3), (7, 4), (3, 4)] {
            let head = of(stream, HEADERS, END_HEADERS, 4);
            frames.received(&head).unwrap();
            assert_eq!(frames.open(), open, "stream {stream}");
        }
        frames.sent(&of(1, HEADERS, END_HEADERS, 4));
        frames.sent(&of(1, DATA, 0, 4));
        assert_eq!(frames.open(), 4);
        frames.sent(&of(1, DATA, END_STREAM, 4));
        frames.sent(&of(3, HEADERS, END_HEADERS | END_STREAM, 4));
        assert_eq!(frames.open(), 2);
        frames.received(&of(5, RST_STREAM, 0, 4)).unwrap();
        frames.sent(&of(5, RST_STREAM, 0, 4));
        assert_eq!(frames.open(), 1);
        frames.sent(&of(7, RST_STREAM, 0, 4));
        frames.sent(&of(0, GOAWAY, 0, 8));
        frames.received(&of(9, HEADERS, END_HEADERS, 4)).unwrap();
        assert_eq!(frames.open(), 0);
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
