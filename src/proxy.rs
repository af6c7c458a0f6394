//! Placeholder of the proxy module.
