//! Placeholder of the metrics module.
