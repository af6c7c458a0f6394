//! Publishing: the stream of JSON lines, read on the gateway and written on the connection point.

use std::future::pending;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::upload::poll_room;
use super::window;
use super::wire::{LINE_LIMIT, LINE_PAUSE, ROLES_LIMIT, RolesLine};
use crate::role::PublishedRole;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
struct Lines(BytesMut);

impl Lines {
    /// Adds bytes and returns the lines that they complete, without their ends; empty ones are left out.
    ///
    /// # Errors
    /// If a line is longer than [`LINE_LIMIT`].
    fn feed(&mut self, data: &[u8]) -> Result<Vec<Bytes>, String> {
        self.0.extend_from_slice(data);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line = self.0.split_to(end + 1).freeze();
            if end > LINE_LIMIT {
                return Err(too_long());
            }
            if end > 0 {
                lines.push(line.slice(..end));
            }
        }
        if self.0.len() > LINE_LIMIT {
            return Err(too_long());
        }
        Ok(lines)
    }
}

fn too_long() -> String {
    format!("a line of roles is longer than {LINE_LIMIT} bytes")
}

/// What the reader of a roles stream hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line to put into force.
    Line(RolesLine),
    /// Lines that came faster than one a second and were overtaken by a newer one.
    Overtaken(usize),
    /// The stream has ended; what was said last holds.
    End,
}

/// Reads a roles stream: at most one line a second comes out, the newest of what came in.
#[derive(Debug)]
pub(super) struct Reading {
    stream: RecvStream,
    lines: Lines,
    waiting: Option<Bytes>,
    overtaken: usize,
    next: Instant,
    ended: bool,
}

impl Reading {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            lines: Lines::default(),
            waiting: None,
            overtaken: 0,
            next: Instant::now(),
            ended: false,
        }
    }

    /// What is heard next.
    ///
    /// # Errors
    /// How the peer broke the protocol, for the log.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn hear(&mut self) -> Result<Heard, String> {
        loop {
            let overtaken = std::mem::take(&mut self.overtaken);
            if overtaken > 0 {
                return Ok(Heard::Overtaken(overtaken));
            }
            if self.ended && self.waiting.is_none() {
                return Ok(Heard::End);
            }
            tokio::select! {
                biased;
                () = sleep_until(self.next), if self.waiting.is_some() => {
                    let Some(line) = self.waiting.take() else { continue };
                    self.next = Instant::now() + LINE_PAUSE;
                    return parse(&line).map(Heard::Line);
                }
                data = window::data(&mut self.stream), if !self.ended => {
                    if let Some(line) = self.take(data).await? {
                        return Ok(Heard::Line(line));
                    }
                }
            }
        }
    }

    /// Takes what was received; a draining line is heard at once.
    async fn take(
        &mut self,
        data: Option<Result<Bytes, h2::Error>>,
    ) -> Result<Option<RolesLine>, String> {
        let data = match data {
            Some(Ok(data)) => data,
            // The connection's end says more than the stream's.
            Some(Err(error)) if error.is_io() || error.is_go_away() => pending().await,
            Some(Err(error)) => return Err(format!("the roles stream was reset: {error}")),
            None => {
                self.ended = true;
                return Ok(None);
            }
        };
        for line in self.lines.feed(&data)? {
            if may_be_last(&line) {
                let parsed = parse(&line)?;
                if parsed.draining {
                    self.waiting = None;
                    return Ok(Some(parsed));
                }
            }
            self.overtaken += usize::from(self.waiting.replace(line).is_some());
        }
        Ok(None)
    }
}

/// Whether a line is worth parsing out of turn: the last line is short.
fn may_be_last(line: &[u8]) -> bool {
    const WORD: &[u8] = b"draining";
    line.len() < 256 && line.windows(WORD.len()).any(|part| part == WORD)
}

fn parse(line: &[u8]) -> Result<RolesLine, String> {
    let (parsed, lost) =
        RolesLine::parse(line).map_err(|error| format!("a line of roles: {error}"))?;
    if lost > 0 {
        tracing::warn!(
            count = lost,
            "published roles that are not understood are left out"
        );
    }
    Ok(parsed)
}

/// Writes a roles stream until the roles' owner is gone or `last` says that the tunnel drains; then the last
/// line follows.
pub(super) async fn write(
    mut stream: SendStream<Bytes>,
    mut roles: watch::Receiver<Arc<Vec<PublishedRole>>>,
    mut last: watch::Receiver<bool>,
) {
    loop {
        let now = RolesLine {
            roles: roles
                .borrow_and_update()
                .iter()
                .take(ROLES_LIMIT)
                .cloned()
                .collect(),
            draining: false,
        };
        if *last.borrow() || write_line(&mut stream, &now, false).await.is_none() {
            break;
        }
        let next = Instant::now() + LINE_PAUSE;
        let news = async {
            sleep_until(next).await;
            roles.changed().await
        };
        tokio::select! {
            biased;
            // An error means that the tunnel is gone.
            _ = last.wait_for(|last| *last) => break,
            changed = news => if changed.is_err() { break },
        }
    }
    let line = RolesLine {
        roles: Vec::new(),
        draining: true,
    };
    write_line(&mut stream, &line, true).await;
}

/// `None` if the peer takes no more.
async fn write_line(stream: &mut SendStream<Bytes>, line: &RolesLine, last: bool) -> Option<()> {
    let mut json = serde_json::to_vec(line).ok()?;
    json.push(b'\n');
    let mut json = Bytes::from(json);
    while !json.is_empty() {
        let room = std::future::poll_fn(|cx| poll_room(stream, json.len(), cx)).await?;
        let part = json.split_to(room.min(json.len()));
        stream.send_data(part, last && json.is_empty()).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_bytes_break() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"{\"a\"").unwrap().is_empty());
        assert_eq!(lines.feed(b":1}\n\n{}\n{").unwrap(), ["{\"a\":1}", "{}"]);
        assert_eq!(lines.feed(b"}\n").unwrap(), ["{}"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_an_error_before_its_end() {
        let mut lines = Lines::default();
        assert!(lines.feed(&vec![b'x'; LINE_LIMIT]).unwrap().is_empty());
        let error = lines.feed(b"xx").unwrap_err();
        assert_eq!(error, "a line of roles is longer than 262144 bytes");
    }
}
