//! The load generator behind `opencmg load`: many clients in one cheap process, and honest figures of what became of them.
//!
//! A [`Plan`] says what is sent and how; [`Run::start`] gives each thread a runtime and its share of the **lanes**. A lane sends one request
//! at a time: an HTTP/1.1 connection has one, an HTTP/2 connection as many as it has streams. It shares the machine with what it measures,
//! so the way of a request is short: a head made once, an answer read in place, a count. Everything is bounded in time and in number.
//! Behind the cargo feature `load`. Rank 6.

mod clock;
mod connection;
mod fault;
mod http1;
mod http2;
mod lane;
mod pace;
mod plan;
mod report;
mod run;
mod tally;

pub use fault::Fault;
pub use plan::{Mode, Plan, Protocol, Target};
pub use report::{Latency, Report};
pub use run::Run;
