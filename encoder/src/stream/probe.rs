//! The first moments of a publish: gathers media until renditions can be chosen. Pure. Media that arrives meanwhile is
//! held, within a bound, and handed back after the verdict; nothing that can be decoded in the final format is lost.

use crate::stream::ladder::SourceVideo;
use media::{
    AudioConfig, MAX_SOUND_TRACKS, Media, MediaSpan, MediaTime, SoundTrackId, UNIT_OVERHEAD, Unit,
    VideoConfig,
};
use rtmp::{Metadata, SoundTrackInfo};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Maximum coded bytes held: four seconds at 32 Mbit/s.
const MAX_BYTES: usize = 16 << 20;
/// How long to wait for the other kind of media before the stream is taken to have none. Publishers send both sequence
/// headers first, but OBS' audio and some phones' cameras start up to a second apart.
const WAIT_FOR_AUDIO: MediaSpan = MediaSpan::from_millis(1000);
const WAIT_FOR_VIDEO: MediaSpan = MediaSpan::from_millis(2500);
/// How long to wait for video that the publisher has announced, by `onMetaData` or by its configuration: some phones'
/// cameras start seconds after their microphones, and players that have begun with audio alone never get the video.
const WAIT_FOR_ANNOUNCED_VIDEO: MediaSpan = MediaSpan::from_millis(8000);
/// Number of video frames from which a frame rate is measured.
const MEASURED_FRAMES: usize = 12;
/// Frame rates that cameras and encoders really have; a measured rate within 2 % is taken to be the nearest of these.
const COMMON_RATES: [(u32, u32); 13] = [
    (10, 1),
    (12, 1),
    (15, 1),
    (20, 1),
    (24000, 1001),
    (24, 1),
    (25, 1),
    (30000, 1001),
    (30, 1),
    (48, 1),
    (50, 1),
    (60000, 1001),
    (60, 1),
];

/// The result of probing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Findings {
    /// Video configuration, the properties that the ladder needs, and whether keyframes are close enough together to be
    /// the segment grid.
    pub video: Option<(VideoConfig, SourceVideo, bool)>,
    /// Bits per second of the video as measured over a second at least; `None` where less was held.
    pub video_bitrate: Option<u32>,
    /// Configuration of the main sound.
    pub audio: Option<AudioConfig>,
    /// Configurations of the sound tracks beside the main sound, in order of their numbers.
    pub tracks: Vec<(SoundTrackId, AudioConfig)>,
    /// What the publisher says about its sound tracks.
    pub labels: Vec<SoundTrackInfo>,
}

/// Gathers media until there is a verdict.
#[derive(Debug)]
pub(super) struct SourceProbe {
    /// Longest keyframe distance with which a rung `source` is passed through; `None` when no such rung is wanted.
    /// Otherwise keyframe distances have to be measured.
    source_gop: Option<MediaSpan>,
    since: Instant,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    /// Sound tracks beside the main sound, [`MAX_SOUND_TRACKS`] with it.
    tracks: BTreeMap<SoundTrackId, AudioConfig>,
    metadata: Metadata,
    held: Vec<Media>,
    bytes: usize,
}

