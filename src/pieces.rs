//! Byte streams in large pieces: few system calls move many bytes, and an idle connection holds no buffer.
//!
//! TLS reads a few KiB at a time and HTTP/2 flushes after each frame. [`ReadAhead`] stands below TLS, [`gather()`] between
//! TLS and HTTP/2. Their buffers are lent by the thread that needs one and given back when they are empty. Rank 0: imports
//! nothing of this crate.

mod gather;
mod read_ahead;

use std::cell::RefCell;

pub use self::gather::{Gather, Push, gather};
pub use self::read_ahead::ReadAhead;

/// What one piece holds: four full TLS records.
pub const PIECE: usize = 64 << 10;

/// How many unused pieces a thread keeps.
const KEPT: usize = 16;

thread_local! {
    static UNUSED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
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
