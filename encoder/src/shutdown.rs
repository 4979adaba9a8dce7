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
    /// Running streams are ended and flushed within seconds (SIGINT, as sent from a terminal, or a second signal).
    Ending,
    /// The process exits without waiting any longer (a third signal).
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
    /// Listens for SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, receiver) = watch::channel(ShutdownStage::Running);
        tokio::spawn(async move {
            loop {
                let asked = tokio::select! {
                    _ = terminate.recv() => ShutdownStage::Draining,
                    _ = interrupt.recv() => ShutdownStage::Ending,
                };
                let next = next(*sender.borrow(), asked);
                match next {
                    // A first SIGTERM is normal: platforms end every process that way.
                    ShutdownStage::Running | ShutdownStage::Draining => {
                        info!(stage = next.as_str(), "signal")
                    }
                    ShutdownStage::Ending | ShutdownStage::Leaving => warn!(stage = next.as_str(), "signal"),
                }
                if sender.send(next).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Waits until the shutdown has reached at least `stage`.
    pub(crate) async fn reached(&self, stage: ShutdownStage) {
        // The sender lives as long as the process; if it were gone, no stage could ever be reached.
        if self.0.clone().wait_for(|now| *now >= stage).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Every further signal moves at least one stage forward.
fn next(now: ShutdownStage, asked: ShutdownStage) -> ShutdownStage {
    let further = match now {
        ShutdownStage::Running => ShutdownStage::Draining,
        ShutdownStage::Draining => ShutdownStage::Ending,
        ShutdownStage::Ending | ShutdownStage::Leaving => ShutdownStage::Leaving,
    };
    further.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_only_go_forward() {
        assert_eq!(next(ShutdownStage::Running, ShutdownStage::Draining), ShutdownStage::Draining);
        assert_eq!(next(ShutdownStage::Running, ShutdownStage::Ending), ShutdownStage::Ending);
        assert_eq!(next(ShutdownStage::Draining, ShutdownStage::Draining), ShutdownStage::Ending);
        assert_eq!(next(ShutdownStage::Ending, ShutdownStage::Draining), ShutdownStage::Leaving);
        assert_eq!(next(ShutdownStage::Ending, ShutdownStage::Ending), ShutdownStage::Leaving);
    }
}
