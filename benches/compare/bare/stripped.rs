//! The crates in the shape of OpenCMG: raw HTTP/2, reads ahead, writes in one piece, tunnels polled last, bodies pumped by whoever waits.
//!
//! The windows, the buffers, the pieces and the tasks are those of `opencmg::tunnel`, `opencmg::proxy` and `opencmg::forward`, and must
//! stay so: then what OpenCMG costs beside it is routing, header rules, identity, limits, time-outs, metrics and refusals.

mod body;
mod edge;
mod late;
mod point;

pub(crate) use edge::run as edge;
pub(crate) use point::run as point;
