//! Placeholder of the gateway module.
