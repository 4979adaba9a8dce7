//! Stops the parts of `encoder serve`, each wait with its deadline.

use super::ServeParts;
use super::build::machine;
use crate::archive::ArchiveManager;
use crate::events::Events;
use crate::fault::Fault;
use crate::shutdown::{Shutdown, ShutdownStage};
use rtmp::Refusal;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{info, warn};

/// Time for ended streams to write their last playlists. Together with the later deadlines this makes the process
/// exit about five seconds after it was told to end its streams.
const SEAL_DEADLINE: Duration = Duration::from_secs(3);
/// Time to complete archives once the process was told to end its streams, typically by an operator at a terminal.
const ARCHIVE_DEADLINE: Duration = Duration::from_millis(1500);
/// Least time to complete archives after a drain, even if the streams used up the drain time-out. Archives of three
/// hours in a bucket are completed in less, and a platform whose grace period is the drain time-out plus half a
/// minute does not have to kill the process.
const ARCHIVES_AT_LEAST: Duration = Duration::from_secs(20);
/// Time to deliver the events that wait when all else is done.
const EVENTS_DEADLINE: Duration = Duration::from_secs(3);
/// The same once the process was told to end its streams.
const EVENTS_IN_HURRY: Duration = Duration::from_millis(800);
/// Time for refused or disconnected publishers to read the reason; then they close their connection themselves.
pub(super) const GOODBYES: Duration = Duration::from_millis(800);
/// Time for viewers to finish reading once all streams have ended.
pub(super) const LAST_READS: Duration = Duration::from_millis(500);

impl ServeParts {
    /// Stops the parts in order: readiness, streams, archives, events; then viewers, publishers and Agones together; the admin
    /// server last.
    pub(super) async fn drain(mut self) -> Result<(), Fault> {
        self.probe.drain();
        self.registry.drain(&self.config.drain_reconnect);
        let drained_by = Instant::now() + self.config.drain_timeout;
        let end_all = || self.registry.end_all(&Refusal::Draining);
        end_streams(self.registry.count(), end_all, &self.shutdown, self.config.drain_timeout).await;
        let left = drained_by.saturating_duration_since(Instant::now());
        finish_archives(&self.archives, &self.shutdown, left.max(ARCHIVES_AT_LEAST)).await;
        deliver_events(&self.events, &self.shutdown).await;
        self.say_goodbye().await;
        info!("encoder leaves");
        self.admin.stop().map_err(|error| machine("admin server", &error))
    }

    /// Lets viewers finish reading and publishers read the reason, and tells Agones; all at the same time.
    async fn say_goodbye(&mut self) {
        // An error means that serving has already stopped.
        let _ = self.stop_serving.send(true);
        let agones = self.agones.take();
        let leave_fleet = async {
            if let Some(agones) = agones {
                agones.leave().await;
            }
        };
        let last_reads = async { while self.viewers.join_next().await.is_some() {} };
        let goodbyes = async {
            while let Some(left) = self.publishers.join_next().await {
                if let Ok(left) = left {
                    left.finished().await;
                }
            }
        };
        let _ = tokio::join!(
            tokio::time::timeout(LAST_READS, last_reads),
            tokio::time::timeout(GOODBYES, goodbyes),
            leave_fleet
        );
    }
}

/// Waits until the streams end by themselves; on the drain time-out or SIGINT ends them with `end_all`; on a further
/// SIGINT or the deadline stops waiting. `count` is the number of streams.
async fn end_streams(
    mut count: watch::Receiver<usize>,
    end_all: impl FnOnce(),
    shutdown: &Shutdown,
    drain_timeout: Duration,
) {
    let streams = *count.borrow();
    if streams > 0 {
        let drain_timeout_seconds = drain_timeout.as_secs_f64();
        info!(streams, drain_timeout_seconds, "drains: streams end with their publishers");
    }
    let mut none_left = async || {
        // Without a sender the registry is gone, and its streams with it.
        let _ = count.wait_for(|count| *count == 0).await;
    };
    tokio::select! {
        () = none_left() => return,
        () = shutdown.reached(ShutdownStage::Ending) => {}
        () = tokio::time::sleep(drain_timeout) => warn!("drain time-out (--drain-timeout): running streams are ended"),
    }
    end_all();
    tokio::select! {
        () = none_left() => {}
        () = shutdown.reached(ShutdownStage::Leaving) => warn!("left without waiting for the last writes"),
        () = tokio::time::sleep(SEAL_DEADLINE) => warn!("left with last writes unfinished"),
    }
}

