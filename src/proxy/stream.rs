//! The stream between TLS and HTTP: bytes and frames are counted and progress is timed here, and what the server of HTTP/1.1 does
//! not tell is seen: a client that goes behind a byte too many, a fragment, a refusal of the parser.

mod bare;
mod line;

use std::future::Future;
use std::io;
use std::iter;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use self::line::Line;
use super::activity::Activity;
use super::frames::Frames;
use crate::allowance::Allowance;
use crate::frames::Flood;
use crate::reason::Reason;

/// How long what a client still sends is thrown away after its last answer.
const LINGER: Duration = Duration::from_secs(30);

/// How long of that it may be silent.
const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// How much a client may send behind a request that waits for its answer before no more is read: a close behind more than
/// that is not seen.
const AHEAD: usize = 64 << 10;

/// How much is read at once over HTTP/1.1 while memory is scarce, before that is halved with the windows, and the least
/// that it comes to: the server's buffer is not smaller.
const SCARCE: u32 = 32 << 10;
const LEAST: usize = 4 << 10;

/// A stream whose peer is given up when it takes nothing for too long.
///
/// It is closed as RFC 9112 §9.6 has it: a client that was answered while it was sending a body is read on until it
/// closes, since to close on unread bytes is a reset, and a reset takes the answer away that is on its way.
#[derive(Debug)]
pub(super) struct Stream<IO> {
    inner: IO,
    activity: Arc<Activity>,
    /// The client's frames, over HTTP/2; boxed, since most connections have none.
    frames: Option<Box<Frames>>,
    send_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Until when what the client sends is thrown away, once the other direction is closed.
    linger: Option<Instant>,
    /// What only a connection of HTTP/1.1 has.
    http1: Option<Http1>,
}

/// What is watched in place of a server that does not.
#[derive(Debug)]
struct Http1 {
    /// What may be read at once.
    allowance: Allowance,
    /// Whether the server waits for more from the client, and so for its end.
    awaits: bool,
    /// What was read while the server did not want to, and how much of it was handed on.
    ahead: Vec<u8>,
    handed: usize,
    line: Line,
    /// What is written in place of the server's own refusal, and how much of it was.
    instead: Vec<u8>,
    written: usize,
}

impl<IO> Stream<IO> {
    /// A stream of HTTP/1.1, of which no more than the allowance is read at once.
    pub(super) fn http1(
        inner: IO,
        activity: Arc<Activity>,
        send_timeout: Duration,
        allowance: Allowance,
    ) -> Self {
        let http1 = Http1 {
            allowance,
            awaits: false,
            ahead: Vec::new(),
            handed: 0,
            line: Line::Past,
            instead: Vec::new(),
            written: 0,
        };
        Self {
            http1: Some(http1),
            ..Self::new(inner, activity, send_timeout)
        }
    }

    /// A stream of HTTP/2, whose frames are counted.
    pub(super) fn http2(inner: IO, activity: Arc<Activity>, send_timeout: Duration) -> Self {
        Self {
            frames: Some(Box::new(Frames::new())),
            ..Self::new(inner, activity, send_timeout)
        }
    }

    fn new(inner: IO, activity: Arc<Activity>, send_timeout: Duration) -> Self {
        Self {
            http1: None,
            inner,
            activity,
            frames: None,
            send_timeout,
            timer: None,
            linger: None,
        }
    }

    /// Counts the client's frames; who sends more than its budget is given up.
    fn received_frames(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(frames) = &mut self.frames else {
            return Ok(());
        };
        let result = frames.received(bytes);
        let (in_head, began) = (frames.is_in_head(), frames.take_began());
        self.activity.received_frames(bytes.len(), in_head, began);
        self.activity.set_open(frames.open());
        result.map_err(|Flood| {
            self.activity.set_ended(Reason::TooManyFrames);
            io::Error::other("more frames than their budget allows")
        })
    }

