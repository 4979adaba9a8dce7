//! The row of runs: the first run owns the packager, the last run receives published media. Pure.
//!
//! When runs are appended, begun and removed is decided in [`super::runs`].

use crate::stream::restart::{Restart, RestartPolicy};
use crate::stream::run::{Run, RunId, RunSetup, WorkerState};
use hls::{RungName, Track};
use media::captions::CaptionServices;
use media::{Media, MediaSpan, MediaTime, Unit};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum number of runs, and so of worker processes, that a stream has. A publisher that changes its format faster
/// than workers flush waits for the workers.
const MAX_RUNS: usize = 3;
/// Shortest time until the run after one whose tracks cannot be packaged.
const GIVEN_UP_PAUSE: Duration = Duration::from_millis(100);

/// The runs of a stream, in order. Only the last one may receive published media.
#[derive(Debug, Default)]
pub(super) struct RunRow {
    runs: VecDeque<Run>,
    next_id: u32,
    /// Newest presentation time that a run was fed.
    fed_until: MediaTime,
    /// Newest presentation time of the pictures that runs were fed.
    pictures_until: MediaTime,
    restarts: RestartPolicy,
}

/// What feeding a unit to a run resulted in.
#[derive(Debug)]
pub(super) struct Fed {
    /// The run.
    pub run: RunId,
    /// Samples that need no worker.
    pub samples: Vec<(RungName, Unit)>,
    /// Units dropped from the queue in front of the worker.
    pub shed_units: u64,
    /// Silent audio frames among the samples.
    pub silent_frames: u64,
    /// Audio frames that came too late.
    pub late_frames: u64,
}

/// What a worker's end means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WorkerDeath {
    /// Nothing: it had finished, or its run is gone.
    Expected,
    /// It died while it flushed: what it had not flushed is lost.
    WhileFlushing,
    /// It died while its run received published media, which another run has to receive.
    WhileFed(Restart),
}

impl RunRow {
    /// Whether there is no run: all media is flushed.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether there is no room for another run.
    pub(super) fn is_full(&self) -> bool {
        self.runs.len() >= MAX_RUNS
    }

    /// Newest presentation time that a run was fed, or the start of the last run.
    pub(super) fn fed_until(&self) -> MediaTime {
        self.fed_until
    }

    /// The time behind the newest picture that the last run brings when it is flushed; zero if its worker is dead.
    pub(super) fn flushes_until(&self) -> MediaTime {
        let flushes = self.runs.back().is_some_and(|run| run.worker != WorkerState::Dead);
        if flushes { self.pictures_until + MediaSpan::from_ticks_90k(1) } else { MediaTime::ZERO }
    }

    /// Whether a run still exists.
    pub(super) fn has(&self, id: RunId) -> bool {
        self.runs.iter().any(|run| run.id == id)
    }

