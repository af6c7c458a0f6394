//! OpenCMG: an open cloud management gateway.
//!
//! A company's computers on the internet must reach its management points and software update points, and no port
//! may be opened into the company network. So an on-premises **connection point** dials out to a **gateway** in the
//! cloud and keeps tunnels open; the gateway terminates TLS, verifies each client's certificate and sends the
//! clients' requests through the tunnels.
//!
//! ```text
//!  client ──HTTPS, mTLS──▶ gateway ══ tunnel, dialled from inside ══ connection point ──▶ backend
//! ```
//!
//! # Life of a request
//!
//! 1. [`listener`] accepts a connection within its limits and gives the handshake a task and one deadline.
//! 2. [`tls`] reads the ClientHello, chooses the configuration by server name and ALPN and finishes the handshake, which
//!    proves possession of the client's key and no more. A connection that offers only tunnel names is a tunnel and goes to
//!    [`tunnel`].
//! 3. [`identity`] verifies the chain with one function, the same for full and resumed handshakes and for later re-checks,
//!    and keeps the connection in an index from which it can be closed when trust changes.
//! 4. [`proxy`] serves HTTP/1.1 or HTTP/2: limits, the path rule, the route ([`routing`]), the endpoint's authentication
//!    scheme, the header rules ([`message`]).
//! 5. The [registry](tunnel::Registry) picks a live tunnel among the connection points that may serve the role and sends
//!    the request as one stream of its HTTP/2 connection. Bodies stream both ways; nothing is buffered whole.
//! 6. On the other side [`forward`] repeats the path rule, maps the external URL to the internal one from the connection
//!    point's *own* file and sends it over a pooled connection of [`backend`].
//! 7. The answer streams back. A failure becomes one answer with status, [reason](reason::Reason) and request id, in
//!    [`message::refusal`] and nowhere else.
//!
//! # Map
//!
//! A module imports modules of a lower rank only; `tests/tidy.rs` holds the exact list.
//!
//! | rank | modules | holds |
//! |---|---|---|
//! | 0 | [`units`], [`reason`], [`tasks`], [`drain`], [`pieces`], [`frames`], [`allowance`], [`timer`] | sizes and durations; the closed list of reasons; the owner of tasks; the words of a drain; reading and writing in large pieces; budgets of HTTP/2 frames; what one body may hold; a timer for many waits |
//! | 1 | [`settings`] | reads TOML and records every fault with its key path |
//! | 2 | [`role`], [`metrics`], [`logging`], [`process`] | what can be published; metric families; log and access log; signals, systemd, memory, turns on the CPUs |
//! | 3 | [`pki`], [`message`], [`fetch`] | certificates, CRLs and paths; header, path and body rules, refusals; outbound HTTP with limits |
//! | 4 | [`alerts`], [`tls`], [`identity`], [`instances`], [`revocation`] | what expires; the only rustls configurations; verified peers, generations of trust, live connections; who this instance is; CRLs that are fetched and kept fresh |
//! | 5 | [`routing`], [`tunnel`], [`backend`] | path → endpoint; both ends of a tunnel; connections to backends |
//! | 6 | [`listener`], [`proxy`], [`forward`], `load` | the accept loop; the gateway's request path; the connection point's; the load generator, a cargo feature |
//! | 7 | [`admin`] | metrics, status and health over plain HTTP |
//! | 8 | [`gateway`], [`connection_point`] | composition: build, bind, run, apply, drain |
//! | 9 | [`config`], [`service`] | the two process files; the service definition and its watch |
//! | 10 | [`cli`] | the commands |
//!
//! # Invariants
//!
//! - The gateway never dials into the company network; the connection point never listens, its administration port on
//!   loopback excepted.
//! - Only [`tls`] builds rustls configurations; native TLS is used on the backend leg only. Above [`identity`] nobody sees an
//!   X.509 type.
//! - A certificate that does not verify counts as none, and its reason is kept. A resumed session passes the same
//!   verification as a full handshake, so that resumption never outlives trust.
//! - Identity, forwarding and `opencmg-` fields of a client are removed before ours are set, on every path; the one exception
//!   is `opencmg-service`, the chain of marks by which loops are found, which is extended and never trusted for anything else.
//! - The service definition is the only authority on roles for the gateway, the connection point's own file for the connection
//!   point; what the other side says is availability only.
//! - A definition and a trust generation are applied whole or not at all; the last good one stays in force.
//! - Every spawned task has an owner ([`tasks::Tasks`]) and ends with it. Every queue, map, body and header list has a bound,
//!   and reaching it yields a reason, not growth.
//! - Metrics, logs and health never hold up a request. Only the drop of the exchange guard of [`proxy`] tells metrics and access
//!   log about a request.
//! - [`tunnel`] reads no clock but tokio's and takes its randomness and its connections as arguments, so that its life cycle
//!   runs under simulation.
//! - A CRL is believed only once its signature was verified, and with the key of a CA that is trusted already. While none is
//!   checked, the log and the metrics say so.

pub mod admin;
pub mod alerts;
pub mod allowance;
pub mod backend;
pub mod cli;
pub mod config;
pub mod connection_point;
pub mod drain;
pub mod fetch;
pub mod forward;
pub mod frames;
pub mod gateway;
pub mod identity;
pub mod instances;
pub mod listener;
#[cfg(feature = "load")]
pub mod load;
pub mod logging;
pub mod message;
pub mod metrics;
pub mod pieces;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod reason;
pub mod revocation;
pub mod role;
pub mod routing;
pub mod service;
pub mod settings;
pub mod tasks;
pub mod timer;
pub mod tls;
pub mod tunnel;
pub mod units;
