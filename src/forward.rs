//! Placeholder of the forward module.