/// Waits for archives to be completed: for all archives within the time limit, or only for [`ARCHIVE_DEADLINE`] after
/// SIGINT. The next encoder that takes the stream, or `encoder archive seal`, completes the remaining
/// archives.
async fn finish_archives(archives: &ArchiveManager, shutdown: &Shutdown, within: Duration) {
    let hurried = async {
        shutdown.clone().reached(ShutdownStage::Ending).await;
        tokio::time::sleep(ARCHIVE_DEADLINE).await;
    };
    tokio::select! {
        () = archives.idle() => return,
        () = hurried => {}
        () = shutdown.reached(ShutdownStage::Leaving) => {}
        () = tokio::time::sleep(within) => {}
    }
    warn!("left with archives unfinished: `encoder archive seal` completes them");
}

/// Waits until the last events are delivered: for a few seconds, or for less after SIGINT. Says how many are lost.
async fn deliver_events(events: &Events, shutdown: &Shutdown) {
    let in_hurry = async {
        shutdown.clone().reached(ShutdownStage::Ending).await;
        tokio::time::sleep(EVENTS_IN_HURRY).await;
    };
    tokio::select! {
        _ = events.finish(EVENTS_DEADLINE) => {}
        () = in_hurry => {}
    }
    events.leave();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;

    const DRAIN_TIMEOUT: Duration = Duration::from_secs(14_400);

    /// One stream that drains, with paused time.
    struct Drain {
        count: watch::Sender<usize>,
        stage: watch::Sender<ShutdownStage>,
        ended: Cell<bool>,
        started: tokio::time::Instant,
    }

    impl Drain {
        fn new() -> Self {
            Self {
                count: watch::Sender::new(1),
                stage: watch::Sender::new(ShutdownStage::Draining),
                ended: Cell::new(false),
                started: tokio::time::Instant::now(),
            }
        }

        async fn run(&self) {
            let shutdown = Shutdown::following(self.stage.subscribe());
            end_streams(self.count.subscribe(), || self.ended.set(true), &shutdown, DRAIN_TIMEOUT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_its_publisher() {
        let drain = Drain::new();
        let mut running = pin!(drain.run());
        let an_hour = tokio::time::timeout(Duration::from_secs(3_600), &mut running).await;
        assert!(an_hour.is_err() && !drain.ended.get(), "the stream was cut off");
        drain.count.send_replace(0);
        running.await;
        assert!(!drain.ended.get());
    }

    /// What a repeated SIGTERM does to those who wait: the stage is sent again and is the same.
    #[tokio::test(start_paused = true)]
    async fn a_repeated_stage_ends_nothing() {
        let drain = Drain::new();
        let mut running = pin!(drain.run());
        for _ in 0..3 {
            drain.stage.send_replace(ShutdownStage::Draining);
            assert!(tokio::time::timeout(Duration::from_secs(60), &mut running).await.is_err());
        }
        assert!(!drain.ended.get(), "the stream was cut off");
    }

    /// Sealing begins at the drain time-out and takes its own deadline at most.
    #[tokio::test(start_paused = true)]
    async fn the_time_out_ends_what_is_left_and_does_not_wait_for_ever() {
        let drain = Drain::new();
        let mut running = pin!(drain.run());
        let just_before = DRAIN_TIMEOUT - Duration::from_millis(10);
        assert!(tokio::time::timeout(just_before, &mut running).await.is_err());
        assert!(!drain.ended.get());
        running.await;
        assert!(drain.ended.get());
        assert_eq!(drain.started.elapsed().as_secs(), (DRAIN_TIMEOUT + SEAL_DEADLINE).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn sigint_ends_streams_and_a_second_one_does_not_wait_for_their_writes() {
        let drain = Drain::new();
        let mut running = pin!(drain.run());
        drain.stage.send_replace(ShutdownStage::Ending);
        assert!(tokio::time::timeout(SEAL_DEADLINE / 2, &mut running).await.is_err());
        assert!(drain.ended.get(), "the stream goes on");
        drain.stage.send_replace(ShutdownStage::Leaving);
        running.await;
        assert!(drain.started.elapsed() < SEAL_DEADLINE);
    }
}
