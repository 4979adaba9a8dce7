//! From published messages to media on the stream's axis: combines [`crate::flv`] and [`crate::timeline`]. Unreadable
//! messages are passed over and counted. Nobody is left in the dark about them: a kind of media of which nothing can be
//! read for [`WARN_AFTER`] is a [`Notice`], and video of which nothing could ever be read for [`GIVE_UP_AFTER`] is an
//! error, as is media that can never be encoded.
//!
//! Not here: sockets ([`crate`]), and what happens to the media (`encoder::stream`).

use crate::flv::{FlvDemuxer, FlvError, OtherSound, Tag};
use crate::timeline::{Repairs, Timeline};
use crate::{MediaMessage, MessageKind, Metadata, Refusal};
use bytes::Bytes;
use media::{AudioConfig, Media, MediaTime, SoundTrackId, Unit, VideoCodec, VideoConfig, h264, hevc};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long messages of a kind may come without one that can be read, before that is a [`Notice`].
pub const WARN_AFTER: Duration = Duration::from_secs(3);
/// How long a publisher may send video of which nothing can be read.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The publisher sends media that cannot be encoded, now or later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct IngestError {
    /// What was sent and what is accepted, as a text for the publisher.
    pub reason: String,
}

impl From<IngestError> for Refusal {
    fn from(error: IngestError) -> Self {
        Self::Unsupported(error.reason)
    }
}

/// Counts of irregular messages of a publisher since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Messages that could not be read and were passed over.
    pub unreadable: u64,
    /// Messages of further tracks that were passed over: of video beside the first track, of sound beyond
    /// [`media::MAX_SOUND_TRACKS`].
    pub other_tracks: u64,
    /// Pictures whose tag says keyframe but at which decoding cannot start (open GOP, recovery point).
    pub false_keys: u64,
    /// Configurations equal to the current one, which were dropped.
    pub repeated_configs: u64,
}

impl Oddities {
    /// Kinds and counts, for logs.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("unreadable", self.unreadable),
            ("other_tracks", self.other_tracks),
            ("false_keys", self.false_keys),
            ("repeated_configs", self.repeated_configs),
        ]
        .into_iter()
    }
}

/// Media of a kind has come for [`WARN_AFTER`] without a message that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The kind of media.
    pub kind: MessageKind,
    /// Why the latest message could not be read.
    pub reason: &'static str,
}

/// What came of one kind of media.
#[derive(Clone, Copy, Debug, Default)]
struct Sight {
    /// Something could be read.
    seen: bool,
    /// Arrival of the first message since the last readable one that could not be read.
    dark_since: Option<Instant>,
    /// There has been a notice.
    noticed: bool,
    /// Nothing could be read for [`WARN_AFTER`] and nothing since: why the latest message could not be read.
    standing: Option<&'static str>,
}

impl Sight {
    fn readable(&mut self) {
        *self = Self { seen: true, dark_since: None, standing: None, ..*self };
    }

    /// How long nothing could be read.
    fn unreadable(&mut self, arrived: Instant) -> Duration {
        arrived.saturating_duration_since(*self.dark_since.get_or_insert(arrived))
    }
}

/// Converts the messages of one publisher to [`Media`].
#[derive(Clone, Debug, Default)]
pub struct Ingest {
    demuxer: FlvDemuxer,
    timeline: Timeline,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    /// Configurations of the sound tracks beside the main sound; the demuxer bounds their number.
    tracks: BTreeMap<SoundTrackId, AudioConfig>,
    oddities: Oddities,
    video_sight: Sight,
    audio_sight: Sight,
    notice: Option<Notice>,
}

impl Ingest {
    /// For a new stream, whose axis begins at [`crate::timeline::START`].
    pub fn new() -> Self {
        Self::default()
    }

    /// For a publisher that reconnected: all media is placed strictly after `after`.
    pub fn resume(after: MediaTime) -> Self {
        Self { timeline: Timeline::resume(after), ..Self::default() }
    }

    /// Refuses coded pictures of more than this many pixels; see [`FlvDemuxer::with_max_pixels`].
    pub fn with_max_pixels(self, max_pixels: u64) -> Self {
        Self { demuxer: self.demuxer.with_max_pixels(max_pixels), ..self }
    }

    /// Uses the frame rate of `onMetaData` if no parameter set gives one, and its picture size and sample rate where the
    /// media does not describe itself.
    pub fn metadata(&mut self, metadata: &Metadata) {
        self.demuxer.metadata(metadata);
        if self.video.as_ref().is_none_or(|video| video.frame_rate.is_none()) {
            self.timeline.set_frame_rate(metadata.frame_rate.and_then(as_ratio));
        }
    }

