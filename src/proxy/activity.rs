//! What happens on one client connection, as its driver and its requests see it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Context;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection::SEND_BUFFER;
use crate::allowance::HeldUp;
use crate::message::body::Meter;
use crate::reason::Reason;
use crate::tunnel::{Counted, Holder};

/// What a connection may hold for its client before it is counted in the budget, while that has room.
pub(super) const MUCH: u32 = 64 << 10;

/// What HTTP/2 holds of one stream at most: a frame on its way to it, one that it has taken whole, and what it takes
/// before it waits.
const OF_STREAM: u64 = (2 * (64 << 10) + SEND_BUFFER) as u64;

/// What a client must take at least, and which part of what is held for it, before that counts as moving.
const LITTLE: u64 = 1 << 10;
const SHARE: u64 = 64;

/// What a connection holds at most, about, of what counts.
pub(super) const MOST: u32 = 256 << 10;

/// The counts and marks of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    requests: AtomicU32,
    /// Streams of HTTP/2 of which not all was sent that there will be.
    open: AtomicU32,
    /// When the connection was last busy, in milliseconds from its beginning.
    busy_ms: AtomicU64,
    /// When a request head began to arrive, in milliseconds from the beginning, plus one; 0 while none does.
    head_ms: AtomicU64,
    /// The same of HTTP/2, where heads arrive while requests are under way.
    block_ms: AtomicU64,
    /// Answers that have something for the client, or were not asked yet.
    pressing: AtomicU32,
    /// When an answer was last asked for more, in milliseconds from the beginning.
    asked_ms: AtomicU64,
    /// Since when there has been something for the client without a break, in milliseconds from the beginning.
    pressed_ms: AtomicU64,
    received: AtomicU64,
    waits_to_send: AtomicBool,
    /// Bytes sent that show that the client takes its answers, and others.
    taken: AtomicU64,
    besides: AtomicU64,
    /// Bytes of answers that were handed to the server of this connection.
    offered: AtomicU64,
    /// The bytes of the last write: what TLS holds at most when it has to wait.
    last_write: AtomicU64,
    /// When what is held last became noticeably less, in milliseconds from the beginning, and the bytes taken by then.
    moved_ms: AtomicU64,
    moved_at: AtomicU64,
    /// Whether an answer waits for some of them to be sent.
    held_up: HeldUp,
    /// The connection's place in the budget, once it has held much.
    counted: OnceLock<Counted>,
    unread: AtomicBool,
    /// Whether the last request has a body, and how to look at it once it is read. HTTP/1.1 only.
    has_body: AtomicBool,
    upload: Mutex<Option<Meter>>,
    fragment: AtomicBool,
    /// Whether bytes to the client may belong to an answer, and whether none of them will ever be the server's own again.
    answering: AtomicBool,
    switched: AtomicBool,
    winding_up: AtomicBool,
    hang_up: Notify,
    ended: OnceLock<Reason>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            requests: AtomicU32::new(0),
            open: AtomicU32::new(0),
            busy_ms: AtomicU64::new(0),
            head_ms: AtomicU64::new(0),
            block_ms: AtomicU64::new(0),
            pressing: AtomicU32::new(0),
            asked_ms: AtomicU64::new(0),
            pressed_ms: AtomicU64::new(0),
            received: AtomicU64::new(0),
            waits_to_send: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            besides: AtomicU64::new(0),
            offered: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
            moved_at: AtomicU64::new(0),
            held_up: HeldUp::default(),
            counted: OnceLock::new(),
            unread: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            upload: Mutex::new(None),
            fragment: AtomicBool::new(false),
            answering: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            winding_up: AtomicBool::new(false),
            hang_up: Notify::new(),
            ended: OnceLock::new(),
        }
    }

    /// Notes bytes from a client of HTTP/1.1; returns whether they begin a request head.
    pub(super) fn received(&self, bytes: usize) -> bool {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        let begins = bytes > 0 && self.is_idle() && self.head_ms.load(Ordering::Relaxed) == 0;
        if begins {
            self.head_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
        // What is left of an answered request's body is no head.
        begins && !self.is_unread()
    }

    /// Notes bytes from a client of HTTP/2, and whether they leave a request head half sent that `began` with them.
    pub(super) fn received_frames(&self, bytes: usize, in_head: bool, began: bool) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        match (in_head, began) {
            (false, _) => self.block_ms.store(0, Ordering::Relaxed),
            (true, true) => self.block_ms.store(self.now_ms() + 1, Ordering::Relaxed),
            (true, false) => {}
        }
    }

    /// Notes bytes to a client of HTTP/1.1, all of which are of answers.
    pub(super) fn sent(&self, bytes: usize) {
        self.sent_some(bytes, bytes);
    }

    /// Notes bytes to a client of HTTP/2, and how many of them are of `bodies`: heads, and what acknowledges the client's
    /// own frames, are no sign that it takes what is held for it.
    pub(super) fn sent_frames(&self, bytes: usize, bodies: usize) {
        self.sent_some(bytes, bodies);
    }

    fn sent_some(&self, bytes: usize, taken: usize) {
        self.last_write.store(bytes as u64, Ordering::Relaxed);
        self.held_up.go_on();
        let besides = (bytes - taken) as u64;
        self.besides.fetch_add(besides, Ordering::Relaxed);
        if taken == 0 {
            return;
        }
        self.taken.fetch_add(taken as u64, Ordering::Relaxed);
        let now = self.now_ms();
        self.asked_ms.store(now, Ordering::Relaxed);
        self.move_on(now);
        if self.is_idle() {
            self.busy_ms.store(now, Ordering::Relaxed);
        }
        // The heads of HTTP/1.1 come on top: what they add may not make room for more.
        self.offered
            .fetch_max(self.bytes_taken(), Ordering::Relaxed);
    }

    /// Notes how many streams of HTTP/2 are open. More is not held than those can hold: of a stream that was reset nobody
    /// says how much was thrown away.
    pub(super) fn set_open(&self, open: usize) {
        let most = self.bytes_taken() + open as u64 * OF_STREAM;
        self.offered.fetch_min(most, Ordering::Relaxed);
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        self.behind(|| self.open.store(open, Ordering::Relaxed));
    }

    /// Changes counts; where that leaves something for the client, as nothing was before, its time begins.
    fn behind(&self, change: impl FnOnce()) {
        let before = self.is_pressing();
        change();
        if !before && self.is_pressing() {
            let now = self.now_ms();
            self.asked_ms.store(now, Ordering::Relaxed);
            self.pressed_ms.store(now, Ordering::Relaxed);
        }
    }

    /// Whether there is something for the client: of an answer, or of one that is over and in the hands of HTTP/2.
    fn is_pressing(&self) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        self.pressing.load(Ordering::Relaxed) > 0 || open > self.requests.load(Ordering::Relaxed)
    }

    /// Notes that what is held moves, if what was sent is worth the name: who holds much and takes the heads of little
    /// answers beside it stands still.
    fn move_on(&self, now: u64) {
        let (taken, unsent) = (self.bytes_taken(), self.unsent());
        let since = taken.saturating_sub(self.moved_at.load(Ordering::Relaxed));
        if unsent == 0 || since >= LITTLE.max(unsent / SHARE) {
            self.moved_ms.store(now, Ordering::Relaxed);
            self.moved_at.store(taken, Ordering::Relaxed);
        }
    }

    /// Notes bytes of an answer on their way to the server of the connection; returns whether they have become more than
    /// `much`, so that the connection should count in the budget.
    pub(super) fn offered(&self, bytes: usize, much: u64) -> bool {
        if self.unsent() == 0 {
            // It stands still from here on, if it does.
            self.move_on(self.now_ms());
        }
        self.offered.fetch_add(bytes as u64, Ordering::Relaxed);
        self.unsent() > much && self.counted.get().is_none()
    }

    /// Whether the server of the connection, of HTTP/1.1, holds more than `much` of an answer: there may be no more of it
    /// until some was sent, for which `cx` is woken.
    pub(super) fn holds_up(&self, much: u64, cx: &Context<'_>) -> bool {
        let holds_up = self.unsent() > much;
        if holds_up {
            self.held_up.wait(cx);
        }
        holds_up
    }

    /// Notes that what was left of an answer, at most so many bytes, is not sent any more.
    pub(super) fn withdrawn(&self, bytes: u64) {
        let bytes = bytes.min(self.unsent());
        self.offered.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes that neither the stream nor the server above it holds anything back.
    pub(super) fn flushed(&self) {
        if self.is_idle() {
            self.offered.store(self.bytes_taken(), Ordering::Relaxed);
            self.answering.store(false, Ordering::Relaxed);
        }
    }

    /// Notes that the connection becomes one of bytes with the answer under way.
    pub(super) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }

    /// Whether what the server of HTTP/1.1 writes now is its own refusal of a head: every answer that was begun is out,
    /// to its last byte, and no other protocol has taken the connection over.
    pub(super) fn is_servers_turn(&self) -> bool {
        !self.answering.load(Ordering::Relaxed) && !self.switched.load(Ordering::Relaxed)
    }

    /// Bytes of answers that the server of the connection holds.
    fn unsent(&self) -> u64 {
        let offered = self.offered.load(Ordering::Relaxed);
        offered.saturating_sub(self.bytes_taken())
    }

    /// Keeps the connection's place in the budget.
    pub(super) fn count(&self, counted: Counted) {
        // Once is enough.
        let _ = self.counted.set(counted);
    }

    /// Whether the client must take something before more can be sent.
    pub(super) fn waits_to_send(&self) -> bool {
        self.waits_to_send.load(Ordering::Relaxed)
    }

    /// Notes whether the client must take something before more can be sent; returns whether that was so before.
    pub(super) fn wait_to_send(&self, waits: bool) -> bool {
        // Mostly nothing changes, and to look costs less than to write.
        let before = self.waits_to_send();
        if before != waits {
            self.waits_to_send.store(waits, Ordering::Relaxed);
        }
        before
    }

    /// How long nothing has been going on at all, in either direction; `None` while something is.
    pub(super) fn resting_for(&self) -> Option<Duration> {
        let busy = self.waits_to_send() || self.head_for().is_some();
        self.idle_for().filter(|_| !busy)
    }

    /// Notes the begin of a request, whose head has arrived, and whether a body comes after it.
    pub(super) fn begin(&self, has_body: bool) {
        self.has_body.store(has_body, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_ms.store(0, Ordering::Relaxed);
    }

    /// Notes the end of a request at `now`.
    pub(super) fn end(&self, now: Instant) {
        if self.has_body.load(Ordering::Relaxed) {
            *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let lived = now.duration_since(self.began);
        self.busy_ms.store(millis(lived), Ordering::Relaxed);
        self.behind(|| {
            self.requests.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Notes how to look at the body of the one request that is under way.
    pub(super) fn watch_upload(&self, meter: Meter) {
        *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = Some(meter);
    }

    /// Whether a request is under way that was read to its end: the client has nothing to say but to wait.
    pub(super) fn is_waited_for(&self) -> bool {
        if self.is_idle() {
            return false;
        }
        if !self.has_body.load(Ordering::Relaxed) {
            return true;
        }
        let upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        upload.as_ref().is_some_and(Meter::is_ended)
    }

    /// Notes a fragment in a request line.
    pub(super) fn note_fragment(&self) {
        self.fragment.store(true, Ordering::Relaxed);
    }

    /// Whether the request line that was read last had a fragment; forgets it.
    pub(super) fn take_fragment(&self) -> bool {
        self.fragment.load(Ordering::Relaxed) && self.fragment.swap(false, Ordering::Relaxed)
    }

    /// Notes whether the last request was answered before its body was read to the end.
    pub(super) fn leave_unread(&self, unread: bool) {
        self.unread.store(unread, Ordering::Relaxed);
    }

    /// Whether the client may still be sending the body of a request that was answered.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// How many requests are under way.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether no request is under way, and every answer is sent but for what waits in the stream.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && self.open.load(Ordering::Relaxed) == 0
    }

    /// How long no request has been under way and nothing of an answer was sent; `None` while a request is.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.busy_ms.load(Ordering::Relaxed));
        self.is_idle().then(|| self.age().saturating_sub(since))
    }

    /// How long a request head has been arriving.
    pub(super) fn head_for(&self) -> Option<Duration> {
        let head = self.head_ms.load(Ordering::Relaxed);
        let since = head.max(self.block_ms.load(Ordering::Relaxed));
        let since = since.checked_sub(1)?;
        Some(self.age().saturating_sub(Duration::from_millis(since)))
    }

    /// Notes that an answer, or the stream below it, has something for the client.
    pub(super) fn press(&self) {
        self.behind(|| {
            self.pressing.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Notes that an answer waits for its backend or is over, or that the stream is rid of what it had.
    pub(super) fn release(&self) {
        self.pressing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that an answer was asked for more, or that more of it was sent: the client takes what it is sent.
    pub(super) fn asked(&self) {
        self.asked_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// How long there has been something for the client and it took nothing of any answer.
    pub(super) fn stalled_for(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.asked_ms.load(Ordering::Relaxed));
        self.is_pressing().then(|| self.age().saturating_sub(since))
    }

    /// For how long there has been something for the client without a break.
    pub(super) fn pressing_for(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.pressed_ms.load(Ordering::Relaxed));
        self.is_pressing().then(|| self.age().saturating_sub(since))
    }

    /// How long the connection has lived.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The bytes that came from the client.
    pub(super) fn bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The bytes that went to the client.
    pub(super) fn bytes_sent(&self) -> u64 {
        self.bytes_taken() + self.besides.load(Ordering::Relaxed)
    }

    /// Those of them that show that it takes its answers.
    pub(super) fn bytes_taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Marks the connection: the next answer is its last.
    pub(super) fn wind_up(&self) {
        self.winding_up.store(true, Ordering::Relaxed);
    }

    /// Whether the next answer is the last.
    pub(super) fn is_winding_up(&self) -> bool {
        self.winding_up.load(Ordering::Relaxed)
    }

    /// Asks the driver to take no more requests.
    pub(super) fn hang_up(&self) {
        self.hang_up.notify_one();
    }

    /// Returns once [`Activity::hang_up`] was called.
    pub(super) async fn hung_up(&self) {
        self.hang_up.notified().await;
    }

    /// Notes why the connection is ended by us, before its requests are dropped.
    pub(super) fn set_ended(&self, reason: Reason) {
        // The first cause is the one that counts.
        let _ = self.ended.set(reason);
    }

    /// Why the connection was ended by us, if it was.
    pub(super) fn ended(&self) -> Option<Reason> {
        self.ended.get().copied()
    }

    fn now_ms(&self) -> u64 {
        millis(self.age())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

impl Holder for Activity {
    fn held(&self) -> (usize, Instant) {
        let since = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        let held = match self.unsent() {
            0 => 0,
            unsent => unsent.saturating_add(self.last_write.load(Ordering::Relaxed)),
        };
        let held = usize::try_from(held).unwrap_or(usize::MAX);
        (held, self.began + since)
    }

    /// The connection ends: nothing less frees what it holds.
    fn take_away(&self, since: Instant) {
        if self.held().1 != since {
            return;
        }
        self.set_ended(Reason::StalledClient);
        self.hang_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_stalls_only_while_there_is_something_for_it() {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        tokio::time::advance(second).await;
        assert_eq!(activity.stalled_for(), None);
        activity.press();
        tokio::time::advance(second).await;
        assert_eq!(activity.stalled_for(), Some(second));
        activity.asked();
        assert_eq!(activity.stalled_for(), Some(Duration::ZERO));
        activity.release();
        tokio::time::advance(second).await;
        assert_eq!(activity.stalled_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_and_the_time_of_a_head_count_between_requests_only() {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        tokio::time::advance(second).await;
        assert_eq!(activity.idle_for(), Some(second));
        assert_eq!(activity.head_for(), None);
        activity.received(1);
        tokio::time::advance(second).await;
        activity.received(1);
        assert_eq!(activity.head_for(), Some(second));

        activity.begin(false);
        activity.received(1);
        tokio::time::advance(second).await;
        assert_eq!((activity.idle_for(), activity.head_for()), (None, None));

        activity.end(Instant::now());
        assert_eq!(activity.idle_for(), Some(Duration::ZERO));
        tokio::time::advance(second).await;
        activity.sent(257);
        assert_eq!(activity.idle_for(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_of_an_http2_request_counts_while_others_are_under_way() {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        activity.received_frames(9, true, true);
        tokio::time::advance(second).await;
        activity.begin(false);
        activity.received_frames(9, true, false);
        assert_eq!(activity.head_for(), Some(second));
        activity.received_frames(9, true, true);
        assert_eq!(activity.head_for(), Some(Duration::ZERO));
        activity.received_frames(9, false, false);
        assert_eq!(activity.head_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_much_and_takes_the_heads_of_little_answers_stands_still() {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        let stands_for = || Instant::now() - activity.held().1;
        tokio::time::advance(second).await;
        activity.press();
        activity.offered(1 << 20, 0);
        assert_eq!(stands_for(), Duration::ZERO);
        for _ in 0..10 {
            tokio::time::advance(second).await;
            activity.press();
            activity.sent(257);
            activity.release();
        }
        assert_eq!(stands_for(), 10 * second);
        activity.sent(32 << 10);
        assert_eq!(stands_for(), Duration::ZERO);
        // What is held for a slow client is little, and so is what it must take.
        activity.sent(1 << 20);
        activity.asked();
        activity.offered(8 << 10, 0);
        tokio::time::advance(second).await;
        activity.sent(LITTLE as usize);
        assert_eq!(stands_for(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_ask_for_an_acknowledgement_do_not_keep_a_connection() {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        for _ in 0..3 {
            tokio::time::advance(second).await;
            activity.received(340);
            activity.sent_frames(340, 0);
        }
        assert_eq!(activity.idle_for(), Some(3 * second));
        assert_eq!((activity.bytes_sent(), activity.bytes_taken()), (1_020, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_acknowledges_frames_leaves_what_is_held_as_it_is() {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        activity.press();
        activity.offered(1 << 20, 0);
        for _ in 0..10 {
            tokio::time::advance(second).await;
            activity.sent_frames(1 << 20, 0);
        }
        assert_eq!(activity.stalled_for(), Some(10 * second));
        let (held, since) = activity.held();
        assert!(held >= 1 << 20, "{held}");
        assert_eq!(Instant::now() - since, 10 * second);
        activity.sent_frames((1 << 20) + 9, 1 << 20);
        assert_eq!(activity.held().0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_in_the_hands_of_http2_are_held_until_they_are_sent_and_no_more_than_open_streams_can_hold()
     {
        let second = Duration::from_secs(1);
        let activity = Activity::new();
        activity.set_open(2);
        for _ in 0..2 {
            activity.begin(false);
            activity.press();
            activity.offered(16 << 10, 0);
            activity.release();
            activity.end(Instant::now());
        }
        tokio::time::advance(second).await;
        activity.sent_frames(10, 1);
        activity.flushed();
        tokio::time::advance(second).await;
        assert_eq!(activity.stalled_for(), Some(second));
        assert_eq!(activity.idle_for(), None);
        let whole = (32 << 10) - 1;
        assert!((whole..whole + 64).contains(&activity.held().0));

        activity.offered(1 << 20, 0);
        activity.set_open(1);
        assert_eq!(activity.unsent(), OF_STREAM);
        activity.set_open(0);
        assert_eq!(activity.held().0, 0);
        assert_eq!(activity.stalled_for(), None);
    }
}
