//! Signals, as stages that only go forward. What each stage means for streams is in [`crate::app`].

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Running,
    /// No new streams; running ones end with their publishers (SIGTERM: what a platform sends).
    Draining,
    /// Running streams are ended and flushed, within seconds (SIGINT: somebody at a terminal; or a second signal).
    Ending,
    /// Nothing is waited for any more (a third signal).
    Leaving,
}

/// The present stage, for whoever waits for it.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Stage>);

impl Shutdown {
    /// Listens to SIGTERM and SIGINT from now on.
    pub fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, receiver) = watch::channel(Stage::Running);
        tokio::spawn(async move {
            loop {
                let asked = tokio::select! {
                    _ = terminate.recv() => Stage::Draining,
                    _ = interrupt.recv() => Stage::Ending,
                };
                let next = next(*sender.borrow(), asked);
                match next {
                    // What every platform sends to every process some day.
                    Stage::Running | Stage::Draining => info!(stage = ?next, "signal"),
                    Stage::Ending | Stage::Leaving => warn!(stage = ?next, "signal"),
                }
                if sender.send(next).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// Waits until at least that stage.
    pub async fn reached(&self, stage: Stage) {
        // The sender lives as long as the process; should it go, nothing will ever be signalled.
        if self.0.clone().wait_for(|now| *now >= stage).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Every further signal goes at least one stage on.
fn next(now: Stage, asked: Stage) -> Stage {
    let further = match now {
        Stage::Running => Stage::Draining,
        Stage::Draining => Stage::Ending,
        Stage::Ending | Stage::Leaving => Stage::Leaving,
    };
    further.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_only_go_forward() {
        assert_eq!(next(Stage::Running, Stage::Draining), Stage::Draining);
        assert_eq!(next(Stage::Running, Stage::Ending), Stage::Ending);
        assert_eq!(next(Stage::Draining, Stage::Draining), Stage::Ending);
        assert_eq!(next(Stage::Ending, Stage::Draining), Stage::Leaving);
        assert_eq!(next(Stage::Ending, Stage::Ending), Stage::Leaving);
    }
}
