//! The `opencmg` binary.

fn main() {}
