//! The memory of sessions that can be resumed.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use rustls::server::StoresServerSessions;
use tokio::time::Instant;

/// How long a session can be resumed, which is what rustls tells clients of TLS 1.3 (RFC 8446 §4.6.1).
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A larger session is not remembered: twice a leaf and an intermediate with RSA keys of 4096 bits. What a client presents is
/// judged after the handshake, so that whoever fills the memory needs no certificate that is good for anything.
const LARGEST: usize = 8 << 10;

/// Sessions by the random number that stands for each in the client's ticket, or is its session id in TLS 1.2.
///
/// A client that comes again sends 32 bytes in place of a sealed session with its whole chain, and there is no key that a
/// session could be forged with. One of TLS 1.3 is forgotten when it is resumed, so that nobody links two connections by
/// one ticket (RFC 8446 §C.4). When the memory is full, the oldest is forgotten.
pub(super) struct SessionStore {
    capacity: NonZeroUsize,
    /// The oldest first: nothing is moved when it is looked at.
    sessions: Mutex<LruCache<Vec<u8>, Session>>,
}

struct Session {
    since: Instant,
    /// As rustls encodes it, the client's chain included, and without the room that a vector keeps to grow.
    encoded: Box<[u8]>,
}

impl Session {
    fn has_ended(&self) -> bool {
        self.since.elapsed() >= LIFETIME
    }
}

impl SessionStore {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            capacity,
            // A bounded one would take the room of all at once.
            sessions: Mutex::new(LruCache::unbounded()),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, LruCache<Vec<u8>, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl StoresServerSessions for SessionStore {
    fn put(&self, id: Vec<u8>, encoded: Vec<u8>) -> bool {
        /// More than comes in, so that what has ended goes, and few, so that nobody waits for it.
        const OUT: usize = 2;
        if encoded.len() > LARGEST {
            return false;
        }
        let session = Session {
            since: Instant::now(),
            encoded: encoded.into_boxed_slice(),
        };
        let mut sessions = self.sessions();
        for _ in 0..OUT {
            let full = sessions.len() >= self.capacity.get();
            match sessions.peek_lru() {
                Some((_, oldest)) if full || oldest.has_ended() => drop(sessions.pop_lru()),
                Some(_) | None => break,
            }
        }
        sessions.put(id, session);
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        let sessions = self.sessions();
        let found = sessions.peek(id).filter(|session| !session.has_ended());
        found.map(|session| session.encoded.to_vec())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let found = self.sessions().pop(id);
        found
            .filter(|session| !session.has_ended())
            .map(|session| session.encoded.into_vec())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(capacity: usize) -> SessionStore {
        SessionStore::new(NonZeroUsize::new(capacity).unwrap())
    }

    fn put(store: &SessionStore, id: u8) {
        assert!(store.put(vec![id; 32], vec![id; 8]));
    }

    fn known(store: &SessionStore) -> Vec<u8> {
        (0..10)
            .filter(|id| store.get(&[*id; 32]).is_some())
            .collect()
    }

    #[test]
    fn a_session_is_taken_once_and_looked_at_often() {
        let store = store(4);
        put(&store, 1);
        for _ in 0..2 {
            assert_eq!(store.get(&[1; 32]), Some(vec![1; 8]));
        }
        assert_eq!(store.take(&[1; 32]), Some(vec![1; 8]));
        assert_eq!(store.take(&[1; 32]), None);
        assert_eq!(store.get(&[1; 32]), None);
    }

    #[test]
    fn the_oldest_session_is_forgotten_when_the_memory_is_full() {
        let store = store(3);
        (0..3).for_each(|id| put(&store, id));
        assert_eq!(known(&store), [0, 1, 2]);
        put(&store, 3);
        assert_eq!(known(&store), [1, 2, 3]);
        store.take(&[2; 32]).unwrap();
        put(&store, 4);
        assert_eq!(known(&store), [1, 3, 4]);
    }

    #[test]
    fn a_session_with_a_chain_that_is_too_long_is_not_remembered() {
        let store = store(3);
        for (len, kept) in [(LARGEST, true), (LARGEST + 1, false)] {
            assert_eq!(store.put(vec![0; 32], vec![0; len]), kept);
            assert_eq!(store.take(&[0; 32]).is_some(), kept);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_ends_after_a_day_and_leaves_the_memory() {
        let store = store(10);
        (0..5).for_each(|id| put(&store, id));
        tokio::time::advance(LIFETIME / 2).await;
        put(&store, 5);
        assert_eq!(known(&store), [0, 1, 2, 3, 4, 5]);
        tokio::time::advance(LIFETIME / 2).await;
        assert_eq!(known(&store), [5]);
        assert_eq!(store.take(&[4; 32]), None);
        (6..9).for_each(|id| put(&store, id));
        assert_eq!(known(&store), [5, 6, 7, 8]);
        assert_eq!(store.sessions().len(), 4);
    }
}
