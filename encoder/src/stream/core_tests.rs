//! The core against a fake worker and a fake clock: hours of stream in milliseconds.

use super::anchor::Now;
use super::core::{Effect, StreamCore, StreamCounters, StreamSettings};
use super::run::RunId;
use super::tests::{AVCC, audio_config, unit_at, video_config};
use crate::stream::ladder::Ladder;
use hls::packager::Output;
use hls::timing::Latency;
use hls::{Segment, SegmentInfo, Timing, Track};
use media::{AudioConfig, Media, MediaSpan, SoundTrackId, Unit, WallTime};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use transcode::wire::{
    AUDIO_TRACK, Job, Keyframes, OpenedTrack, Request, Response, VideoSettings, WireUnit, is_audio_track,
};

pub(crate) fn settings(ladder: &str) -> StreamSettings {
    let timing = Timing::new(Latency::from_secs_f64(4.0).unwrap());
    StreamSettings {
        ladder: ladder.parse::<Ladder>().unwrap(),
        cores: 2,
        video: VideoSettings {
            encoder: "libx264".into(),
            preset: "veryfast".into(),
            keyframes: Keyframes::Grid { ticks_90k: timing.gop.ticks_90k() },
            lookahead_frames: 0,
            b_frames: 0,
            vbv_ms: 1000,
        },
        timing,
        reconnect_window: Duration::from_secs(30),
        max_pixels: 8192 * 8192,
        thumbnail_every_ms: 0,
        live: true,
    }
}

/// A worker that passes units through immediately, with the keyframes that were requested.
pub(super) struct FakeWorker {
    job: Job,
    opened: bool,
    next_key: i64,
    /// A rung whose keyframes are left out.
    pub(super) keyless: Option<u8>,
}

impl FakeWorker {
    fn answer(&mut self, request: Request) -> Vec<Response> {
        match request {
            Request::Start(_) | Request::VideoConfig { .. } | Request::AudioConfig { .. } => Vec::new(),
            Request::Finish => vec![Response::Finished],
            Request::Unit(WireUnit { track, unit }) => {
                let mut answers = Vec::new();
                if !self.opened {
                    self.opened = true;
                    let rungs = (0..self.job.rungs.len())
                        .map(|i| OpenedTrack { track: i as u8, config: AVCC.to_vec() });
                    let audio = self
                        .job
                        .audio
                        .iter()
                        .map(|_| AUDIO_TRACK)
                        .chain(self.job.sound_tracks.iter().map(|job| job.track))
                        .map(|track| OpenedTrack { track, config: vec![0x11, 0x90] });
                    answers.push(Response::Opened(rungs.chain(audio).collect()));
                }
                if is_audio_track(track) {
                    // A mark up to which the track is silent is not a frame.
                    if !unit.data.is_empty() {
                        answers.push(Response::Unit(WireUnit { track, unit }));
                    }
                    return answers;
                }
                if unit.pts.ticks_90k() < self.job.encode_from_90k {
                    return answers;
                }
                let key = match self.job.video.keyframes {
                    Keyframes::Source => unit.key,
                    Keyframes::Grid { ticks_90k } => {
                        let due = unit.pts.ticks_90k() >= self.next_key;
                        if due {
                            self.next_key = (unit.pts.ticks_90k() / ticks_90k + 1) * ticks_90k;
                        }
                        due
                    }
                };
                answers.extend(
                    (0..self.job.rungs.len())
                        .map(|rung| rung as u8)
                        .map(|track| (track, key && self.keyless != Some(track)))
                        .map(|(track, key)| {
                            Response::Unit(WireUnit { track, unit: Unit { key, ..unit.clone() } })
                        }),
                );
                answers
            }
        }
    }
}

/// When the core is told that time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ticks {
    /// After every step of the test.
    Steps,
    /// After every event and every ten milliseconds.
    Constant,
    /// When the core wants it, and at no other time.
    WakeAt,
}

/// Interval of [`Ticks::Constant`].
const CONSTANT: Duration = Duration::from_millis(10);

/// A core, its fake workers and the fake clock.
pub(super) struct Stage {
    pub(super) core: StreamCore,
    origin: Instant,
    pub(super) elapsed: Duration,
    pub(super) workers: BTreeMap<RunId, FakeWorker>,
    pub(super) stuck: bool,
    jobs: Vec<Job>,
    epochs: Vec<Vec<Track>>,
    pub(super) segments: Vec<Segment>,
    pub(super) ended: bool,
    gop_ms: i64,
    ticks: Ticks,
    /// Every effect and when it came; only where the effects of two stages are compared.
    pub(super) effects: Vec<(Duration, String)>,
}

