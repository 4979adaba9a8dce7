//! One stream without input or output: published media, worker answers and time go in; work orders, packaged segments
//! and the stream's end come out. Sockets, child processes and clocks are in [`super::driver`].
//!
//! A stream is a row of *runs*. A run is one epoch with at most one worker; the first run in the row owns the
//! packager, the last one takes what is published. A change of format, a dead worker or a returning publisher ends the
//! last run's input and appends another, which holds its samples back until the one before it has been flushed. So
//! there is one way from one epoch to the next, whatever the cause.
//!
//! What belongs here: the stream's state, what may happen to it, and what it wants done. What is published is taken in
//! `input`; the row of runs is moved on in `runs`.

mod input;
mod runs;

use super::anchor::{AnchorTracker, Now};
use super::delays::{Delays, Stage, Verdict};
use super::gop::Gop;
use super::probe::Probe;
use super::restart::{Restart, RestartPolicy};
use super::run::{Run, RunId, WorkerState};
use crate::ladder::{Ladder, Plan, RungSpec, SourceVideo};
use crate::media::{AudioConfig, Media, VideoConfig};
use crate::rtmp::Metadata;
use crate::worker::{Job, Progress, Request, Response, VideoSettings};
use bytes::Bytes;
use hls::packager::{Output, Packager};
use hls::resume::Past;
use hls::{MediaSpan, MediaTime, Timing, Track};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Runs in a row, and with them worker processes, that a stream has at most. A publisher that changes its format faster
/// than workers flush waits for them.
const MAX_RUNS: usize = 3;

/// What is published, where renditions are told apart by name.
const PUBLISHED: &str = "published";

/// What a stream is run with; the same for all streams of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which renditions.
    pub ladder: Ladder,
    /// Cores at hand.
    pub cores: usize,
    /// Everything that follows from the latency knob.
    pub timing: Timing,
    /// How video is encoded.
    pub video: VideoSettings,
    /// How long a publisher may be gone before the stream has ended.
    pub reconnect_window: Duration,
    /// A picture this often, in media time.
    pub thumbnail_every_ms: u32,
    /// Whether media comes as it is made. Else it comes from a file as fast as it goes, and its age means nothing.
    pub live: bool,
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect {
    /// Start a worker, feed it with [`StreamCore::next_request`].
    StartWorker(RunId, Box<Job>),
    /// End a worker at once; its exit need not be told.
    StopWorker(RunId),
    /// An epoch begins with these renditions.
    Epoch(Vec<Track>),
    /// An init or media segment.
    Packaged(Output),
    /// A picture of the stream.
    Thumbnail(Bytes),
    /// The stream has ended for good.
    Ended,
}

/// Who publishes.
#[derive(Debug)]
enum Publisher {
    /// Nobody, since then.
    Absent(Instant),
    /// Somebody, and what is not known yet.
    Probing(Box<Probe>),
    /// Somebody; the last run takes it.
    Flowing,
    /// Nobody ever again.
    Over,
}

/// The stream has ended, or is about to: nobody can publish to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct StreamOver;

/// Counters of a stream's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Workers that replaced one which died or hung.
    pub worker_restarts: u64,
    /// Units dropped in the shed queue.
    pub shed_units: u64,
    /// Silent frames put into holes of the audio.
    pub silent_frames: u64,
    /// Frames of audio that came too late.
    pub late_audio_frames: u64,
    /// Samples that the packager refused, or that waited for too long for their epoch to begin.
    pub refused_samples: u64,
    /// Times that the publisher came (back).
    pub publishes: u64,
}

/// A stream's state; see the module.
#[derive(Debug)]
pub struct StreamCore {
    settings: Settings,
    publisher: Publisher,
    closing: bool,
    runs: VecDeque<Run>,
    next_run: u32,
    plan: Option<Plan>,
    source: Option<SourceVideo>,
    source_fits: bool,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    /// What is published does not go on as it was: the next keyframe starts a new run.
    switch: bool,
    /// Video in this configuration has been announced; it comes with the next keyframe.
    next_video: Option<VideoConfig>,
    /// Newest media that a run was fed.
    fed_until: MediaTime,
    restart: Option<Restart>,
    restarts: RestartPolicy,
    gop: Gop,
    last_source_key: Option<MediaTime>,
    anchors: AnchorTracker,
    packager: Packager,
    epochs: u32,
    packaged_until: MediaTime,
    newest: MediaTime,
    counters: Counters,
    progress: Progress,
    delays: Delays,
    effects: VecDeque<Effect>,
}

