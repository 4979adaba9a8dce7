//! Stops the parts of `encoder serve`, each wait with its deadline.

use super::ServeParts;
use super::build::machine;
use crate::archive::ArchiveManager;
use crate::events::Events;
use crate::fault::Fault;
use crate::shutdown::{Shutdown, ShutdownStage};
use crate::stream::registry::Registry;
use rtmp::Refusal;
use std::time::{Duration, Instant};
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
        self.registry.drain();
        let drained_by = Instant::now() + self.config.drain_timeout;
        end_streams(&self.registry, &self.shutdown, self.config.drain_timeout).await;
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

/// Waits until the streams end by themselves; on the drain time-out or a signal ends them; on a further signal or the
/// deadline stops waiting.
async fn end_streams(registry: &Registry, shutdown: &Shutdown, drain_timeout: Duration) {
    let mut count = registry.count();
    let mut none_left = async || {
        // The registry owns the sender and outlives this wait, so there is no error.
        let _ = count.wait_for(|count| *count == 0).await;
    };
    tokio::select! {
        () = none_left() => return,
        () = shutdown.reached(ShutdownStage::Ending) => {}
        () = tokio::time::sleep(drain_timeout) => warn!("drain time-out (--drain-timeout): running streams are ended"),
    }
    registry.end_all(&Refusal::Draining);
    tokio::select! {
        () = none_left() => {}
        () = shutdown.reached(ShutdownStage::Leaving) => warn!("left without waiting for the last writes"),
        () = tokio::time::sleep(SEAL_DEADLINE) => warn!("left with last writes unfinished"),
    }
}

/// Waits for archives to be completed: for all archives within the time limit, or only for [`ARCHIVE_DEADLINE`] after
/// a signal to end. The next encoder that takes the stream, or `encoder archive seal`, completes the remaining
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

/// Waits until the last events are delivered: for a few seconds, or for less after a signal to end. Says how many are
/// lost.
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
