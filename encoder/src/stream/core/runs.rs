//! The list of runs: appending, restarting and watching runs, and passing them to the packager epoch by epoch.
//!
//! Which media is fed to the last run is decided in [`super::input`]; what one run does with the media is in
//! [`crate::stream::run`].

use super::state::Flow;
use super::{Effect, MAX_RUNS, Now, StreamCore};
use crate::logging::rounded;
use crate::stream::ladder::Plan;
use crate::stream::run::{AudioSource, Run, RunId, RunSetup, WorkerState};
use hls::packager::{BeginError, CutRule, Epoch, Output};
use hls::{RungName, SessionId};
use media::{Anchor, Media, MediaSpan, MediaTime, Unit};
use std::time::{Duration, Instant};
use tracing::{info, warn};

impl StreamCore {
    /// Starts the run that follows a dead one, once its backoff has passed and there is media to start from.
    pub(super) fn restart_if_due(&mut self, now: Now) {
        let Some(flow) = self.state.flow() else { return };
        let Some(restart) = flow.restart.filter(|restart| restart.at <= now.instant) else { return };
        let Some(start) = self.restart_from(flow) else { return };
        let replayed: Vec<Media> =
            if self.video.is_some() { flow.gop.since_keyframe().to_vec() } else { Vec::new() };
        info!(
            from_seconds = rounded(start.as_secs_f64()),
            replay = restart.replay,
            "starting the next worker"
        );
        self.append_run(start, now);
        self.expect_backlog(self.newest - start);
        for media in replayed {
            self.feed(media);
        }
    }

    /// When the run that follows a dead one starts; `None` if no such run is due, or if there is no media to start from.
    pub(super) fn restart_at(&self) -> Option<Instant> {
        let flow = self.state.flow()?;
        flow.restart.filter(|_| self.restart_from(flow).is_some()).map(|restart| restart.at)
    }

    /// The media time from which a run could be started now. With video that is the last published keyframe; `None`
    /// until the next one if it is not kept, and until a pending change.
    fn restart_from(&self, flow: &Flow) -> Option<MediaTime> {
        if self.video.is_none() {
            return Some(self.newest);
        }
        match flow.gop.since_keyframe().first().filter(|_| !flow.changes())? {
            Media::Video(unit) => Some(unit.pts),
            Media::Audio(_) | Media::VideoConfig(_) | Media::AudioConfig(_) => None,
        }
    }

    /// Ends the last run's input and appends a new run, which receives published media from now on. This also settles a
    /// pending restart or switch; only an announced video configuration still waits for its keyframe.
    pub(super) fn append_run(&mut self, first_pts: MediaTime, now: Now) {
        self.end_input(now.instant);
        while self.runs.len() >= MAX_RUNS {
            self.hurry_front(now);
        }
        if let Some(flow) = self.state.flow_mut() {
            flow.run_begins();
        }
        self.fed_until = first_pts;
        let id = RunId(self.next_run);
        self.next_run += 1;
        let empty = Plan { source: false, rungs: Vec::new(), reasons: Vec::new() };
        let run = Run::new(
            RunSetup {
                id,
                video: self.video.clone(),
                frame_rate: self.source.map_or((30, 1), |source| source.frame_rate),
                audio: AudioSource::of(self.audio.clone()),
                plan: self.plan.clone().filter(|_| self.video.is_some()).unwrap_or(empty),
                first_pts,
                shed_budget: self.settings.timing.shed_queue,
            },
            now.instant,
        );
        if let Some(job) = run.job(&self.settings, self.packaged_until) {
            self.effects.push_back(Effect::StartWorker(id, Box::new(job)));
        }
        self.runs.push_back(run);
    }

    /// Ends the first run without waiting for its worker to flush, to make room for another run.
    fn hurry_front(&mut self, now: Now) {
        let Some(run) = self.runs.front_mut() else { return };
        if matches!(run.worker, WorkerState::Running { .. }) {
            warn!(worker = run.id.0, "too many changes at once: what this worker has not flushed is lost");
            self.effects.push_back(Effect::StopWorker(run.id));
            run.worker = WorkerState::Dead;
        }
        self.pump(now);
    }

    /// The run that receives published media, unless its input has ended.
    pub(super) fn live_run(&mut self) -> Option<&mut Run> {
        self.runs.back_mut().filter(|run| run.input_ended.is_none())
    }

    /// Media fed in one burst at a run's start is no sign of a slow encoder: allows `span` on top of the shed budget.
    pub(super) fn expect_backlog(&mut self, span: MediaSpan) {
        if let Some(run) = self.runs.back_mut() {
            run.queue.expect_backlog(span);
        }
    }

    pub(super) fn end_input(&mut self, now: Instant) {
        if let Some(run) = self.live_run() {
            run.input_ended = Some(now);
            run.queue.finish();
        }
    }

