//! Tracks: the renditions of an epoch, as the packager takes them. No packaging here.
//!
//! Archives store tracks as JSON, in the order of the fields: a field that is moved or renamed changes the stored form.

use crate::fmp4::VIDEO_TIMESCALE;
use crate::names::RungName;
use bytes::Bytes;
use media::captions::CaptionServices;
use media::{AudioCodec, Colour, VideoCodec, aac, av1, h264, hevc, picture_format};
use serde::{Deserialize, Serialize};

/// One rendition of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// The rendition's folder and its name in playlists.
    pub rung: RungName,
    /// Video or audio, with its parameters.
    #[serde(flatten)]
    pub kind: TrackKind,
}

/// Video or audio, with everything that the sample entry and the multivariant playlist need. In the serialised form the
/// codec tells them apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a track with a known codec and all parameters of that codec")]
pub enum TrackKind {
    /// A video rendition.
    Video(VideoTrack),
    /// An audio rendition.
    Audio(AudioTrack),
}

/// Parameters of a video track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoTrack {
    /// The codec's configuration record: an AVCDecoderConfigurationRecord (ISO 14496-15 5.3.3.1), an
    /// HEVCDecoderConfigurationRecord (8.3.3.1) or an AV1CodecConfigurationRecord.
    #[serde(with = "crate::hex")]
    pub config: Bytes,
    /// The encoder's target bit rate in bits per second: BANDWIDTH until a bit rate is measured.
    pub nominal_bitrate: u32,
    /// Codec: H.264 is packaged as `avc1` and HEVC as `hvc1`, with the parameter sets in the sample entry, AV1 as `av01`;
    /// VP8 and VP9 are not packaged.
    pub codec: VideoCodec,
    /// Coded width in pixels after cropping.
    pub width: u16,
    /// Coded height in pixels after cropping.
    pub height: u16,
    /// Sample aspect ratio, (1, 1) for square pixels.
    pub sample_aspect: (u16, u16),
    /// Frames per second, as in FRAME-RATE; the highest rate for variable sources.
    pub frame_rate: f64,
    /// Caption services in the pictures, as far as they are known. A service that is seen later is added.
    #[serde(default, skip_serializing_if = "CaptionServices::is_empty")]
    pub captions: CaptionServices,
}

/// Parameters of an audio track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioTrack {
    /// AudioSpecificConfig (ISO 14496-3 1.6.2.1).
    #[serde(with = "crate::hex")]
    pub config: Bytes,
    /// Bits per second: BANDWIDTH until a bit rate is measured.
    pub nominal_bitrate: u32,
    /// Codec: AAC of any object type is packaged as `mp4a`; other codecs are not packaged.
    pub codec: AudioCodec,
    /// Samples per second.
    pub sample_rate: u32,
    /// Number of channels.
    pub channels: u8,
    /// PCM samples in one access unit: 1024 for AAC-LC, 2048 for HE-AAC at its output rate.
    pub frame_samples: u32,
    /// NAME in the multivariant playlist; `None` stands for [`DEFAULT_AUDIO_NAME`]. No two audio tracks have one name.
    /// Without control characters and double quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// LANGUAGE in the multivariant playlist (BCP 47).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
}

/// VIDEO-RANGE (rfc8216bis 4.4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VideoRange {
    Sdr,
    Hlg,
    Pq,
}

impl VideoRange {
    /// The attribute's value.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sdr => "SDR",
            Self::Hlg => "HLG",
            Self::Pq => "PQ",
        }
    }
}

impl VideoTrack {
    /// The colours that the configuration record gives; `None` where it cannot be read.
    pub(crate) fn colour(&self) -> Option<Colour> {
        picture_format(self.codec, &self.config).map(|format| format.colour)
    }

    /// The dynamic range, by the transfer characteristics.
    pub(crate) fn range(&self) -> VideoRange {
        match self.colour().map(|colour| colour.transfer) {
            Some(16) => VideoRange::Pq,
            Some(18) => VideoRange::Hlg,
            Some(_) | None => VideoRange::Sdr,
        }
    }
}
/// NAME of an audio track without one.
pub const DEFAULT_AUDIO_NAME: &str = "Audio";

impl Track {
    /// Whether this is an audio track.
    pub const fn is_audio(&self) -> bool {
        matches!(self.kind, TrackKind::Audio(_))
    }

    /// The CODECS entry of the track (RFC 6381); `None` when its configuration record is too short, and for codecs that
    /// are not packaged.
    pub fn codecs_string(&self) -> Option<String> {
        match &self.kind {
            TrackKind::Video(video) => match video.codec {
                VideoCodec::H264 => h264::codecs_string(&video.config),
                VideoCodec::Hevc => hevc::codecs_string(&video.config),
                VideoCodec::Av1 => av1::codecs_string(&video.config),
                VideoCodec::Vp9 | VideoCodec::Vp8 => None,
            },
            TrackKind::Audio(audio) => {
                (audio.codec == AudioCodec::Aac).then(|| aac::codecs_string(&audio.config))?
            }
        }
    }

    /// Adds caption services to a video track. Returns whether one was not known before.
    pub fn add_captions(&mut self, services: CaptionServices) -> bool {
        match &mut self.kind {
            TrackKind::Video(video) => {
                let before = video.captions;
                video.captions = before.union(services);
                before != video.captions
            }
            TrackKind::Audio(_) => false,
        }
    }

    /// Caption services in the pictures of a video track; none for audio.
    pub const fn captions(&self) -> CaptionServices {
        match &self.kind {
            TrackKind::Video(video) => video.captions,
            TrackKind::Audio(_) => CaptionServices::NONE,
        }
    }

    /// The encoder's target bit rate, in bits per second.
    pub const fn nominal_bitrate(&self) -> u32 {
        match &self.kind {
            TrackKind::Video(video) => video.nominal_bitrate,
            TrackKind::Audio(audio) => audio.nominal_bitrate,
        }
    }

    /// Ticks per second in the track's segments.
    pub const fn timescale(&self) -> u32 {
        match &self.kind {
            TrackKind::Video(_) => VIDEO_TIMESCALE,
            TrackKind::Audio(audio) => audio.sample_rate,
        }
    }
}
