//! What the compiler does not check: who imports whom, how files look, and that the README, the samples and the code agree.
//!
//! Each test reads the tree of the package itself and says how much it visited, so that one that visits nothing fails.

#![allow(missing_docs, reason = "tests are sentences")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "tidy/agreement.rs"]
mod agreement;
#[path = "tidy/conformance.rs"]
mod conformance;
#[path = "tidy/docker.rs"]
mod docker;
#[path = "tidy/files.rs"]
mod files;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/tree.rs"]
mod tree;
