//! One run: the path of one epoch's media from the publisher to the packager. Which renditions are passed through,
//! which come from a worker, and which samples are held until the tracks are known. Decisions about runs are in
//! [`super::core`].

use super::core::StreamSettings;
use super::shed::ShedQueue;
use super::sound::{Sound, SoundSetup, SoundTrack, TRANSCODED_AUDIO};
use crate::stream::ladder::Plan;
use bytes::Bytes;
use hls::{RungName, Track, TrackKind, VideoTrack};
use media::captions::CaptionServices;
use media::{AudioConfig, MediaSpan, MediaTime, UNIT_OVERHEAD, Unit, VideoConfig};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use transcode::wire::{
    AUDIO_TRACK, ENCODED_VIDEO, Job, Keyframes, OpenedTrack, Request, SoundTrackJob, WireUnit,
    WorkerProgress, is_audio_track, rate_of,
};

/// Maximum coded bytes held until a run's tracks are known. A worker that has not opened its encoders by then is killed
/// by the watch on silent workers; this bound also holds when timestamps are wrong.
const MAX_HELD_BYTES: usize = 48 << 20;

/// How long a worker may be silent after the end of its input. A slow encoder takes longer to flush, but sends
/// responses meanwhile.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long a worker may take to start, including loading libav from a cold disk.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Number of a run within its stream; it also identifies the run's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u32);

/// State of a run's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// There is no worker: everything is passed through.
    None,
    /// The worker is running.
    Running {
        /// When it was started.
        started: Instant,
        /// When its last response came; at first the time of its start.
        last_response_at: Instant,
        /// Since when it owes a response; `None` while it has no work.
        overdue_since: Option<Instant>,
    },
    /// The worker flushed and reported that it has finished.
    Finished,
    /// The worker died or was killed.
    Dead,
}

impl WorkerState {
    /// Whether the worker is running.
    pub(super) fn is_running(self) -> bool {
        match self {
            Self::Running { .. } => true,
            Self::None | Self::Finished | Self::Dead => false,
        }
    }
}

/// The state of one run.
#[derive(Debug)]
pub(super) struct Run {
    /// Number of the run.
    pub id: RunId,
    /// Video configuration, if the run has video.
    pub video: Option<VideoConfig>,
    /// Frame rate of the published video in frames per second, as a fraction.
    pub frame_rate: (u32, u32),
    video_bitrate: Option<u32>,
    /// Caption services seen in the published video.
    captions: CaptionServices,
    /// The sound renditions, the main sound first.
    sounds: Vec<Sound>,
    /// Video renditions.
    pub plan: Plan,
    /// State of the worker.
    pub worker: WorkerState,
    /// Requests queued for the worker.
    pub queue: ShedQueue,
    /// All renditions; `None` until all configurations are known.
    pub tracks: Option<Vec<Track>>,
    /// Whether the packager has begun this epoch.
    pub begun: bool,
    /// When the run's input ended; `None` while the run receives published media.
    pub input_ended: Option<Instant>,
    /// Presentation time of the first video frame (without video: audio frame) that is fed.
    pub first_pts: MediaTime,
    held: VecDeque<(RungName, Unit)>,
    held_bytes: usize,
    opened: Vec<OpenedTrack>,
    encodes_video: bool,
    /// Decode errors that the worker has reported so far.
    decode_errors: u64,
}

/// Parameters of a run.
pub(super) struct RunSetup {
    /// Number of the run.
    pub id: RunId,
    /// Video configuration, if the run has video.
    pub video: Option<VideoConfig>,
    /// Frame rate of the published video in frames per second, as a fraction.
    pub frame_rate: (u32, u32),
    /// Bits per second of the published video, measured or else announced.
    pub video_bitrate: Option<u32>,
    /// Caption services seen in the published video.
    pub captions: CaptionServices,
    /// The sound renditions, the main sound first.
    pub sounds: Vec<SoundSetup>,
    /// Video renditions.
    pub plan: Plan,
    /// Presentation time of the first unit.
    pub first_pts: MediaTime,
    /// Media time that may be queued for the worker before video is shed.
    pub shed_budget: MediaSpan,
}

impl Run {
    /// Decode errors of the run's worker since its last progress report.
    pub(super) fn new_decode_errors(&mut self, progress: &WorkerProgress) -> u64 {
        let before = std::mem::replace(&mut self.decode_errors, progress.decode_errors);
        progress.decode_errors.saturating_sub(before)
    }

