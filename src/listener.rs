//! Placeholder of the listener module.
