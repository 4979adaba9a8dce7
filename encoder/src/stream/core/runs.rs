//! Advancing the row of runs: appending, restarting and watching runs, and passing them to the packager epoch by epoch.
//!
//! Which media is fed to the last run is decided in [`super::input`]; what one run does with the media is in
//! [`crate::stream::run`].

use super::{Effect, Now, StreamCore};
use crate::logging::rounded;
use crate::stream::run::RunId;
use hls::RungName;
use hls::packager::BeginError;
use media::{Media, MediaTime, Unit};
use tracing::{info, warn};

impl StreamCore {
    /// Starts the run that follows a dead one, once its backoff has passed and there is media to start from.
    pub(super) fn restart_if_due(&mut self, now: Now) {
        let Some(flow) = self.state.flow() else { return };
        let Some(restart) = flow.restart.filter(|restart| restart.at <= now.instant) else { return };
        let Some(start) = flow.restart_from(&self.source) else { return };
        let replayed: Vec<Media> =
            if self.source.has_video() { flow.gop.since_keyframe().to_vec() } else { Vec::new() };
        info!(
            from_seconds = rounded(start.as_secs_f64()),
            replay = restart.replay,
            "starting the next worker"
        );
        self.append_run(start, now);
        self.runs.expect_backlog(self.source.newest() - start);
        for media in replayed {
            self.feed(media);
        }
    }

    /// Ends the last run's input and appends a new run, which receives published media from now on. This also settles a
    /// pending restart or change; only an announced video configuration still waits for its keyframe.
    pub(super) fn append_run(&mut self, first_pts: MediaTime, now: Now) {
        self.runs.end_input(now.instant);
        // A worker that flushes brings its pictures up to the newest that it was fed.
        let encode_from = self.packaging.until().max(self.runs.flushes_until());
        while self.runs.is_full() {
            self.hurry_front(now);
        }
        if let Some(flow) = self.state.flow_mut() {
            flow.run_begins();
        }
        let id = self.runs.take_id();
        self.runs.append(self.source.run_setup(id, first_pts, &self.settings), now.instant);
        let job = self.runs.live().and_then(|run| run.job(&self.settings, encode_from));
        if let Some(job) = job {
            self.effects.push_back(Effect::StartWorker(id, Box::new(job)));
        }
    }

    /// Ends the first run without waiting for its worker to flush, to make room for another run.
    fn hurry_front(&mut self, now: Now) {
        if let Some(id) = self.runs.hurry_front() {
            warn!(worker = id.0, "too many changes at once: what this worker has not flushed is lost");
            self.effects.push_back(Effect::StopWorker(id));
        }
        self.pump(now);
    }

    /// Kills workers that hang. A killed worker is handled like one that died.
    pub(super) fn watch_workers(&mut self, now: Now) {
        for (id, why) in self.runs.hung(self.worker_silence(), now.instant) {
            warn!(worker = id.0, why, "worker hangs: it is killed");
            metrics::counter!("encoder_worker_hangs_total").increment(1);
            self.effects.push_back(Effect::StopWorker(id));
            self.worker_gone(id, now);
        }
    }

    /// Feeds a published unit to the last run, unless that run's input has ended.
    pub(super) fn feed(&mut self, media: Media) {
        let Some(fed) = self.runs.feed(media) else { return };
        self.figures.fed(&fed);
        for (rung, sample) in fed.samples {
            self.package(fed.run, rung, sample);
        }
    }

    /// Passes a sample to the packager, or holds the sample until its epoch has begun.
    pub(super) fn package(&mut self, id: RunId, rung: RungName, sample: Unit) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let refused = if run.begun {
            self.packaging.push(&rung, sample, &mut self.effects)
        } else {
            run.hold(rung, sample)
        };
        self.figures.refused(refused);
    }

    /// Advances the row of runs: begins the first run's epoch as soon as possible, and removes the run when it is done.
    pub(super) fn pump(&mut self, now: Now) {
        while let Some(run) = self.runs.front() {
            if !run.begun
                && let Some(start) = run.start_at_or_after(self.packaging.until())
            {
                self.begin(start, now);
            }
            let Some(run) = self.runs.pop_done() else { return };
            if run.begun {
                self.packaging.end(&run, &mut self.effects);
            }
        }
    }

    fn begin(&mut self, start: MediaTime, now: Now) {
        let Some(run) = self.runs.front_mut() else { return };
        match self.packaging.begin(run, start, now, &mut self.effects) {
            Ok(refused) => self.figures.refused(refused),
            Err(error) => self.give_up_front(&error, now),
        }
    }

    /// Gives up the first run, whose tracks cannot be packaged: published parameter sets that only a decoder can
    /// interpret. If the video was passed through, the next run encodes it instead, so viewers still get a picture.
    fn give_up_front(&mut self, error: &BeginError, now: Now) {
        warn!(%error, "these renditions cannot be packaged");
        let Some(run) = self.runs.front() else { return };
        let passed_through = run.follows_source();
        if run.worker.is_running() {
            self.effects.push_back(Effect::StopWorker(run.id));
        }
        let Some(restart) = self.runs.give_up_front(now.instant) else { return };
        if passed_through {
            self.source.encode_all(&self.settings);
        }
        if let Some(flow) = self.state.flow_mut() {
            flow.restart = Some(restart);
        }
    }
}