    /// Creates a run that has not been fed yet; `now` counts as the start of its worker.
    pub(super) fn new(setup: RunSetup, now: Instant) -> Self {
        let RunSetup { id, video, frame_rate, video_bitrate, captions, sounds, plan, first_pts, shed_budget } =
            setup;
        let mut queue = ShedQueue::new(shed_budget);
        let encodes_video = video.is_some() && !plan.rungs.is_empty();
        if encodes_video && let Some(config) = &video {
            queue.video_config(config);
        }
        let sounds: Vec<Sound> = sounds
            .into_iter()
            .zip(0..)
            .map(|(sound, index)| Sound::new(sound, index, video.is_none() && index == 0, &mut queue))
            .collect();
        let needs_worker = encodes_video || sounds.iter().any(|sound| sound.source.is_transcoded());
        let worker = if needs_worker {
            WorkerState::Running { started: now, last_response_at: now, overdue_since: Some(now) }
        } else {
            WorkerState::None
        };
        let mut run = Self {
            id,
            video,
            frame_rate,
            video_bitrate,
            captions,
            sounds,
            plan,
            worker,
            queue,
            tracks: None,
            begun: false,
            input_ended: None,
            first_pts,
            held: VecDeque::new(),
            held_bytes: 0,
            opened: Vec::new(),
            encodes_video,
            decode_errors: 0,
        };
        if !needs_worker {
            run.tracks = run.assemble();
        }
        run
    }

    /// The worker's job; `None` when everything is passed through. Pictures before `encode_from` are already packaged
    /// and are not encoded again.
    pub(super) fn job(&self, settings: &StreamSettings, encode_from: MediaTime) -> Option<Job> {
        if self.worker == WorkerState::None {
            return None;
        }
        let rungs = if self.video.is_some() { self.plan.rungs.clone() } else { Vec::new() };
        let mut video = settings.video.clone();
        if self.plan.source.is_some() {
            video.keyframes = Keyframes::Source;
        }
        let encoded: Vec<u8> = self.sounds.iter().filter_map(Sound::encoded_track).collect();
        let audio = encoded.contains(&AUDIO_TRACK).then_some(TRANSCODED_AUDIO);
        let others = encoded.into_iter().filter(|track| *track != AUDIO_TRACK);
        Some(Job {
            rungs,
            video,
            audio,
            sound_tracks: others.map(|track| SoundTrackJob { track, rung: TRANSCODED_AUDIO }).collect(),
            encode_from_90k: encode_from.ticks_90k(),
            max_pixels: settings.max_pixels,
            thumbnail_every_ms: settings.thumbnail_every_ms,
        })
    }

    /// Whether segments are cut at published keyframes.
    pub(super) fn follows_source(&self) -> bool {
        self.plan.source.is_some() && self.video.is_some()
    }

    /// Takes a published video frame: queues it for the worker, and appends the samples that need no worker to `out`
    /// (passed-through video and silent audio).
    pub(super) fn video(&mut self, unit: &Unit, out: &mut Vec<(RungName, Unit)>) {
        if self.encodes_video {
            self.queue.video(unit);
        }
        if self.plan.source.is_some() {
            out.push((RungName::source(), unit.clone()));
        }
        self.lead_at(unit.pts, out);
    }

    fn lead_at(&mut self, pts: MediaTime, out: &mut Vec<(RungName, Unit)>) {
        for sound in &mut self.sounds {
            sound.lead_at(self.first_pts, pts, &mut self.queue, out);
        }
    }

    /// Takes a published audio frame of a sound track: queues it for the worker if the track is transcoded, otherwise
    /// appends the resulting samples to `out`.
    pub(super) fn audio(&mut self, track: SoundTrack, unit: Unit, out: &mut Vec<(RungName, Unit)>) {
        let leads = (self.video.is_none() && track.is_none()).then_some(unit.pts);
        if let Some(sound) = self.sounds.iter_mut().find(|sound| sound.track == track) {
            sound.audio(self.first_pts, unit, &mut self.queue, out);
        }
        if let Some(pts) = leads {
            self.lead_at(pts, out);
        }
    }

    /// Published audio of a sound track comes or changes its format; see [`Sound::take_config`].
    pub(super) fn take_audio_config(&mut self, track: SoundTrack, config: AudioConfig) -> bool {
        let sound = self.sounds.iter_mut().find(|sound| sound.track == track);
        sound.is_none_or(|sound| sound.take_config(config, &mut self.queue))
    }

