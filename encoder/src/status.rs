//! The document `/status`: everything that operators and their tools read about a running encoder. The field names are
//! an interface (the operator's page, dashboards, scripts): rename none. The admin server adds the results of its
//! probes under `probe`. Where the numbers come from is in [`crate::stream`].

use crate::inspect::PublishReport;
use crate::stream::core::StreamCounters;
use crate::stream::latency::Origin;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use transcode::confine::Confinement;
use transcode::wire::{VideoRung, WorkerProgress};
use utoipa::ToSchema;

/// The status of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EncoderStatus {
    /// Version of the program.
    pub version: String,
    /// The commit that the program was built from, or `unknown`.
    pub revision: String,
    /// Age of the process in seconds.
    pub uptime_seconds: u64,
    /// The setting `--ladder`.
    pub ladder: String,
    /// The last warnings and errors, newest first.
    pub warnings: Vec<LoggedWarning>,
    /// All streams, in no particular order.
    pub streams: Vec<StreamStatus>,
    /// Latencies that operators have set for single streams.
    pub latencies_set: Vec<LatencySet>,
    /// Bytes of all objects in the origin's memory.
    pub origin_bytes: u64,
    /// What confines the processes that decode.
    #[schema(value_type = Object)]
    pub worker_sandbox: Confinement,
}

/// A logged warning or error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoggedWarning {
    /// Unix time in seconds.
    pub at: u64,
    /// `warn` or `error`.
    pub level: String,
    /// Message and fields.
    pub text: String,
}

/// A latency set for one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencySet {
    /// Application.
    pub app: String,
    /// Name of the stream.
    pub name: String,
    /// The latency in seconds, from the stream's next start on.
    pub latency: f64,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamStatus {
    /// Application.
    pub app: String,
    /// Name of the stream.
    pub name: String,
    /// The latency in force, in seconds.
    pub latency: f64,
    /// Where this latency comes from.
    pub latency_from: Origin,
    /// The latency of the stream's next start in seconds, unless its publisher requests another.
    pub next_latency: f64,
    /// Whether a publisher is connected.
    pub published: bool,
    /// Seconds since the stream's start.
    pub age_seconds: u64,
    /// The published video; `None` until it is known, and without video.
    pub source: Option<SourceStatus>,
    /// What the newest publisher sends: formats, rates, keyframes, timestamps, and what to change; `None` before the
    /// first one.
    #[serde(default)]
    pub publish_report: Option<PublishReport>,
    /// Whether a rung `source` is the published video without re-encoding.
    pub passed_through: bool,
    /// The encoded rungs, largest first; `None` until they are chosen.
    #[schema(value_type = Option<Vec<Object>>)]
    pub rungs: Option<Vec<VideoRung>>,
    /// StreamCounters of the stream's decisions.
    pub counters: StreamCounters,
    /// StreamCounters of the packager.
    pub packager: PackagerStatus,
    /// Resident bytes of the stream's workers.
    pub worker_memory_bytes: u64,
    /// The newest progress report of a worker.
    #[schema(value_type = Object)]
    pub worker: WorkerProgress,
    /// Published media that is not in any segment yet, in seconds.
    pub lag_seconds: f64,
    /// The lag from which on video is shed, in seconds.
    pub lag_budget_seconds: f64,
    /// Age of the media at each stage, in the order of the stages.
    pub delays: Vec<StageDelays>,
    /// Finished segments, by rendition.
    pub output: BTreeMap<String, RungOutput>,
    /// Writes to the store; `None` before the first look.
    pub stored: Option<StoredStatus>,
    /// Whether there is a thumbnail.
    pub picture: bool,
    /// Viewers at edges by rung, as edges report them. Viewers who ask this encoder are not counted.
    #[serde(default)]
    pub viewers: BTreeMap<String, u64>,
}

/// One stream, and who publishes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StreamDetails {
    /// The stream.
    #[serde(flatten)]
    pub stream: StreamStatus,
    /// The connected publisher; `None` while none is connected.
    pub publisher: Option<PublisherStatus>,
    /// The `metadata` of the publisher's grant, as it was when the stream began.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

