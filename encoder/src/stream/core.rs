//! One stream as a state machine without I/O. Its inputs are published media, worker responses and time; its outputs
//! are worker requests, packaged segments and the end of the stream. Sockets, child processes and clocks are in
//! [`super::driver`].
//!
//! A stream is an ordered list of *runs*. A run is one epoch with at most one worker; the first run in the list owns
//! the packager, the last run receives the published media. A format change, a dead worker or a returning publisher
//! ends the last run's input and appends a new run, which holds its samples back until the previous run has been
//! flushed. So every change of epoch takes the same path, regardless of its cause.
//!
//! What belongs here: the events that change a stream's state, and the effects that follow. The state consists of
//! parts, each with its own methods: the publisher (`state`), the published media's facts (`source`), the row of runs
//! (`row`), the packager (`packaging`) and the figures (`figures`). What concerns several parts is in `input` for
//! published media, and in `runs` for advancing the row of runs.

mod figures;
mod input;
mod packaging;
mod row;
mod runs;
mod source;
mod state;

pub(crate) use self::figures::StreamCounters;

use self::figures::Figures;
use self::packaging::Packaging;
use self::row::{RunRow, WorkerDeath};
use self::source::SourceFacts;
use self::state::{Intake, StreamState};
use super::anchor::Now;
use super::delays::{Delays, Stage};
use super::probe::SourceProbe;
use super::run::{RunId, WorkerState};
use crate::stream::ladder::{Ladder, Plan, RungSpec, SourceVideo};
use bytes::Bytes;
use hls::packager::{Output, Packager};
use hls::resume::Past;
use hls::{Timing, Track};
use media::captions::CaptionServices;
use media::{Media, MediaSpan, MediaTime};
use rtmp::Metadata;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use transcode::wire::{Job, Request, Response, VideoSettings, WorkerProgress};

/// Name of the published media where statistics are kept by rendition name.
const PUBLISHED: &str = "published";

/// Settings of a stream. Streams of one process differ only in their latency and what follows from it.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// The configured renditions.
    pub ladder: Ladder,
    /// Number of CPU cores available.
    pub cores: usize,
    /// All durations that follow from the latency setting.
    pub timing: Timing,
    /// Encoder settings for video.
    pub video: VideoSettings,
    /// How long a publisher may be absent before the stream ends.
    pub reconnect_window: Duration,
    /// Interval between thumbnails, in milliseconds of media time; 0 for none.
    pub thumbnail_every_ms: u32,
    /// Pixels of the largest coded picture that is accepted from a publisher.
    pub max_pixels: u64,
    /// Whether media arrives in real time. Otherwise it is read from a file as fast as possible, and its age means
    /// nothing.
    pub live: bool,
}

impl StreamSettings {
    /// The longest keyframe distance with which the rung `source` is passed through; `None` without that rung.
    fn source_gop(&self) -> Option<MediaSpan> {
        match &self.ladder {
            Ladder::Auto => None,
            Ladder::Rungs(specs) => {
                let passes = specs.iter().any(|spec| matches!(spec, RungSpec::Source(_)));
                passes.then_some(self.timing.max_source_gop)
            }
        }
    }
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Effect {
    /// Start a worker and feed it with [`StreamCore::next_request`].
    StartWorker(RunId, Box<Job>),
    /// Kill a worker immediately; its exit need not be reported.
    StopWorker(RunId),
    /// An epoch begins with these renditions, or the present epoch's renditions have captions that were not known.
    Epoch(Vec<Track>),
    /// An init segment, a part or a media segment.
    Packaged(Output),
    /// A thumbnail of the stream, a JPEG.
    Thumbnail(Bytes),
    /// The stream has ended for good.
    Ended,
}

/// The stream has ended or is about to end: it accepts no publisher any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct StreamOver;

/// The state of one stream; see the module documentation.
#[derive(Debug)]
pub struct StreamCore {
    settings: StreamSettings,
    state: StreamState,
    source: SourceFacts,
    runs: RunRow,
    packaging: Packaging,
    figures: Figures,
    effects: VecDeque<Effect>,
}

impl StreamCore {
    /// Creates a stream without a publisher. `first_sequence` is the media sequence number of its first segment.
    pub fn new(settings: StreamSettings, first_sequence: u64, now: Instant) -> Self {
        let packager = Packager::new(settings.timing.clone(), first_sequence);
        Self::with_packager(settings, packager, now)
    }

    /// Creates a stream that continues after the segments that an earlier writer of the stream left in the store.
    pub fn resume(settings: StreamSettings, past: &Past, now: Instant) -> Self {
        let packager = Packager::resume(settings.timing.clone(), past);
        let mut resumed = Self::with_packager(settings, packager, now);
        resumed.source.inherit_captions(past.captions());
        if !past.ended() {
            resumed.source.expect_renditions(past.rungs());
        }
        resumed
    }

