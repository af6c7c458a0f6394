//! Small parts of a body on their way into a tunnel: many become one.
//!
//! The other end holds a place of some hundreds of bytes for each frame until it is read, whatever is in it: a window of
//! single bytes would take a thousand times its size. The first small parts of a body go at once, and then one every few
//! milliseconds, so that messages are not late; what comes in between goes together.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};

/// A part of so many bytes is not small.
const PART: usize = 1 << 10;

/// How many small parts of a body go at once.
const FIRST: u32 = 32;

/// How often another one does.
const REST: Duration = Duration::from_millis(20);

/// What is held back of one body.
#[derive(Debug, Default)]
pub(super) struct Merge {
    held: Vec<u8>,
    /// How many small parts went alone, and when the last one did after the first ones.
    alone: u32,
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Merge {
    /// Takes a part; returns what is to be sent now.
    pub(super) fn put(&mut self, part: Bytes) -> Option<Bytes> {
        if self.held.is_empty() && (part.len() >= PART || self.may_go_alone()) {
            return Some(part);
        }
        self.held.extend_from_slice(&part);
        if self.held.len() < PART {
            return None;
        }
        self.take()
    }

    /// Whether nothing is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held back, if anything is: the body is at its end.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.timer = None;
        let held = std::mem::take(&mut self.held);
        (!held.is_empty()).then(|| Bytes::from(held))
    }

    /// Ready with what was held back for long enough; to be called while the body has nothing more.
    pub(super) fn poll_rested(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.held.is_empty() {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(REST)));
        ready!(timer.as_mut().poll(cx));
        match self.take() {
            Some(held) => Poll::Ready(held),
            None => Poll::Pending,
        }
    }

    fn may_go_alone(&mut self) -> bool {
        if self.alone < FIRST {
            self.alone += 1;
            return true;
        }
        let now = Instant::now();
        let rested = self.last.is_none_or(|last| now >= last + REST);
        if rested {
            self.last = Some(now);
        }
        rested
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    fn byte() -> Bytes {
        Bytes::from_static(b"x")
    }

    #[tokio::test(start_paused = true)]
    async fn single_bytes_go_at_once_at_first_then_now_and_then_and_else_together() {
        let mut merge = Merge::default();
        let mut sent = Vec::new();
        for _ in 0..10_000 {
            sent.extend(merge.put(byte()).map(|part| part.len()));
        }
        let alone = sent.iter().filter(|len| **len == 1).count();
        assert_eq!(alone, FIRST as usize + 1, "the clock stands");
        assert!(sent.len() <= alone + 10_000 / PART, "{sent:?}");
        sent.extend(merge.take().map(|part| part.len()));
        assert_eq!(sent.iter().sum::<usize>(), 10_000);

        for _ in 0..3 {
            advance(REST).await;
            assert_eq!(merge.put(byte()), Some(byte()), "messages that come seldom");
        }
        assert_eq!(merge.put(byte()), None);
        let began = Instant::now();
        assert_eq!(poll_fn(|cx| merge.poll_rested(cx)).await, byte());
        assert!(began.elapsed() <= 2 * REST);
    }

    #[tokio::test(start_paused = true)]
    async fn large_parts_go_as_they_are_and_behind_what_was_held_back() {
        let mut merge = Merge::default();
        let large = Bytes::from(vec![7; PART]);
        assert_eq!(merge.put(large.clone()), Some(large.clone()));
        while merge.put(byte()).is_some() {}
        let both = merge.put(large.clone()).unwrap();
        assert_eq!(both, [byte(), large.clone()].concat());
        assert_eq!(merge.put(large.clone()), Some(large));
    }
}
