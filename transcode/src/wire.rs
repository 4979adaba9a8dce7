//! The messages between the supervisor and a worker, its child process that alone uses libav. Their bytes are in
//! [`protocol`]. What the worker does with the messages is in the rest of this crate; its supervision is the caller's.

pub mod protocol;

use media::MediaTime;
use media::{AudioCodec, VideoCodec};
use serde::{Deserialize, Serialize};

/// What a worker is told at its start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The renditions to encode, largest first; empty when only audio is transcoded.
    pub rungs: Vec<VideoRung>,
    /// How video is encoded, for all rungs alike.
    pub video: VideoSettings,
    /// Present when audio is to be transcoded here (it is copied by the supervisor when it fits).
    pub audio: Option<AudioRung>,
    /// Pictures before this media time are decoded but not encoded: a worker that takes over goes on where its
    /// predecessor's pictures ended, and begins there with an IDR frame. In 1/90000 s.
    #[serde(default)]
    pub encode_from_90k: i64,
    /// A JPEG this often, in milliseconds of media time; 0 for none.
    pub thumbnail_every_ms: u32,
}

/// One video rendition to encode. Dimensions are final: even, in square pixels, never above the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoRung {
    /// Rung name as in playlists.
    pub name: String,
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// Frames a second at most, as (numerator, denominator); frames beyond it are dropped evenly, never one on the
    /// keyframe grid.
    pub frame_rate: (u32, u32),
    /// Bits a second: target and ceiling (VBV of `VideoSettings::vbv_ms`).
    pub bitrate: u32,
}

/// Settings that all rungs share; those that move latency come from the one latency knob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoSettings {
    /// libav's name of the encoder.
    pub encoder: String,
    /// x264 preset, or the like of other encoders.
    pub preset: String,
    /// Where IDR frames go.
    pub keyframes: Keyframes,
    /// Frames that the encoder may look ahead.
    pub lookahead_frames: u32,
    /// B-frames in a row at most.
    pub b_frames: u32,
    /// Length of the rate-control buffer in milliseconds.
    pub vbv_ms: u32,
}

/// The frames per second of a rate given as (numerator, denominator).
pub fn rate_of(frame_rate: (u32, u32)) -> f64 {
    f64::from(frame_rate.0) / f64::from(frame_rate.1.max(1))
}

/// Where all rungs put their IDR frames.
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
    /// Bits a second.
    pub bitrate: u32,
    /// Samples a second that come out.
    pub sample_rate: u32,
    /// Channels that come out: 1 or 2.
    pub channels: u8,
}

/// A track as the worker opened it. Comes before the first sample of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenedTrack {
    /// Index into [`Job::rungs`], or [`AUDIO_TRACK`].
    pub track: u8,
    /// avcC or AudioSpecificConfig.
    pub config: Vec<u8>,
}

/// The track index of transcoded audio.
pub const AUDIO_TRACK: u8 = 255;

/// An encoded (or still coded) access unit as it crosses the pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireUnit {
    /// Towards the worker: 0 for video, [`AUDIO_TRACK`] for audio. From the worker: as in [`OpenedTrack::track`].
    pub track: u8,
    /// When it is shown.
    pub pts: MediaTime,
    /// When it is decoded.
    pub dts: MediaTime,
    /// Whether decoding can start here.
    pub key: bool,
    /// Coded data.
    pub data: bytes::Bytes,
}

/// Supervisor to worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The first message, once.
    Start(Job),
    /// A decoder configuration; before the first unit of its kind, and again whenever it changes (which flushes the
    /// decoder and starts the encoders afresh with a new [`Response::Opened`]).
    VideoConfig {
        /// Codec.
        codec: VideoCodec,
        /// Its record.
        record: bytes::Bytes,
    },
    /// The same for audio.
    AudioConfig {
        /// Codec.
        codec: AudioCodec,
        /// Its record.
        record: bytes::Bytes,
    },
    /// A coded access unit.
    Unit(WireUnit),
    /// Nothing follows: flush everything and answer [`Response::Finished`].
    Finish,
}

/// Worker to supervisor.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Encoders are open: all samples of these tracks that follow belong to these configurations. Tracks that are
    /// not in the list go on as they are; video comes with all its rungs at once, audio by itself.
    Opened(Vec<OpenedTrack>),
    /// An encoded access unit; dts grows strictly within a track.
    Unit(WireUnit),
    /// A picture of the stream.
    Thumbnail(bytes::Bytes),
    /// Counters since the start, at most once a second and only when they moved: a worker that was sent media and
    /// says nothing hangs.
    Progress(Progress),
    /// Everything was flushed; the worker exits with 0.
    Finished,
}

/// What a worker has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Pictures decoded.
    pub decoded: u64,
    /// Access units that could not be decoded.
    pub decode_errors: u64,
    /// Pictures encoded, over all rungs.
    pub encoded: u64,
    /// Each rung since the last time, a second or so; in the order of [`Job::rungs`].
    pub rungs: Vec<RungProgress>,
}

/// How fast and how well a rung was encoded lately. Whole numbers: what is read is exactly what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungProgress {
    /// Tenths of frames a second.
    pub frame_rate_tenths: u32,
    /// Mean quantiser in tenths, H.264's from 0 to 51: the lower the better. 0 when nothing was encoded, or where the
    /// encoder does not tell.
    pub quantiser_tenths: u32,
}
