//! The figures of a stream, for operators: counters, the worker's progress, and how old media is at each stage.

use super::row::Fed;
use crate::logging::rounded;
use crate::stream::delays::{BudgetVerdict, Delays, Stage};
use hls::Timing;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use transcode::wire::WorkerProgress;

/// Counters over the life of a stream.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub struct StreamCounters {
    /// Workers that died or hung while they received published media.
    pub worker_restarts: u64,
    /// Access units dropped in the shed queue.
    pub shed_units: u64,
    /// Silent audio frames inserted into holes.
    pub silent_frames: u64,
    /// Audio frames dropped because they came too late: their place in time was already filled.
    pub late_audio_frames: u64,
    /// Access units that workers could not decode.
    pub decode_errors: u64,
    /// Samples that the packager refused, and samples dropped from a full buffer before their epoch began.
    pub refused_samples: u64,
    /// Number of times a publisher connected, reconnects included.
    pub publishes: u64,
    /// Sound tracks that came too late to become renditions.
    pub passed_over_tracks: u64,
}

/// The figures of one stream.
#[derive(Debug)]
pub(super) struct Figures {
    /// Counters so far.
    pub counters: StreamCounters,
    /// The newest progress report of a worker.
    pub progress: WorkerProgress,
    /// How old media is at each stage.
    pub delays: Delays,
}

impl Figures {
    /// Figures of a stream that has just begun.
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            counters: StreamCounters::default(),
            progress: WorkerProgress::default(),
            delays: Delays::new(timing),
        }
    }

    /// A worker died while it received published media.
    pub(super) fn worker_died(&mut self) {
        self.counters.worker_restarts += 1;
        metrics::counter!("encoder_worker_restarts_total").increment(1);
    }

    /// A worker reported its progress, with that many decode errors since its last report.
    pub(super) fn progressed(&mut self, decode_errors: u64, progress: WorkerProgress) {
        self.counters.decode_errors += decode_errors;
        self.progress = progress;
    }

    /// Published media was fed to a run.
    pub(super) fn fed(&mut self, fed: &Fed) {
        if fed.shed_units > 0 {
            self.counters.shed_units += fed.shed_units;
            metrics::counter!("encoder_shed_units_total").increment(fed.shed_units);
        }
        self.counters.silent_frames += fed.silent_frames;
        self.counters.late_audio_frames += fed.late_frames;
    }

    /// A sound track came too late to become a rendition.
    pub(super) fn passed_over_track(&mut self) {
        self.counters.passed_over_tracks += 1;
    }

    /// That many samples were not packaged.
    pub(super) fn refused(&mut self, samples: u64) {
        self.counters.refused_samples += samples;
    }

    /// A rendition's media has passed a stage at this age.
    pub(super) fn passed(&mut self, stage: Stage, rung: &str, age: Duration, now: Instant) {
        match self.delays.passed(stage, rung, age, now) {
            None => {}
            Some(BudgetVerdict::Broken { stage, rung, worst, budget }) => warn!(
                stage = stage.name(),
                rung,
                worst_seconds = rounded(worst.as_secs_f64()),
                budget_seconds = rounded(budget.as_secs_f64()),
                suspect = stage.suspect(),
                "media is late for ten seconds: viewers are further from live than the latency says, or about to stall"
            ),
            Some(BudgetVerdict::Kept) => info!("media is in time again"),
        }
    }
}
