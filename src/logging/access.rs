//! The access log: one line per request, written by a thread of its own.
//!
//! [`AccessLog::record`] makes the line and puts it into a bounded queue; it never waits. A line for which there is no place is dropped and
//! counted. Dropping the last clone writes what is queued.

mod line;

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use prometheus_client::metrics::counter::Counter;

use super::output::{Output, Target};
use crate::settings::Reader;

pub use line::Entry;

// What one write takes together: enough to spare system calls, little enough to be seen soon.
const BATCH: usize = 256;

/// How lines of the access log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// `key=value` with quoted strings.
    Text,
    /// One JSON object a line.
    Json,
}

/// The access log's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSettings {
    /// Where it goes; nothing is written without it.
    pub target: Option<Target>,
    /// How lines are written.
    pub format: AccessFormat,
    /// One of so many requests is written; those with a reason always are.
    pub sample: u64,
    /// How many lines may wait to be written.
    pub queue: usize,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            // Off, as a line per request is a decision about disks and about privacy.
            target: None,
            format: AccessFormat::Text,
            // Every request: who switches it on wants them.
            sample: 1,
            // A second of a busy instance, some 3 MiB.
            queue: 8192,
        }
    }
}

impl AccessSettings {
    /// Reads `file` (a path, or `-` for standard output), `format`, `sample` and `queue`.
    pub fn read(reader: &Reader<'_>) -> Self {
        let default = Self::default();
        let formats = [("text", AccessFormat::Text), ("json", AccessFormat::Json)];
        let target = match reader.optional_text("file").as_deref() {
            None => None,
            Some("-") => Some(Target::StandardOutput),
            Some(_) => reader.optional_path("file").map(Target::File),
        };
        let queue = reader.integer("queue", default.queue as u64, 16..=1 << 20);
        Self {
            target,
            format: reader.choice("format", &formats, default.format),
            sample: reader.integer("sample", default.sample, 1..=1_000_000),
            queue: usize::try_from(queue).unwrap_or(default.queue),
        }
    }

    /// The same with a file, for which the path is given.
    pub fn to_file(self, path: PathBuf) -> Self {
        Self {
            target: Some(Target::File(path)),
            ..self
        }
    }
}

/// The counters that an access log moves.
#[derive(Clone, Debug, Default)]
pub struct AccessCounts {
    /// Lines written.
    pub lines: Counter,
    /// Lines dropped.
    pub dropped: Counter,
}

/// An access log, or none. Clones write to the same one.
#[derive(Clone)]
pub struct AccessLog(Option<Arc<Inner>>);

struct Inner {
    format: AccessFormat,
    sample: u64,
    seen: AtomicU64,
    counts: AccessCounts,
    reopen: Arc<AtomicBool>,
    // `None` only while the last clone is dropped.
    queue: Option<SyncSender<Message>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Line(String),
    Wake,
}

impl AccessLog {
    /// A log that writes nothing.
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log that the settings name and starts its thread; [`AccessLog::off`] if they name none.
    ///
    /// # Errors
    /// The system's, if the file cannot be opened or the thread cannot be started.
    pub fn start(settings: &AccessSettings, counts: AccessCounts) -> io::Result<Self> {
        let Some(target) = settings.target.clone() else {
            return Ok(Self::off());
        };
        let output = Output::open(target)?;
        let (queue, lines) = sync_channel(settings.queue);
        let reopen = Arc::new(AtomicBool::new(false));
        let writing = {
            let (reopen, counts) = (Arc::clone(&reopen), counts.clone());
            move || write(&lines, &output, &reopen, &counts)
        };
        let writer = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(writing)?;
        Ok(Self(Some(Arc::new(Inner {
            format: settings.format,
            sample: settings.sample.max(1),
            seen: AtomicU64::new(0),
            counts,
            reopen,
            queue: Some(queue),
            writer: Mutex::new(Some(writer)),
        }))))
    }

    /// Whether lines are written at all; who makes an entry at some cost asks first.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes one request down, if it is its turn. Never waits.
    pub fn record(&self, entry: &Entry<'_>) {
        let Some(inner) = &self.0 else { return };
        let turn = inner.seen.fetch_add(1, Ordering::Relaxed) % inner.sample == 0;
        if turn || entry.reason.is_some() {
            inner.send(Message::Line(entry.line(inner.format)));
        }
    }

    /// Opens the file anew under its name before the next line.
    pub fn reopen(&self) {
        if let Some(inner) = &self.0 {
            inner.reopen.store(true, Ordering::Release);
            inner.send(Message::Wake);
        }
    }
}

impl Inner {
    fn send(&self, message: Message) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(message) {
            // A full queue wakes the writer by itself.
            Ok(())
            | Err(TrySendError::Full(Message::Wake) | TrySendError::Disconnected(Message::Wake)) => {
            }
            Err(
                TrySendError::Full(Message::Line(_)) | TrySendError::Disconnected(Message::Line(_)),
            ) => {
                self.counts.dropped.inc();
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = self.0.as_ref().map(|inner| inner.format);
        f.debug_struct("AccessLog")
            .field("format", &format)
            .finish_non_exhaustive()
    }
}

/// The thread: takes what is there, up to a batch, and writes it with one call.
fn write(lines: &Receiver<Message>, output: &Output, reopen: &AtomicBool, counts: &AccessCounts) {
    while let Ok(first) = lines.recv() {
        if reopen.swap(false, Ordering::AcqRel)
            && let Err(error) = output.reopen()
        {
            tracing::warn!(%error, "the access log could not be opened anew and stays in the old file");
        }
        let mut batch = BufWriter::new(output);
        let mut written = 0;
        let more = std::iter::from_fn(|| lines.try_recv().ok());
        for message in std::iter::once(first).chain(more.take(BATCH - 1)) {
            if let Message::Line(line) = message {
                written += u64::from(writeln!(batch, "{line}").is_ok());
            }
        }
        match batch.flush() {
            Ok(()) => counts.lines.inc_by(written),
            Err(_) => counts.dropped.inc_by(written),
        };
    }
}
