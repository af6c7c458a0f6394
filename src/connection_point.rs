//! Placeholder of the connection_point module.