    fn with_packager(settings: StreamSettings, packager: Packager, now: Instant) -> Self {
        Self {
            state: StreamState::Absent { since: now },
            source: SourceFacts::default(),
            runs: RunRow::default(),
            packaging: Packaging::new(packager),
            figures: Figures::new(&settings.timing),
            effects: VecDeque::new(),
            settings,
        }
    }

    // --- events ---

    /// A publisher connected (again). If the stream was published before, returns the end of its media axis so far: the
    /// timestamps of this publisher have to lie after that time. A publisher that is still connected is taken to have
    /// left.
    ///
    /// # Errors
    /// When the stream has ended, or is closing and accepts no further publisher: the caller has to make a new stream.
    pub fn publisher_came(&mut self, now: Now) -> Result<Option<MediaTime>, StreamOver> {
        if !self.state.accepts_publisher() {
            return Err(StreamOver);
        }
        if self.is_published() {
            self.end_publish(now);
        }
        self.figures.counters.publishes += 1;
        self.state = StreamState::published(SourceProbe::new(self.settings.source_gop(), now.instant));
        self.packaging.publisher_came();
        Ok((self.figures.counters.publishes > 1).then_some(self.source.newest()))
    }

    /// The publisher sent its metadata.
    pub fn metadata(&mut self, metadata: Metadata) {
        if let Some(probe) = self.state.probe_mut() {
            probe.metadata(metadata);
        }
    }

    /// The publisher sent an access unit or a configuration, whose last byte arrived at `arrived`.
    pub fn media(&mut self, media: Media, arrived: Instant, now: Now) {
        if let Media::Video(unit) | Media::Audio(unit) = &media {
            let (pts, wall) = (unit.pts, now.wall_of(arrived));
            self.source.arrived(pts);
            self.packaging.arrived(pts, wall);
            self.passed(Stage::Arrived, PUBLISHED, pts, Now { wall, ..now });
        }
        if let Some(services) = self.source.watch_captions(&media) {
            self.announce_captions(services);
        }
        match &mut self.state {
            StreamState::Published { intake: Intake::Probing(probe), .. } => {
                probe.push(media);
                self.judge(now);
            }
            StreamState::Published { intake: Intake::Flowing(_), .. } => self.flow(media, now),
            StreamState::Absent { .. } | StreamState::Flushing { .. } | StreamState::Over => {}
        }
        self.pump(now);
    }

    /// Captions begin: the renditions that viewers have learned of get the services, and so do those of later epochs.
    fn announce_captions(&mut self, services: CaptionServices) {
        info!(services = services.names().collect::<Vec<_>>().join(", "), "captions are published");
        if let Some(tracks) = self.runs.add_captions(services) {
            self.effects.push_back(Effect::Epoch(tracks));
        }
    }

    /// The publisher disconnected, for any reason.
    pub fn publisher_gone(&mut self, now: Now) {
        if self.is_over() {
            return;
        }
        self.end_publish(now);
        self.tick(now);
    }

    /// Ends the media of the publisher, if there is one.
    fn end_publish(&mut self, now: Now) {
        // A short clip may end while it is still being probed: its held media is enough for a verdict, if there is any.
        let late = now.instant + Duration::from_secs(60);
        if let Some(findings) = self.state.probe().and_then(|probe| probe.verdict(late)) {
            self.settle(findings, now);
        }
        self.runs.end_input(now.instant);
        self.figures.delays.paused();
        self.state.publisher_leaves(now.instant);
        self.pump(now);
    }

    /// Accepts no further publishers: the stream ends once all received media is flushed.
    pub fn close(&mut self, now: Now) {
        self.state.accept_no_further();
        self.publisher_gone(now);
    }

    /// Accepts no further publishers after the present one: the stream ends when that publisher leaves or, if none is
    /// connected, once all received media is flushed.
    pub fn close_after_publisher(&mut self, now: Now) {
        self.state.accept_no_further();
        self.tick(now);
    }

