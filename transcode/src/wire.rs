//! The messages between the supervisor and a worker, its child process that alone uses libav. Their bytes are in
//! [`protocol`]. What the worker does with the messages is in the rest of this crate; its supervision is the caller's.

pub(crate) mod file;
pub mod protocol;

use media::{AudioCodec, Unit, VideoCodec};
use serde::{Deserialize, Serialize};

/// The transcoding job, sent to the worker once at its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The renditions to encode, largest first; empty when only audio is transcoded.
    pub rungs: Vec<VideoRung>,
    /// Video encoder settings, the same for all rungs.
    pub video: VideoSettings,
    /// Present when the worker transcodes the audio; the supervisor copies audio that is suitable as it is.
    pub audio: Option<AudioRung>,
    /// The sound tracks beside the main sound that the worker transcodes.
    #[serde(default)]
    pub sound_tracks: Vec<SoundTrackJob>,
    /// The worker decodes pictures before this media time (in 1/90000 s) but does not encode them: a replacement
    /// worker continues where its predecessor's pictures ended, and starts there with an IDR frame.
    #[serde(default)]
    pub encode_from_90k: i64,
    /// Pixels of the largest coded picture that the decoder accepts; 0 for libav's own limit.
    #[serde(default)]
    pub max_pixels: u64,
    /// Interval between JPEG thumbnails, in milliseconds of media time; 0 for no thumbnails.
    pub thumbnail_every_ms: u32,
}

/// One video rendition to encode. Dimensions are final: even, in square pixels, never larger than the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoRung {
    /// Rung name, as in the playlists.
    pub name: String,
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    /// Maximum frames per second, as (numerator, denominator). Excess frames are dropped evenly, but never a frame on
    /// the keyframe grid.
    pub frame_rate: (u32, u32),
    /// Bits per second, both target and ceiling (with a VBV of `VideoSettings::vbv_ms`).
    pub bitrate: u32,
}

/// Settings that all rungs share. The settings that affect latency are derived from the one latency knob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoSettings {
    /// The encoder's name in libav.
    pub encoder: String,
    /// The x264 preset, or the equivalent setting of another encoder.
    pub preset: String,
    /// Where the encoders place IDR frames.
    pub keyframes: Keyframes,
    /// Maximum lookahead of the encoder, in frames.
    pub lookahead_frames: u32,
    /// Maximum number of consecutive B-frames.
    pub b_frames: u32,
    /// Length of the rate-control buffer in milliseconds.
    pub vbv_ms: u32,
}

/// The frames per second of a rate given as (numerator, denominator).
pub fn rate_of(frame_rate: (u32, u32)) -> f64 {
    f64::from(frame_rate.0) / f64::from(frame_rate.1.max(1))
}

/// Where all rungs place their IDR frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyframes {
    /// On the first frame at or after every multiple of this many 90 kHz ticks of media time.
    Grid {
        /// Grid width in 1/90000 s.
        ticks_90k: i64,
    },
    /// Exactly on the source's own keyframes, because a `source` rung passes them through.
    Source,
}

/// Audio to be transcoded to AAC-LC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioRung {
    /// Bits per second.
    pub bitrate: u32,
    /// Output sample rate in Hz.
    pub sample_rate: u32,
    /// Output channels: 1 or 2.
    pub channels: u8,
}

/// A sound track beside the main sound, to be transcoded to AAC-LC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoundTrackJob {
    /// Number of the track on the pipes: [`AUDIO_TRACK`] - 1 and lower.
    pub track: u8,
    /// What to encode.
    pub rung: AudioRung,
}

/// A track as the worker opened it. Sent before the track's first sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenedTrack {
    /// Index into [`Job::rungs`], [`AUDIO_TRACK`], or [`SoundTrackJob::track`].
    pub track: u8,
    /// Decoder configuration: avcC for video, AudioSpecificConfig for audio.
    pub config: Vec<u8>,
}

/// The codec of every video track that a worker encodes.
pub const ENCODED_VIDEO: VideoCodec = VideoCodec::H264;

/// The codec of the audio track that a worker encodes.
pub const ENCODED_AUDIO: AudioCodec = AudioCodec::Aac;

/// The track index of the main sound.
pub const AUDIO_TRACK: u8 = 255;

/// Whether a track index is one of the main sound or another sound track.
pub const fn is_audio_track(track: u8) -> bool {
    track > AUDIO_TRACK - media::MAX_SOUND_TRACKS as u8
}

/// An access unit as it crosses the pipe: the publisher's on the way to the worker, an encoder's on the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireUnit {
    /// To the worker: 0 for video, [`AUDIO_TRACK`] for the main sound, [`SoundTrackJob::track`] for another sound track.
    /// From the worker: as in [`OpenedTrack::track`].
    pub track: u8,
    /// The access unit. To the worker, audio without data is a mark: the rendition is silent up to this time where no
    /// audio came.
    pub unit: Unit,
}

/// A message from the supervisor to the worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The job: the first message, sent exactly once.
    Start(Job),
    /// The video decoder configuration, sent before the first video unit and again on every change. A change flushes
    /// the decoder and restarts the encoders, with a new [`Response::Opened`].
    VideoConfig {
        /// Codec.
        codec: VideoCodec,
        /// The decoder configuration record, as in [`media::VideoConfig::record`].
        record: bytes::Bytes,
    },
    /// The audio decoder configuration, sent like [`Self::VideoConfig`].
    AudioConfig {
        /// The track, as in [`WireUnit::track`].
        track: u8,
        /// Codec.
        codec: AudioCodec,
        /// Sample rate in Hz, for codecs whose frames do not tell.
        sample_rate: u32,
        /// Number of channels, for codecs whose frames do not tell.
        channels: u8,
        /// The decoder configuration, as in [`media::AudioConfig::record`].
        record: bytes::Bytes,
    },
    /// A coded access unit.
    Unit(WireUnit),
    /// The last message: flush everything and answer [`Response::Finished`].
    Finish,
}

/// A message from the worker to the supervisor.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Encoders are open: all later samples of these tracks belong to these configurations. Tracks that are not in
    /// the list keep their configuration. One message lists all video rungs together; audio has its own message.
    Opened(Vec<OpenedTrack>),
    /// An encoded access unit; the decode time increases strictly within a track.
    Unit(WireUnit),
    /// A JPEG thumbnail of the stream.
    Thumbnail(bytes::Bytes),
    /// Counters since the start, sent at most once a second and only when they changed: a worker that receives media
    /// but sends nothing is hung.
    Progress(WorkerProgress),
    /// Everything is flushed; the worker then exits with code 0.
    Finished,
}

/// A worker's counters since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerProgress {
    /// Pictures decoded.
    pub decoded: u64,
    /// Access units that could not be decoded.
    pub decode_errors: u64,
    /// Pictures encoded, over all rungs.
    pub encoded: u64,
    /// Each rung since the previous report, about one second; in the order of [`Job::rungs`].
    pub rungs: Vec<RungProgress>,
}

/// A rung's recent encoding speed and quality. The values are integers so that they survive JSON unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungProgress {
    /// Frames per second, in tenths.
    pub frame_rate_tenths: u32,
    /// Mean quantiser in tenths; H.264's range is 0 to 51, lower is better. 0 when nothing was encoded or when the
    /// encoder does not report a quantiser.
    pub quantiser_tenths: u32,
}
