//! The window of the streams of one tunnel, fitted to the memory there is.

use std::time::Duration;

use super::budget::Pressure;

/// How soon a change is tried again that the peer's acknowledgement of another holds up.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

/// The window of a stream, as the peer was told.
pub(super) struct Window {
    full: u32,
    told: u32,
    wanted: u32,
}

impl Window {
    /// A window that the peer was told of with its first settings.
    pub(super) fn new(full: u32) -> Self {
        Self {
            full,
            told: full,
            wanted: full,
        }
    }

    /// Tells the peer another window if there is to be one. `tell` fails while the peer has not acknowledged a change
    /// before.
    pub(super) fn fit(
        &mut self,
        pressure: Pressure,
        tell: impl FnOnce(u32) -> Result<(), h2::Error>,
    ) {
        self.wanted = pressure.of(self.full);
        if self.is_unfit() && tell(self.wanted).is_ok() {
            self.told = self.wanted;
        }
    }

    /// Whether the peer is still to be told.
    pub(super) fn is_unfit(&self) -> bool {
        self.told != self.wanted
    }
}