    /// A worker sent a response.
    pub fn worker_said(&mut self, id: RunId, response: Response, now: Now) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.responded(now.instant);
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
            Response::Progress(progress) => {
                self.figures.progressed(run.new_decode_errors(&progress), progress);
            }
            Response::Finished if run.is_to_finish() => run.worker = WorkerState::Finished,
            // The worker finished unasked: its input has not ended, or requests are still queued.
            Response::Finished => {
                warn!(worker = id.0, "worker finishes too early: it is replaced");
                self.effects.push_back(Effect::StopWorker(id));
                self.worker_gone(id, now);
            }
        }
        self.pump(now);
    }

    /// A worker's process ended, or its pipe broke. This has no effect if the worker had finished.
    pub fn worker_gone(&mut self, id: RunId, now: Now) {
        match self.runs.worker_died(id, now.instant) {
            WorkerDeath::Expected => return,
            WorkerDeath::WhileFlushing => {}
            WorkerDeath::WhileFed(restart) => {
                self.figures.worker_died();
                if let Some(flow) = self.state.flow_mut() {
                    flow.worker_died(restart);
                }
            }
        }
        // Package this worker's output before its successor starts: the successor does not encode that time again.
        self.pump(now);
        self.tick(now);
    }

    /// Time has passed. To be called at [`Self::wake_at`]; calls at other times change nothing.
    pub fn tick(&mut self, now: Now) {
        self.judge(now);
        self.watch_workers(now);
        self.restart_if_due(now);
        self.pump(now);
        if self.ends_at().is_some_and(|at| at <= now.instant) {
            self.state = StreamState::Over;
            self.effects.push_back(Effect::Ended);
        }
    }

    /// The earliest time at which [`Self::tick`] changes anything if no event comes before; `None` if it never does. A
    /// time in the past means that a tick is due now. Every event may change this time.
    pub fn wake_at(&self) -> Option<Instant> {
        let verdict = self.state.probe().and_then(SourceProbe::verdict_at);
        let hang = self.runs.hang_at(self.worker_silence());
        let restart = self.state.flow().and_then(|flow| flow.restart_at(&self.source));
        [verdict, hang, restart, self.ends_at()].into_iter().flatten().min()
    }

    /// How long a worker that has work may be silent.
    fn worker_silence(&self) -> Duration {
        self.settings.timing.worker_silence.to_duration()
    }

    /// When the stream ends unless a publisher comes; `None` while there is one, or media to be flushed.
    fn ends_at(&self) -> Option<Instant> {
        let at = self.state.ends_at(self.settings.reconnect_window)?;
        self.runs.is_empty().then_some(at)
    }

    // --- effects and state ---

    /// The next effect for the driver to carry out.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether [`Self::poll`] would return an effect.
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// The next request for a run's worker.
    pub fn next_request(&mut self, id: RunId, now: Instant) -> Option<Request> {
        self.runs.get_mut(id)?.next_request(now)
    }

    /// Whether a run still exists. A worker whose run is gone gets no further requests.
    pub fn has_run(&self, id: RunId) -> bool {
        self.runs.has(id)
    }

    /// Number of requests queued for workers; for callers that feed faster than live.
    pub fn waiting_requests(&self) -> usize {
        self.runs.waiting_requests()
    }

    /// Published media that is not in any segment yet, in media time.
    pub fn lag(&self) -> MediaSpan {
        (self.source.newest() - self.packaging.until()).max(MediaSpan::ZERO)
    }

    /// Statistics of how old media is at each stage.
    pub fn delays(&self) -> &Delays {
        &self.figures.delays
    }

    /// Records that a rendition's media with the time `media` has passed a stage at `now`.
    pub fn passed(&mut self, stage: Stage, rung: &str, media: MediaTime, now: Now) {
        let Some(arrival) = self.packaging.least_delayed().filter(|_| self.settings.live) else { return };
        let micros = now.wall.unix_micros() - arrival.wall_at(media).unix_micros();
        let age = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
        self.figures.passed(stage, rung, age, now.instant);
    }

    /// Whether the stream has ended for good.
    pub fn is_over(&self) -> bool {
        self.state.is_over()
    }

    /// Whether the stream has ended, or ends once all media is flushed: another stream may follow it.
    pub fn is_ending(&self) -> bool {
        !self.is_published() && !self.state.accepts_publisher()
    }

    /// Whether segments are published in parts.
    pub fn has_parts(&self) -> bool {
        self.settings.timing.parts.is_some()
    }

    /// Whether a publisher is connected.
    pub fn is_published(&self) -> bool {
        self.state.is_published()
    }

    /// Whether the stream waits for its publisher to come back.
    pub fn is_waiting(&self) -> bool {
        let has_window = !self.settings.reconnect_window.is_zero();
        has_window && !self.is_published() && self.state.accepts_publisher()
    }

    /// Counters so far.
    pub fn counters(&self) -> StreamCounters {
        self.figures.counters
    }

    /// The newest progress report of a worker.
    pub fn progress(&self) -> WorkerProgress {
        self.figures.progress.clone()
    }

    /// The packager's counters.
    pub fn packager_counters(&self) -> hls::packager::PackagerCounters {
        self.packaging.counters()
    }

    /// The renditions; `None` until they are chosen.
    pub fn plan(&self) -> Option<&Plan> {
        self.source.plan()
    }

    /// Properties of the published video; `None` until they are known.
    pub fn source(&self) -> Option<&SourceVideo> {
        self.source.properties()
    }
}
