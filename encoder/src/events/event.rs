//! What events say, and how they look on the wire: CloudEvents 1.0 in the JSON format (structured mode). When an event
//! is sent belongs in [`super::queue`].

use super::queue::Importance;
use media::WallTime;
use serde::Serialize;
use serde_json::{Map, Value};

/// Every event's type begins with this.
const PREFIX: &str = "live.encoder.";
/// Content type of an event (CloudEvents HTTP binding, structured mode).
pub(super) const CONTENT_TYPE: &str = "application/cloudevents+json";
/// Most bytes of a grant's metadata in an event; larger metadata is left out. Receivers accept events of 64 KiB
/// (CloudEvents 1.0, "Size limits").
const MAX_METADATA_BYTES: usize = 32 << 10;

/// Which stream an event is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject<'a> {
    /// Application.
    pub app: Option<&'a str>,
    /// Name of the stream.
    pub name: Option<&'a str>,
    /// The first session of the stream's archive and of its segments.
    pub session: Option<&'a str>,
    /// What the back end wants to find again.
    pub metadata: Option<&'a Map<String, Value>>,
}

/// What happened, with the data of its event.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Happening {
    /// A stream began.
    Started {
        /// Glass-to-glass latency in seconds.
        latency_seconds: f64,
    },
    /// A stream's publisher is gone; the stream waits for it.
    Interrupted {
        /// How the publisher left.
        reason: &'static str,
    },
    /// The publisher is back.
    Resumed {
        /// How long the publisher was gone.
        interrupted_seconds: f64,
    },
    /// A stream ended at this encoder.
    Ended {
        /// Why.
        reason: EndCause,
        /// What the publisher was told, if the encoder ended the stream.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Since the stream's start at this encoder.
        duration_seconds: f64,
        /// Bytes of media that were received.
        received_bytes: u64,
    },
    /// A stream goes on at another encoder than before.
    TakenOver {
        /// What this encoder is to the stream.
        role: TakeoverRole,
    },
    /// A publisher was refused.
    Refused {
        /// Why, as in the metric `encoder_rejected_total`.
        reason: &'static str,
        /// What the publisher was told.
        message: String,
        /// The publisher's address and port.
        peer: String,
        /// Refusals for this reason since the last event about this reason.
        left_out: u64,
    },
    /// An archive is complete.
    ArchiveReady(Box<ArchiveReady>),
    /// A stream has problems that its viewers notice, or will notice.
    Unhealthy {
        /// All problems that the stream has.
        problems: Vec<Problem>,
    },
    /// A stream has had no problem for some time.
    Healthy {
        /// Since the event that the stream is unhealthy.
        unhealthy_seconds: f64,
    },
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndCause {
    /// The publisher ended its publish and did not come back.
    Unpublished,
    /// The publisher was lost and did not come back within the reconnect window.
    ReconnectWindowOver,
    /// An operator ended the stream.
    Operator,
    /// The publisher exceeded a bound.
    Limit,
    /// The published media cannot be encoded.
    Unsupported,
    /// The encoder shut down.
    Drain,
    /// Another encoder goes on with the stream.
    TakenOver,
    /// An error of the encoder.
    Failed,
}

/// What an encoder is to a stream that was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TakeoverRole {
    /// This encoder goes on with the stream.
    Successor,
    /// Another encoder goes on with the stream.
    Predecessor,
}

/// A problem of a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub(crate) enum Problem {
    /// Media has been too old for ten seconds.
    Late {
        /// The first stage that breaks its budget.
        stage: &'static str,
        /// The likely cause.
        suspect: &'static str,
    },
    /// Worker processes died or hung.
    WorkerRestarts {
        /// Since the stream's start.
        count: u64,
    },
    /// Segments did not reach the store in time: players go over the gaps.
    SegmentsMissing {
        /// Since the stream's start.
        count: u64,
    },
}

/// A complete archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ArchiveReady {
    /// Where the objects are: a directory, or `gs://bucket/prefix`.
    pub store: String,
    /// The multivariant playlist.
    pub playlist: String,
    /// The recordings, in the order in which they were requested.
    pub recordings: Vec<RecordingFile>,
    /// From the first segment's start to the last one's end.
    pub duration_seconds: f64,
    /// Bytes of all segments.
    pub segments_bytes: u64,
    /// Segments that can be read.
    pub segments: usize,
    /// Segments that are listed as gaps.
    pub missing_segments: usize,
    /// The renditions: video from largest to smallest, then audio.
    pub tracks: Vec<TrackSummary>,
}

/// A recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RecordingFile {
    /// The rung.
    pub rung: String,
    /// The object.
    pub object: String,
    /// Its size.
    pub bytes: u64,
}

/// One rendition of an archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct TrackSummary {
    /// The rendition's name.
    pub rung: String,
    /// CODECS as in the multivariant playlist (RFC 6381).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codecs: Option<String>,
    /// Video or audio.
    #[serde(flatten)]
    pub kind: TrackSummaryKind,
}

/// What a rendition is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum TrackSummaryKind {
    /// A video rendition.
    Video {
        /// In pixels.
        width: u16,
        /// In pixels.
        height: u16,
        /// Frames per second.
        frame_rate: f64,
    },
    /// An audio rendition.
    Audio {
        /// Samples per second.
        sample_rate: u32,
        /// Channels.
        channels: u8,
    },
}

/// An event in the JSON format.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    time: String,
    datacontenttype: &'static str,
    data: EventData<'a>,
}

