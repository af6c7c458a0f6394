//! The gateway's request path.

mod activity;
mod settings;
mod stream;
mod streams;

pub use self::settings::Settings;
