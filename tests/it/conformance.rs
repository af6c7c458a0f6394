//! HTTP as the standards have it and as attackers bend it, written byte by byte over real sockets. Each case has one
//! outcome; `docs/conformance.md` is the list.

mod answers;
mod clients;
mod framing;
mod heads;
mod semantics;
mod talk;
mod targets;
mod websocket;
