//! Placeholder of the admin module.