    /// Kills workers that hang. A killed worker is handled like one that died.
    pub(super) fn watch_workers(&mut self, now: Now) {
        let silence = self.settings.timing.worker_silence.to_duration();
        let hangs = |run: &Run| {
            let (at, why) = run.hang_at(silence)?;
            (at <= now.instant).then_some((run.id, why))
        };
        let hung: Vec<(RunId, &str)> = self.runs.iter().filter_map(hangs).collect();
        for (id, why) in hung {
            warn!(worker = id.0, why, "worker hangs: it is killed");
            metrics::counter!("encoder_worker_hangs_total").increment(1);
            self.effects.push_back(Effect::StopWorker(id));
            self.worker_gone(id, now);
        }
    }

    /// When the first worker counts as hung unless it responds; `None` while no worker owes a response.
    pub(super) fn hang_at(&self) -> Option<Instant> {
        let silence = self.settings.timing.worker_silence.to_duration();
        self.runs.iter().filter_map(|run| run.hang_at(silence)).map(|(at, _)| at).min()
    }

    /// Passes a sample to the packager, or holds the sample until its epoch has begun.
    pub(super) fn package(&mut self, id: RunId, rung: RungName, sample: Unit) {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else { return };
        if !run.begun {
            self.counters.refused_samples += run.hold(rung, sample);
            return;
        }
        if self.packager.push(&rung, sample).is_err() {
            self.counters.refused_samples += 1;
        }
        self.drain_packager();
    }

    /// Advances the list of runs: begins the first run's epoch as soon as possible, and removes the run when it is
    /// done.
    pub(super) fn pump(&mut self, now: Now) {
        while let Some(run) = self.runs.front() {
            if !run.begun
                && let Some(start) = run.start_at_or_after(self.packaged_until)
            {
                self.begin(start, now);
            }
            let Some(run) = self.runs.front().filter(|run| run.is_done()) else { return };
            if run.begun {
                // A worker that flushed has brought all renditions to the same end. After a dead worker, copied audio
                // is ahead of the video: the epoch ends with the video.
                let end = if run.worker == WorkerState::Dead { self.packager.video_end() } else { None };
                self.packager.end_epoch(end);
                self.drain_packager();
            }
            self.runs.pop_front();
        }
    }

    fn begin(&mut self, start: MediaTime, now: Now) {
        let anchor = self.anchors.best().unwrap_or(Anchor { media: start, wall: now.wall });
        let session = SessionId::from_start(now.wall.unix_micros(), self.epochs);
        let Some(run) = self.runs.front_mut() else { return };
        let Some(tracks) = run.tracks.clone() else { return };
        run.begun = true;
        let cuts = if run.follows_source() { CutRule::SourceKeys } else { CutRule::Grid };
        let held = run.take_held();
        self.epochs += 1;
        info!(
            epoch = self.epochs,
            %session,
            at_seconds = rounded(start.as_secs_f64()),
            renditions = tracks.len(),
            "epoch begins"
        );
        if let Err(error) =
            self.packager.begin(Epoch { session, start, anchor, tracks: tracks.clone(), cuts })
        {
            self.give_up_front(&error, now);
            return;
        }
        self.effects.push_back(Effect::Epoch(tracks));
        self.drain_packager();
        for (rung, sample) in held {
            if self.packager.push(&rung, sample).is_err() {
                self.counters.refused_samples += 1;
            }
        }
        self.drain_packager();
    }

    /// Gives up the first run, whose tracks cannot be packaged: published parameter sets that only a decoder can
    /// interpret. If the video was passed through, the next run encodes it instead, so viewers still get a picture.
    fn give_up_front(&mut self, error: &BeginError, now: Now) {
        let Some(run) = self.runs.front_mut() else { return };
        warn!(%error, "these renditions cannot be packaged");
        run.begun = false;
        let (id, passed_through) = (run.id, run.follows_source());
        if matches!(run.worker, WorkerState::Running { .. }) {
            self.effects.push_back(Effect::StopWorker(id));
        }
        run.worker = WorkerState::Dead;
        let takes_input = run.input_ended.is_none();
        run.input_ended.get_or_insert(now.instant);
        if !takes_input {
            return;
        }
        if passed_through && let (Some(config), Some(source)) = (self.video.clone(), self.source) {
            self.adopt(config, source, false);
        }
        let mut restart = self.restarts.died(now.instant, now.instant);
        restart.at = restart.at.max(now.instant + Duration::from_millis(100));
        if let Some(flow) = self.state.flow_mut() {
            flow.restart = Some(restart);
        }
    }

    fn drain_packager(&mut self) {
        while let Some(output) = self.packager.poll() {
            if let Output::Segment(segment) = &output {
                self.packaged_until = self.packaged_until.max(segment.start + segment.duration);
            }
            self.effects.push_back(Effect::Packaged(output));
        }
    }
}
