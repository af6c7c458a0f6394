//! Placeholder of the service module.