/// A connected publisher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PublisherStatus {
    /// What the publisher says its program is; at most 64 printable characters.
    pub client: String,
    /// IP address and port.
    pub address: String,
    /// Unix time in seconds at which it was admitted.
    pub since: i64,
    /// Bytes of media that it has sent.
    pub bytes: u64,
    /// Bits of media per second, over the last five to ten seconds.
    pub bits_per_second: f64,
}

/// A stream that nobody may publish for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct BanStatus {
    /// Application.
    pub app: String,
    /// Name of the stream.
    pub name: String,
    /// When it may be published again, in UTC (RFC 3339).
    pub banned_until: String,
    /// What its publishers are told.
    pub reason: String,
}

/// The published video.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    /// Coded width in pixels.
    pub width: u16,
    /// Coded height in pixels.
    pub height: u16,
    /// Frames per second.
    pub frame_rate: f64,
}

/// StreamCounters of a stream's packager; see [`hls::packager::PackagerCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PackagerStatus {
    /// Slots in which a video rendition had no keyframe at the common cut.
    pub misaligned_cuts: u64,
    /// Cuts made because no keyframe came within the longest allowed segment.
    pub forced_cuts: u64,
    /// Gaps written in place of segments.
    pub gaps: u64,
    /// Samples that the packager refused.
    pub rejected_samples: u64,
    /// Samples before the epoch's first slot, or in slots that were closed without them.
    pub late_samples: u64,
    /// Samples dropped because no keyframe came before them in their segment, or because too much was buffered.
    pub undecodable_samples: u64,
    /// Samples at or after the end of their epoch.
    pub surplus_samples: u64,
    /// Audio timestamps more than half a frame off the count of samples.
    pub audio_resyncs: u64,
}

/// Segments of one rendition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RungOutput {
    /// Bitrate of the newest segment.
    pub bits_per_second: f64,
    /// Duration of the newest segment.
    pub segment_seconds: f64,
    /// Segments so far, gaps included.
    pub segments: u64,
    /// Gaps so far.
    pub gaps: u64,
}

/// Writes of one stream to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredStatus {
    /// Segments acknowledged and listed.
    pub segments: u64,
    /// Bytes of those segments.
    pub bytes: u64,
    /// Playlist writes acknowledged.
    pub playlists: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Segments that became gaps.
    pub gaps: u64,
    /// The error of the last failed attempt.
    pub last_failure: Option<String>,
}

/// Age of a stream's media at one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageDelays {
    /// Name of the stage, as in the metric's label.
    pub stage: String,
    /// The greatest age that the latency allows here, in seconds.
    pub budget_seconds: f64,
    /// Whether a rendition has broken the budget for ten seconds.
    pub broken: bool,
    /// Ages by rendition.
    pub rungs: BTreeMap<String, RungDelays>,
}

/// Age of one rendition's media at one stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RungDelays {
    /// Age of the newest media, in seconds.
    pub last_seconds: f64,
    /// Greatest age of the last 10 to 20 seconds, in seconds.
    pub worst_seconds: f64,
}

