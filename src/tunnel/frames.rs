//! The frames that the other end of a tunnel sends, counted below the parser.
//!
//! The gateway's end only: what it sent says how much an honest peer has to say.

use std::io;

use crate::frames::{Budget, DATA, Flood, HEADERS, Heads, PREFACE};

/// Frames besides DATA that nothing of ours asked for. As many as a tunnel's streams have at once if all of them end in one
/// moment, and far too few a second to keep a core busy.
const FRAMES: Budget = Budget::new(100_000, 1_000);

/// What a request brings: interim and final heads, trailers, a reset, windows.
const EARNED_BY_HEAD: u32 = 8;

/// What a piece of a request's body brings: its own window and the connection's, twice.
const EARNED_BY_DATA: u32 = 4;

/// Follows the frames of a tunnel in both directions.
#[derive(Debug)]
pub(super) struct Frames {
    received: Heads,
    sent: Heads,
    budget: Budget,
}

impl Frames {
    /// At the end that begins HTTP/2.
    pub(super) fn of_client() -> Self {
        Self {
            received: Heads::after(0),
            sent: Heads::after(PREFACE),
            budget: FRAMES,
        }
    }

    /// Follows bytes from the peer.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`], which no socket and no TLS says: the budget is spent.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(head) = self.received.next(&mut bytes) {
            if head.kind != DATA {
                self.budget.spend().map_err(|Flood| {
                    let what = "more frames than their budget allows";
                    io::Error::new(io::ErrorKind::QuotaExceeded, what)
                })?;
            }
        }
        Ok(())
    }

    /// Follows bytes to the peer.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.sent.next(&mut bytes) {
            match head.kind {
                HEADERS => self.budget.earn(EARNED_BY_HEAD),
                DATA => self.budget.earn(EARNED_BY_DATA),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, payload: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, payload, kind, 0, 0, 0, 0, 1];
        frame.resize(9 + usize::from(payload), 0);
        frame
    }

    fn until_flood(frames: &mut Frames, kind: u8) -> u32 {
        // A flood ends in the middle of a frame, if it has a payload.
        let one = frame(kind, 0);
        (0..200_000)
            .find(|_| frames.received(&one).is_err())
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_a_tunnel_have_a_budget_that_time_and_what_was_sent_fill() {
        let mut frames = Frames::of_client();
        frames.sent(&[0; PREFACE as usize]);
        for kind in [4, 6, 8, 3, HEADERS, 0xbe] {
            frames.budget = FRAMES;
            assert_eq!(until_flood(&mut frames, kind), 100_000);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(until_flood(&mut frames, 6), 1_000);
        frames.sent(&frame(HEADERS, 50));
        assert_eq!(until_flood(&mut frames, 8), EARNED_BY_HEAD);
        frames.sent(&frame(DATA, 1));
        assert_eq!(until_flood(&mut frames, 8), EARNED_BY_DATA);
        frames.sent(&frame(6, 8));
        assert_eq!(until_flood(&mut frames, 6), 0, "its own PINGs earn nothing");
        frames.received(&frame(DATA, 200)).unwrap();
    }
}
