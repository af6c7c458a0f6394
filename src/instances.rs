//! Placeholder of the instances module.
