//! The gateway's request path.

mod settings;

pub use self::settings::Settings;
