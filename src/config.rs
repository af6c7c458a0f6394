//! Placeholder of the config module.