impl Stage {
    pub(super) fn new(ladder: &str) -> Self {
        Self::ticked(settings(ladder), Ticks::Steps)
    }

    pub(super) fn ticked(settings: StreamSettings, ticks: Ticks) -> Self {
        let origin = Instant::now();
        Self {
            core: StreamCore::new(settings, 100, origin),
            origin,
            elapsed: Duration::ZERO,
            workers: BTreeMap::new(),
            stuck: false,
            jobs: Vec::new(),
            epochs: Vec::new(),
            segments: Vec::new(),
            ended: false,
            gop_ms: 2000,
            ticks,
            effects: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Now {
        let micros = 1_800_000_000_000_000 + self.elapsed.as_micros() as i64;
        Now { instant: self.origin + self.elapsed, wall: WallTime::from_unix_micros(micros) }
    }

    /// Lets time pass, with the ticks that are due meanwhile.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.elapsed + span;
        match self.ticks {
            Ticks::Steps => {}
            Ticks::Constant => {
                while self.elapsed + CONSTANT <= end {
                    self.elapsed += CONSTANT;
                    self.settle();
                }
            }
            Ticks::WakeAt => {
                while let Some(at) = self.core.wake_at().filter(|at| *at <= self.origin + end) {
                    self.elapsed = self.elapsed.max(at - self.origin);
                    self.settle();
                }
            }
        }
        self.elapsed = end;
    }

    /// The end of a step of the test.
    pub(super) fn step(&mut self) {
        if self.ticks == Ticks::Steps {
            let now = self.now();
            self.core.tick(now);
        }
        self.settle();
    }

    /// Ticks the core as far as a tick is due now.
    fn tick_if_due(&mut self) {
        let now = self.now();
        match self.ticks {
            Ticks::Steps => {}
            Ticks::Constant => self.core.tick(now),
            Ticks::WakeAt => {
                let is_due = |core: &StreamCore| core.wake_at().is_some_and(|at| at <= now.instant);
                for _ in 0..4 {
                    if is_due(&self.core) {
                        self.core.tick(now);
                    }
                }
                assert!(!is_due(&self.core), "ticks change nothing, and another one is due");
            }
        }
    }

    pub(super) fn settle(&mut self) {
        loop {
            self.tick_if_due();
            let now = self.now();
            let mut moved = false;
            while let Some(effect) = self.core.poll() {
                moved = true;
                if self.ticks != Ticks::Steps {
                    self.effects.push((self.elapsed, summary(&effect)));
                }
                match effect {
                    Effect::StartWorker(id, job) => {
                        self.jobs.push((*job).clone());
                        self.workers
                            .insert(id, FakeWorker { job: *job, opened: false, next_key: 0, keyless: None });
                    }
                    Effect::StopWorker(id) => {
                        self.workers.remove(&id);
                    }
                    Effect::Epoch(tracks) => self.epochs.push(tracks),
                    Effect::Packaged(Output::Segment(segment)) => self.segments.push(segment),
                    Effect::Packaged(_) | Effect::Thumbnail(_) => {}
                    Effect::Ended => self.ended = true,
                }
            }
            let ids: Vec<RunId> = self.workers.keys().copied().collect();
            for id in ids {
                while let Some(request) = self.core.next_request(id, now.instant) {
                    moved = true;
                    if self.stuck {
                        continue;
                    }
                    let answers = self.workers.get_mut(&id).unwrap().answer(request);
                    let finished = answers.contains(&Response::Finished);
                    for answer in answers {
                        self.core.worker_said(id, answer, now);
                    }
                    if finished {
                        self.workers.remove(&id);
                        self.core.worker_gone(id, now);
                        break;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    pub(super) fn send(&mut self, media: Media) {
        let now = self.now();
        self.core.media(media, now.instant, now);
        self.settle();
    }

    pub(super) fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(50) {
            self.pass(Duration::from_millis(50));
            self.step();
        }
    }

    pub(super) fn come(&mut self) {
        let now = self.now();
        self.core.publisher_came(now).unwrap();
    }

    pub(super) fn go(&mut self) {
        let now = self.now();
        self.core.publisher_gone(now);
        self.settle();
    }

    pub(super) fn configs(&mut self) {
        self.send(Media::VideoConfig(video_config(1280, 720)));
        self.send(Media::AudioConfig(audio_config(2, 48_000, 2)));
    }

    /// Publishes from `from_ms` to `to_ms`, advancing the clock: 25 video frames a second, and audio beside them.
    pub(super) fn publish(&mut self, from_ms: i64, to_ms: i64, video: bool, audio: bool) {
        for ms in (from_ms..to_ms).step_by(40) {
            self.pass(Duration::from_millis(40));
            if video {
                self.send(Media::Video(unit_at(ms, ms % self.gop_ms == 0)));
            }
            if audio {
                for part in [0, 20] {
                    self.send(Media::Audio(unit_at(ms + part, true)));
                }
            }
            self.step();
        }
    }

    pub(super) fn counters(&self) -> StreamCounters {
        self.core.counters()
    }

    fn infos(&self) -> impl Iterator<Item = &SegmentInfo> {
        self.segments.iter().map(Segment::info)
    }

    /// Segments of one rendition.
    fn rung(&self, name: &str) -> Vec<&SegmentInfo> {
        self.infos().filter(|segment| segment.rung.as_str() == name).collect()
    }

    /// Checks what holds for every stream: media sequence numbers grow by one and are the same in all renditions,
    /// discontinuities are aligned, time increases.
    fn check(&self) {
        let names: BTreeSet<&str> = self.infos().map(|segment| segment.rung.as_str()).collect();
        let mut breaks = BTreeSet::new();
        for name in names {
            let rung = self.rung(name);
            for pair in rung.windows(2) {
                assert_eq!(pair[1].sequence, pair[0].sequence + 1, "{name}");
                assert!(pair[1].start >= pair[0].start + pair[0].duration, "{name}: {:?}", pair[1].start);
                assert!(pair[1].wall >= pair[0].wall, "{name}");
            }
            let at: Vec<u64> =
                rung.iter().filter(|segment| segment.discontinuity).map(|s| s.sequence).collect();
            breaks.insert(at);
        }
        assert!(breaks.len() <= 1, "discontinuities differ: {breaks:?}");
    }

    fn discontinuities(&self) -> usize {
        // The first segment is a discontinuity too, for players that still have an earlier stream of this name.
        self.rung("audio").iter().skip(1).filter(|segment| segment.discontinuity).count()
    }
}

/// An effect in one line, without media.
fn summary(effect: &Effect) -> String {
    let size = |body: Option<&bytes::Bytes>| body.map(bytes::Bytes::len);
    match effect {
        Effect::Packaged(Output::Init(init)) => format!("init {} {}", init.rung, init.name),
        Effect::Packaged(Output::Part(part)) => {
            format!("part {} {} {:?}", part.info().rung, part.info().name, size(part.body()))
        }
        Effect::Packaged(Output::Segment(segment)) => {
            format!("{:?} {:?}", segment.info(), size(segment.body()))
        }
        Effect::StartWorker(..)
        | Effect::StopWorker(_)
        | Effect::Epoch(_)
        | Effect::Thumbnail(_)
        | Effect::Ended => format!("{effect:?}"),
    }
}

#[test]
fn a_plain_stream_is_one_epoch() {
    let mut stage = Stage::new("720p,360p");
    stage.come();
    stage.configs();
    stage.publish(0, 20_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.epochs.len(), 1);
    assert_eq!(stage.epochs[0].len(), 3);
    assert_eq!(stage.discontinuities(), 0);
    assert_eq!(stage.segments[0].info().sequence, 100);
    let seconds: f64 = stage.rung("720p").iter().map(|segment| segment.duration.as_secs_f64()).sum();
    assert!((19.9..=20.1).contains(&seconds), "{seconds}");
    assert!(!stage.ended);
    stage.wait(31_000);
    assert!(stage.ended);
}

#[test]
fn source_alone_starts_no_worker() {
    let mut stage = Stage::new("source");
    stage.gop_ms = 1000;
    stage.come();
    stage.configs();
    stage.publish(0, 10_000, true, true);
    stage.go();
    stage.check();
    assert!(stage.jobs.is_empty());
    let seconds: f64 = stage.rung("source").iter().map(|segment| segment.duration.as_secs_f64()).sum();
    assert!((9.9..=10.1).contains(&seconds), "{seconds}");
}

#[test]
fn encoded_rungs_follow_a_source_rung() {
    let mut stage = Stage::new("source,360p");
    stage.gop_ms = 1000;
    stage.come();
    stage.configs();
    stage.publish(0, 10_000, true, true);
    assert_eq!(stage.jobs[0].video.keyframes, Keyframes::Source);
    stage.go();
    stage.check();
    let starts = |name| stage.rung(name).iter().map(|segment| segment.start).collect::<Vec<_>>();
    assert_eq!(starts("source"), starts("360p"));
}

#[test]
fn a_source_whose_keyframes_stay_away_is_encoded_from_then_on() {
    let mut stage = Stage::new("source,360p");
    stage.gop_ms = 1000;
    stage.come();
    stage.configs();
    stage.publish(0, 8_000, true, true);
    stage.gop_ms = 20_000;
    stage.publish(8_000, 19_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.epochs.len(), 2);
    assert_eq!(stage.jobs.last().unwrap().rungs[0].name, "source");
    assert_eq!(stage.discontinuities(), 1);
    let last = *stage.rung("source").last().unwrap();
    assert!((last.start + last.duration).as_secs_f64() > 28.5, "{last:?}");
}

#[test]
fn a_dead_worker_costs_one_discontinuity() {
    let mut stage = Stage::new("720p,360p");
    stage.come();
    stage.configs();
    stage.publish(0, 10_000, true, true);
    let id = *stage.workers.keys().next().unwrap();
    stage.workers.remove(&id);
    let now = stage.now();
    stage.core.worker_gone(id, now);
    stage.settle();
    assert_eq!(stage.workers.len(), 1, "the next one starts at once");
    stage.publish(10_000, 20_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.counters().worker_restarts, 1);
    assert_eq!(stage.discontinuities(), 1);
    let last = *stage.rung("720p").last().unwrap();
    assert!((last.start + last.duration).as_secs_f64() > 29.9, "{last:?}");
}

#[test]
fn a_hung_worker_is_replaced() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 10_000, true, true);
    let first = *stage.workers.keys().next().unwrap();
    stage.stuck = true;
    for ms in (10_000..20_000).step_by(40) {
        stage.publish(ms, ms + 40, true, true);
        if !stage.workers.contains_key(&first) {
            break;
        }
    }
    assert!(!stage.workers.contains_key(&first), "it was killed");
    stage.stuck = false;
    stage.publish(20_000, 30_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.counters().worker_restarts, 1);
    assert_eq!(stage.discontinuities(), 1);
}

#[test]
fn an_idle_publisher_does_not_kill_its_worker() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 5_000, true, true);
    stage.wait(20_000);
    assert_eq!(stage.counters().worker_restarts, 0);
}

#[test]
fn a_publisher_that_comes_back_goes_on_in_the_same_playlists() {
    let mut stage = Stage::new("720p,360p");
    stage.come();
    stage.configs();
    stage.publish(0, 6_000, true, true);
    stage.go();
    stage.wait(10_000);
    assert!(!stage.ended);
    let now = stage.now();
    let resume = stage.core.publisher_came(now).unwrap().unwrap();
    assert!(resume.as_secs_f64() > 15.9);
    stage.configs();
    stage.publish(6_000, 12_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.epochs.len(), 2);
    assert_eq!(stage.discontinuities(), 1);
    stage.wait(31_000);
    assert!(stage.ended);
}

/// A picture with a pair of CEA-608 in the channel CC1.
fn captioned(ms: i64, key: bool) -> Media {
    let sei = [0x06, 0x04, 13, 0xb5, 0, 0x31, b'G', b'A', b'9', b'4', 3, 0x41, 0xff, 0xfc, 0x94, 0x20, 0x80];
    let unit = unit_at(ms, key);
    let data = [&[0, 0, 0, sei.len() as u8], &sei[..], &unit.data].concat();
    Media::Video(Unit { data: data.into(), ..unit })
}

fn announced(tracks: &[Track]) -> Vec<Vec<&'static str>> {
    tracks.iter().map(|track| track.captions().names().collect()).collect()
}

