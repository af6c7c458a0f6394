//! What `connection-point check` finds out before the first start: a verdict per step, with what to do.
//!
//! Everything is tried as the connection point itself would, with its certificate, against every address and every
//! backend. Nothing is served: a tunnel that is admitted is closed again at once.

mod authorisation;
mod backends;
mod clock;
mod gateways;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use super::dial::{Credentials, Dialer, Proxy};
use super::settings::Settings;
use crate::tls::Way;

/// What one step may take.
const STEP_TIME: Duration = Duration::from_secs(10);

/// What a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The files that the settings point to.
    Files,
    /// The name of an address is resolved.
    Dns,
    /// An address takes a TCP connection.
    Tcp,
    /// The outbound proxy connects to it.
    OutboundProxy,
    /// The gateway proves who it is.
    Tls,
    /// The gateway takes a tunnel on this port.
    Alpn,
    /// The clocks agree.
    Clock,
    /// The gateway takes this connection point.
    Authorisation,
    /// A backend can be reached.
    Backend,
    /// A backend answers without asking for a certificate that it does not get.
    BackendCertificate,
}

impl Step {
    /// The word in the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::OutboundProxy => "outbound-proxy",
            Self::Tls => "tls",
            Self::Alpn => "alpn",
            Self::Clock => "clock",
            Self::Authorisation => "authorisation",
            Self::Backend => "backend",
            Self::BackendCertificate => "backend-certificate",
        }
    }
}

/// The outcome of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What was looked at.
    pub step: Step,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, with whom.
    pub what: String,
    /// What to do; empty where nothing is.
    pub advice: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { "ok  " } else { "FAIL" };
        write!(f, "{mark} {:<19} {}", self.step.as_str(), self.what)?;
        if self.advice.is_empty() {
            return Ok(());
        }
        write!(f, " -> {}", self.advice)
    }
}

impl Verdict {
    fn good(step: Step, what: impl Into<String>) -> Self {
        Self {
            step,
            ok: true,
            what: what.into(),
            advice: String::new(),
        }
    }

    fn bad(step: Step, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            step,
            ok: false,
            what: what.into(),
            advice: advice.into(),
        }
    }
}

/// Looks at everything that the connection point needs: each gateway's addresses, then each backend. Takes at most ten
/// seconds a step; a step that depends on one that failed is left out.
pub async fn preflight(settings: &Settings) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for gateway in &settings.gateways {
        let proxy = Proxy::load(settings.outbound_proxy.as_ref()).map_err(|fault| vec![fault]);
        let credentials = Credentials::load(settings, gateway);
        let dialer = match (proxy, credentials) {
            (Ok(proxy), Ok(credentials)) => Dialer::new(
                gateway.clone(),
                proxy,
                credentials,
                settings.tunnel.dial_timeout,
            ),
            (proxy, credentials) => {
                let faults = proxy.err().into_iter().chain(credentials.err()).flatten();
                verdicts.extend(
                    faults
                        .map(|fault| Verdict::bad(Step::Files, fault, "mend the file or its key")),
                );
                continue;
            }
        };
        for address in &gateway.addresses {
            verdicts.extend(gateways::check(settings, gateway, &dialer, address).await);
        }
    }
    for role in &settings.roles {
        verdicts.extend(backends::check(role).await);
    }
    verdicts
}

/// Waits for a step; `None` if it takes too long.
async fn timed<T>(step: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(STEP_TIME, step).await.ok()
}

fn too_long(what: &str) -> String {
    format!("{what}: nothing within {STEP_TIME:?}")
}

/// The ways to try, first to last.
fn ways(way: Option<Way>) -> Vec<Way> {
    way.map_or_else(|| vec![Way::Alpn, Way::ServerName], |way| vec![way])
}
