//! The report's shape: a part of `/status` and the document of `encoder inspect --json`. The field names are an
//! interface: rename none.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What a publisher sends, since it began to publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PublishReport {
    /// Media time that was seen, in seconds.
    pub seconds: f64,
    /// The publisher's program, as `onMetaData` names it; at most 64 printable characters.
    pub program: Option<String>,
    /// The video; `None` without video.
    pub video: Option<VideoReport>,
    /// The audio; `None` without audio.
    pub audio: Option<AudioReport>,
    /// Whether there are tracks that are passed over: video beside the first track, audio beside the first four, and in a
    /// file audio beside the first track.
    pub other_tracks: bool,
    /// How healthy the timestamps are.
    pub timing: TimingReport,
    /// Irregular messages by kind, such as `unreadable`; kinds that did not occur are left out.
    pub passed_over: BTreeMap<String, u64>,
    /// Media that comes and cannot be read now, for three seconds at least.
    pub unreadable: Vec<UnreadableMedia>,
    /// What to change in the publisher.
    pub advice: Vec<Advice>,
}

/// What a publisher sends as video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VideoReport {
    /// Name of the codec; empty if unknown.
    pub codec: String,
    /// Profile and level, where they are known.
    pub profile: Option<String>,
    /// Width in pixels; 0 if unknown.
    pub width: u32,
    /// Height in pixels; 0 if unknown.
    pub height: u32,
    /// How often codec, profile or size changed.
    pub format_changes: u64,
    /// Pictures.
    pub pictures: u64,
    /// Measured frames per second, gaps left out; `None` before the second picture.
    pub frame_rate: Option<f64>,
    /// Frames per second that the publisher states.
    pub stated_frame_rate: Option<f64>,
    /// Whether the time from picture to picture is constant: of nine in ten of the last 256.
    pub steady: bool,
    /// Milliseconds from picture to picture, of the last 256.
    pub step_ms: Option<Spread>,
    /// Keyframes.
    pub keyframes: u64,
    /// Distance of keyframes; `None` before the second keyframe.
    pub gop: Option<GopReport>,
    /// Seconds of media since the newest keyframe.
    pub since_keyframe_seconds: Option<f64>,
    /// Pictures that are decoded after a picture that is shown later.
    pub b_frames: u64,
    /// Most such pictures in a row.
    pub most_b_frames_in_a_row: u32,
    /// Average bitrate, gaps left out.
    pub bits_per_second: u64,
    /// Bitrate of the second of media that had most.
    pub peak_bits_per_second: u64,
    /// Whether there are captions in the pictures (CEA-608/708 in H.264).
    pub captions: bool,
}

/// Distance of keyframes in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GopReport {
    /// The least so far.
    pub least_seconds: f64,
    /// The median of the last 256.
    pub median_seconds: f64,
    /// The greatest so far, the time since the newest keyframe included.
    pub most_seconds: f64,
}

/// Least, median and greatest value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// The greatest.
    pub most: f64,
}

/// What a publisher sends as audio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AudioReport {
    /// Name of the codec; empty if unknown.
    pub codec: String,
    /// Profile, where it is known.
    pub profile: Option<String>,
    /// Samples per second; 0 if unknown.
    pub sample_rate: u32,
    /// Channels; 0 if unknown.
    pub channels: u32,
    /// How often codec, profile, sample rate or channels changed.
    pub format_changes: u64,
    /// Audio frames.
    pub frames: u64,
    /// Average bitrate, gaps left out.
    pub bits_per_second: u64,
    /// Bitrate of the second of media that had most.
    pub peak_bits_per_second: u64,
}

/// How healthy the timestamps are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimingReport {
    /// Steps of a second or more between pictures, and of 150 ms or more between audio frames.
    pub gaps: u64,
    /// The longest of them in seconds; 0 without one.
    pub longest_gap_seconds: f64,
    /// Decode times that did not grow. Those of a publisher are repaired before, and counted as repairs.
    pub backward_steps: u64,
    /// How far the sound arrives ahead of the picture, in milliseconds of media time; negative: behind it. `None` for
    /// files, and without both.
    pub sound_ahead_ms: Option<f64>,
    /// By how much that changes in a minute; `None` before twenty seconds of both, and for files.
    pub drift_ms_per_minute: Option<f64>,
    /// Repairs of timestamps by kind; kinds that did not occur are left out.
    pub repairs: BTreeMap<String, u64>,
}

/// Media of a kind that comes and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnreadableMedia {
    /// `video` or `audio`.
    pub kind: String,
    /// Why the newest message could not be read.
    pub reason: String,
}

/// Something to change in the publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Advice {
    /// The setting, for programs: such as `keyframe_interval`.
    pub setting: String,
    /// What to change.
    pub change: String,
    /// Why.
    pub reason: String,
}
