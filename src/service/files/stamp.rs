//! What a file system tells of a file without reading it: enough to know that a large one was not touched.

use std::path::Path;
#[cfg(unix)]
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Below this a file is cheaper read than trusted to be the same.
#[cfg(unix)]
const LARGE: u64 = 256 << 10;

/// A file that was changed so lately could be changed again within one tick of the file system's clock.
#[cfg(unix)]
const SETTLED: Duration = Duration::from_secs(2);

/// A large file that was not touched lately. Two that are equal are of the same contents: the time of its last change is
/// set by the system alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    #[cfg(unix)]
    is: (u64, u64, u64, i64, i64),
}

impl Stamp {
    /// The stamp of a file; none if it has to be read.
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;

        let facts = std::fs::metadata(path).ok()?;
        let (seconds, nanos) = (facts.ctime(), facts.ctime_nsec());
        let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?);
        let age = SystemTime::now().duration_since(changed).ok()?;
        let is = (facts.dev(), facts.ino(), facts.len(), seconds, nanos);
        (facts.len() >= LARGE && age > SETTLED).then_some(Self { is })
    }

    /// The stamp of a file: there is no time that only the system sets.
    #[cfg(not(unix))]
    pub(super) fn of(_path: &Path) -> Option<Self> {
        None
    }
}
