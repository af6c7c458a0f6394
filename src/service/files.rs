//! The files that a definition was read from, by the hash of their contents.
//!
//! Contents tell a change, not dates: a copied or restored file keeps its old date, and a renewed certificate may
//! have the length of the old one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// How often files are looked at. A change is in force within two seconds.
pub const POLL: Duration = Duration::from_millis(500);

// A certificate and its key are replaced one after the other: wait until both are there, but not without end.
const SETTLE: Duration = Duration::from_millis(200);
const MOST_SETTLES: u32 = 4;

// No certificate file of a company comes near it; a device or a wrong file must not fill the memory.
const MOST_BYTES: u64 = 4 << 20;

/// What was read, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    seen: BTreeMap<PathBuf, Option<[u8; 32]>>,
}

impl Files {
    /// Reads a file and remembers its contents.
    ///
    /// # Errors
    /// Why it cannot be read, as the end of a sentence that begins with its name.
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let result = contents(path);
        let hash = result.as_deref().ok().map(hash);
        self.seen.insert(path.to_owned(), hash);
        result.map_err(|error| format!("cannot be read: {error}"))
    }

    /// Reads a text file and remembers its contents.
    ///
    /// # Errors
    /// Why it cannot be read, as the end of a sentence that begins with its name.
    pub fn read_text(&mut self, path: &Path) -> Result<String, String> {
        let bytes = self.read(path)?;
        String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
    }

    /// Returns once the contents of a file differ from what was read, and have settled. A file that comes or goes
    /// counts.
    ///
    /// # Cancel safety
    /// Safe: nothing is remembered in between.
    pub async fn changed(&self) {
        let mut last = self.clone();
        while last == *self {
            tokio::time::sleep(POLL).await;
            last = last.look().await;
        }
        for _ in 0..MOST_SETTLES {
            tokio::time::sleep(SETTLE).await;
            let next = last.clone().look().await;
            if next == last {
                return;
            }
            last = next;
        }
    }

    /// The same files as they are now, read off the threads that serve.
    async fn look(self) -> Self {
        let kept = self.clone();
        let looked = tokio::task::spawn_blocking(move || self.again()).await;
        looked.unwrap_or(kept)
    }

    /// The same files as they are now.
    pub fn again(&self) -> Self {
        let look = |path: &PathBuf| (path.clone(), contents(path).ok().as_deref().map(hash));
        Self {
            seen: self.seen.keys().map(look).collect(),
        }
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_of_contents_is_told_and_a_touch_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, "one").unwrap();
        let mut files = Files::default();
        files.read(&a).unwrap();
        files.read(&b).unwrap_err();
        std::fs::write(&a, "one").unwrap();
        assert_eq!(files.again(), files);
        std::fs::write(&a, "two").unwrap();
        files.changed().await;
        let files = files.again();
        std::fs::write(&b, "there").unwrap();
        files.changed().await;
        assert_ne!(files.again(), files);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, vec![0; MOST_BYTES as usize + 1]).unwrap();
        let what = Files::default().read(&path).unwrap_err();
        assert_eq!(what, "cannot be read: it is larger than 4 MiB");
    }
}