#[test]
fn captions_from_the_start_are_in_the_first_epoch() {
    let mut stage = Stage::new("720p,360p");
    stage.come();
    stage.configs();
    stage.send(captioned(0, true));
    stage.publish(40, 6_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.epochs.len(), 1);
    assert_eq!(announced(&stage.epochs[0]), [vec!["CC1"], vec!["CC1"], vec![]]);
}

#[test]
fn captions_that_begin_later_are_announced_without_a_break_and_stay() {
    let mut stage = Stage::new("source,360p");
    stage.come();
    stage.configs();
    stage.publish(0, 6_000, true, true);
    stage.send(captioned(6_000, true));
    stage.publish(6_040, 8_000, true, true);
    assert_eq!(stage.epochs.len(), 2);
    assert_eq!(announced(&stage.epochs[0]), [[""; 0]; 3]);
    assert_eq!(announced(&stage.epochs[1]), [vec!["CC1"], vec!["CC1"], vec![]]);
    assert_eq!(stage.discontinuities(), 0);
    stage.send(captioned(8_000, true));
    stage.publish(8_040, 10_000, true, true);
    stage.go();
    assert_eq!(stage.epochs.len(), 2, "nothing new");
    stage.come();
    stage.configs();
    stage.publish(10_000, 14_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(announced(&stage.epochs[2]), [vec!["CC1"], vec!["CC1"], vec![]], "what is announced stays");
}

#[test]
fn a_publisher_in_place_of_a_silent_one_does_not_end_the_stream() {
    let settings = StreamSettings { reconnect_window: Duration::ZERO, ..settings("source") };
    let mut stage = Stage::ticked(settings, Ticks::Steps);
    stage.gop_ms = 1000;
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    stage.come();
    stage.configs();
    stage.publish(4_000, 8_000, true, true);
    assert!(!stage.ended);
    stage.go();
    stage.check();
    assert!(stage.ended, "the last one leaves");
    assert_eq!(stage.epochs.len(), 2);
}

#[test]
fn a_change_of_resolution_is_a_discontinuity_with_the_same_renditions() {
    let mut stage = Stage::new("720p,360p");
    stage.come();
    stage.configs();
    stage.publish(0, 6_000, true, true);
    stage.send(Media::VideoConfig(video_config(640, 480)));
    stage.publish(6_000, 12_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.discontinuities(), 1);
    let names = |tracks: &Vec<Track>| tracks.iter().map(|track| track.rung.clone()).collect::<Vec<_>>();
    assert_eq!(names(&stage.epochs[0]), names(&stage.epochs[1]));
    assert_eq!(stage.jobs[1].rungs[0].width, 640);
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    stage.configs();
    stage.publish(4_000, 8_000, true, true);
    assert_eq!(stage.jobs.len(), 1);
}

#[test]
fn video_alone_gets_silence() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.send(Media::VideoConfig(video_config(1280, 720)));
    stage.publish(0, 10_000, true, false);
    stage.go();
    stage.check();
    let seconds: f64 = stage.rung("audio").iter().map(|segment| segment.duration.as_secs_f64()).sum();
    assert!((9.8..=10.1).contains(&seconds), "{seconds}");
    assert!(stage.counters().silent_frames > 400);
}

