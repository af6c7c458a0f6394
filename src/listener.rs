//! The accept loop: from a listening socket to a finished handshake, within limits and one deadline.

mod settings;

pub use self::settings::{Network, Settings};
