//! What the process has from its system: signals, the service manager, memory, file descriptors and its turns on the CPUs.
//!
//! Every call that exists on some systems only is here, behind `cfg`; the rest of the crate sees words and numbers. Nothing here
//! decides anything but when a worker yields.

mod memory;
mod notify;
mod signals;
mod turns;

pub use memory::{FALLBACK_MEMORY, memory_bytes};
pub use notify::{Notice, keep_watchdog, notify, watchdog_interval};
pub use signals::{Signal, Signals};
pub use turns::take_turns;

// More than any instance serves, and far below the billion that some container engines set.
#[cfg(unix)]
const DESCRIPTORS: u64 = 1 << 20;

/// A quarter of the memory of the process, in bytes: the default budget for bytes received and not yet passed on.
pub fn default_buffer_budget() -> u64 {
    memory_bytes().unwrap_or(FALLBACK_MEMORY) / 4
}

/// Raises the limit on open file descriptors as far as it goes, and returns the one in force.
///
/// Each client connection and each stream's socket to a backend takes one. `None` where the system has no such limit.
///
/// # Errors
/// The system's, if the limit can neither be read nor raised; the limit is then what it was.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> std::io::Result<Option<u64>> {
    rlimit::increase_nofile_limit(DESCRIPTORS).map(Some)
}

/// Raises the limit on open file descriptors as far as it goes; there is none on this system.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> std::io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_quarter_of_the_memory_that_the_process_may_use() {
        let memory = memory_bytes().unwrap_or(FALLBACK_MEMORY);
        assert!(memory > 64 << 20, "{memory}");
        assert_eq!(default_buffer_budget(), memory / 4);
    }

    #[cfg(unix)]
    #[test]
    fn the_descriptor_limit_is_raised_to_what_is_allowed() {
        let limit = raise_descriptor_limit().unwrap().unwrap();
        let (soft, hard) = rlimit::Resource::NOFILE.get().unwrap();
        assert_eq!(limit, soft);
        assert_eq!(soft, hard.min(DESCRIPTORS).max(soft));
    }
}
