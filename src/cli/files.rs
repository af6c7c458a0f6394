//! Writing the files that commands make: private keys readable by their owner only, and nothing half-written.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Everyone: certificates and configuration.
    All,
    /// The owner: private keys and passwords.
    Owner,
}

/// Makes a file that must not exist yet.
pub(super) fn create(path: &Path, bytes: impl AsRef<[u8]>, readers: Readers) -> anyhow::Result<()> {
    match write_new(path, bytes.as_ref(), readers) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let path = path.display();
            Err(anyhow!("{path} exists already and is not overwritten"))
        }
        result => result.with_context(|| format!("{} cannot be written", path.display())),
    }
}

/// Makes a file or takes the place of one at a stroke, so that nobody reads half of it.
pub(super) fn replace(
    path: &Path,
    bytes: impl AsRef<[u8]>,
    readers: Readers,
) -> anyhow::Result<()> {
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    let written = remove_if_there(&fresh)
        .and_then(|()| write_new(&fresh, bytes.as_ref(), readers))
        .and_then(|()| fs::rename(&fresh, path));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// Reads a file that a command was given.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    restrict(&mut options, readers);
    options.open(path)?.write_all(bytes)
}

#[cfg(unix)]
fn restrict(options: &mut OpenOptions, readers: Readers) {
    use std::os::unix::fs::OpenOptionsExt;
    if readers == Readers::Owner {
        options.mode(0o600);
    }
}

// Elsewhere a file inherits the access list of its folder.
#[cfg(not(unix))]
fn restrict(_: &mut OpenOptions, _: Readers) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_never_takes_the_place_of_another_and_a_secret_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        create(&path, "one", Readers::Owner).unwrap();
        let error = create(&path, "two", Readers::Owner).unwrap_err();
        assert!(error.to_string().ends_with("is not overwritten"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, "three", Readers::Owner).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
