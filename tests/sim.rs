//! A seeded simulation of the tunnels' life: dial, publish, liveness, drain, reconnect, pick and retry under faults.
//!
//! Two gateway instances and two connection points in one thread, pipes in memory, the clock simulated. A seed
//! determines everything; the one that fails is printed and is played again with `OPENCMG_SIM_SEED=seed`.

#![allow(missing_docs, reason = "tests are sentences")]
#![allow(unreachable_pub, reason = "one binary, several modules")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "a failing seed is printed")]

#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/requests.rs"]
mod requests;
#[path = "sim/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::World;

/// Runs one seed; returns a digest of everything that happened.
fn run(seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let played = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(World::new(seed).play())
    }));
    match played {
        Ok(digest) => digest,
        Err(panic) => {
            println!("seed {seed} failed; play it again with OPENCMG_SIM_SEED={seed}");
            resume_unwind(panic)
        }
    }
}

#[test]
fn no_request_is_lost_or_done_twice_whatever_happens_to_the_tunnels() {
    if let Ok(seed) = std::env::var("OPENCMG_SIM_SEED") {
        run(seed.parse().expect("OPENCMG_SIM_SEED is a number"));
        return;
    }
    for seed in 1..=20 {
        run(seed);
    }
}

#[test]
fn a_seed_determines_everything() {
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
