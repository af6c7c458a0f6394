//! Placeholder of the tunnel module.