    /// Notes that so much of the buffers was written.
    fn sent<'a>(&mut self, buffers: impl Iterator<Item = &'a [u8]>, written: usize) {
        let Some(frames) = &mut self.frames else {
            return self.activity.sent(written);
        };
        let (mut left, mut bodies) = (written, 0);
        for buffer in buffers {
            let part = &buffer[..left.min(buffer.len())];
            bodies += frames.sent(part);
            left -= part.len();
        }
        let open = frames.open();
        self.activity.sent_frames(written, bodies);
        self.activity.set_open(open);
    }

    /// TLS takes more than it can send: as long as the client must take something, it is given nothing more to hold.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        IO: AsyncWrite + Unpin,
    {
        if !self.activity.waits_to_send() {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        match result.is_ready() {
            // Whether the client has made room is for the write to say.
            true => result,
            false => self.judge(cx, result),
        }
    }

    /// Passes on what a write came to; turns a wait without end into an error.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let waited = self.activity.wait_to_send(result.is_pending());
        if result.is_ready() {
            if waited {
                self.activity.release();
            }
            return result;
        }
        let limit = self.send_timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !waited {
            self.activity.press();
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        self.activity.set_ended(Reason::StalledClient);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> Stream<IO> {
    /// Ready once there is something to read, or the end of it.
    pub(super) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(http1) = self.http1.as_mut().filter(|http1| http1.ahead.is_empty()) else {
            return Poll::Ready(());
        };
        let mut some = [0; 4096];
        let mut room = ReadBuf::new(&mut some);
        // An error comes again with the next read.
        let _ = ready!(Pin::new(&mut self.inner).poll_read(cx, &mut room));
        http1.ahead.extend_from_slice(room.filled());
        Poll::Ready(())
    }

    /// Takes back what a server has read and not looked at: it comes first with the next read.
    pub(super) fn put_back(&mut self, unread: &[u8]) {
        if let Some(http1) = &mut self.http1 {
            let behind = http1.ahead.split_off(http1.handed);
            http1.ahead = [unread, &behind].concat();
            http1.handed = 0;
        }
    }

    /// Reads and forgets, until the client closes, is silent or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(LINGER_SILENCE)));
        let mut forgotten = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut forgotten);
            let read = Pin::new(&mut self.inner).poll_read(cx, &mut buffer);
            let now = Instant::now();
            match read {
                Poll::Pending => return timer.as_mut().poll(cx),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && now < until => {
                    timer.as_mut().reset(until.min(now + LINGER_SILENCE));
                }
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> Stream<IO> {
    /// Reads on in place of a server that has bytes of a next request and waits for the answer to this one: it would
    /// not see that its client has gone. Ready when it has.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(http1) = &mut self.http1 else {
            return Poll::Pending;
        };
        if http1.awaits || !self.activity.is_waited_for() {
            return Poll::Pending;
        }
        let mut some = [0; 4096];
        while http1.ahead.len() < AHEAD {
            let mut room = ReadBuf::new(&mut some);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut room)) {
                Ok(()) if !room.filled().is_empty() => {
                    http1.ahead.extend_from_slice(room.filled());
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

impl Http1 {
    /// Hands out what was read ahead, if anything was.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let left = &self.ahead[self.handed..];
        if left.is_empty() {
            return false;
        }
        let len = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..len]);
        self.handed += len;
        if self.handed == self.ahead.len() {
            self.ahead = Vec::new();
            self.handed = 0;
        }
        true
    }
}

