//! Placeholder of the backend module.
