//! The files that a definition was read from, by the hash of their contents.
//!
//! Contents tell a change, not dates: a copied or restored file keeps its old date, and a renewed certificate may
//! have the length of the old one. Only of large files the contents are not read again while the file system says that
//! nobody has touched them.

mod stamp;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use self::stamp::Stamp;
use crate::units::print_size;

/// How often files are looked at. A change is in force within two seconds.
pub const POLL: Duration = Duration::from_millis(500);

// A certificate and its key are replaced one after the other: wait until both are there, but not without end.
const SETTLE: Duration = Duration::from_millis(200);
const MOST_SETTLES: u32 = 4;

// No certificate file of a company comes near it; a device or a wrong file must not fill the memory.
const MOST_BYTES: u64 = 4 << 20;

/// What was read, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Files {
    seen: BTreeMap<PathBuf, Seen>,
}

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        let hash = |(path, seen): (&PathBuf, &Seen)| (path.clone(), seen.hash);
        self.seen.iter().map(hash).eq(other.seen.iter().map(hash))
    }
}

impl Eq for Files {}

/// One file as it was last seen.
#[derive(Clone, Debug)]
struct Seen {
    /// Of its contents; none if it could not be read.
    hash: Option<[u8; 32]>,
    most_bytes: u64,
    /// What saves reading a large file again; none where it would not tell a change.
    stamp: Option<Stamp>,
}

impl Files {
    /// Reads a file of at most 4 MiB and remembers its contents.
    ///
    /// # Errors
    /// Why it cannot be read, as the end of a sentence that begins with its name.
    pub fn read(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        self.read_large(path, MOST_BYTES)
    }

    /// Reads a file of at most so many bytes and remembers its contents.
    ///
    /// # Errors
    /// Why it cannot be read, as the end of a sentence that begins with its name.
    pub fn read_large(&mut self, path: &Path, most_bytes: u64) -> Result<Vec<u8>, String> {
        let stamp = Stamp::of(path);
        let result = contents(path, most_bytes);
        let seen = Seen {
            hash: result.as_deref().ok().map(hash),
            most_bytes,
            stamp,
        };
        self.seen.insert(path.to_owned(), seen);
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
        let look = |(path, seen): (&PathBuf, &Seen)| (path.clone(), seen.again(path));
        Self {
            seen: self.seen.iter().map(look).collect(),
        }
    }
}

impl Seen {
    fn again(&self, path: &Path) -> Self {
        let stamp = Stamp::of(path);
        if stamp.is_some() && stamp == self.stamp {
            return self.clone();
        }
        Self {
            hash: contents(path, self.most_bytes).ok().as_deref().map(hash),
            most_bytes: self.most_bytes,
            stamp,
        }
    }
}

fn contents(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let too_large = || {
        let most = print_size(most_bytes);
        io::Error::other(format!("it is larger than {most}"))
    };
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    if file
        .metadata()
        .is_ok_and(|facts| facts.is_file() && facts.len() > most_bytes)
    {
        return Err(too_large());
    }
    file.take(most_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        return Err(too_large());
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