#[test]
fn late_audio_takes_the_place_of_silence() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.send(Media::VideoConfig(video_config(1280, 720)));
    stage.publish(0, 6_000, true, false);
    stage.send(Media::AudioConfig(audio_config(2, 48_000, 2)));
    stage.publish(6_000, 12_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.discontinuities(), 0);
    assert_eq!(stage.jobs.len(), 1);
}

#[test]
fn late_audio_of_another_kind_costs_one_discontinuity() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.send(Media::VideoConfig(video_config(1280, 720)));
    stage.publish(0, 6_000, true, false);
    stage.send(Media::AudioConfig(audio_config(2, 44_100, 2)));
    stage.publish(6_000, 12_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.discontinuities(), 1);
}

/// Mixers change their sound's format whenever they like; keyframes may be far away, or never come (intra refresh).
#[test]
fn sound_that_changes_between_keyframes_stops_no_pictures() {
    for (ladder, changed, breaks) in [
        // Of the same shape; transcoded; passed through where the video is encoded; and where it is passed through too.
        ("360p", audio_config(2, 48_000, 2), 0),
        ("360p", audio_config(2, 44_100, 2), 1),
        ("360p", audio_config(2, 48_000, 6), 1),
        ("source", audio_config(2, 44_100, 1), 0),
    ] {
        let mut stage = Stage::new(ladder);
        stage.gop_ms = if ladder == "source" { 1000 } else { 60_000 };
        stage.come();
        stage.send(Media::VideoConfig(video_config(1280, 720)));
        let record = bytes::Bytes::from_static(&[0x11, 0x90, 0x56, 0xe5, 0x00]);
        stage.send(Media::AudioConfig(AudioConfig { record, ..audio_config(2, 48_000, 2) }));
        stage.publish(0, 8_000, true, true);
        // From here on no keyframe comes.
        stage.gop_ms = 60_000;
        stage.send(Media::AudioConfig(changed.clone()));
        stage.publish(8_040, 14_000, true, true);
        let segments = stage.rung(if ladder == "source" { "source" } else { "360p" });
        let until = segments.last().unwrap().end().ticks_90k() - 900_000;
        let least = if ladder == "source" { 7_900 } else { 12_000 };
        assert!(until > 90 * least, "{ladder} {changed:?}: {} ms", until / 90);
        let holes = segments.windows(2).map(|pair| pair[1].start - pair[0].end()).max().unwrap();
        assert!(holes <= MediaSpan::from_millis(80), "{ladder} {changed:?}: {holes:?}");
        stage.go();
        stage.check();
        if ladder != "source" {
            assert_eq!(stage.discontinuities(), breaks, "{ladder} {changed:?}");
        }
    }
}