    /// A run, if it still exists.
    pub(super) fn get_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }

    /// The run that owns the packager.
    pub(super) fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// See [`Self::front`].
    pub(super) fn front_mut(&mut self) -> Option<&mut Run> {
        self.runs.front_mut()
    }

    /// The run that receives published media, unless its input has ended.
    pub(super) fn live(&self) -> Option<&Run> {
        self.runs.back().filter(|run| run.input_ended.is_none())
    }

    /// See [`Self::live`].
    pub(super) fn live_mut(&mut self) -> Option<&mut Run> {
        self.runs.back_mut().filter(|run| run.input_ended.is_none())
    }

    /// Removes and returns the first run if it will produce no more samples.
    pub(super) fn pop_done(&mut self) -> Option<Run> {
        if !self.runs.front()?.is_done() {
            return None;
        }
        self.runs.pop_front()
    }

    /// The number of the next run.
    pub(super) fn take_id(&mut self) -> RunId {
        let id = RunId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Appends a run, which receives published media from now on.
    pub(super) fn append(&mut self, setup: RunSetup, now: Instant) {
        self.fed_until = setup.first_pts;
        self.runs.push_back(Run::new(setup, now));
    }

    /// Caption services were seen in the published media. Returns the renditions of the epoch that has begun, if they
    /// change by this.
    pub(super) fn add_captions(&mut self, services: CaptionServices) -> Option<Vec<Track>> {
        let mut shown = None;
        for run in &mut self.runs {
            let begun = run.begun;
            let tracks = run.add_captions(services).filter(|_| begun);
            shown = shown.or(tracks.map(<[Track]>::to_vec));
        }
        shown
    }

    /// Ends the last run's input.
    pub(super) fn end_input(&mut self, now: Instant) {
        if let Some(run) = self.live_mut() {
            run.input_ended = Some(now);
            run.queue.finish();
        }
    }

    /// Media fed in one burst at a run's start is no sign of a slow encoder: allows `span` on top of the shed budget.
    pub(super) fn expect_backlog(&mut self, span: MediaSpan) {
        if let Some(run) = self.runs.back_mut() {
            run.queue.expect_backlog(span);
        }
    }

    /// Feeds a published unit to the last run; `None` if that run's input has ended.
    pub(super) fn feed(&mut self, media: Media) -> Option<Fed> {
        let run = self.runs.back_mut().filter(|run| run.input_ended.is_none())?;
        if let Media::Video(unit) | Media::Audio(unit) = &media {
            self.fed_until = self.fed_until.max(unit.pts);
        }
        if let Media::Video(unit) = &media {
            self.pictures_until = self.pictures_until.max(unit.pts);
        }
        let mut samples = Vec::new();
        match media {
            Media::Video(unit) => run.video(&unit, &mut samples),
            Media::Audio(unit) => run.audio(None, unit, &mut samples),
            Media::Track(id, unit) => run.audio(Some(id), unit, &mut samples),
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => {}
        }
        let shed_units = run.queue.take_shed();
        let (silent_frames, late_frames) = run.take_audio_repairs();
        Some(Fed { run: run.id, samples, shed_units, silent_frames, late_frames })
    }

    /// Number of requests queued for workers.
    pub(super) fn waiting_requests(&self) -> usize {
        self.runs.iter().map(|run| run.queue.len()).sum()
    }

    /// Workers that hang, and why.
    pub(super) fn hung(&self, silence: Duration, now: Instant) -> Vec<(RunId, &'static str)> {
        let hangs = |run: &Run| {
            let (at, why) = run.hang_at(silence)?;
            (at <= now).then_some((run.id, why))
        };
        self.runs.iter().filter_map(hangs).collect()
    }

    /// When the first worker counts as hung unless it responds; `None` while no worker owes a response.
    pub(super) fn hang_at(&self, silence: Duration) -> Option<Instant> {
        self.runs.iter().filter_map(|run| run.hang_at(silence)).map(|(at, _)| at).min()
    }

    /// A worker died or was killed.
    pub(super) fn worker_died(&mut self, id: RunId, now: Instant) -> WorkerDeath {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else { return WorkerDeath::Expected };
        let WorkerState::Running { started, .. } = run.worker else { return WorkerDeath::Expected };
        run.worker = WorkerState::Dead;
        if run.input_ended.is_some() {
            return WorkerDeath::WhileFlushing;
        }
        run.input_ended = Some(now);
        WorkerDeath::WhileFed(self.restarts.died(started, now))
    }

    /// Ends the first run without waiting for its worker to flush. Returns the worker, which is to be stopped.
    pub(super) fn hurry_front(&mut self) -> Option<RunId> {
        let run = self.runs.front_mut()?;
        if !run.worker.is_running() {
            return None;
        }
        run.worker = WorkerState::Dead;
        Some(run.id)
    }

    /// The first run's tracks cannot be packaged: it produces nothing. Returns when the run after it starts, if the
    /// first run was to receive published media.
    pub(super) fn give_up_front(&mut self, now: Instant) -> Option<Restart> {
        let run = self.runs.front_mut()?;
        run.begun = false;
        run.worker = WorkerState::Dead;
        if run.input_ended.is_some() {
            return None;
        }
        run.input_ended = Some(now);
        let restart = self.restarts.died(now, now);
        Some(Restart { at: restart.at.max(now + GIVEN_UP_PAUSE), ..restart })
    }
}
