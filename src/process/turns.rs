//! Turns on a CPU: a worker that has been at work for long enough yields (`sched_yield(2)`) before it waits for more.
//!
//! A worker that always finds something to do does not sleep, and the system leaves it its CPU until a tick says otherwise
//! (4 ms at 250 Hz). Meanwhile those who would read what it has written stand in line for that CPU, and another CPU runs out
//! of work. With a turn for them the worker finds more at once the next time, so that all get along with fewer system calls.
//!
//! Not everybody gives the CPU back soon. Beside a process that never sleeps, each turn given away would cost a tick; a
//! worker that was away for so long keeps its CPU for a while.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::Instant;

/// How long a turn is at least: yielding after each request or handshake costs more than it gives.
const TURN: Duration = Duration::from_micros(200);

/// Others of a chain are at work for less; the system leaves the CPU for more to one that never sleeps.
const AWAY: Duration = Duration::from_millis(2);

/// How long a worker that was away for [`AWAY`] keeps its CPU.
const KEEPS: Duration = Duration::from_secs(1);

/// The turns of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    /// When this one began.
    began: Option<Instant>,
    /// Until when the worker keeps its CPU.
    keeps_until: Option<Instant>,
}

impl Turns {
    fn is_over(&self, now: Instant) -> bool {
        self.keeps_until.is_none_or(|until| until <= now)
            && self.began.is_some_and(|began| now - began >= TURN)
    }

    fn came_back(&mut self, left: Instant, now: Instant) {
        self.keeps_until = (now - left >= AWAY).then(|| now + KEEPS);
    }
}

/// Has the workers of a runtime yield at the end of their turns.
pub fn take_turns(builder: &mut Builder) -> &mut Builder {
    yielding(builder, thread::yield_now)
}

fn yielding(builder: &mut Builder, give_way: impl Fn() + Send + Sync + 'static) -> &mut Builder {
    thread_local! {
        static TURNS: Cell<Turns> = Cell::default();
    }
    let end = move || {
        let (mut turns, now) = (TURNS.get(), Instant::now());
        if turns.is_over(now) {
            give_way();
            turns.came_back(now, Instant::now());
            TURNS.set(turns);
        }
    };
    let begin = || {
        let began = Some(Instant::now());
        TURNS.set(Turns {
            began,
            ..TURNS.get()
        });
    };
    builder.on_thread_park(end).on_thread_unpark(begin)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn begun(began: Instant) -> Turns {
        Turns {
            began: Some(began),
            keeps_until: None,
        }
    }

    #[test]
    fn a_turn_is_over_once_it_was_long_enough() {
        let began = Instant::now();
        let short = TURN - Duration::from_nanos(1);
        assert!(!Turns::default().is_over(began));
        assert!(!begun(began).is_over(began + short));
        assert!(begun(began).is_over(began + TURN));
    }

    #[test]
    fn a_worker_that_was_away_for_long_keeps_its_cpu_for_a_while() {
        let left = Instant::now();
        let mut turns = begun(left - TURN);
        turns.came_back(left, left + AWAY - Duration::from_nanos(1));
        assert!(turns.is_over(left + AWAY));

        let back = left + AWAY;
        turns.came_back(left, back);
        assert!(!turns.is_over(back + KEEPS - Duration::from_nanos(1)));
        assert!(turns.is_over(back + KEEPS));
        turns.came_back(back + KEEPS, back + KEEPS);
        assert!(turns.is_over(back + KEEPS));
    }

    #[test]
    fn a_worker_yields_between_a_long_turn_and_the_wait_for_the_next() {
        let (told, hears) = mpsc::channel();
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1);
        let give_way = move || told.send(()).unwrap();
        let runtime = yielding(&mut builder, give_way).build().unwrap();
        // A turn begins after a wait, which the first one may not have had.
        let yielded = (0..100).any(|_| {
            runtime.spawn(async { spin(TURN) });
            hears.recv_timeout(Duration::from_millis(100)).is_ok()
        });
        assert!(yielded);
    }

    #[test]
    fn a_worker_whose_yield_took_long_does_not_yield_again_at_once() {
        let (told, hears) = mpsc::channel();
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1);
        let runtime = yielding(&mut builder, move || {
            spin(AWAY);
            told.send(Instant::now()).unwrap();
        })
        .build()
        .unwrap();
        let turn = || {
            runtime
                .block_on(runtime.spawn(async { spin(TURN) }))
                .unwrap()
        };
        let came_back = (0..1000).find_map(|_| {
            turn();
            hears.try_recv().ok()
        });
        let back = came_back.expect("a turn that was long enough ends with a yield");
        (0..100).for_each(|_| turn());
        let again = hears.try_recv();
        assert!(again.is_err() || again.is_ok_and(|again| again - back >= KEEPS));
    }

    fn spin(long: Duration) {
        let began = Instant::now();
        while began.elapsed() < long {}
    }
}