#[test]
fn transcoded_sound_changes_its_format_in_the_same_epoch() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.send(Media::VideoConfig(video_config(1280, 720)));
    stage.send(Media::AudioConfig(audio_config(2, 48_000, 6)));
    stage.publish(0, 6_000, true, true);
    stage.send(Media::AudioConfig(audio_config(2, 44_100, 1)));
    stage.publish(6_000, 12_000, true, true);
    stage.go();
    stage.check();
    assert_eq!((stage.jobs.len(), stage.discontinuities()), (1, 0));
}

#[test]
fn audio_alone_is_a_stream() {
    let mut stage = Stage::new("auto");
    stage.come();
    stage.send(Media::AudioConfig(audio_config(2, 48_000, 2)));
    stage.publish(0, 10_000, false, true);
    stage.go();
    stage.check();
    assert!(stage.jobs.is_empty());
    assert_eq!(stage.epochs[0].len(), 1);
    assert!(stage.rung("audio").len() >= 9);
}

#[test]
fn surround_sound_is_transcoded_once() {
    let mut stage = Stage::new("720p,360p");
    stage.come();
    stage.send(Media::VideoConfig(video_config(1280, 720)));
    stage.send(Media::AudioConfig(audio_config(2, 48_000, 6)));
    stage.publish(0, 6_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.jobs[0].audio.as_ref().unwrap().channels, 2);
    assert!(stage.rung("audio").len() >= 5);
}

