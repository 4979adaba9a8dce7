//! The types of media between a publisher and the packager: configurations and access units on the stream's media axis.
//! Parsing and time repair are in the crate that reads a protocol or a container.

use crate::MediaTime;
use bytes::Bytes;

/// Bytes that an access unit counts in addition to its coded data, where a bound is in bytes: this also bounds a flood
/// of tiny access units.
pub const UNIT_OVERHEAD: usize = 128;

/// Video codecs that a publisher may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoCodec {
    /// H.264/AVC.
    H264,
}

/// Audio codecs that a publisher may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioCodec {
    /// AAC, any object type.
    Aac,
}

/// A video decoder's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoConfig {
    /// Codec.
    pub codec: VideoCodec,
    /// The codec's record; for H.264 an AVCDecoderConfigurationRecord, as published but with NAL unit lengths of four
    /// bytes.
    pub record: Bytes,
    /// Width in pixels, after cropping.
    pub width: u16,
    /// Height in pixels, after cropping.
    pub height: u16,
    /// Sample aspect ratio; (1, 1) if the stream gives none.
    pub sample_aspect: (u16, u16),
    /// Frames per second as (numerator, denominator), if the parameter set gives a plausible value (1 to 240).
    pub frame_rate: Option<(u32, u32)>,
}

/// What a decoder adds to the core of an AAC stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AacExtension {
    /// Spectral band replication (HE-AAC).
    Sbr,
    /// Spectral band replication and parametric stereo (HE-AAC v2).
    SbrAndPs,
}

/// An audio decoder's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioConfig {
    /// Codec.
    pub codec: AudioCodec,
    /// AudioSpecificConfig as published.
    pub record: Bytes,
    /// MPEG-4 audio object type of the core, never of an extension: 2 is AAC-LC, also inside HE-AAC.
    pub core_type: u8,
    /// The extension of the core that the record (or a decoder) signals.
    pub extension: Option<AacExtension>,
    /// The record's channelConfiguration, 0 to 14; 0: the channels are in a program config element.
    pub channel_config: u8,
    /// Sample rate of the decoder's output in Hz.
    pub sample_rate: u32,
    /// Number of channels of the decoder's output, 1 to 8.
    pub channels: u8,
    /// PCM samples in one access unit at `sample_rate`.
    pub frame_samples: u32,
}

/// One coded access unit on the stream's media axis: the same type from the publisher, through the worker, to the
/// packager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Presentation time.
    pub pts: MediaTime,
    /// Decode time.
    pub dts: MediaTime,
    /// Whether decoding can start here (IDR; every audio frame).
    pub key: bool,
    /// The coded data: length-prefixed NAL units for H.264, a raw frame for AAC.
    pub data: Bytes,
}

/// Media from a publisher's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// The configuration of the video that follows.
    VideoConfig(VideoConfig),
    /// The configuration of the audio that follows.
    AudioConfig(AudioConfig),
    /// A picture.
    Video(Unit),
    /// An audio frame.
    Audio(Unit),
}
