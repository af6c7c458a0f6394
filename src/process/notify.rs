//! What the service manager is told: systemd's notification protocol, where there is one.

use std::future::Future;
use std::time::Duration;

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Start-up or a reload is over: every address is bound.
    Ready,
    /// A reload has begun; [`Notice::Ready`] ends it.
    Reloading,
    /// The drain has begun.
    Stopping,
    /// The process is alive.
    Watchdog,
}

/// Tells the service manager, if there is one; a message that cannot be sent is logged and forgotten.
pub fn notify(notice: Notice) {
    if let Err(error) = send(notice) {
        tracing::debug!(?notice, %error, "the service manager could not be told");
    }
}

/// How often the service manager wants to hear [`Notice::Watchdog`]: half of its time-out, so that one may be late.
pub fn watchdog_interval() -> Option<Duration> {
    time_out().map(|time_out| time_out / 2)
}

/// Tells the service manager that the process is alive until `until` resolves; returns at once where nobody asks.
///
/// It runs on the runtime that serves requests, so a runtime that is stuck goes silent.
///
/// # Cancel safety
/// Dropping the future ends the notices.
pub async fn keep_watchdog(until: impl Future<Output = ()>) {
    let Some(interval) = watchdog_interval() else {
        return;
    };
    let mut until = std::pin::pin!(until);
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            biased;
            () = &mut until => return,
            _ = ticks.tick() => notify(Notice::Watchdog),
        }
    }
}

#[cfg(target_os = "linux")]
fn send(notice: Notice) -> std::io::Result<()> {
    use sd_notify::NotifyState;
    match notice {
        Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
        // Type=notify-reload needs the time at which the reload began.
        Notice::Reloading => {
            let now = NotifyState::monotonic_usec_now()?;
            sd_notify::notify(&[NotifyState::Reloading, now])
        }
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Notice::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
    }
}

#[cfg(target_os = "linux")]
fn time_out() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(not(target_os = "linux"))]
fn send(_: Notice) -> std::io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn time_out() -> Option<Duration> {
    None
}