impl StreamCore {
    /// A stream that nobody publishes to yet. `first_sequence` is the media sequence number of its first segment.
    pub fn new(settings: Settings, first_sequence: u64, now: Instant) -> Self {
        let packager = Packager::new(settings.timing.clone(), first_sequence);
        let delays = Delays::new(&settings.timing);
        Self {
            settings,
            publisher: Publisher::Absent(now),
            closing: false,
            runs: VecDeque::new(),
            next_run: 0,
            plan: None,
            source: None,
            source_fits: false,
            video: None,
            audio: None,
            switch: false,
            next_video: None,
            fed_until: MediaTime::ZERO,
            restart: None,
            restarts: RestartPolicy::default(),
            gop: Gop::default(),
            last_source_key: None,
            anchors: AnchorTracker::default(),
            packager,
            epochs: 0,
            packaged_until: MediaTime::ZERO,
            newest: MediaTime::ZERO,
            counters: Counters::default(),
            progress: Progress::default(),
            delays,
            effects: VecDeque::new(),
        }
    }

    /// The same behind what an earlier writer of the stream left.
    pub fn resume(settings: Settings, past: &Past, now: Instant) -> Self {
        let packager = Packager::resume(settings.timing.clone(), past);
        Self { packager, ..Self::new(settings, past.next_sequence(), now) }
    }

    // --- what happens to it ---

    /// Somebody publishes (again). Returns where the media axis stands, when it has begun: what is published now has to
    /// lie behind it. Whoever published until now is taken to be gone.
    ///
    /// # Errors
    /// When the stream has ended, or is to end without another publisher: a new stream has to be made.
    pub fn publisher_came(&mut self, now: Now) -> Result<Option<MediaTime>, StreamOver> {
        if self.closing || self.is_over() {
            return Err(StreamOver);
        }
        if self.is_published() {
            self.publisher_gone(now);
        }
        self.counters.publishes += 1;
        let wants_source = match &self.settings.ladder {
            Ladder::Auto => false,
            Ladder::Rungs(specs) => specs.contains(&RungSpec::Source),
        };
        let source_gop = wants_source.then_some(self.settings.timing.max_source_gop);
        self.publisher = Publisher::Probing(Box::new(Probe::new(source_gop, now.instant)));
        self.anchors = AnchorTracker::default();
        Ok((self.counters.publishes > 1).then_some(self.newest))
    }

    /// The publisher described itself.
    pub fn metadata(&mut self, metadata: Metadata) {
        if let Publisher::Probing(probe) = &mut self.publisher {
            probe.metadata(metadata);
        }
    }

    /// The publisher sent something.
    pub fn media(&mut self, media: Media, now: Now) {
        if let Media::Video(unit) | Media::Audio(unit) = &media {
            self.newest = self.newest.max(unit.pts);
            if let Some(anchor) = self.anchors.arrived(unit.pts, now.wall_of(unit.arrived)) {
                self.packager.re_anchor(anchor);
            }
            let (pts, arrived) = (unit.pts, now.wall_of(unit.arrived));
            self.passed(Stage::Arrived, PUBLISHED, pts, Now { wall: arrived, ..now });
        }
        match &mut self.publisher {
            Publisher::Probing(probe) => {
                probe.push(media);
                self.judge(now);
            }
            Publisher::Flowing => {
                self.gop.push(&media);
                self.flow(media, now);
            }
            Publisher::Absent(_) | Publisher::Over => {}
        }
        self.pump(now);
    }

    /// The publisher went away, in whatever manner.
    pub fn publisher_gone(&mut self, now: Now) {
        if matches!(self.publisher, Publisher::Over) {
            return;
        }
        // What was still being looked at is enough for a short clip, if it is anything at all.
        if let Publisher::Probing(probe) = &self.publisher
            && let Some(findings) = probe.verdict(now.instant + Duration::from_secs(60))
        {
            self.settle(findings, now);
        }
        self.end_input(now.instant);
        self.delays.paused();
        self.restart = None;
        self.switch = false;
        self.next_video = None;
        self.gop.clear();
        self.last_source_key = None;
        self.publisher = Publisher::Absent(now.instant);
        self.pump(now);
        self.tick(now);
    }

    /// No more publishers: the stream ends as soon as what it has is flushed.
    pub fn close(&mut self, now: Now) {
        self.closing = true;
        self.publisher_gone(now);
    }

    /// No more publishers but the one that is there: the stream ends when it goes, or now when nobody is there.
    pub fn close_after_publisher(&mut self, now: Now) {
        self.closing = true;
        self.tick(now);
    }

