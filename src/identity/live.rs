//! One live connection: what its certificate is worth, and the handle by which it is closed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::generation::Verified;
use super::trust::Index;
use super::{ClientCertificate, Identity};
use crate::pki::CertificateFault;

/// A connection in the index.
#[derive(Debug)]
pub(super) struct Entry {
    state: Mutex<State>,
    closing: Notify,
}

#[derive(Debug)]
enum State {
    /// Registered, and still being verified for the first time by the task that admits it.
    Pending,
    Verified(Arc<Verified>),
    /// It stopped verifying: to be closed. With the chain as it last did.
    Closing(CertificateFault, Arc<Verified>),
}

impl Entry {
    /// An entry that is still being verified.
    pub(super) fn pending() -> Self {
        Self {
            state: Mutex::new(State::Pending),
            closing: Notify::new(),
        }
    }

    /// The chain as it was last verified; none if it is pending or closing.
    pub(super) fn verified(&self) -> Option<Arc<Verified>> {
        match &*self.state() {
            State::Verified(verified) => Some(Arc::clone(verified)),
            State::Pending | State::Closing(..) => None,
        }
    }

    /// The chain as it was last verified, even if the connection is closing; none if it is pending.
    pub(super) fn last_verified(&self) -> Option<Arc<Verified>> {
        match &*self.state() {
            State::Verified(verified) | State::Closing(_, verified) => Some(Arc::clone(verified)),
            State::Pending => None,
        }
    }

    /// Notes that the chain verified, and returns the chain before; none if the connection is closing, which it stays.
    pub(super) fn note(&self, verified: &Arc<Verified>) -> Option<Option<Arc<Verified>>> {
        let mut state = self.state();
        let before = match &*state {
            State::Pending => None,
            State::Verified(before) => Some(Arc::clone(before)),
            State::Closing(..) => return None,
        };
        *state = State::Verified(Arc::clone(verified));
        Some(before)
    }

    /// Closes the connection if it was verified, and says whether it did.
    pub(super) fn close(&self, fault: CertificateFault) -> bool {
        let mut state = self.state();
        let verified = match &*state {
            State::Verified(verified) => Arc::clone(verified),
            State::Pending | State::Closing(..) => return false,
        };
        *state = State::Closing(fault, verified);
        drop(state);
        self.closing.notify_waiters();
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn certificate(&self) -> ClientCertificate {
        match &*self.state() {
            State::Pending => ClientCertificate::Missing,
            State::Verified(verified) => {
                ClientCertificate::Verified(Arc::clone(&verified.identity))
            }
            State::Closing(fault, _) => ClientCertificate::Refused(fault.clone()),
        }
    }
}

/// One live connection. Dropping it ends the watch.
#[derive(Debug)]
pub struct Live(pub(super) Watch);

#[derive(Debug)]
pub(super) enum Watch {
    /// A connection without identity, which nothing can take from it.
    Fixed(ClientCertificate),
    Indexed {
        index: Arc<Index>,
        id: u64,
        entry: Arc<Entry>,
    },
}

impl Live {
    pub(super) fn fixed(certificate: ClientCertificate) -> Self {
        Self(Watch::Fixed(certificate))
    }

    pub(super) fn indexed(index: Arc<Index>, id: u64, entry: Arc<Entry>) -> Self {
        Self(Watch::Indexed { index, id, entry })
    }

    /// What the connection's certificate is worth at this moment: `Refused` once it must be closed.
    pub fn certificate(&self) -> ClientCertificate {
        match &self.0 {
            Watch::Fixed(certificate) => certificate.clone(),
            Watch::Indexed { entry, .. } => entry.certificate(),
        }
    }

    /// The identity, if the certificate is verified at this moment.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        match self.certificate() {
            ClientCertificate::Verified(identity) => Some(identity),
            ClientCertificate::Missing | ClientCertificate::Refused(_) => None,
        }
    }

    /// Returns once this connection must be closed, and says why; pending for ever otherwise.
    ///
    /// # Cancel safety
    /// Safe, and may be called again: it then returns the same fault.
    pub async fn closed(&mut self) -> CertificateFault {
        match &self.0 {
            Watch::Fixed(_) => std::future::pending().await,
            Watch::Indexed { entry, .. } => loop {
                // Listens before it looks, so that a close between the two is not missed.
                let mut closing = std::pin::pin!(entry.closing.notified());
                closing.as_mut().enable();
                if let State::Closing(fault, _) = &*entry.state() {
                    return fault.clone();
                }
                closing.await;
            },
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Watch::Indexed { index, id, entry } = &self.0 {
            index.remove(*id, entry);
        }
    }
}
