//! Placeholder of the tls module.