    /// A worker said something.
    pub fn worker_said(&mut self, id: RunId, response: Response, now: Now) {
        let Some(run) = self.runs.iter_mut().find(|run| run.id == id) else { return };
        if let WorkerState::Running { heard, owing_since, .. } = &mut run.worker {
            *heard = now.instant;
            *owing_since = if run.queue.is_empty() { None } else { Some(now.instant) };
        }
        match response {
            Response::Opened(tracks) => {
                run.opened(tracks);
            }
            Response::Unit(unit) => {
                if let Some((rung, sample)) = run.encoded(unit) {
                    self.passed(Stage::Encoded, rung.as_str(), sample.pts, now);
                    self.package(id, rung, sample);
                }
            }
            Response::Thumbnail(picture) => self.effects.push_back(Effect::Thumbnail(picture)),
            Response::Progress(progress) => self.progress = progress,
            Response::Finished if run.input_ended.is_some() && run.queue.is_empty() => {
                run.worker = WorkerState::Finished;
            }
            // Nobody asked it to: there is more to encode.
            Response::Finished => {
                warn!(worker = id.0, "worker finishes too early: it is replaced");
                self.effects.push_back(Effect::StopWorker(id));
                self.worker_gone(id, now);
            }
        }
        self.pump(now);
    }

    /// A worker's process has ended, or its pipe broke. Nothing to do when it had finished.
    pub fn worker_gone(&mut self, id: RunId, now: Now) {
        let Some(index) = self.runs.iter().position(|run| run.id == id) else { return };
        let WorkerState::Running { started, .. } = self.runs[index].worker else { return };
        self.runs[index].worker = WorkerState::Dead;
        let takes_input = self.runs[index].input_ended.is_none();
        self.runs[index].input_ended.get_or_insert(now.instant);
        if takes_input {
            let restart = self.restarts.died(started, now.instant);
            self.counters.worker_restarts += 1;
            metrics::counter!("encoder_worker_restarts_total").increment(1);
            self.restart = Some(restart);
            if !restart.replay {
                self.gop.clear();
            }
        }
        // Before its successor starts: what is packaged by then need not be encoded again.
        self.pump(now);
        self.tick(now);
    }

    /// Time has passed; call at least ten times a second.
    pub fn tick(&mut self, now: Now) {
        if matches!(self.publisher, Publisher::Probing(_)) {
            self.judge(now);
        }
        self.watch_workers(now);
        self.restart_if_due(now);
        self.pump(now);
        if let Publisher::Absent(since) = self.publisher
            && self.runs.is_empty()
            && (self.closing
                || now.instant.saturating_duration_since(since) >= self.settings.reconnect_window)
        {
            self.publisher = Publisher::Over;
            self.effects.push_back(Effect::Ended);
        }
    }

    // --- what it wants ---

    /// The next thing for the driver to do.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether [`Self::poll`] has something.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// The next request for a run's worker.
    pub fn next_request(&mut self, id: RunId, now: Instant) -> Option<Request> {
        let run = self.runs.iter_mut().find(|run| run.id == id)?;
        let request = run.queue.pop()?;
        if let WorkerState::Running { owing_since, .. } = &mut run.worker {
            owing_since.get_or_insert(now);
        }
        Some(request)
    }

    /// Whether a run is still there; a worker whose run is gone has nothing to do.
    pub fn has_run(&self, id: RunId) -> bool {
        self.runs.iter().any(|run| run.id == id)
    }

    /// Requests that wait for a worker; for those who feed faster than live.
    pub fn waiting_requests(&self) -> usize {
        self.runs.iter().map(|run| run.queue.len()).sum()
    }

    /// Published media that is not in any segment yet, in media time.
    pub fn lag(&self) -> MediaSpan {
        (self.newest - self.packaged_until).max(MediaSpan::ZERO)
    }

    /// How long media takes to get how far.
    pub fn delays(&self) -> &Delays {
        &self.delays
    }

    /// A rendition's media of that time has passed a stage.
    pub fn passed(&mut self, stage: Stage, rung: &str, media: MediaTime, now: Now) {
        let Some(arrival) = self.anchors.least_delayed().filter(|_| self.settings.live) else { return };
        let micros = now.wall.unix_micros() - arrival.wall_at(media).unix_micros();
        let age = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        match self.delays.passed(stage, rung, age, now.instant) {
            None => {}
            Some(Verdict::Broken { stage, rung, worst, budget }) => warn!(
                stage = stage.name(),
                rung,
                worst = ?worst,
                budget = ?budget,
                suspect = stage.suspect(),
                "media is late for ten seconds: viewers are further from live than the latency says, or about to stall"
            ),
            Some(Verdict::Kept) => info!("media is in time again"),
        }
    }

    /// Whether the stream has ended for good.
    pub fn is_over(&self) -> bool {
        matches!(self.publisher, Publisher::Over)
    }

    /// Whether segments come in parts.
    pub fn has_parts(&self) -> bool {
        self.settings.timing.parts.is_some()
    }

    /// Whether a publisher is there.
    pub fn is_published(&self) -> bool {
        matches!(self.publisher, Publisher::Probing(_) | Publisher::Flowing)
    }

    /// Counters so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the present worker has done.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The packager's counters.
    pub fn packager_counters(&self) -> hls::packager::Counters {
        self.packager.counters()
    }

    /// The chosen renditions, once there are any.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The published video, once it is known.
    pub fn source(&self) -> Option<&SourceVideo> {
        self.source.as_ref()
    }
}
