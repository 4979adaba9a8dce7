//! What flows from a publisher to the packager: configurations and access units on the stream's media axis.
//! Parsing is in [`crate::flv`], time repair in [`crate::timeline`].

use bytes::Bytes;
use hls::MediaTime;
use std::time::Instant;

/// Bytes that a unit costs beside its coded data, for bounds in bytes: a flood of tiny units is bounded as well.
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
    /// The codec's record as published; for H.264 an AVCDecoderConfigurationRecord.
    pub record: Bytes,
    /// Pixels across, after cropping.
    pub width: u16,
    /// Pixels down, after cropping.
    pub height: u16,
    /// Sample aspect ratio; (1, 1) where the stream does not say.
    pub sample_aspect: (u16, u16),
    /// Frames a second as (numerator, denominator), where the parameter set says a believable one (1 to 240).
    pub frame_rate: Option<(u32, u32)>,
}

/// An audio decoder's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioConfig {
    /// Codec.
    pub codec: AudioCodec,
    /// AudioSpecificConfig as published.
    pub record: Bytes,
    /// MPEG-4 audio object type: 2 is AAC-LC.
    pub object_type: u8,
    /// Samples a second that come out of the decoder.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u8,
    /// PCM samples in one access unit at `sample_rate`.
    pub frame_samples: u32,
}

/// One access unit on the stream's media axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// When it is shown.
    pub pts: MediaTime,
    /// When it is decoded.
    pub dts: MediaTime,
    /// Whether decoding can start here.
    pub key: bool,
    /// The coded data: length-prefixed NAL units for H.264, a raw frame for AAC.
    pub data: Bytes,
    /// When its last byte came off the socket.
    pub arrived: Instant,
}

/// What a publisher's messages become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// The video that follows needs this configuration.
    VideoConfig(VideoConfig),
    /// The audio that follows needs this configuration.
    AudioConfig(AudioConfig),
    /// A picture.
    Video(AccessUnit),
    /// A frame of audio.
    Audio(AccessUnit),
}
