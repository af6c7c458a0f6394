//! Placeholder of the pki module.
