//! Byte streams in large pieces: few system calls move many bytes, and an idle connection holds no buffer.
//!
//! TLS reads a few KiB at a time and HTTP/2 flushes after each frame. [`ReadAhead`] stands below TLS, [`gather()`] between
//! TLS and HTTP/2. Their buffers are lent by the thread that needs one and given back when they are empty. Rank 0: imports
//! nothing of this crate.

mod gather;
mod read_ahead;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use self::gather::{Gather, Push, gather};
pub use self::read_ahead::ReadAhead;

/// What one piece holds: four full TLS records.
pub const PIECE: usize = 64 << 10;

/// How many unused pieces a thread keeps.
const KEPT: usize = 16;

/// One count for each thread, so that threads do not share what changes with every read. A piece may be given back in
/// another thread than the one that lent it: only the sum means something.
static LENT: Mutex<Vec<Arc<AtomicI64>>> = Mutex::new(Vec::new());

/// Whether memory is scarce.
static SCARCE: AtomicBool = AtomicBool::new(false);

thread_local! {
    static UNUSED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static LENT_HERE: Arc<AtomicI64> = {
        let here = Arc::<AtomicI64>::default();
        let mut all = LENT.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&here));
        here
    };
}

/// The bytes of all pieces that are lent in this process.
pub fn lent() -> u64 {
    let all = LENT.lock().unwrap_or_else(PoisonError::into_inner);
    let pieces: i64 = all.iter().map(|one| one.load(Ordering::Relaxed)).sum();
    u64::try_from(pieces).unwrap_or(0) * PIECE as u64
}

/// Notes whether memory is scarce in this process: then who [spares](ReadAhead::spare) it reads no piece ahead.
pub fn set_scarce(scarce: bool) {
    SCARCE.store(scarce, Ordering::Relaxed);
}

/// Nothing but this thread writes its count.
fn count(by: i64) {
    // A thread that ends counts no more.
    let _ = LENT_HERE.try_with(|here| {
        here.store(here.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    });
}

/// A lent buffer of [`PIECE`] bytes, of which some are full. Its drop gives it back.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Piece {
    fn lend() -> Self {
        count(1);
        let unused = UNUSED.with_borrow_mut(Vec::pop);
        Self {
            bytes: unused.unwrap_or_else(|| vec![0; PIECE]),
            start: 0,
            end: 0,
        }
    }

    /// What was put in and not yet taken out.
    fn full(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Where more can be put in.
    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Copies as much of `from` as there is room for; returns how much.
    fn put(&mut self, from: &[u8]) -> usize {
        let room = self.room();
        let len = room.len().min(from.len());
        room[..len].copy_from_slice(&from[..len]);
        self.end += len;
        len
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        count(-1);
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that ends has nowhere to keep it.
        let _ = UNUSED.try_with(|unused| {
            let mut unused = unused.borrow_mut();
            if unused.len() < KEPT {
                unused.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_counts_until_it_comes_back_in_whatever_thread() {
        // Other tests lend as well, a few pieces each.
        let before = lent();
        let pieces: Vec<_> = (0..1_000).map(|_| Piece::lend()).collect();
        let most = 1_000 * PIECE as u64;
        assert!(lent().abs_diff(before + most) < most / 10);
        std::thread::spawn(move || drop(pieces)).join().unwrap();
        assert!(lent().abs_diff(before) < most / 10);
    }
}