#[derive(Serialize)]
struct EventData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
    #[serde(flatten)]
    happening: &'a Happening,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Map<String, Value>>,
}

impl Happening {
    /// The event's type, without the prefix.
    const fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "stream.started",
            Self::Interrupted { .. } => "stream.interrupted",
            Self::Resumed { .. } => "stream.resumed",
            Self::Ended { .. } => "stream.ended",
            Self::TakenOver { .. } => "stream.taken_over",
            Self::Refused { .. } => "publish.refused",
            Self::ArchiveReady(_) => "archive.ready",
            Self::Unhealthy { .. } => "stream.unhealthy",
            Self::Healthy { .. } => "stream.healthy",
        }
    }

    /// What is given up first when memory runs out.
    pub(super) const fn importance(&self) -> Importance {
        match self {
            Self::Refused { .. } => Importance::Refusal,
            Self::Unhealthy { .. } | Self::Healthy { .. } => Importance::Health,
            Self::Started { .. }
            | Self::Interrupted { .. }
            | Self::Resumed { .. }
            | Self::Ended { .. }
            | Self::TakenOver { .. }
            | Self::ArchiveReady(_) => Importance::Stream,
        }
    }
}

impl Subject<'_> {
    /// The event's `subject`: `{app}/{name}`; `None` if the stream is unknown.
    pub(super) fn path(&self) -> Option<String> {
        Some(format!("{}/{}", self.app?, self.name?))
    }
}

/// An event as it is sent.
pub(super) fn to_json(
    id: &str,
    source: &str,
    subject: &Subject<'_>,
    happening: &Happening,
    time: WallTime,
) -> Vec<u8> {
    let fits = |map: &&Map<String, Value>| {
        !map.is_empty() && serde_json::to_vec(map).is_ok_and(|json| json.len() <= MAX_METADATA_BYTES)
    };
    let event = CloudEvent {
        specversion: "1.0",
        id,
        source,
        r#type: format!("{PREFIX}{}", happening.name()),
        subject: subject.path(),
        time: hls::date_time(time),
        datacontenttype: "application/json",
        data: EventData {
            app: subject.app,
            name: subject.name,
            session: subject.session,
            happening,
            metadata: subject.metadata.filter(fits),
        },
    };
    serde_json::to_vec(&event).expect("text, numbers and maps with text as keys can be written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(subject: &Subject<'_>, happening: &Happening) -> Value {
        let time = WallTime::from_unix_micros(1_795_348_800_123_456);
        serde_json::from_slice(&to_json("a-1", "/encoders/pod-1/7", subject, happening, time)).unwrap()
    }

    #[test]
    fn an_event_has_the_attributes_of_cloudevents() {
        let metadata = json!({"show": 7});
        let subject = Subject {
            app: Some("live"),
            name: Some("demo"),
            session: Some("kx-0"),
            metadata: metadata.as_object(),
        };
        let ended = Happening::Ended {
            reason: EndCause::ReconnectWindowOver,
            message: None,
            duration_seconds: 12.5,
            received_bytes: 1_000,
        };
        let expected = json!({
            "specversion": "1.0",
            "id": "a-1",
            "source": "/encoders/pod-1/7",
            "type": "live.encoder.stream.ended",
            "subject": "live/demo",
            "time": "2026-11-22T12:00:00.123Z",
            "datacontenttype": "application/json",
            "data": {
                "app": "live",
                "name": "demo",
                "session": "kx-0",
                "reason": "reconnect_window_over",
                "duration_seconds": 12.5,
                "received_bytes": 1_000,
                "metadata": {"show": 7},
            },
        });
        assert_eq!(written(&subject, &ended), expected);
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let refused =
            Happening::Refused { reason: "busy", message: "x".into(), peer: "[::1]:9".into(), left_out: 3 };
        let event = written(&Subject { app: Some("live"), ..Subject::default() }, &refused);
        assert_eq!(event.get("subject"), None);
        let data = json!({"app": "live", "reason": "busy", "message": "x", "peer": "[::1]:9", "left_out": 3});
        assert_eq!(event["data"], data);
    }

    #[test]
    fn an_event_stays_small_whatever_the_metadata() {
        let metadata = json!({"big": "x".repeat(MAX_METADATA_BYTES)});
        let subject = Subject { metadata: metadata.as_object(), ..Subject::default() };
        let event = written(&subject, &Happening::Healthy { unhealthy_seconds: 1.0 });
        assert_eq!(event["data"], json!({"unhealthy_seconds": 1.0}));
    }

    #[test]
    fn problems_and_tracks_say_what_they_are() {
        let late = Problem::Late { stage: "stored", suspect: "the store" };
        let unhealthy = Happening::Unhealthy { problems: vec![late, Problem::WorkerRestarts { count: 2 }] };
        let problems = json!([
            {"problem": "late", "stage": "stored", "suspect": "the store"},
            {"problem": "worker_restarts", "count": 2},
        ]);
        assert_eq!(written(&Subject::default(), &unhealthy)["data"]["problems"], problems);
        let kind = TrackSummaryKind::Audio { sample_rate: 48_000, channels: 2 };
        let track = TrackSummary { rung: "audio".into(), codecs: None, kind };
        let expected = json!({"rung": "audio", "kind": "audio", "sample_rate": 48_000, "channels": 2});
        assert_eq!(serde_json::to_value(track).unwrap(), expected);
    }
}
