//! Where lines go: a standard stream, or a file that can be opened anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// A place for lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard error.
    StandardError,
    /// Standard output.
    StandardOutput,
    /// A file, appended to and made if it is not there.
    File(PathBuf),
}

/// An open place for lines. Clones write to the same one; each call of `write_all` stays in one piece.
#[derive(Clone, Debug)]
pub struct Output {
    target: Arc<Target>,
    file: Option<Arc<Mutex<File>>>,
}

impl Output {
    /// Opens the place.
    ///
    /// # Errors
    /// The system's, with the name of the file.
    pub fn open(target: Target) -> io::Result<Self> {
        let file = match &target {
            Target::StandardError | Target::StandardOutput => None,
            Target::File(path) => Some(Arc::new(Mutex::new(open(path)?))),
        };
        Ok(Self {
            target: Arc::new(target),
            file,
        })
    }

    /// Opens a file anew under its name; the old one stays in use if that fails.
    ///
    /// # Errors
    /// The system's, with the name of the file.
    pub fn reopen(&self) -> io::Result<()> {
        if let (Target::File(path), Some(file)) = (&*self.target, &self.file) {
            let opened = open(path)?;
            *file.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        }
        Ok(())
    }
}

impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match (&self.file, &*self.target) {
            (Some(file), _) => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(bytes),
            (None, Target::StandardOutput) => io::stdout().lock().write_all(bytes),
            (None, Target::StandardError | Target::File(_)) => io::stderr().lock().write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match (&self.file, &*self.target) {
            (None, Target::StandardOutput) => io::stdout().lock().flush(),
            (None, _) | (Some(_), _) => Ok(()),
        }
    }
}

impl<'w> MakeWriter<'w> for Output {
    type Writer = &'w Self;
    fn make_writer(&'w self) -> Self::Writer {
        self
    }
}

fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
