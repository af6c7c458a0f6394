//! Placeholder of the logging module.
