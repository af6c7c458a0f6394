//! What both roles do to a message: judge its path, clean and set its header fields, limit and time its body,
//! and answer a refusal.
//!
//! Rank 3: used by the gateway's request path and by the connection point's. Nothing here does I/O.

pub mod body;
pub mod headers;
pub mod path;
pub mod refusal;
pub mod websocket;
