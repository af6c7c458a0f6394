//! A body that is read whole, and the room that all of them have together.
//!
//! Nothing vouches for a body while it is fetched, and many are fetched at once. Small ones find room always; of large ones
//! a process holds one at a time, so that all of them together take no more than the largest and a few small ones.

use std::ops::Deref;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{FetchError, Limits, words_of};

/// How large a body may be beside any other, in bytes: a list of 200,000 entries.
const SMALL: usize = 8 << 20;

/// Held by the one body that is larger.
static LARGE: Semaphore = Semaphore::const_new(1);

/// A body that was fetched, whole. While a large one is kept, no other large one of this process is read.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    _room: Room,
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The right to hold a large body, if it was got.
#[derive(Debug, Default)]
pub(super) struct Room(Option<SemaphorePermit<'static>>);

impl Room {
    /// Waits until no other large body is held; who came first goes first.
    ///
    /// # Cancel safety
    /// Safe; the turn is lost.
    pub(super) async fn wait(&mut self) {
        // It is never closed.
        self.0 = LARGE.acquire().await.ok();
    }

    /// Takes the right without waiting.
    fn take(&mut self, limits: &Limits) -> Result<(), FetchError> {
        if self.0.is_none() {
            let permit = LARGE.try_acquire();
            self.0 = Some(permit.map_err(|_| FetchError::Crowded(limits.timeout))?);
        }
        Ok(())
    }
}

/// Reads a body. `room` goes into it if it is a large one.
pub(super) async fn read(
    mut body: Incoming,
    limits: &Limits,
    room: &mut Room,
) -> Result<Body, FetchError> {
    let announced = body.size_hint().lower();
    if announced > limits.max_bytes {
        return Err(FetchError::TooLarge(limits.max_bytes));
    }
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > SMALL {
        room.take(limits)?;
    }
    let most = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    // Whole at once: memory is used as it fills, and what grows is held twice as it does.
    bytes.try_reserve_exact(match announced {
        0 => SMALL.min(most),
        announced => announced,
    })?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Broken(words_of(&error)))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = bytes.len() + data.len();
        if length as u64 > limits.max_bytes {
            return Err(FetchError::TooLarge(limits.max_bytes));
        }
        if length > SMALL && length > announced && bytes.len() <= SMALL {
            room.take(limits)?;
            bytes.try_reserve_exact(most - bytes.len())?;
        }
        bytes.extend_from_slice(&data);
    }
    let room = match bytes.len() > SMALL {
        true => std::mem::take(room),
        false => Room::default(),
    };
    Ok(Body { bytes, _room: room })
}

#[cfg(test)]
pub(super) fn is_large_held() -> bool {
    LARGE.available_permits() == 0
}