    /// Whether the sound renditions have these sources.
    pub(super) fn plays(&self, sounds: &[SoundSetup]) -> bool {
        self.sounds.iter().map(|sound| &sound.source).eq(sounds.iter().map(|sound| &sound.source))
    }

    /// Caption services were seen in the published video. Returns the renditions if they are known and change by this.
    pub(super) fn add_captions(&mut self, services: CaptionServices) -> Option<&[Track]> {
        self.captions = self.captions.union(services);
        let tracks = self.tracks.as_mut()?;
        let changed = tracks.iter_mut().fold(false, |changed, track| track.add_captions(services) | changed);
        changed.then_some(tracks)
    }

    /// Number of silent frames inserted, and of published frames dropped as late, since the last call.
    pub(super) fn take_audio_repairs(&mut self) -> (u64, u64) {
        let repairs = self.sounds.iter_mut().map(Sound::take_repairs);
        repairs.fold((0, 0), |(filled, late), more| (filled + more.0, late + more.1))
    }

    /// The worker opened encoders. Returns true once all renditions are known.
    pub(super) fn opened(&mut self, tracks: Vec<OpenedTrack>) -> bool {
        if self.tracks.is_none() {
            for track in tracks {
                self.opened.retain(|known| known.track != track.track);
                self.opened.push(track);
            }
            self.tracks = self.assemble();
        }
        self.tracks.is_some()
    }

    /// Pairs an encoded unit with its rendition; `None` for a track that was not requested.
    pub(super) fn encoded(&self, WireUnit { track, unit }: WireUnit) -> Option<(RungName, Unit)> {
        let rung = if is_audio_track(track) {
            self.sounds.iter().find(|sound| sound.encoded_track() == Some(track))?.rung().clone()
        } else {
            RungName::new(&self.plan.rungs.get(usize::from(track))?.name).ok()?
        };
        Some((rung, unit))
    }

    /// Holds a sample until the epoch can begin. Beyond the byte bound the oldest samples are dropped, so that there is
    /// room for the keyframe to begin with even if it comes late. Returns the number of dropped samples.
    pub(super) fn hold(&mut self, rung: RungName, sample: Unit) -> u64 {
        self.held_bytes += size(&sample);
        self.held.push_back((rung, sample));
        let mut dropped = 0;
        while self.held_bytes > MAX_HELD_BYTES
            && let Some((_, oldest)) = self.held.pop_front()
        {
            self.held_bytes -= size(&oldest);
            dropped += 1;
        }
        dropped
    }

    /// Presentation time of the first held keyframe of the leading rendition at or after `floor`: the epoch can start
    /// there.
    pub(super) fn start_at_or_after(&self, floor: MediaTime) -> Option<MediaTime> {
        let leading = &self.tracks.as_ref()?.first()?.rung;
        self.held
            .iter()
            .find(|(rung, sample)| rung == leading && sample.key && sample.pts >= floor)
            .map(|(_, sample)| sample.pts)
    }

    /// Takes all held samples, in order.
    pub(super) fn take_held(&mut self) -> VecDeque<(RungName, Unit)> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// Whether the run will produce no more samples.
    pub(super) fn is_done(&self) -> bool {
        match self.worker {
            WorkerState::None => self.input_ended.is_some(),
            WorkerState::Running { .. } => false,
            WorkerState::Finished | WorkerState::Dead => true,
        }
    }

