//! From published messages to media on the stream's axis: combines [`crate::flv`] and [`crate::timeline`]. Unreadable
//! messages are counted and ignored; only media that can never be encoded is an error.
//!
//! Not here: sockets ([`crate`]), and what happens to the media (`encoder::stream`).

use crate::flv::{FlvDemuxer, FlvError, Tag};
use crate::timeline::{Repairs, Timeline};
use crate::{MediaMessage, Metadata, Refusal};
use media::{AudioConfig, Media, MediaTime, Unit, VideoConfig};

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
    /// Messages that could not be read and were ignored.
    pub malformed: u64,
    /// Pictures whose tag says keyframe but at which decoding cannot start (open GOP, recovery point).
    pub false_keys: u64,
    /// Configurations equal to the current one, which were dropped.
    pub repeated_configs: u64,
}

impl Oddities {
    /// Kinds and counts, for logs.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("malformed", self.malformed),
            ("false_keys", self.false_keys),
            ("repeated_configs", self.repeated_configs),
        ]
        .into_iter()
    }
}

/// Converts the messages of one publisher to [`Media`].
#[derive(Clone, Debug, Default)]
pub struct Ingest {
    demuxer: FlvDemuxer,
    timeline: Timeline,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    oddities: Oddities,
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

    /// Uses the frame rate of `onMetaData` if no parameter set gives one.
    pub fn metadata(&mut self, metadata: &Metadata) {
        if self.video.as_ref().is_none_or(|video| video.frame_rate.is_none()) {
            self.timeline.set_frame_rate(metadata.frame_rate.and_then(as_ratio));
        }
    }

    /// Converts a message to media: at most one configuration, followed by at most one access unit. A configuration
    /// comes before the access units that need it, and again only when it changes.
    pub fn push(
        &mut self,
        message: MediaMessage,
    ) -> Result<impl Iterator<Item = Media> + use<>, IngestError> {
        let (config, unit) = self.read(message)?;
        Ok(config.into_iter().chain(unit))
    }

    fn read(&mut self, message: MediaMessage) -> Result<(Option<Media>, Option<Media>), IngestError> {
        const NOTHING: (Option<Media>, Option<Media>) = (None, None);
        let MediaMessage { kind, timestamp_ms, payload, arrived } = message;
        let tag = match self.demuxer.read(kind, &payload) {
            Ok(tag) => tag,
            Err(FlvError::Unsupported(reason)) => return Err(IngestError { reason }),
            Err(FlvError::Malformed(_)) => {
                self.oddities.malformed += 1;
                return Ok(NOTHING);
            }
        };
        Ok(match tag {
            Tag::VideoConfig(config) => {
                let config = self.video_config(config);
                self.oddities.repeated_configs += u64::from(config.is_none());
                (config, None)
            }
            Tag::AudioConfig(config) => {
                if self.audio.as_ref() == Some(&config) {
                    self.oddities.repeated_configs += 1;
                    return Ok(NOTHING);
                }
                self.timeline.set_audio_format(config.sample_rate, config.frame_samples);
                self.audio = Some(config.clone());
                (Some(Media::AudioConfig(config)), None)
            }
            Tag::Video(picture) => {
                self.oddities.false_keys += u64::from(picture.flagged_key && !picture.key);
                let config = picture.config.and_then(|config| self.video_config(config));
                let stamp = self.timeline.video(timestamp_ms, picture.composition_ms, arrived);
                let unit = stamp.map(|stamp| {
                    Media::Video(Unit {
                        pts: stamp.pts,
                        dts: stamp.dts,
                        key: picture.key,
                        data: picture.data,
                    })
                });
                (config, unit)
            }
            Tag::Audio(data) => {
                let time = self.timeline.audio(timestamp_ms, arrived);
                let unit = |time| Media::Audio(Unit { pts: time, dts: time, key: true, data });
                (None, time.map(unit))
            }
            Tag::EndOfSequence(_) | Tag::Nothing => NOTHING,
        })
    }

    /// Applies a configuration; `None` if it equals the current one.
    fn video_config(&mut self, config: VideoConfig) -> Option<Media> {
        if self.video.as_ref() == Some(&config) {
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
