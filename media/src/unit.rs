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
    /// H.265/HEVC.
    Hevc,
    /// AV1.
    Av1,
    /// VP9.
    Vp9,
    /// VP8.
    Vp8,
}

impl VideoCodec {
    /// All codecs, in no order.
    pub const ALL: [Self; 5] = [Self::H264, Self::Hevc, Self::Av1, Self::Vp9, Self::Vp8];

    /// The codec's name in messages and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::Hevc => "HEVC",
            Self::Av1 => "AV1",
            Self::Vp9 => "VP9",
            Self::Vp8 => "VP8",
        }
    }
}

/// Audio codecs that a publisher may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AudioCodec {
    /// AAC, any object type.
    Aac,
    /// MPEG audio, layers I to III.
    Mp3,
    /// Opus.
    Opus,
    /// FLAC.
    Flac,
    /// AC-3 (Dolby Digital).
    Ac3,
    /// E-AC-3 (Dolby Digital Plus).
    Eac3,
    /// Speex, wideband.
    Speex,
    /// G.711, A-law.
    Alaw,
    /// G.711, mu-law.
    Mulaw,
    /// PCM, signed 16 bits, little-endian.
    PcmS16,
    /// PCM, unsigned 8 bits.
    PcmU8,
    /// Nellymoser Asao, of old Flash encoders.
    Nellymoser,
    /// ADPCM of Flash.
    AdpcmFlash,
}

impl AudioCodec {
    /// All codecs, in no order.
    pub const ALL: [Self; 13] = [
        Self::Aac,
        Self::Mp3,
        Self::Opus,
        Self::Flac,
        Self::Ac3,
        Self::Eac3,
        Self::Speex,
        Self::Alaw,
        Self::Mulaw,
        Self::PcmS16,
        Self::PcmU8,
        Self::Nellymoser,
        Self::AdpcmFlash,
    ];

    /// The codec's name in messages and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aac => "AAC",
            Self::Mp3 => "MP3",
            Self::Opus => "Opus",
            Self::Flac => "FLAC",
            Self::Ac3 => "AC-3",
            Self::Eac3 => "E-AC-3",
            Self::Speex => "Speex",
            Self::Alaw => "G.711 A-law",
            Self::Mulaw => "G.711 mu-law",
            Self::PcmS16 | Self::PcmU8 => "PCM",
            Self::Nellymoser => "Nellymoser",
            Self::AdpcmFlash => "ADPCM",
        }
    }
}

/// A video decoder's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoConfig {
    /// Codec.
    pub codec: VideoCodec,
    /// The codec's record: for H.264 an AVCDecoderConfigurationRecord and for HEVC an HEVCDecoderConfigurationRecord, as
    /// published but with NAL unit lengths of four bytes; for AV1 an AV1CodecConfigurationRecord; empty for VP8 and VP9,
    /// and for AV1 whose sequence header cannot be read as a whole.
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
    /// The codec's record as published: AudioSpecificConfig, OpusHead, FLAC's STREAMINFO; empty for the other codecs.
    pub record: Bytes,
    /// AAC: MPEG-4 audio object type of the core, never of an extension: 2 is AAC-LC, also inside HE-AAC. 0 for other
    /// codecs.
    pub core_type: u8,
    /// AAC: the extension of the core that the record (or a decoder) signals.
    pub extension: Option<AacExtension>,
    /// AAC: the record's channelConfiguration, 0 to 14; 0: the channels are in a program config element. 0 for other
    /// codecs.
    pub channel_config: u8,
    /// Sample rate of the decoder's output in Hz.
    pub sample_rate: u32,
    /// Number of channels of the decoder's output, 1 to 8.
    pub channels: u8,
    /// PCM samples in one access unit at `sample_rate`; 0 where access units differ in length.
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
    /// Whether decoding can start here (IDR of H.264, random access point of HEVC, key frame of AV1 that is shown; every audio
    /// frame).
    pub key: bool,
    /// The coded data: NAL units with lengths of four bytes for H.264 and HEVC, a temporal unit without its delimiters for
    /// AV1, otherwise a raw frame.
    pub data: Bytes,
}

/// Maximum number of sound tracks of a publisher, the main sound included.
pub const MAX_SOUND_TRACKS: usize = 4;

/// Number of a sound track beside the main sound, as the publisher numbers its tracks: 1 to 255. The main sound is
/// track 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SoundTrackId(u8);

impl SoundTrackId {
    /// `None` for 0, the main sound.
    pub const fn new(number: u8) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number, 1 to 255.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Media from a publisher's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// The configuration of the video that follows.
    VideoConfig(VideoConfig),
    /// The configuration of the main sound that follows.
    AudioConfig(AudioConfig),
    /// A picture.
    Video(Unit),
    /// An audio frame of the main sound.
    Audio(Unit),
    /// The configuration of a sound track beside the main sound.
    TrackConfig(SoundTrackId, AudioConfig),
    /// An audio frame of a sound track beside the main sound.
    Track(SoundTrackId, Unit),
}