    /// The next request for the worker, which owes a response from then on.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<Request> {
        let request = self.queue.pop()?;
        if let WorkerState::Running { overdue_since, .. } = &mut self.worker {
            overdue_since.get_or_insert(now);
        }
        Some(request)
    }

    /// The worker sent a response.
    pub(super) fn responded(&mut self, now: Instant) {
        if let WorkerState::Running { last_response_at, overdue_since, .. } = &mut self.worker {
            *last_response_at = now;
            *overdue_since = if self.queue.is_empty() { None } else { Some(now) };
        }
    }

    /// Whether the worker was asked to finish.
    pub(super) fn is_to_finish(&self) -> bool {
        self.input_ended.is_some() && self.queue.is_empty()
    }

    /// When the worker counts as hung unless it responds before, and why; `None` while it owes no response. Once it
    /// has started, it may be silent for `silence` while it has work.
    pub(super) fn hang_at(&self, silence: Duration) -> Option<(Instant, &'static str)> {
        let WorkerState::Running { started, last_response_at, overdue_since } = self.worker else {
            return None;
        };
        let after = |since: Instant, patience| since.max(last_response_at) + patience;
        let patience = if last_response_at == started { START_DEADLINE } else { silence };
        let flush = self.input_ended.map(|since| (after(since, FLUSH_DEADLINE), "it does not finish"));
        let silent = overdue_since.map(|since| (after(since, patience), "it has gone silent"));
        flush.into_iter().chain(silent).min_by_key(|(at, _)| *at)
    }

    /// All renditions; `None` until every encoder has reported its configuration.
    fn assemble(&self) -> Option<Vec<Track>> {
        let mut tracks = Vec::new();
        if let Some(config) = &self.video {
            if self.plan.source.is_some() {
                let guessed = || self.plan.rungs.first().map_or(3_000_000, |rung| rung.bitrate * 2);
                let bitrate = self.video_bitrate.unwrap_or_else(guessed);
                let mut track = source_track(config, self.frame_rate, bitrate);
                track.add_captions(self.captions);
                tracks.push(track);
            }
            for (index, rung) in self.plan.rungs.iter().enumerate() {
                let kind = TrackKind::Video(VideoTrack {
                    codec: ENCODED_VIDEO,
                    config: self.config_of(u8::try_from(index).ok()?)?,
                    width: rung.width,
                    height: rung.height,
                    sample_aspect: (1, 1),
                    frame_rate: rate_of(rung.frame_rate),
                    nominal_bitrate: rung.bitrate,
                    captions: self.captions,
                });
                tracks.push(Track { rung: RungName::new(&rung.name).ok()?, kind });
            }
        }
        for sound in &self.sounds {
            tracks.push(sound.rendition(|track| self.config_of(track))?);
        }
        Some(tracks)
    }

    fn config_of(&self, track: u8) -> Option<Bytes> {
        let opened = self.opened.iter().find(|opened| opened.track == track)?;
        Some(Bytes::copy_from_slice(&opened.config))
    }
}

fn size(sample: &Unit) -> usize {
    sample.data.len() + UNIT_OVERHEAD
}

