//! Placeholder of the message module.