    /// Converts a message to media: at most one configuration, followed by access units: one, or several where the
    /// publisher packs audio so. A configuration comes before the access units that need it, and again only when it
    /// changes.
    ///
    /// # Errors
    /// [`IngestError`]: nothing that follows can be encoded.
    pub fn push(
        &mut self,
        message: MediaMessage,
    ) -> Result<impl Iterator<Item = Media> + use<>, IngestError> {
        let mut media = Vec::new();
        let MediaMessage { kind, timestamp_ms, payload, arrived } = message;
        match self.demuxer.read(kind, &payload) {
            Ok(Tag::Nothing | Tag::EndOfSequence(_)) => {}
            Ok(Tag::OtherTrack) => self.oddities.other_tracks += u64::from(kind == MessageKind::Video),
            Ok(tag) => {
                self.sight(kind).readable();
                self.place(tag, timestamp_ms, arrived, &mut media);
            }
            Err(FlvError::Unsupported(reason)) => return Err(IngestError { reason }),
            Err(FlvError::Unreadable(reason)) => self.unreadable(kind, reason, arrived)?,
        }
        if kind == MessageKind::Audio {
            self.other_sound(&payload, timestamp_ms, arrived, &mut media);
        }
        Ok(media.into_iter())
    }

    /// Converts what an audio message has for the sound tracks beside the main sound.
    fn other_sound(&mut self, payload: &Bytes, timestamp_ms: u32, arrived: Instant, media: &mut Vec<Media>) {
        let OtherSound { tags, passed_over } = self.demuxer.read_other_sound(payload);
        self.oddities.other_tracks += passed_over;
        for (id, tag) in tags {
            match tag {
                Ok(Tag::AudioConfig(config)) => {
                    let config = self.track_config(id, config);
                    self.oddities.repeated_configs += u64::from(config.is_none());
                    media.extend(config);
                }
                Ok(Tag::Audio(audio)) => {
                    media.extend(audio.config.and_then(|config| self.track_config(id, config)));
                    let step_ms = self.tracks.get(&id).map_or(0, frame_ms);
                    for (data, index) in audio.frames.into_iter().zip(0..) {
                        let at = timestamp_ms.wrapping_add(step_ms.wrapping_mul(index));
                        let time = self.timeline.track_audio(id, at, arrived);
                        media.extend(
                            time.map(|time| Media::Track(id, Unit { pts: time, dts: time, key: true, data })),
                        );
                    }
                }
                Ok(
                    Tag::VideoConfig(_)
                    | Tag::Video(_)
                    | Tag::EndOfSequence(_)
                    | Tag::OtherTrack
                    | Tag::Nothing,
                ) => {}
                Err(FlvError::Unsupported(_) | FlvError::Unreadable(_)) => self.oddities.unreadable += 1,
            }
        }
    }

    /// Applies a configuration of a sound track beside the main sound; `None` if it equals the current one.
    fn track_config(&mut self, id: SoundTrackId, config: AudioConfig) -> Option<Media> {
        if self.tracks.get(&id) == Some(&config) {
            return None;
        }
        self.timeline.set_track_format(id, config.sample_rate, config.frame_samples);
        self.tracks.insert(id, config.clone());
        Some(Media::TrackConfig(id, config))
    }

    fn sight(&mut self, kind: MessageKind) -> &mut Sight {
        match kind {
            MessageKind::Video => &mut self.video_sight,
            MessageKind::Audio => &mut self.audio_sight,
        }
    }

    fn unreadable(
        &mut self,
        kind: MessageKind,
        reason: &'static str,
        arrived: Instant,
    ) -> Result<(), IngestError> {
        self.oddities.unreadable += 1;
        let sight = self.sight(kind);
        let dark = sight.unreadable(arrived);
        if kind == MessageKind::Video && !sight.seen && dark >= GIVE_UP_AFTER {
            let seconds = GIVE_UP_AFTER.as_secs();
            let reason = format!("no video could be read for {seconds} s: {reason}; {}", taken());
            return Err(IngestError { reason });
        }
        if dark >= WARN_AFTER {
            sight.standing = Some(reason);
            if !std::mem::replace(&mut sight.noticed, true) {
                self.notice = Some(Notice { kind, reason });
            }
        }
        Ok(())
    }

