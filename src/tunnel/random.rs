//! The random source of the tunnels: seeded by the caller, so that a simulation can be replayed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt;

/// A shared random source without a lock (splitmix64). Not for secrets. Clones draw from the same sequence.
#[derive(Clone, Debug)]
pub struct Random(Arc<AtomicU64>);

impl Random {
    /// A sequence that a seed determines.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }

    /// A sequence that nobody can foretell.
    pub fn from_system() -> Self {
        Self::seeded(rand::rng().random())
    }

    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let state = self.0.fetch_add(STEP, Ordering::Relaxed);
        mix(state.wrapping_add(STEP))
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        // The high half of a product is uniform enough below 2^32 and needs no division.
        let product = u128::from(self.next()) * bound as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    /// A duration between zero and `bound`.
    pub fn upto(&self, bound: Duration) -> Duration {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        let drawn = (u128::from(self.next()) * u128::from(nanos)) >> 64;
        Duration::from_nanos(u64::try_from(drawn).unwrap_or(nanos))
    }
}

/// The finaliser of splitmix64: spreads every bit of `z` over the result.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_sequence_and_bounds_hold() {
        let (a, b) = (Random::seeded(7), Random::seeded(7));
        for _ in 0..1000 {
            assert_eq!(a.next(), b.next());
            assert!(a.below(3) < 3 && b.below(3) < 3);
            assert!(a.upto(Duration::from_secs(1)) <= Duration::from_secs(1));
            b.upto(Duration::from_secs(1));
        }
        assert_eq!(a.below(0), 0);
    }
}