/// The track of video that is passed through. `nominal_bitrate` in bits per second.
pub(super) fn source_track(config: &VideoConfig, frame_rate: (u32, u32), nominal_bitrate: u32) -> Track {
    let kind = TrackKind::Video(VideoTrack {
        codec: config.codec,
        config: config.record.clone(),
        width: config.width,
        height: config.height,
        sample_aspect: config.sample_aspect,
        frame_rate: rate_of(frame_rate),
        nominal_bitrate,
        captions: CaptionServices::NONE,
    });
    Track { rung: RungName::source(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::sound::{self, AudioSource};
    use crate::stream::tests::{audio_config, unit_at, video_config};
    use media::SoundTrackId;

    fn sound(track: SoundTrack, source: AudioSource) -> SoundSetup {
        let labels = sound::labels(track, &[]);
        let (track, label) = labels.into_iter().next_back().unwrap();
        SoundSetup { track, label, source }
    }

    fn copied_audio() -> Run {
        let setup = RunSetup {
            id: RunId(0),
            video: None,
            frame_rate: (25, 1),
            video_bitrate: None,
            captions: CaptionServices::NONE,
            sounds: vec![sound(None, AudioSource::Copy(audio_config(2, 48_000, 2)))],
            plan: Plan { source: None, rungs: Vec::new(), reasons: Vec::new() },
            first_pts: MediaTime::ZERO,
            shed_budget: MediaSpan::from_millis(1000),
        };
        Run::new(setup, Instant::now())
    }

    #[test]
    fn the_keyframe_to_begin_with_finds_room_among_what_is_held() {
        let mut run = copied_audio();
        let mut big = unit_at(0, false);
        big.data = vec![0; 1 << 20].into();
        let dropped: u64 = (0..100).map(|_| run.hold(RungName::audio(), big.clone())).sum();
        assert!(dropped > 50 && run.held_bytes <= MAX_HELD_BYTES);
        let key = unit_at(5000, true);
        run.hold(RungName::audio(), key.clone());
        assert_eq!(run.start_at_or_after(MediaTime::ZERO), Some(key.pts));
    }

    #[test]
    fn a_track_that_was_not_asked_for_is_not_taken() {
        let run = copied_audio();
        for track in [0, 7, AUDIO_TRACK] {
            let at = MediaTime::ZERO;
            let unit = Unit { pts: at, dts: at, key: true, data: Bytes::from_static(&[1]) };
            assert_eq!(run.encoded(WireUnit { track, unit }), None);
        }
    }

    fn with_tracks(video: bool, sources: [AudioSource; 3]) -> Run {
        let tracks = [None, SoundTrackId::new(1), SoundTrackId::new(2)];
        let setup = RunSetup {
            id: RunId(0),
            video: video.then(|| video_config(1280, 720)),
            frame_rate: (25, 1),
            video_bitrate: None,
            captions: CaptionServices::NONE,
            sounds: tracks.into_iter().zip(sources).map(|(track, source)| sound(track, source)).collect(),
            plan: Plan { source: Some(media::VideoCodec::H264), rungs: Vec::new(), reasons: Vec::new() },
            first_pts: unit_at(0, true).pts,
            shed_budget: MediaSpan::from_millis(1000),
        };
        Run::new(setup, Instant::now())
    }

    fn copy() -> AudioSource {
        AudioSource::Copy(audio_config(2, 48_000, 2))
    }

    fn end_ms(samples: &[(RungName, Unit)], rung: &str) -> Option<i64> {
        let of = samples.iter().filter(|(of, _)| of.as_str() == rung);
        of.map(|(_, unit)| (unit.pts - unit_at(0, true).pts).ticks_90k() / 90).max()
    }

    /// The second track never comes, the third is not published: with and without video both are silent in time.
    #[test]
    fn sound_tracks_are_silent_while_others_play() {
        for video in [true, false] {
            let mut run = with_tracks(video, [copy(), copy(), AudioSource::Silence]);
            assert_eq!(run.worker, WorkerState::None);
            let mut out = Vec::new();
            for frame in 0..150 {
                if video {
                    run.video(&unit_at(frame * 40, frame == 0), &mut out);
                }
                run.audio(None, unit_at(frame * 40, true), &mut out);
            }
            let late = end_ms(&out, "audio_2").unwrap();
            assert!(
                (4_900..=4_960).contains(&late),
                "{video} {late}: a track may still come within a second"
            );
            let silent = end_ms(&out, "audio_3").unwrap();
            assert!((5_900..=5_960).contains(&silent), "{video} {silent}");
            assert_eq!(out.iter().any(|(rung, _)| rung.as_str() == "source"), video);
        }
    }

    #[test]
    fn every_transcoded_sound_track_has_a_place_of_its_own_in_the_worker() {
        let opus = AudioSource::Transcode(AudioConfig {
            extension: Some(media::AacExtension::Sbr),
            ..audio_config(2, 48_000, 2)
        });
        let mut run = with_tracks(true, [opus.clone(), copy(), opus]);
        assert_eq!(run.sounds.iter().filter_map(Sound::encoded_track).collect::<Vec<_>>(), [255, 253]);
        let unit = |track| WireUnit { track, unit: unit_at(0, true) };
        let rung = |run: &Run, track| run.encoded(unit(track)).map(|(rung, _)| rung.to_string());
        assert_eq!(rung(&run, 255).as_deref(), Some("audio"));
        assert_eq!(rung(&run, 253).as_deref(), Some("audio_3"));
        assert_eq!((rung(&run, 254), rung(&run, 252)), (None, None));
        let opened = |track| vec![OpenedTrack { track, config: vec![0x11, 0x90] }];
        assert!(!run.opened(opened(255)));
        assert!(run.opened(opened(253)));
        let names: Vec<_> = run.tracks.iter().flatten().map(|track| track.rung.to_string()).collect();
        assert_eq!(names, ["source", "audio", "audio_2", "audio_3"]);
    }

    #[test]
    fn a_sound_track_changes_by_itself() {
        let mut run = with_tracks(true, [copy(), copy(), AudioSource::Silence]);
        let track = SoundTrackId::new(2);
        assert!(run.take_audio_config(track, audio_config(2, 48_000, 2)), "like the silence before it");
        assert!(!run.take_audio_config(SoundTrackId::new(1), audio_config(2, 44_100, 2)));
        assert!(run.take_audio_config(SoundTrackId::new(9), audio_config(2, 44_100, 2)), "not a rendition");
        let mut out = Vec::new();
        run.audio(track, unit_at(0, true), &mut out);
        run.audio(SoundTrackId::new(9), unit_at(0, true), &mut out);
        assert_eq!(out.iter().map(|(rung, _)| rung.as_str()).collect::<Vec<_>>(), ["audio_3"]);
    }
}
