//! The files that a definition was read from, by the hash of their contents.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

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

    /// How many files were asked for.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no file was asked for.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
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
