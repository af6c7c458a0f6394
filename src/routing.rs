//! Placeholder of the routing module.