fn track(number: u8) -> SoundTrackId {
    SoundTrackId::new(number).unwrap()
}

impl Stage {
    /// Publishes video, the main sound and the sound tracks of these numbers.
    fn publish_tracks(&mut self, from_ms: i64, to_ms: i64, numbers: &[u8]) {
        for ms in (from_ms..to_ms).step_by(40) {
            for number in numbers {
                for part in [0, 20] {
                    self.send(Media::Track(track(*number), unit_at(ms + part, true)));
                }
            }
            self.publish(ms, ms + 40, true, true);
        }
    }

    fn track_configs(&mut self, numbers: &[u8], config: &AudioConfig) {
        for number in numbers {
            self.send(Media::TrackConfig(track(*number), config.clone()));
        }
    }

    fn names(&self) -> Vec<Vec<String>> {
        self.epochs.iter().map(|tracks| tracks.iter().map(|track| track.rung.to_string()).collect()).collect()
    }

    fn seconds(&self, rung: &str) -> f64 {
        let readable = self.rung(rung).into_iter().filter(|segment| segment.bytes.is_some());
        readable.map(|segment| segment.duration.as_secs_f64()).sum()
    }
}

#[test]
fn every_sound_track_is_a_rendition_cut_like_the_others() {
    // Passed through, and transcoded in one worker.
    for (config, transcoded) in [(audio_config(2, 48_000, 2), 0), (audio_config(2, 48_000, 6), 2)] {
        let mut stage = Stage::new("360p");
        stage.come();
        stage.configs();
        stage.track_configs(&[1, 4], &config);
        stage.publish_tracks(0, 10_000, &[1, 4]);
        stage.go();
        stage.check();
        assert_eq!(stage.names(), [["360p", "audio", "audio_2", "audio_5"]]);
        assert_eq!(stage.jobs.len(), 1);
        assert_eq!(stage.jobs[0].sound_tracks.len(), transcoded);
        let sequences = |name: &str| -> Vec<u64> { stage.rung(name).iter().map(|s| s.sequence).collect() };
        for name in ["audio_2", "audio_5"] {
            assert_eq!(sequences(name), sequences("audio"));
            assert!(stage.seconds(name) > 9.8, "{name} {}", stage.seconds(name));
        }
        assert_eq!(stage.counters().passed_over_tracks, 0);
    }
}

#[test]
fn a_sound_track_that_comes_after_the_renditions_are_chosen_is_passed_over() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 3_000, true, true);
    stage.track_configs(&[1], &audio_config(2, 48_000, 2));
    stage.publish_tracks(3_000, 6_000, &[1]);
    assert_eq!(stage.counters().passed_over_tracks, 1);
    stage.go();
    // With the next publisher, too: viewers have the multivariant playlist.
    stage.come();
    stage.configs();
    stage.track_configs(&[1], &audio_config(2, 48_000, 2));
    stage.publish_tracks(10_000, 14_000, &[1]);
    stage.go();
    stage.check();
    assert_eq!(stage.counters().passed_over_tracks, 2);
    assert!(stage.names().iter().all(|names| *names == ["360p", "audio"]), "{:?}", stage.names());
}