/// Reads no more than so many bytes.
fn poll_read_some(
    io: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<()>> {
    let most = most.min(buffer.remaining());
    let mut some = ReadBuf::new(buffer.initialize_unfilled_to(most));
    ready!(Pin::new(io).poll_read(cx, &mut some))?;
    let read = some.filled().len();
    buffer.advance(read);
    Poll::Ready(Ok(()))
}

impl<IO: AsyncRead + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let Some(http1) = &mut this.http1 else {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
            return Poll::Ready(this.received_frames(&buffer.filled()[before..]));
        };
        if !http1.hand_out(buffer) {
            let read = match http1.allowance.reduced(SCARCE) {
                None => Pin::new(&mut this.inner).poll_read(cx, buffer),
                Some(most) => poll_read_some(&mut this.inner, cx, buffer, most.max(LEAST)),
            };
            http1.awaits = read.is_pending();
            ready!(read)?;
        }
        let read = &buffer.filled()[before..];
        if this.activity.received(read.len()) {
            http1.line = Line::Before;
        }
        if http1.line.look(read) {
            this.activity.note_fragment();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> Stream<IO> {
    /// Writes our words in place of a refusal of the parser; `None` if the bytes are none.
    fn poll_instead(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        let http1 = self.http1.as_mut()?;
        if http1.instead.is_empty() {
            // Only the server's own words: an answer may hold the same bytes, and is the backend's.
            let own = self.activity.is_servers_turn();
            http1.instead = own.then(|| bare::reworded(bytes)).flatten()?;
            http1.written = 0;
            // More of the head may be on its way: a close would take the answer away.
            self.activity.leave_unread(true);
        }
        loop {
            let http1 = self.http1.as_mut()?;
            if http1.written == http1.instead.len() {
                http1.instead = Vec::new();
                return Some(Poll::Ready(Ok(bytes.len())));
            }
            let rest = &http1.instead[http1.written..];
            let result = Pin::new(&mut self.inner).poll_write(cx, rest);
            match self.judge(cx, result) {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.activity.sent(written);
                    self.http1.as_mut()?.written += written;
                }
                Poll::Ready(Ok(_)) => {
                    return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into())));
                }
                other @ (Poll::Ready(Err(_)) | Poll::Pending) => return Some(other),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(instead) = self.poll_instead(cx, bytes) {
            return instead;
        }
        ready!(self.poll_room(cx))?;
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        let written = ready!(self.judge(cx, result))?;
        self.sent(iter::once(bytes), written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = buffers.iter().find(|buffer| !buffer.is_empty());
        if let Some(instead) = first.and_then(|first| self.poll_instead(cx, first)) {
            return instead;
        }
        ready!(self.poll_room(cx))?;
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, buffers);
        let written = ready!(self.judge(cx, result))?;
        self.sent(buffers.iter().map(|buffer| &**buffer), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        ready!(self.judge(cx, result))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let until = match this.linger {
            Some(until) => until,
            None => {
                let result = Pin::new(&mut this.inner).poll_shutdown(cx);
                ready!(this.judge(cx, result))?;
                if !this.activity.is_unread() {
                    return Poll::Ready(Ok(()));
                }
                this.timer = None;
                *this.linger.insert(Instant::now() + LINGER)
            }
        };
        this.poll_linger(cx, until).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_one_that_takes_a_little_is_not() {
        let limit = Duration::from_secs(10);
        let (ours, mut theirs) = tokio::io::duplex(4);
        let activity = Arc::new(Activity::new());
        let mut stream = Stream::http1(ours, activity.clone(), limit, Allowance::default());
        let send = stream.write_all(b"0123456789abcdef");
        let take = async {
            let mut some = [0; 4];
            for _ in 0..2 {
                tokio::time::advance(limit - Duration::from_secs(1)).await;
                theirs.read_exact(&mut some).await.unwrap();
            }
        };
        let started = Instant::now();
        let (sent, ()) = tokio::join!(send, take);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= 2 * (limit - Duration::from_secs(1)) + limit);
        assert_eq!(activity.bytes_sent(), 12);
        assert_eq!(activity.ended(), Some(Reason::StalledClient));
    }

    /// How long a close takes while the client sends a byte at every interval, and closes after the given number.
    async fn closing(unread: bool, every: Duration, bytes: u32) -> Duration {
        let (ours, mut theirs) = tokio::io::duplex(256);
        let activity = Arc::new(Activity::new());
        activity.leave_unread(unread);
        let mut stream = Stream::http1(
            ours,
            activity,
            Duration::from_secs(300),
            Allowance::default(),
        );
        let started = Instant::now();
        let sending = async {
            for _ in 0..bytes {
                sleep(every).await;
                let _ = theirs.write_all(b"x").await;
            }
            drop(theirs);
        };
        let shut = async {
            stream.shutdown().await.unwrap();
            started.elapsed()
        };
        tokio::join!(shut, sending).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_is_read_until_it_closes_is_silent_or_has_had_its_time() {
        let second = Duration::from_secs(1);
        assert_eq!(closing(false, second, 9).await, Duration::ZERO);
        assert_eq!(closing(true, second, 9).await, 9 * second);
        let silent = closing(true, 7 * second, 3).await;
        assert!(
            (LINGER_SILENCE..=7 * second).contains(&silent),
            "{silent:?}"
        );
        let endless = closing(true, second, 100).await;
        assert!((LINGER..=LINGER + second).contains(&endless), "{endless:?}");
    }
}
