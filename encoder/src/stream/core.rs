//! One stream without input or output: published media, worker answers and time go in; work orders, packaged segments
//! and the stream's end come out. Sockets, child processes and clocks are in [`super::driver`].
//!
//! A stream is a row of *runs*. A run is one epoch with at most one worker; the first run in the row owns the
//! packager, the last one takes what is published. A change of format, a dead worker or a returning publisher ends the
//! last run's input and appends another, which holds its samples back until the one before it has been flushed. So
//! there is one way from one epoch to the next, whatever the cause.

use super::anchor::{AnchorTracker, Now};
use super::gop::Gop;
use super::probe::{Findings, Probe};
use super::restart::{Restart, RestartPolicy};
use super::run::{AudioSource, Run, RunId, RunSetup, WorkerState};
use crate::ladder::{self, Ladder, Plan, RungSpec, SourceVideo};
use crate::media::{AccessUnit, AudioConfig, Media, VideoConfig};
use crate::rtmp::Metadata;
use crate::worker::{Job, Progress, Request, Response, VideoSettings};
use bytes::Bytes;
use hls::packager::{BeginError, CutRule, Epoch, Output, Packager};
use hls::{Anchor, MediaSpan, MediaTime, RungName, Sample, SessionId, Timing, Track};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long a worker may be silent after its input's end: flushing takes a slow encoder longer, but it is heard.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// A worker may take this long to start: loading libav from a cold disk included.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Runs in a row, and with them worker processes, that a stream has at most. A publisher that changes its format faster
/// than workers flush waits for them.
const MAX_RUNS: usize = 3;
/// A hole in what is published that ends the epoch: viewers skip it, instead of waiting through empty segments. Well
/// below [`hls::packager::MAX_JUMP`], beyond which the packager refuses what follows.
const MAX_HOLE: MediaSpan = MediaSpan::from_millis(10_000);

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
    effects: VecDeque<Effect>,
}

impl StreamCore {
    /// A stream that nobody publishes to yet. `first_sequence` is the media sequence number of its first segment.
    pub fn new(settings: Settings, first_sequence: u64, now: Instant) -> Self {
        let packager = Packager::new(settings.timing.clone(), first_sequence);
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
            effects: VecDeque::new(),
        }
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
        self.tick(now);
        self.pump(now);
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