#[test]
fn a_sound_track_that_pauses_or_ends_is_silent_and_one_that_stays_away_keeps_its_rendition() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.track_configs(&[1], &audio_config(2, 48_000, 2));
    stage.publish_tracks(0, 4_000, &[1]);
    stage.publish(4_000, 7_000, true, true);
    stage.publish_tracks(7_000, 10_000, &[1]);
    stage.publish(10_000, 14_000, true, true);
    stage.go();
    assert_eq!((stage.discontinuities(), stage.jobs.len()), (0, 1));
    assert!(stage.seconds("audio_2") > 12.5, "{}", stage.seconds("audio_2"));
    // The next publisher has the main sound alone.
    stage.come();
    stage.configs();
    stage.publish(16_000, 20_000, true, true);
    stage.go();
    stage.check();
    assert_eq!(stage.names(), [["360p", "audio", "audio_2"], ["360p", "audio", "audio_2"]]);
    assert_eq!(stage.rung("audio_2").len(), stage.rung("audio").len());
}

/// After a takeover: the viewers' multivariant playlist has the renditions that the former encoder's publisher had.
#[test]
fn the_sound_renditions_of_a_former_writer_stay() {
    let text = |rung: &str| {
        let text = "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:40\n\
            #EXT-X-DISCONTINUITY-SEQUENCE:3\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"s-0-init.mp4\"\n\
            #EXT-X-PROGRAM-DATE-TIME:2026-11-22T11:59:59.000Z\n#EXTINF:1.00000,\ns-0-40.m4s\n";
        let rung = hls::RungName::new(rung).unwrap();
        (rung.clone(), hls::StoredPlaylist::parse(&rung, text).unwrap())
    };
    let past = hls::Past::new(["360p", "audio", "audio_2", "audio_5"].map(text)).unwrap();
    let mut stage = Stage::new("360p");
    stage.core = StreamCore::resume(settings("360p"), &past, stage.origin);
    stage.come();
    stage.configs();
    stage.track_configs(&[4], &audio_config(2, 48_000, 2));
    stage.publish_tracks(0, 6_000, &[4]);
    stage.go();
    stage.check();
    assert_eq!(stage.names(), [["360p", "audio", "audio_2", "audio_5"]]);
    assert_eq!(stage.rung("audio_2").len(), stage.rung("audio").len(), "silent");
}

#[test]
fn a_sound_track_s_other_format_costs_one_discontinuity_in_every_rendition() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.track_configs(&[1], &audio_config(2, 48_000, 2));
    stage.publish_tracks(0, 6_000, &[1]);
    stage.track_configs(&[1], &audio_config(2, 44_100, 2));
    stage.publish_tracks(6_000, 12_000, &[1]);
    stage.go();
    stage.check();
    assert_eq!((stage.discontinuities(), stage.jobs.len()), (1, 2));
}

#[test]
fn a_dead_worker_costs_every_sound_track_the_same_discontinuity() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.track_configs(&[1, 2], &audio_config(2, 48_000, 6));
    stage.publish_tracks(0, 5_000, &[1, 2]);
    let id = *stage.workers.keys().next().unwrap();
    stage.workers.remove(&id);
    let now = stage.now();
    stage.core.worker_gone(id, now);
    stage.settle();
    stage.publish_tracks(5_000, 10_000, &[1, 2]);
    stage.go();
    stage.check();
    assert_eq!((stage.discontinuities(), stage.jobs.len()), (1, 2));
    assert_eq!(stage.jobs[1].sound_tracks, stage.jobs[0].sound_tracks);
    assert_eq!(
        stage.names(),
        [["360p", "audio", "audio_2", "audio_3"], ["360p", "audio", "audio_2", "audio_3"]]
    );
    assert_eq!(stage.rung("audio_3").len(), stage.rung("360p").len());
}

#[test]
fn sound_tracks_without_pictures_are_cut_with_the_main_sound() {
    let mut stage = Stage::new("auto");
    stage.come();
    stage.send(Media::AudioConfig(audio_config(2, 48_000, 2)));
    stage.track_configs(&[1], &audio_config(2, 48_000, 2));
    for ms in (0..10_000).step_by(40) {
        if ms < 6_000 {
            stage.send(Media::Track(track(1), unit_at(ms, true)));
            stage.send(Media::Track(track(1), unit_at(ms + 20, true)));
        }
        stage.publish(ms, ms + 40, false, true);
    }
    stage.go();
    stage.check();
    assert!(stage.jobs.is_empty());
    assert_eq!(stage.names(), [["audio", "audio_2"]]);
    assert!(stage.seconds("audio_2") > 8.8, "{}", stage.seconds("audio_2"));
}

