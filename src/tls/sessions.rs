//! Sessions that can be resumed, and what is remembered of them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use rustls::crypto::SecureRandom;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use tokio::time::Instant;

/// A larger session is not remembered: twice a leaf and an intermediate with RSA keys of 4096 bits. What a client presents is judged
/// after the handshake, so that whoever fills the memory needs no certificate that is good for anything.
const LARGEST: usize = 8 << 10;

/// Makes the tickets of TLS 1.3: random numbers by which sessions are remembered. A session for which there is no room is
/// sealed into its ticket by another ticketer, so that nobody's session goes for another's.
///
/// A client that comes again sends 32 bytes in place of a sealed session with its whole chain, and a session that is
/// remembered is forgotten when its ticket is presented: a ticket links two connections only (RFC 8446 §C.4). In TLS 1.2
/// clients use one ticket for many connections, and are better served by sealed ones.
pub(super) struct RememberingTicketer {
    capacity: usize,
    /// The oldest first: nothing is moved until it is taken. No more than the capacity.
    remembered: Mutex<LruCache<Id, Session>>,
    sealing: Arc<dyn ProducesTickets>,
    random: &'static dyn SecureRandom,
}

/// Shorter than any sealed session.
type Id = [u8; 32];

struct Session {
    until: Instant,
    /// As rustls encodes it, the client's chain included, and without the room that a vector keeps to grow.
    encoded: Box<[u8]>,
}

impl Session {
    fn has_ended(&self, now: Instant) -> bool {
        self.until <= now
    }
}

impl RememberingTicketer {
    pub(super) fn new(
        capacity: usize,
        sealing: Arc<dyn ProducesTickets>,
        random: &'static dyn SecureRandom,
    ) -> Self {
        Self {
            capacity,
            // A bounded one cannot be of none, and takes the room of all at once.
            remembered: Mutex::new(LruCache::unbounded()),
            sealing,
            random,
        }
    }

    fn remembered(&self) -> MutexGuard<'_, LruCache<Id, Session>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a session, if there is room: by what.
    fn remember(&self, encoded: &[u8]) -> Option<Id> {
        /// More than comes in, so that what has ended goes, and few, so that nobody waits for it.
        const OUT: usize = 2;
        if encoded.len() > LARGEST {
            return None;
        }
        let now = Instant::now();
        let mut remembered = self.remembered();
        for _ in 0..OUT {
            let oldest = remembered.peek_lru();
            if oldest.is_some_and(|(_, oldest)| oldest.has_ended(now)) {
                remembered.pop_lru();
            }
        }
        if remembered.len() >= self.capacity {
            return None;
        }
        let mut id = Id::default();
        self.random.fill(&mut id).ok()?;
        let session = Session {
            until: now + Duration::from_secs(self.lifetime().into()),
            encoded: encoded.into(),
        };
        remembered.put(id, session);
        Some(id)
    }
}

impl fmt::Debug for RememberingTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RememberingTicketer")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl ProducesTickets for RememberingTicketer {
    fn enabled(&self) -> bool {
        self.sealing.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.sealing.lifetime()
    }

    fn encrypt(&self, encoded: &[u8]) -> Option<Vec<u8>> {
        match self.remember(encoded) {
            Some(id) => Some(id.to_vec()),
            None => self.sealing.encrypt(encoded),
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let Ok(id) = Id::try_from(ticket) else {
            return self.sealing.decrypt(ticket);
        };
        let found = self.remembered().pop(&id);
        found
            .filter(|session| !session.has_ended(Instant::now()))
            .map(|session| session.encoded.into_vec())
    }
}

/// The sessions of TLS 1.2 by their ids, for clients without tickets. When it is full, the oldest is forgotten.
#[derive(Debug)]
pub(super) struct SessionsById(Arc<ServerSessionMemoryCache>);

impl SessionsById {
    pub(super) fn new(capacity: usize) -> Self {
        Self(ServerSessionMemoryCache::new(capacity))
    }
}

impl StoresServerSessions for SessionsById {
    fn put(&self, id: Vec<u8>, encoded: Vec<u8>) -> bool {
        // Without the room to grow, which may be as much again.
        encoded.len() <= LARGEST && self.0.put(id, encoded.into_boxed_slice().into_vec())
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.0.get(id)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.0.take(id)
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};

    use super::*;

    fn ticketer(capacity: usize) -> RememberingTicketer {
        let random = default_provider().secure_random;
        RememberingTicketer::new(capacity, Ticketer::new().unwrap(), random)
    }

    fn is_remembered(ticket: &[u8]) -> bool {
        ticket.len() == size_of::<Id>()
    }

    #[test]
    fn a_remembered_session_is_taken_once() {
        let ticketer = ticketer(4);
        let [one, two] = [b"one", b"two"].map(|session| ticketer.encrypt(session).unwrap());
        assert!(is_remembered(&one) && is_remembered(&two) && one != two);
        assert_eq!(ticketer.decrypt(&one), Some(b"one".to_vec()));
        assert_eq!(ticketer.decrypt(&one), None);
        assert_eq!(ticketer.decrypt(&two), Some(b"two".to_vec()));
        assert_eq!(ticketer.decrypt(&[0; 32]), None);
        assert_eq!(ticketer.decrypt(b""), None);
    }

    #[test]
    fn a_session_for_which_there_is_no_room_is_sealed_and_takes_nobodys_place() {
        let ticketer = ticketer(2);
        let tickets: Vec<_> = (0..4)
            .map(|session| ticketer.encrypt(&[session]).unwrap())
            .collect();
        let kinds: Vec<_> = tickets.iter().map(|ticket| is_remembered(ticket)).collect();
        assert_eq!(kinds, [true, true, false, false]);
        for (session, ticket) in (0..).zip(&tickets) {
            assert_eq!(ticketer.decrypt(ticket), Some(vec![session]));
        }
        assert!(is_remembered(&ticketer.encrypt(b"room again").unwrap()));
    }

    #[test]
    fn a_session_with_a_chain_that_is_too_long_is_not_remembered() {
        let (ticketer, by_id) = (ticketer(2), SessionsById::new(2));
        for (len, remembered) in [(LARGEST, true), (LARGEST + 1, false)] {
            let session = vec![7; len];
            let ticket = ticketer.encrypt(&session).unwrap();
            assert_eq!(is_remembered(&ticket), remembered);
            assert_eq!(ticketer.decrypt(&ticket).as_ref(), Some(&session));
            assert_eq!(by_id.put(vec![1], session), remembered);
            assert_eq!(by_id.get(&[1]).is_some(), remembered);
            by_id.take(&[1]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_remembered_session_ends_and_leaves_the_memory() {
        let ticketer = ticketer(5);
        let lifetime = Duration::from_secs(ticketer.lifetime().into());
        let old: Vec<_> = (0..5).map(|_| ticketer.encrypt(b"old").unwrap()).collect();
        tokio::time::advance(lifetime - Duration::from_secs(1)).await;
        assert_eq!(ticketer.decrypt(&old[0]), Some(b"old".to_vec()));
        assert!(is_remembered(&ticketer.encrypt(b"young").unwrap()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ticketer.decrypt(&old[1]), None);
        for kept in [3, 3, 4, 5] {
            assert!(is_remembered(&ticketer.encrypt(b"young").unwrap()));
            assert_eq!(ticketer.remembered().len(), kept);
        }
    }
}