    /// Whether the stream has ended for good.
    pub fn is_over(&self) -> bool {
        matches!(self.publisher, Publisher::Over)
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
        self.progress
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

    // --- how it decides ---

    fn judge(&mut self, now: Now) {
        if let Publisher::Probing(probe) = &self.publisher
            && let Some(findings) = probe.verdict(now.instant)
        {
            self.settle(findings, now);
        }
    }

    /// The probe has its verdict: renditions are chosen and what was held flows.
    fn settle(&mut self, findings: Findings, now: Now) {
        let Publisher::Probing(probe) = std::mem::replace(&mut self.publisher, Publisher::Flowing) else {
            return;
        };
        let held = probe.into_held();
        let video_start = held.iter().find_map(|media| match media {
            Media::Video(unit) if unit.key => Some(unit.pts),
            _ => None,
        });
        let audio_start = held.iter().find_map(|media| match media {
            Media::Audio(unit) => Some(unit.pts),
            _ => None,
        });
        self.audio = findings.audio;
        self.video = None;
        if let Some((config, source, fits)) = findings.video {
            self.adopt(config, source, fits);
        }
        let Some(start) = (if self.video.is_some() { video_start } else { audio_start }) else { return };
        self.append_run(start, now);
        self.expect_backlog(self.newest - start);
        self.last_source_key = None;
        for media in held {
            self.gop.push(&media);
            self.flow(media, now);
        }
    }

    /// Takes a video configuration, choosing renditions or fitting the chosen ones to it.
    fn adopt(&mut self, config: VideoConfig, source: SourceVideo, fits: bool) {
        let plan = match &self.plan {
            Some(former) => ladder::replan(former, &source, fits && former.source),
            None => ladder::plan(&self.settings.ladder, &source, fits, self.settings.cores),
        };
        let rungs: Vec<String> = plan
            .rungs
            .iter()
            .map(|rung| {
                let fps = f64::from(rung.frame_rate.0) / f64::from(rung.frame_rate.1.max(1));
                format!("{} {}x{} {:.5}fps {}k", rung.name, rung.width, rung.height, fps, rung.bitrate / 1000)
            })
            .collect();
        info!(
            source = format!("{}x{}", source.width, source.height),
            fps = f64::from(source.frame_rate.0) / f64::from(source.frame_rate.1.max(1)),
            passed_through = plan.source,
            rungs = rungs.join(", "),
            reasons = plan.reasons.join("; "),
            "renditions chosen"
        );
        self.plan = Some(plan);
        self.source = Some(source);
        self.source_fits = fits;
        self.video = Some(config);
    }

    /// What is published while it flows.
    fn flow(&mut self, media: Media, now: Now) {
        if let Media::Video(unit) | Media::Audio(unit) = &media
            && unit.pts - self.fed_until > MAX_HOLE
        {
            self.skip_hole(&media, now);
        }
        match media {
            Media::VideoConfig(config) => self.video_config(config),
            Media::AudioConfig(config) => self.audio_config(config),
            Media::Video(unit) => self.video(unit, now),
            Media::Audio(unit) => self.audio(unit, now),
        }
    }

    fn video_config(&mut self, config: VideoConfig) {
        if self.next_video.as_ref().or(self.video.as_ref()) == Some(&config) {
            return;
        }
        info!(width = config.width, height = config.height, "published video changes its format");
        self.next_video = Some(config);
        self.gop.clear();
        self.last_source_key = None;
        self.switch = true;
    }

    /// Nothing was published for long, or its time jumped: what follows is a run of its own.
    fn skip_hole(&mut self, media: &Media, now: Now) {
        match media {
            Media::Video(unit) => {
                if !unit.key {
                    self.gop.clear();
                }
                self.switch = true;
            }
            Media::Audio(_) if self.video.is_some() => {
                self.gop.clear();
                self.switch = true;
            }
            Media::Audio(unit) => {
                if self.has_live_run() {
                    self.append_run(unit.pts, now);
                }
            }
            Media::VideoConfig(_) | Media::AudioConfig(_) => {}
        }
    }

    /// The run that was waited for begins: in the announced format, if one was.
    fn switch_run(&mut self, start: MediaTime, now: Now) {
        if let Some(config) = self.next_video.take() {
            self.adopt_changed(config);
        }
        self.append_run(start, now);
    }

    fn adopt_changed(&mut self, config: VideoConfig) {
        let former = self.source;
        let source = SourceVideo {
            width: config.width,
            height: config.height,
            sample_aspect: config.sample_aspect,
            frame_rate: config.frame_rate.or(former.map(|source| source.frame_rate)).unwrap_or((30, 1)),
            bitrate: former.and_then(|source| source.bitrate),
        };
        self.adopt(config, source, self.source_fits);
    }

    fn audio_config(&mut self, config: AudioConfig) {
        if self.audio.as_ref() == Some(&config) {
            return;
        }
        self.audio = Some(config.clone());
        let Some(run) = self.runs.back_mut().filter(|run| run.input_ended.is_none()) else {
            self.gop.forget_audio();
            return;
        };
        if run.audio == AudioSource::Silence && config == super::silence::silent_config() {
            info!("audio has come, in place of the silence");
            run.unmute(config);
            return;
        }
        info!(
            sample_rate = config.sample_rate,
            channels = config.channels,
            "published audio changes its format"
        );
        self.gop.forget_audio();
        self.switch = true;
    }

    fn video(&mut self, unit: AccessUnit, now: Now) {
        if self.switch {
            if !unit.key || self.runs.len() >= MAX_RUNS {
                return;
            }
            self.switch_run(unit.pts, now);
        }
        if unit.key {
            self.last_source_key = Some(unit.pts);
        } else if self.stopped_fitting(&unit) {
            // The run that follows is fed from the last keyframe to this unit.
            self.encode_source(now);
            return;
        }
        self.feed(Media::Video(unit));
        self.restart_if_due(now);
    }

    fn audio(&mut self, unit: AccessUnit, now: Now) {
        if self.switch {
            // Until video comes that was only announced, sound goes on alone.
            let wanted = AudioSource::of(self.audio.clone());
            let changed =
                self.runs.back().is_some_and(|run| run.input_ended.is_none() && run.audio != wanted);
            if self.video.is_some() || (changed && self.runs.len() >= MAX_RUNS) {
                return;
            }
            if changed {
                self.append_run(unit.pts, now);
            }
        }
        self.feed(Media::Audio(unit));
        self.restart_if_due(now);
    }

    /// Whether a published keyframe that segments have to be cut at is overdue.
    fn stopped_fitting(&self, unit: &AccessUnit) -> bool {
        let follows = self.runs.back().is_some_and(|run| run.input_ended.is_none() && run.follows_source());
        let bound = self.settings.timing.max_source_gop;
        follows && self.last_source_key.is_some_and(|key| unit.pts - key > bound)
    }

    /// The rung `source` is encoded from the last published keyframe on.
    fn encode_source(&mut self, now: Now) {
        let (Some(source), Some(config)) = (self.source, self.video.clone()) else { return };
        warn!(
            bound = %self.settings.timing.max_source_gop,
            "published keyframes have become too far apart to pass the video through"
        );
        self.adopt(config, source, false);
        self.end_input(now.instant);
        self.restart = Some(Restart { at: now.instant, replay: true });
        self.restart_if_due(now);
    }

    /// Gives a published unit to the last run, unless its input has ended.
    fn feed(&mut self, media: Media) {
        let Some(run) = self.runs.back_mut().filter(|run| run.input_ended.is_none()) else { return };
        let mut packaged = Vec::new();
        if let Media::Video(unit) | Media::Audio(unit) = &media {
            self.fed_until = self.fed_until.max(unit.pts);
        }
        match media {
            Media::Video(unit) => run.video(&unit, &mut packaged),
            Media::Audio(unit) => run.audio(unit, &mut packaged),
            Media::VideoConfig(_) | Media::AudioConfig(_) => {}
        }
        let shed = run.queue.take_shed();
        if shed > 0 {
            self.counters.shed_units += shed;
            metrics::counter!("encoder_shed_units_total").increment(shed);
        }
        let (silent, late) = run.take_audio_repairs();
        self.counters.silent_frames += silent;
        self.counters.late_audio_frames += late;
        let id = run.id;
        for (rung, sample) in packaged {
            self.package(id, rung, sample);
        }
    }

    /// Starts the run that follows a dead one, when its time has come and there is something to start from.
    fn restart_if_due(&mut self, now: Now) {
        let Some(restart) = self.restart.filter(|restart| restart.at <= now.instant) else { return };
        let awaits_key = self.switch && self.video.is_some();
        if !matches!(self.publisher, Publisher::Flowing) || awaits_key {
            return;
        }
        let replayed: Vec<Media> =
            if self.video.is_some() { self.gop.since_keyframe().to_vec() } else { Vec::new() };
        let start = match (replayed.first(), &self.video) {
            (Some(Media::Video(unit)), Some(_)) => unit.pts,
            (_, Some(_)) => return, // until the next keyframe
            (_, None) => self.newest,
        };
        info!(from = %start, replay = restart.replay, "starting the next worker");
        self.append_run(start, now);
        self.expect_backlog(self.newest - start);
        for media in replayed {
            self.feed(media);
        }
    }

    /// What is published goes to a new run from now on. It stands for whatever was waited for: a restart, a switch.
    fn append_run(&mut self, first_pts: MediaTime, now: Now) {
        self.end_input(now.instant);
        while self.runs.len() >= MAX_RUNS {
            self.hurry_front(now);
        }
        self.restart = None;
        self.switch = self.next_video.is_some();
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
        if let Some(job) = run.job(&self.settings.video, self.settings.thumbnail_every_ms) {
            self.effects.push_back(Effect::StartWorker(id, Box::new(job)));
        }
        self.runs.push_back(run);
    }

    /// Ends the first run as it stands: it has had its time, and others wait behind it.
    fn hurry_front(&mut self, now: Now) {
        let Some(run) = self.runs.front_mut() else { return };
        if matches!(run.worker, WorkerState::Running { .. }) {
            warn!(worker = run.id.0, "too many changes at once: what this worker has not flushed is lost");
            self.effects.push_back(Effect::StopWorker(run.id));
            run.worker = WorkerState::Dead;
        }
        self.pump(now);
    }

    fn has_live_run(&self) -> bool {
        self.runs.back().is_some_and(|run| run.input_ended.is_none())
    }

    /// What is fed at once at a run's start is not a sign of an encoder that is too slow.
    fn expect_backlog(&mut self, span: MediaSpan) {
        if let Some(run) = self.runs.back_mut() {
            run.queue.expect_backlog(span);
        }
    }

    fn end_input(&mut self, now: Instant) {
        if let Some(run) = self.runs.back_mut().filter(|run| run.input_ended.is_none()) {
            run.input_ended = Some(now);
            run.queue.finish();
        }
    }

    /// Kills workers that hang. What follows is what follows any death.
    fn watch_workers(&mut self, now: Now) {
        let silence = self.settings.timing.worker_silence.to_duration();
        let hung: Vec<(RunId, &str)> = self
            .runs
            .iter()
            .filter_map(|run| {
                let WorkerState::Running { started, heard, owing_since } = run.worker else { return None };
                let past = |since: Instant| now.instant.saturating_duration_since(since);
                let silent = owing_since.map_or(Duration::ZERO, |since| past(since.max(heard)));
                if run.input_ended.is_some_and(|since| past(since.max(heard)) > FLUSH_DEADLINE) {
                    return Some((run.id, "it does not finish"));
                }
                let patience = if heard == started { START_DEADLINE } else { silence };
                (silent > patience).then_some((run.id, "it has gone silent"))
            })
            .collect();
        for (id, why) in hung {
            warn!(worker = id.0, why, "worker hangs: it is killed");
            metrics::counter!("encoder_worker_hangs_total").increment(1);
            self.effects.push_back(Effect::StopWorker(id));
            self.worker_gone(id, now);
        }
    }

    /// A sample to the packager, or into waiting until its epoch is open.
    fn package(&mut self, id: RunId, rung: RungName, sample: Sample) {
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

    /// Moves the row of runs on: begins the first when it can begin, removes it when it is done.
    fn pump(&mut self, now: Now) {
        while let Some(run) = self.runs.front() {
            if !run.begun
                && let Some(start) = run.start_at_or_after(self.packaged_until)
            {
                self.begin(start, now);
            }
            let Some(run) = self.runs.front().filter(|run| run.is_done()) else { return };
            if run.begun {
                // A worker that flushed has brought every rendition to the same end; a dead one has not.
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
        info!(epoch = self.epochs, %session, at = %start, renditions = tracks.len(), "epoch begins");
        if let Err(error) =
            self.packager.begin(Epoch { session, start, anchor, tracks: tracks.clone(), cuts })
        {
            self.give_up_front(&error, now);
            return;
        }
        self.effects.push_back(Effect::Epoch(tracks));
        self.drain_packager();
        for (rung, sample) in held {
            if sample.pts >= start && self.packager.push(&rung, sample).is_err() {
                self.counters.refused_samples += 1;
            }
        }
        self.drain_packager();
    }

    /// The first run's tracks cannot be packaged: published parameter sets that only a decoder can make sense of.
    /// Without passing them through there is still a picture.
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
        self.restart = Some(restart);
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