#[test]
fn a_worker_that_always_dies_does_not_spin() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 2_000, true, true);
    for step in 0..100 {
        let ids: Vec<RunId> = stage.workers.keys().copied().collect();
        for id in ids {
            stage.workers.remove(&id);
            let now = stage.now();
            stage.core.worker_gone(id, now);
        }
        stage.publish(2_000 + step * 40, 2_040 + step * 40, true, true);
    }
    let restarts = stage.counters().worker_restarts;
    assert!((2..=8).contains(&restarts), "{restarts} in 4 s");
}

#[test]
fn closing_ends_without_waiting_for_the_publisher() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    let now = stage.now();
    stage.core.close(now);
    stage.settle();
    stage.wait(100);
    assert!(stage.ended);
}

#[test]
fn a_switch_while_a_restart_is_pending_makes_one_run() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    // After two deaths in a row the next start waits for a keyframe, and so does the format change.
    for _ in 0..2 {
        let id = *stage.workers.keys().next().unwrap();
        stage.workers.remove(&id);
        let now = stage.now();
        stage.core.worker_gone(id, now);
        stage.settle();
    }
    stage.send(Media::VideoConfig(video_config(640, 480)));
    stage.publish(4_040, 12_000, true, true);
    assert_eq!(stage.workers.len(), 1, "the switch is the restart");
    stage.check();
    let now = stage.now();
    stage.core.close(now);
    stage.settle();
    stage.wait(1_000);
    assert!(stage.ended);
}

#[test]
fn a_worker_that_finishes_unasked_is_replaced() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    let id = *stage.workers.keys().next().unwrap();
    let now = stage.now();
    stage.core.worker_said(id, Response::Finished, now);
    stage.settle();
    stage.publish(4_000, 10_000, true, true);
    stage.check();
    assert_eq!(stage.workers.len(), 1);
    assert!(stage.core.lag().as_secs_f64() < 3.0);
}

#[test]
fn video_that_is_announced_and_never_comes_leaves_the_sound() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 10_000, false, true);
    assert!(stage.rung("audio").len() >= 6);
    stage.publish(10_000, 16_000, true, true);
    stage.go();
    assert!(stage.rung("360p").len() >= 5, "and is taken when it comes");
    assert_eq!(stage.discontinuities(), 1);
}

#[test]
fn formats_that_flap_do_not_pile_up_workers() {
    let mut stage = Stage::new("360p");
    stage.gop_ms = 40;
    stage.come();
    stage.configs();
    stage.publish(0, 2_000, true, true);
    stage.stuck = true;
    for step in 0..100i64 {
        stage.send(Media::VideoConfig(video_config(640 + 16 * (step % 2) as u16, 480)));
        stage.publish(2_000 + step * 40, 2_040 + step * 40, true, true);
        assert!(stage.workers.len() <= 3);
    }
}

#[test]
fn a_silence_longer_than_the_packager_takes_is_skipped() {
    for (video, audio) in [(true, true), (false, true)] {
        let mut stage = Stage::new("360p");
        stage.come();
        stage.configs();
        stage.publish(0, 6_000, video, audio);
        stage.wait(60_000);
        stage.publish(66_000, 76_000, video, audio);
        stage.check();
        assert!(stage.core.lag().as_secs_f64() < 3.0, "{}", stage.core.lag().as_secs_f64());
        assert_eq!(stage.discontinuities(), 1);
    }
}

#[test]
fn nobody_comes_back_to_a_stream_that_is_to_end() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    let now = stage.now();
    stage.core.close_after_publisher(now);
    stage.publish(4_000, 8_000, true, true);
    assert!(!stage.ended, "its publisher may go on");
    stage.go();
    stage.wait(100);
    assert!(stage.ended, "and the reconnect window is not waited for");
    let now = stage.now();
    assert!(stage.core.publisher_came(now).is_err());
}

#[test]
fn a_worker_that_flushes_slowly_is_waited_for() {
    let mut stage = Stage::new("360p");
    stage.come();
    stage.configs();
    stage.publish(0, 4_000, true, true);
    stage.stuck = true;
    stage.go();
    let id = *stage.workers.keys().next().unwrap();
    for _ in 0..10 {
        stage.wait(2_000);
        let now = stage.now();
        stage.core.worker_said(id, Response::Progress(transcode::wire::WorkerProgress::default()), now);
    }
    assert!(stage.workers.contains_key(&id));
    stage.wait(6_000);
    assert!(!stage.workers.contains_key(&id), "but not when it says nothing");
}
