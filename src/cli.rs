//! The commands: what `opencmg` does when it is started.

pub mod builtin;
