//! Output statistics of a stream, for operators: current bitrates, and the progress of the store. No decision depends
//! on them.

use super::run::RunId;
use crate::delivery::DeliveryCounters;
use crate::status::{RungOutput, StoredStatus};
use hls::Segment;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Minimum interval between two copies of the store's counters.
const STORED_EVERY: Duration = Duration::from_millis(500);

/// Output statistics of one stream.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// By rendition.
    rungs: BTreeMap<String, RungStatistics>,
    stored: Option<(Instant, DeliveryCounters)>,
    /// Resident bytes of each running worker.
    workers: BTreeMap<RunId, u64>,
}

/// Statistics of one rendition; bitrate and duration are those of the newest segment.
#[derive(Clone, Copy, Debug, Default)]
struct RungStatistics {
    bits_per_second: f64,
    seconds: f64,
    segments: u64,
    gaps: u64,
}

impl Measured {
    /// Counts a finished segment.
    pub(crate) fn packaged(&mut self, segment: &Segment) {
        let rung = self.rungs.entry(segment.info().rung.to_string()).or_default();
        let seconds = segment.info().duration.as_secs_f64();
        rung.segments += 1;
        match segment.body() {
            Some(body) if seconds > 0.0 => {
                (rung.seconds, rung.bits_per_second) = (seconds, body.len() as f64 * 8.0 / seconds);
            }
            Some(_) => {}
            None => rung.gaps += 1,
        }
    }

    /// Copies the store's counters if the last copy is too old.
    pub(crate) fn stored(&mut self, counters: impl FnOnce() -> DeliveryCounters) {
        if self.stored.as_ref().is_none_or(|(at, _)| at.elapsed() >= STORED_EVERY) {
            self.stored = Some((Instant::now(), counters()));
        }
    }

    /// Notes a worker's resident memory in bytes.
    pub(crate) fn worker_memory(&mut self, id: RunId, resident: u64) {
        self.workers.insert(id, resident);
    }

    /// Forgets a worker that ended.
    pub(crate) fn worker_gone(&mut self, id: RunId) {
        self.workers.remove(&id);
    }

    /// Resident bytes of the stream's workers.
    pub(crate) fn worker_memory_bytes(&self) -> u64 {
        self.workers.values().sum()
    }

    /// Segments that became gaps in the store, as of the last copy of its counters.
    pub(crate) fn store_gaps(&self) -> u64 {
        self.stored.as_ref().map_or(0, |(_, stored)| stored.gaps.values().sum())
    }

    /// Statistics of the renditions and of the store, for `/status`.
    pub(crate) fn status(&self) -> (BTreeMap<String, RungOutput>, Option<StoredStatus>) {
        let output = |rung: &RungStatistics| RungOutput {
            bits_per_second: rung.bits_per_second.round(),
            segment_seconds: rung.seconds,
            segments: rung.segments,
            gaps: rung.gaps,
        };
        let rungs = self.rungs.iter().map(|(name, rung)| (name.clone(), output(rung))).collect();
        let stored = self.stored.as_ref().map(|(_, stored)| StoredStatus {
            segments: stored.segments,
            bytes: stored.bytes,
            playlists: stored.playlists,
            failures: stored.failures,
            gaps: stored.gaps.values().sum(),
            last_failure: stored.last_failure.clone(),
        });
        (rungs, stored)
    }
}
