//! Placeholder of the process module.
