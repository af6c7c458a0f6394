//! A timer for what is waited for again and again, and seldom long. Rank 0: imports nothing of this crate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Goes off at the time that is asked for last.
///
/// What is waited for is mostly later than what was waited for before it. So the timer is left as it was set, goes off too
/// early now and then, and is set anew then: that costs less than to set it for each. Until it goes off it holds the waker of
/// whoever polled it last.
#[derive(Debug, Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready at a time, and not before. Whoever polled last is woken.
    pub fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let set = || Box::pin(sleep_until(at));
        let timer = self.0.get_or_insert_with(set);
        loop {
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() == at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::timeout_at;

    use super::*;

    /// Waits for a second, counted from the start, but not beyond another one; returns when the waiting was over.
    async fn waited(timer: &mut Timer, start: Instant, at: u64, until: u64) -> Option<u64> {
        let second = |number| start + Duration::from_secs(number);
        let waiting = poll_fn(|cx| timer.poll_until(second(at), cx));
        let ended = timeout_at(second(until), waiting).await;
        ended.ok().map(|()| start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_at_the_time_that_is_asked_for_last() {
        let (mut timer, start) = (Timer::default(), Instant::now());
        assert_eq!(waited(&mut timer, start, 10, 5).await, None);
        assert_eq!(waited(&mut timer, start, 20, 99).await, Some(20), "later");
        assert_eq!(waited(&mut timer, start, 40, 25).await, None);
        assert_eq!(waited(&mut timer, start, 30, 99).await, Some(30), "earlier");
        assert_eq!(waited(&mut timer, start, 20, 99).await, Some(30), "past");
        assert_eq!(waited(&mut timer, start, 31, 99).await, Some(31), "again");
    }
}