    /// A kind of media of which nothing can be read: once for each kind.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notice.take()
    }

    /// The kinds of media that came for [`WARN_AFTER`] and still cannot be read. A kind leaves this list with its next
    /// readable message.
    pub fn standing_notices(&self) -> impl Iterator<Item = Notice> + use<> {
        let kinds = [(MessageKind::Video, self.video_sight), (MessageKind::Audio, self.audio_sight)];
        kinds.into_iter().filter_map(|(kind, sight)| sight.standing.map(|reason| Notice { kind, reason }))
    }

    /// Places what a message had on the axis.
    fn place(&mut self, tag: Tag, timestamp_ms: u32, arrived: Instant, media: &mut Vec<Media>) {
        match tag {
            Tag::VideoConfig(config) => {
                let config = self.video_config(config);
                self.oddities.repeated_configs += u64::from(config.is_none());
                media.extend(config);
            }
            Tag::AudioConfig(config) => {
                let config = self.audio_config(config);
                self.oddities.repeated_configs += u64::from(config.is_none());
                media.extend(config);
            }
            Tag::Video(picture) => {
                self.oddities.false_keys += u64::from(picture.flagged_key && !picture.key);
                media.extend(picture.config.and_then(|config| self.video_config(config)));
                let stamp = self.timeline.video(timestamp_ms, picture.composition_ms, arrived);
                media.extend(stamp.map(|stamp| {
                    Media::Video(Unit {
                        pts: stamp.pts,
                        dts: stamp.dts,
                        key: picture.key,
                        data: picture.data,
                    })
                }));
            }
            Tag::Audio(audio) => {
                media.extend(audio.config.and_then(|config| self.audio_config(config)));
                let step_ms = self.audio.as_ref().map_or(0, frame_ms);
                for (data, index) in audio.frames.into_iter().zip(0..) {
                    let at = timestamp_ms.wrapping_add(step_ms.wrapping_mul(index));
                    let time = self.timeline.audio(at, arrived);
                    media.extend(
                        time.map(|time| Media::Audio(Unit { pts: time, dts: time, key: true, data })),
                    );
                }
            }
            Tag::EndOfSequence(_) | Tag::OtherTrack | Tag::Nothing => {}
        }
    }

    /// Applies a configuration; `None` if it equals the current one.
    fn audio_config(&mut self, config: AudioConfig) -> Option<Media> {
        if self.audio.as_ref() == Some(&config) {
            return None;
        }
        self.timeline.set_audio_format(config.sample_rate, config.frame_samples);
        self.audio = Some(config.clone());
        Some(Media::AudioConfig(config))
    }

    /// Applies a configuration; `None` if it means the same to a decoder as the current one: some publishers repeat their
    /// configuration with each keyframe, and not always byte for byte.
    fn video_config(&mut self, config: VideoConfig) -> Option<Media> {
        if self.video.as_ref().is_some_and(|present| means_the_same(present, &config)) {
            return None;
        }
        if config.frame_rate.is_some() {
            self.timeline.set_frame_rate(config.frame_rate);
        }
        self.video = Some(config.clone());
        Some(Media::VideoConfig(config))
    }

    /// Time repairs so far.
    pub fn repairs(&self) -> Repairs {
        self.timeline.repairs()
    }

    /// Counts of irregular messages so far.
    pub fn oddities(&self) -> Oddities {
        self.oddities
    }
}

/// Duration of an audio frame in milliseconds, rounded down.
fn frame_ms(config: &AudioConfig) -> u32 {
    config.frame_samples.saturating_mul(1000) / config.sample_rate.max(1)
}

/// What an encoder takes, as the end of a refusal.
fn taken() -> String {
    let names: Vec<&str> = VideoCodec::ALL.iter().map(|codec| codec.name()).collect();
    format!("this encoder takes {}", names.join(", "))
}

fn means_the_same(one: &VideoConfig, other: &VideoConfig) -> bool {
    let VideoConfig { codec, record, width, height, sample_aspect, frame_rate } = one;
    let same_record = match codec {
        VideoCodec::H264 => h264::same_parameter_sets(record, &other.record),
        VideoCodec::Hevc => hevc::same_parameter_sets(record, &other.record),
        VideoCodec::Av1 | VideoCodec::Vp9 | VideoCodec::Vp8 => *record == other.record,
    };
    same_record
        && *codec == other.codec
        && (*width, *height) == (other.width, other.height)
        && *sample_aspect == other.sample_aspect
        && *frame_rate == other.frame_rate
}

/// Converts a plausible rate to a ratio. Rounded NTSC rates such as 29.97 become the exact ratio that they stand for.
fn as_ratio(rate: f64) -> Option<(u32, u32)> {
    if !(1.0..=240.0).contains(&rate) {
        return None;
    }
    let whole = rate.round();
    let ntsc = rate * 1.001;
    if (rate - whole).abs() < 0.005 {
        Some((whole as u32, 1))
    } else if (ntsc - ntsc.round()).abs() < 0.01 {
        Some((ntsc.round() as u32 * 1000, 1001))
    } else {
        Some(((rate * 1000.0).round() as u32, 1000))
    }
}

#[cfg(test)]
mod tests;