impl SourceProbe {
    /// Starts probing. `source_gop` is the longest allowed keyframe distance, given when a rung `source` is wanted.
    pub(super) fn new(source_gop: Option<MediaSpan>, now: Instant) -> Self {
        Self {
            source_gop,
            since: now,
            video: None,
            audio: None,
            tracks: BTreeMap::new(),
            metadata: Metadata::default(),
            held: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes the publisher's metadata.
    pub(super) fn metadata(&mut self, metadata: Metadata) {
        self.metadata = metadata;
    }

    /// Takes media. When a new configuration arrives, media held in the previous format is discarded: the stream begins
    /// with the new format.
    pub(super) fn push(&mut self, media: Media) {
        match &media {
            Media::VideoConfig(config) => {
                self.video = Some(config.clone());
                self.let_go(|held| matches!(held, Media::Video(_) | Media::VideoConfig(_)));
            }
            Media::AudioConfig(config) => {
                self.audio = Some(config.clone());
                self.let_go(|held| matches!(held, Media::Audio(_) | Media::AudioConfig(_)));
            }
            Media::Video(unit) => {
                // Video cannot be decoded before its configuration and the first keyframe.
                let first = !self.held.iter().any(|held| matches!(held, Media::Video(_)));
                if self.video.is_none() || (first && !unit.key) {
                    return;
                }
            }
            Media::Audio(_) => {
                if self.audio.is_none() {
                    return;
                }
            }
            Media::TrackConfig(id, config) => {
                if !self.tracks.contains_key(id) && self.tracks.len() + 1 >= MAX_SOUND_TRACKS {
                    return;
                }
                self.tracks.insert(*id, config.clone());
                self.let_go(
                    |held| matches!(held, Media::Track(of, _) | Media::TrackConfig(of, _) if of == id),
                );
            }
            Media::Track(id, _) => {
                if !self.tracks.contains_key(id) {
                    return;
                }
            }
        }
        self.bytes += cost(&media);
        self.held.push(media);
    }

    fn let_go(&mut self, which: impl Fn(&Media) -> bool) {
        self.held.retain(|held| !which(held));
        self.bytes = self.held.iter().map(cost).sum();
    }

    /// The findings; `None` until the held media is enough.
    pub(super) fn verdict(&self, now: Instant) -> Option<Findings> {
        self.verdict_at().is_some_and(|at| at <= now).then(|| self.findings())
    }

    /// When the held media is enough if no more media comes; `None` until there is any. Live media arrives in real
    /// time, a file as fast as it can be read: the clock that is ahead counts.
    pub(super) fn verdict_at(&self) -> Option<Instant> {
        if !self.has_video() && !self.has_audio() {
            return None;
        }
        if self.bytes >= MAX_BYTES {
            return Some(self.since);
        }
        let patience = self.patience();
        let waits = if self.span() >= patience { Duration::ZERO } else { patience.to_duration() };
        Some(self.since + waits.max(self.keyframe_patience()))
    }

    /// How long to wait for the other kind of media, and for enough pictures to measure the frame rate.
    fn patience(&self) -> MediaSpan {
        let quarter = |span: MediaSpan| MediaSpan::from_ticks_90k(span.ticks_90k() / 4);
        let wait = |said: Option<bool>, span| if said == Some(false) { quarter(span) } else { span };
        let mut patience = MediaSpan::ZERO;
        if !self.has_audio() {
            patience = patience.max(wait(self.metadata.has_audio, WAIT_FOR_AUDIO));
        }
        if self.tracks_to_come() {
            patience = patience.max(WAIT_FOR_AUDIO);
        }
        if !self.has_video() {
            let announced = self.video.is_some() || self.metadata.has_video == Some(true);
            let span = if announced { WAIT_FOR_ANNOUNCED_VIDEO } else { WAIT_FOR_VIDEO };
            patience = patience.max(wait(self.metadata.has_video, span));
        } else if self.units(true).count() < MEASURED_FRAMES {
            patience = patience.max(WAIT_FOR_AUDIO);
        }
        patience
    }

    /// Whether a sound track was announced, by `onMetaData` or by its configuration, and has sent nothing.
    fn tracks_to_come(&self) -> bool {
        let listed = self.metadata.sound_tracks.iter().filter_map(|track| SoundTrackId::new(track.number));
        let listed = listed.take(MAX_SOUND_TRACKS - 1);
        let came = |id| self.held.iter().any(|held| matches!(held, Media::Track(of, _) if *of == id));
        listed.chain(self.tracks.keys().copied()).any(|id| !came(id))
    }

    /// How long to wait for a second keyframe, where keyframe distances have to be measured.
    fn keyframe_patience(&self) -> Duration {
        match self.source_gop {
            Some(bound) if self.has_video() && self.span() <= bound && self.keyframe_distance().is_none() => {
                bound.to_duration() + Duration::from_secs(1)
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    fn findings(&self) -> Findings {
        let video = self.video.clone().filter(|_| self.has_video()).map(|config| {
            let source = SourceVideo {
                codec: config.codec,
                width: config.width,
                height: config.height,
                sample_aspect: config.sample_aspect,
                frame_rate: self.frame_rate(&config),
                bitrate: self.bitrate(),
            };
            let fits = match (self.source_gop, self.keyframe_distance()) {
                (Some(bound), Some(distance)) => distance <= bound,
                _ => false,
            };
            (config, source, fits)
        });
        let audio = self.audio.clone().filter(|_| self.has_audio());
        Findings {
            video,
            video_bitrate: self.measured_bitrate(),
            audio,
            tracks: self.tracks.iter().map(|(id, config)| (*id, config.clone())).collect(),
            labels: self.metadata.sound_tracks.clone(),
        }
    }

    /// Takes the held media, in order of arrival.
    pub(super) fn into_held(self) -> Vec<Media> {
        self.held
    }

    fn has_video(&self) -> bool {
        self.video.is_some() && self.units(true).next().is_some()
    }

    fn has_audio(&self) -> bool {
        self.audio.is_some() && self.units(false).next().is_some()
    }

    fn units(&self, video: bool) -> impl Iterator<Item = &Unit> {
        self.held.iter().filter_map(move |media| match media {
            Media::Video(unit) if video => Some(unit),
            Media::Audio(unit) if !video => Some(unit),
            _ => None,
        })
    }

    fn span(&self) -> MediaSpan {
        let times = || self.units(true).chain(self.units(false)).map(|unit| unit.dts);
        match (times().min(), times().max()) {
            (Some(first), Some(last)) => last - first,
            _ => MediaSpan::ZERO,
        }
    }

    /// The announced frame rate if the measured rate confirms it (ratio 0.8 to 1.25) or is missing, otherwise the
    /// measured rate.
    fn frame_rate(&self, config: &VideoConfig) -> (u32, u32) {
        let said = config.frame_rate.or_else(|| self.metadata.frame_rate.and_then(snap));
        let measured = self.measured_rate();
        match (said, measured) {
            (Some(said), Some(measured)) => {
                let ratio = f64::from(said.0) / f64::from(said.1) / measured;
                if (0.8..1.25).contains(&ratio) { said } else { snap(measured).unwrap_or(said) }
            }
            (Some(said), None) => said,
            (None, Some(measured)) => snap(measured).unwrap_or((30, 1)),
            (None, None) => (30, 1),
        }
    }

    /// The longest distance between consecutive keyframes; `None` until there are two.
    fn keyframe_distance(&self) -> Option<MediaSpan> {
        let keys: Vec<MediaTime> = self.units(true).filter(|unit| unit.key).map(|unit| unit.pts).collect();
        keys.windows(2).map(|pair| pair[1] - pair[0]).max()
    }

    /// Frames per second; `None` until there are enough frames.
    fn measured_rate(&self) -> Option<f64> {
        let times: Vec<MediaTime> = self.units(true).map(|unit| unit.dts).collect();
        if times.len() < MEASURED_FRAMES {
            return None;
        }
        let span = (*times.last()? - *times.first()?).as_secs_f64();
        (span > 0.0).then(|| (times.len() - 1) as f64 / span)
    }

    fn measured_bitrate(&self) -> Option<u32> {
        const LEAST_SECONDS: f64 = 0.9;
        let (first, last) = (self.units(true).next()?, self.units(true).last()?);
        let seconds = (last.dts - first.dts).as_secs_f64();
        let bytes: usize = self.units(true).map(|unit| unit.data.len()).sum();
        (seconds >= LEAST_SECONDS).then_some((bytes as f64 * 8.0 / seconds) as u32)
    }

    fn bitrate(&self) -> Option<u32> {
        let kbps = self.metadata.video_kbps?;
        (50.0..=200_000.0).contains(&kbps).then_some((kbps * 1000.0) as u32)
    }
}

fn cost(media: &Media) -> usize {
    UNIT_OVERHEAD
        + match media {
            Media::VideoConfig(config) => config.record.len(),
            Media::AudioConfig(config) | Media::TrackConfig(_, config) => config.record.len(),
            Media::Video(unit) | Media::Audio(unit) | Media::Track(_, unit) => unit.data.len(),
        }
}

fn snap(rate: f64) -> Option<(u32, u32)> {
    if !(1.0..=240.0).contains(&rate) {
        return None;
    }
    let distance =
        |candidate: &(u32, u32)| (f64::from(candidate.0) / f64::from(candidate.1) / rate - 1.0).abs();
    let near = COMMON_RATES.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    Some(if distance(&near) < 0.02 { near } else { ((rate * 1000.0).round() as u32, 1000) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::{audio_config, unit_at, video_config};

    fn video(ms: i64, key: bool) -> Media {
        Media::Video(unit_at(ms, key))
    }

    fn audio(ms: i64) -> Media {
        Media::Audio(unit_at(ms, true))
    }

    #[test]
    fn both_kinds_and_a_measured_rate_are_enough() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(None, now);
        probe.push(Media::VideoConfig(video_config(1280, 720)));
        probe.push(Media::AudioConfig(audio_config(2, 48_000, 2)));
        for frame in 0..12 {
            assert_eq!(probe.verdict(now), None);
            probe.push(video(frame * 40, frame == 0));
            probe.push(audio(frame * 40));
        }
        let findings = probe.verdict(now).unwrap();
        assert_eq!(findings.video.unwrap().1.frame_rate, (25, 1));
        assert!(findings.audio.is_some());
        assert_eq!(findings.video_bitrate, None, "not a second yet");
    }

    #[test]
    fn the_bitrate_is_measured_where_a_second_is_held() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(Some(MediaSpan::from_millis(2000)), now);
        probe.push(Media::VideoConfig(video_config(1280, 720)));
        probe.push(Media::AudioConfig(audio_config(2, 48_000, 2)));
        for ms in (0..=2000).step_by(40) {
            let Media::Video(unit) = video(ms, ms % 2000 == 0) else { unreachable!() };
            probe.push(Media::Video(Unit { data: vec![0; 1000].into(), ..unit }));
            probe.push(audio(ms));
        }
        let bitrate = probe.verdict(now).unwrap().video_bitrate.unwrap();
        assert!((195_000..210_000).contains(&bitrate), "{bitrate}");
    }

    #[test]
    fn absent_audio_is_waited_for_and_then_not() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(None, now);
        probe.push(Media::VideoConfig(video_config(1280, 720)));
        for frame in 0..=24 {
            probe.push(video(frame * 40, frame == 0));
        }
        assert_eq!(probe.verdict(now), None, "0.96 s");
        probe.push(video(1000, false));
        assert_eq!(probe.verdict(now).unwrap().audio, None);
    }

    fn track(number: u8) -> SoundTrackId {
        SoundTrackId::new(number).unwrap()
    }

    /// A probe that has everything but sound tracks beside the main sound.
    fn satisfied(now: Instant) -> SourceProbe {
        let mut probe = SourceProbe::new(None, now);
        probe.push(Media::VideoConfig(video_config(1280, 720)));
        probe.push(Media::AudioConfig(audio_config(2, 48_000, 2)));
        for frame in 0..12 {
            probe.push(video(frame * 40, frame == 0));
            probe.push(audio(frame * 40));
        }
        probe
    }

    #[test]
    fn a_sound_track_that_is_announced_is_waited_for_as_long_as_the_main_sound() {
        let now = Instant::now();
        let second = now + Duration::from_secs(1);
        assert_eq!(satisfied(now).verdict(now).unwrap().tracks, [], "nothing is announced");
        let listed = |number| SoundTrackInfo { number, ..SoundTrackInfo::default() };
        let by_metadata = |probe: &mut SourceProbe| {
            probe.metadata(Metadata { sound_tracks: vec![listed(0), listed(1)], ..Metadata::default() });
        };
        let config = audio_config(2, 44_100, 1);
        let by_config = |probe: &mut SourceProbe| probe.push(Media::TrackConfig(track(1), config.clone()));
        for announce in [&by_metadata as &dyn Fn(&mut SourceProbe), &by_config] {
            let mut probe = satisfied(now);
            announce(&mut probe);
            assert_eq!(probe.verdict(now), None);
            assert!(probe.verdict(second).is_some(), "the bound");
            by_config(&mut probe);
            probe.push(Media::Track(track(1), unit_at(0, true)));
            assert_eq!(probe.verdict(now).unwrap().tracks, [(track(1), config.clone())]);
        }
    }

    #[test]
    fn the_number_of_sound_tracks_is_bounded() {
        let mut probe = satisfied(Instant::now());
        for number in 1..=200 {
            probe.push(Media::TrackConfig(track(number), audio_config(2, 48_000, 2)));
            probe.push(Media::Track(track(number), unit_at(0, true)));
        }
        assert_eq!((probe.tracks.len(), probe.held.len()), (3, 2 + 24 + 6));
    }

    #[test]
    fn audio_alone_is_a_stream_after_a_while() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(None, now);
        probe.push(Media::AudioConfig(audio_config(2, 48_000, 2)));
        probe.push(audio(0));
        assert_eq!(probe.verdict(now + Duration::from_secs(2)), None);
        assert_eq!(probe.verdict(now + Duration::from_secs(3)).unwrap().video, None);
    }

    #[test]
    fn announced_video_is_waited_for_longer() {
        let metadata = Metadata { has_video: Some(true), ..Metadata::default() };
        let by_metadata = |probe: &mut SourceProbe| probe.metadata(metadata.clone());
        let by_config = |probe: &mut SourceProbe| probe.push(Media::VideoConfig(video_config(1280, 720)));
        for announce in [&by_metadata as &dyn Fn(&mut SourceProbe), &by_config] {
            let now = Instant::now();
            let mut probe = SourceProbe::new(None, now);
            announce(&mut probe);
            probe.push(Media::AudioConfig(audio_config(2, 48_000, 2)));
            probe.push(audio(0));
            assert_eq!(probe.verdict(now + Duration::from_secs(7)), None);
            assert_eq!(probe.verdict(now + Duration::from_secs(8)).unwrap().video, None);
        }
    }

    #[test]
    fn a_source_rung_needs_a_second_keyframe_within_the_bound() {
        let now = Instant::now();
        let verdict = |gop_ms: i64, until_ms: i64| {
            let mut probe = SourceProbe::new(Some(MediaSpan::from_millis(2000)), now);
            probe.push(Media::VideoConfig(video_config(1280, 720)));
            probe.push(Media::AudioConfig(audio_config(2, 48_000, 2)));
            for ms in (0..=until_ms).step_by(40) {
                probe.push(video(ms, ms % gop_ms == 0));
                probe.push(audio(ms));
            }
            probe.verdict(now).map(|findings| findings.video.unwrap().2)
        };
        assert_eq!(verdict(2000, 1960), None);
        assert_eq!(verdict(2000, 2000), Some(true));
        assert_eq!(verdict(10_000, 2040), Some(false));
    }

    #[test]
    fn a_lying_frame_rate_is_not_believed() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(None, now);
        probe.metadata(Metadata { frame_rate: Some(1000.0), has_audio: Some(false), ..Metadata::default() });
        probe.push(Media::VideoConfig(VideoConfig { frame_rate: Some((60, 1)), ..video_config(1280, 720) }));
        for frame in 0..30 {
            probe.push(video(frame * 1000 / 24, frame == 0));
        }
        assert_eq!(probe.verdict(now).unwrap().video.unwrap().1.frame_rate, (24, 1));
    }

    #[test]
    fn memory_is_bounded_by_an_early_verdict() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(Some(MediaSpan::from_millis(2000)), now);
        probe.push(Media::VideoConfig(video_config(1280, 720)));
        let mut big = unit_at(0, true);
        big.data = vec![0; MAX_BYTES].into();
        probe.push(Media::Video(big));
        assert!(probe.verdict(now).is_some());
    }

    #[test]
    fn announcements_without_media_do_not_pile_up() {
        let now = Instant::now();
        let mut probe = SourceProbe::new(None, now);
        for step in 0..1000 {
            probe.push(Media::VideoConfig(video_config(640 + 16 * (step % 2), 480)));
            probe.push(Media::AudioConfig(audio_config(2, 48_000, 1 + (step % 2) as u8)));
            probe.push(Media::TrackConfig(track(1), audio_config(2, 48_000, 1 + (step % 2) as u8)));
            probe.push(video(i64::from(step), true));
            probe.push(audio(i64::from(step)));
        }
        assert_eq!(probe.held.len(), 5);
    }
}
