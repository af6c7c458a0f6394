//! Signals of the system as words.

use std::io;

/// What the system asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Drain and end (SIGTERM, SIGINT; Ctrl-C, close and shutdown on Windows).
    Stop,
    /// Read the configuration again and re-open log files (SIGHUP; there is none on Windows).
    Reload,
}

/// The stream of signals. From its making on, these signals end the process no more by themselves.
#[derive(Debug)]
pub struct Signals(system::Sources);

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// The system's, if a handler cannot be set.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        system::Sources::listen().map(Self)
    }

    /// The next signal; signals of one kind that come faster than they are taken count as one.
    ///
    /// # Cancel safety
    /// Safe: a signal that came is kept until it is taken.
    pub async fn next(&mut self) -> Signal {
        self.0.next().await
    }
}

#[cfg(unix)]
mod system {
    use std::io;

    use tokio::signal::unix::{self, SignalKind};

    use super::Signal;

    #[derive(Debug)]
    pub(super) struct Sources {
        terminate: unix::Signal,
        interrupt: unix::Signal,
        hangup: unix::Signal,
    }

    impl Sources {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self {
                terminate: unix::signal(SignalKind::terminate())?,
                interrupt: unix::signal(SignalKind::interrupt())?,
                hangup: unix::signal(SignalKind::hangup())?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => Signal::Stop,
                _ = self.interrupt.recv() => Signal::Stop,
                _ = self.hangup.recv() => Signal::Reload,
            }
        }
    }
}

#[cfg(windows)]
mod system {
    use std::io;

    use tokio::signal::windows;

    use super::Signal;

    #[derive(Debug)]
    pub(super) struct Sources {
        ctrl_c: windows::CtrlC,
        ctrl_break: windows::CtrlBreak,
        close: windows::CtrlClose,
        shutdown: windows::CtrlShutdown,
    }

    impl Sources {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self {
                ctrl_c: windows::ctrl_c()?,
                ctrl_break: windows::ctrl_break()?,
                close: windows::ctrl_close()?,
                shutdown: windows::ctrl_shutdown()?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
            tokio::select! {
                biased;
                _ = self.ctrl_c.recv() => Signal::Stop,
                _ = self.ctrl_break.recv() => Signal::Stop,
                _ = self.close.recv() => Signal::Stop,
                _ = self.shutdown.recv() => Signal::Stop,
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::{Command, id};

    use super::*;

    // One test, since a signal reaches every listener of the process.
    #[tokio::test]
    async fn signals_arrive_as_words_and_do_not_end_the_process() {
        let mut signals = Signals::listen().unwrap();
        for (name, word) in [
            ("HUP", Signal::Reload),
            ("TERM", Signal::Stop),
            ("INT", Signal::Stop),
        ] {
            let sent = Command::new("kill")
                .args(["-s", name, &id().to_string()])
                .status();
            assert!(sent.unwrap().success());
            assert_eq!(signals.next().await, word);
        }
    }
}
