//! Turns signals into shutdown stages, which only move forward. The meaning of each stage for streams is in
//! [`crate::commands::serve`].

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// The progress of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShutdownStage {
    /// No shutdown was requested.
    Running,
    /// No new streams; running streams end with their publishers (SIGTERM, as sent by a platform).
    Draining,
    /// Running streams are ended and flushed within seconds (SIGINT, as sent from a terminal, or SIGQUIT).
    Ending,
    /// The process exits without waiting any longer (SIGINT or SIGQUIT once more).
    Leaving,
}

impl ShutdownStage {
    /// The stage's name in log lines.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Ending => "ending",
            Self::Leaving => "leaving",
        }
    }
}

/// A handle for waiting on shutdown stages.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<ShutdownStage>);

impl Shutdown {
    /// Listens for SIGTERM, SIGINT and SIGQUIT from now on.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let (sender, receiver) = watch::channel(ShutdownStage::Running);
        tokio::spawn(async move {
            loop {
                let heard = tokio::select! {
                    _ = terminate.recv() => Heard::Terminate,
                    _ = interrupt.recv() => Heard::Interrupt,
                    _ = quit.recv() => Heard::Quit,
                };
                let now = *sender.borrow();
                let next = next(now, heard);
                log(heard, now, next);
                if sender.send(next).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Follows stages that a test sets.
    #[cfg(test)]
    pub(crate) fn following(stages: watch::Receiver<ShutdownStage>) -> Self {
        Self(stages)
    }

    /// Waits until the shutdown has reached at least `stage`.
    pub(crate) async fn reached(&self, stage: ShutdownStage) {
        // The sender lives as long as the process; if it were gone, no stage could ever be reached.
        if self.0.clone().wait_for(|now| *now >= stage).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A signal that asks the process to leave.
#[derive(Clone, Copy, Debug)]
enum Heard {
    Terminate,
    Interrupt,
    Quit,
}

impl Heard {
    /// The signal's name in log lines.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
        }
    }
}

/// SIGTERM asks for a drain and nothing more, however often it comes: platforms repeat it. A restart of containerd, for
/// example, makes the kubelet stop a pod once more that drains already. SIGINT and SIGQUIT come from people, and each
/// one hurries the process.
fn next(now: ShutdownStage, heard: Heard) -> ShutdownStage {
    match heard {
        Heard::Terminate => now.max(ShutdownStage::Draining),
        Heard::Interrupt | Heard::Quit => match now {
            ShutdownStage::Running | ShutdownStage::Draining => ShutdownStage::Ending,
            ShutdownStage::Ending | ShutdownStage::Leaving => ShutdownStage::Leaving,
        },
    }
}

/// SIGTERM is normal, because platforms end every process that way; the other signals cut streams short.
fn log(heard: Heard, before: ShutdownStage, after: ShutdownStage) {
    let (signal, stage) = (heard.as_str(), after.as_str());
    match heard {
        Heard::Terminate if before == after => {
            info!(signal, stage, "signal again: it changes nothing (SIGINT hurries)");
        }
        Heard::Terminate => info!(signal, stage, "signal"),
        Heard::Interrupt | Heard::Quit => warn!(signal, stage, "signal: streams are cut short"),
    }
}

#[cfg(test)]
mod tests {
    use super::ShutdownStage::{Draining, Ending, Leaving, Running};
    use super::*;

    #[test]
    fn a_repeated_sigterm_changes_nothing() {
        assert_eq!(next(Running, Heard::Terminate), Draining);
        for stage in [Draining, Ending, Leaving] {
            assert_eq!(next(stage, Heard::Terminate), stage);
        }
    }

    #[test]
    fn each_sigint_or_sigquit_hurries() {
        for signal in [Heard::Interrupt, Heard::Quit] {
            assert_eq!(next(Running, signal), Ending);
            assert_eq!(next(Draining, signal), Ending);
            assert_eq!(next(Ending, signal), Leaving);
            assert_eq!(next(Leaving, signal), Leaving);
        }
    }
}
