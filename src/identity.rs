//! Placeholder of the identity module.