impl From<hls::packager::PackagerCounters> for PackagerStatus {
    fn from(counters: hls::packager::PackagerCounters) -> Self {
        Self {
            misaligned_cuts: counters.misaligned,
            forced_cuts: counters.forced_cuts,
            gaps: counters.gaps,
            rejected_samples: counters.rejected_samples,
            late_samples: counters.late_samples,
            undecodable_samples: counters.undecodable_samples,
            surplus_samples: counters.surplus_samples,
            audio_resyncs: counters.audio_resyncs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn publish_report() -> Value {
        json!({
            "seconds": 60.0, "program": "obs", "other_tracks": true,
            "video": {
                "codec": "H.264", "profile": "High, level 3.1", "width": 1280, "height": 720,
                "format_changes": 0, "pictures": 1798, "frame_rate": 29.97, "stated_frame_rate": 30.0,
                "steady": true, "step_ms": { "least": 33.3, "median": 33.4, "most": 33.4 },
                "keyframes": 30, "gop": { "least_seconds": 1.9, "median_seconds": 2.0, "most_seconds": 2.1 },
                "since_keyframe_seconds": 0.5, "b_frames": 900, "most_b_frames_in_a_row": 2,
                "bits_per_second": 3_000_000, "peak_bits_per_second": 3_500_000, "captions": false,
            },
            "audio": {
                "codec": "AAC", "profile": "LC", "sample_rate": 48_000, "channels": 2, "format_changes": 0,
                "frames": 2812, "bits_per_second": 128_000, "peak_bits_per_second": 130_000,
            },
            "timing": {
                "gaps": 1, "longest_gap_seconds": 1.5, "backward_steps": 0, "sound_ahead_ms": -20.5,
                "drift_ms_per_minute": 0.1, "repairs": { "gaps": 1 },
            },
            "passed_over": { "unreadable": 90 },
            "unreadable": [{ "kind": "audio", "reason": "audio of an unknown sound format" }],
            "advice": [{ "setting": "codec", "change": "Change it.", "reason": "It cannot be read." }],
        })
    }

    /// The names are an interface: this document is what operators' tools read.
    #[test]
    fn names_and_shapes_stay() {
        let document = json!({
            "version": "0.1.0", "revision": "unknown", "uptime_seconds": 9, "ladder": "auto", "origin_bytes": 7,
            "worker_sandbox": { "mode": "strict", "missing": [{ "wall": "landlock", "why": "an old kernel" }] },
            "warnings": [{ "at": 1, "level": "warn", "text": "late number=29" }],
            "latencies_set": [{ "app": "live", "name": "show", "latency": 6.5 }],
            "streams": [{
                "app": "live", "name": "demo", "latency": 4.0, "latency_from": "taken_over", "next_latency": 8.0,
                "published": true, "age_seconds": 5, "passed_through": false, "picture": true,
                "viewers": { "360p": 12 },
                "source": { "width": 1280, "height": 720, "frame_rate": 29.97 },
                "publish_report": publish_report(),
                "rungs": [
                    { "name": "360p", "width": 640, "height": 360, "frame_rate": [30, 1], "bitrate": 800_000 },
                ],
                "counters": {
                    "worker_restarts": 1, "shed_units": 2, "silent_frames": 3, "late_audio_frames": 4,
                    "decode_errors": 5, "refused_samples": 6, "publishes": 7, "passed_over_tracks": 8,
                },
                "packager": {
                    "misaligned_cuts": 1, "forced_cuts": 2, "gaps": 3, "rejected_samples": 4, "late_samples": 5,
                    "undecodable_samples": 6, "surplus_samples": 7, "audio_resyncs": 8,
                },
                "worker_memory_bytes": 1_000, "lag_seconds": 0.5, "lag_budget_seconds": 3.5,
                "worker": {
                    "decoded": 1, "decode_errors": 2, "encoded": 3,
                    "rungs": [{ "frame_rate_tenths": 299, "quantiser_tenths": 231 }],
                },
                "delays": [{
                    "stage": "arrived", "budget_seconds": 0.6, "broken": false,
                    "rungs": { "published": { "last_seconds": 0.02, "worst_seconds": 0.1 } },
                }],
                "output": {
                    "360p": { "bits_per_second": 801_234.0, "segment_seconds": 1.5, "segments": 9, "gaps": 1 },
                },
                "stored": {
                    "segments": 8, "bytes": 90, "playlists": 7, "failures": 1, "gaps": 0, "last_failure": "503",
                },
            }],
        });
        let status: EncoderStatus = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(status).unwrap(), document);
    }

    #[test]
    fn what_is_not_known_yet_is_null() {
        let stream = StreamStatus {
            app: "live".to_owned(),
            name: "demo".to_owned(),
            latency: 4.0,
            latency_from: Origin::Default,
            next_latency: 4.0,
            published: false,
            age_seconds: 0,
            source: None,
            publish_report: None,
            passed_through: false,
            rungs: None,
            counters: StreamCounters::default(),
            packager: hls::packager::PackagerCounters::default().into(),
            worker_memory_bytes: 0,
            worker: WorkerProgress::default(),
            lag_seconds: 0.0,
            lag_budget_seconds: 1.0,
            delays: Vec::new(),
            output: BTreeMap::new(),
            stored: None,
            picture: false,
            viewers: BTreeMap::new(),
        };
        let document = serde_json::to_value(&stream).unwrap();
        for field in ["source", "publish_report", "rungs", "stored"] {
            assert_eq!(document.get(field), Some(&json!(null)), "{field} is there");
        }
        assert_eq!(serde_json::from_value::<StreamStatus>(document).unwrap(), stream);
    }
}
