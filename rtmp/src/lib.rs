//! RTMP without input or output: bytes and time in, events and bytes out.
//!
//! What belongs here: chunks and AMF with their limits, both sides of the conversation ([`session`] is the server's,
//! [`client`] the publisher's), FLV tag bodies both ways ([`flv`]), and the repair of RTMP's timestamps ([`timeline`]).
//! What does not: sockets, clocks, tasks, logging, and the decision who may publish.
#![forbid(unsafe_code)]

pub mod amf;
pub mod chunk;
pub mod client;
pub mod flv;
pub mod ingest;
mod metadata;
pub mod session;
pub mod timeline;
pub mod url;

use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

/// The secret part of a publishing URL. Never printed: its `Debug` shows a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey(String);

impl StreamKey {
    /// Wraps the key as the publisher sent it.
    pub fn new(key: String) -> Self {
        Self(key)
    }

    /// Returns the secret for comparison. Never put the result into logs, names or URLs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(..)")
    }
}

/// A publisher's request to publish. Its `Debug` shows neither key nor queries, which may contain secrets.
#[derive(Clone)]
pub struct PublishRequest {
    /// Application: the `app` of `connect`, without query and trailing slash; a valid name.
    pub app: String,
    /// The part of the `app` of `connect` that follows the first slash, as in `live/inst`: publishers that split a URL
    /// at its last slash send the beginning of a key there. Empty unless the session takes such applications
    /// ([`session::ServerSession::with_key_paths`]).
    pub path: StreamKey,
    /// The stream key as sent with `publish`, without its query. Empty only if there is a path.
    pub key: StreamKey,
    /// The query that follows the key (`latency=5`), without the question mark; empty without a query.
    pub query: String,
    /// Address of the publisher.
    pub peer: SocketAddr,
    /// The client's name (`flashVer`), cut to 64 printable characters.
    pub client: String,
    /// What else the publisher sent, for back ends that ask for it.
    pub details: RequestDetails,
}

/// What a publisher sent with `connect` and `publish` besides application, key and name. All texts but the query are cut
/// to 1024 printable characters. `Debug` shows nothing, because each text may contain a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RequestDetails {
    /// The query of the application (`live?token=…`), without the question mark; empty without a query.
    pub app_query: String,
    /// `tcUrl`: the URL without the key.
    pub tc_url: String,
    /// `swfUrl`.
    pub swf_url: String,
    /// `pageUrl`.
    pub page_url: String,
    /// The type of the publish: `live`, `record` or `append`.
    pub publish_type: String,
    /// Whether the publisher connects anew when it is asked to (Enhanced RTMP 2, the reconnect bit of `capsEx`).
    pub can_reconnect: bool,
}

impl PublishRequest {
    /// The key with the path in front: what follows the first slash after the application in the publisher's URL.
    pub fn full_key(&self) -> StreamKey {
        match (self.path.expose(), self.key.expose()) {
            ("", key) => StreamKey::new(key.to_owned()),
            (path, "") => StreamKey::new(path.to_owned()),
            (path, key) => StreamKey::new(format!("{path}/{key}")),
        }
    }

    /// Whether another request asks for the same stream, in so far as the publisher's words tell.
    pub fn has_key_of(&self, other: &Self) -> bool {
        self.app == other.app && self.path == other.path && self.key == other.key
    }
}

impl fmt::Debug for PublishRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishRequest")
            .field("app", &self.app)
            .field("peer", &self.peer)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestDetails(..)")
    }
}

/// Why the server refused a publisher or ended its publish; sent to the client as an `onStatus` error. ffmpeg and
/// GStreamer's rtmp2sink show the text; OBS 29 and librtmp only show that the publish was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The application or stream name contains characters that are not allowed, or the key is unknown.
    #[error("{0}")]
    BadName(String),
    /// Another publisher is already publishing under that name.
    #[error("this stream is already being published")]
    AlreadyPublishing,
    /// All places of this encoder are taken. Another encoder, or a retry, may succeed.
    #[error("this encoder is busy, try again")]
    Busy,
    /// Another encoder has taken the stream over, because the publisher connected there.
    #[error("another encoder has taken this stream over")]
    TakenOver,
    /// There are more publishers than encoders. A retry may succeed.
    #[error("all encoders are busy, try again")]
    AllBusy,
    /// The key may not publish: it is unknown or has expired, or a back end said no. Holds the reason.
    #[error("{0}")]
    Forbidden(String),
    /// Whether the key may publish cannot be found out at the moment. A retry may succeed.
    #[error("who may publish cannot be asked at the moment, try again")]
    AdmissionDown,
    /// An operator ended the stream, or keeps it from starting. Holds the reason.
    #[error("{0}")]
    EndedByOperator(String),
    /// The publisher exceeded a bound: bitrate or duration. Holds the bound.
    #[error("{0}")]
    OverLimit(String),
    /// The encoder is draining before shutdown.
    #[error("this encoder is shutting down, try again")]
    Draining,
    /// The published media cannot be encoded.
    #[error("{0}")]
    Unsupported(String),
    /// The publisher sent no media that can be read for too long. Holds what came instead.
    #[error("{0}")]
    Silent(String),
    /// The publisher broke the protocol or a limit in a way that leaves no way to go on. Holds what was wrong.
    #[error("the connection cannot go on: {0}")]
    Violation(String),
    /// An internal error of this server.
    #[error("internal error, try again")]
    Internal,
}

impl Refusal {
    /// The refusal of an application with slashes, such as `live/inst`, that no stream key explains.
    pub fn too_many_parts() -> Self {
        let hint = "the URL has too many parts: publish to rtmp://HOST/APP with the stream key apart";
        Self::BadName(hint.into())
    }
}

/// The kind of message that carried a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Type 9: an FLV video tag body.
    Video,
    /// Type 8: an FLV audio tag body.
    Audio,
}

impl MessageKind {
    /// The kind in log lines and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

/// One published media message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaMessage {
    /// Audio or video.
    pub kind: MessageKind,
    /// RTMP time in milliseconds: 32 bits that wrap after 49.7 days.
    pub timestamp_ms: u32,
    /// FLV tag body.
    pub payload: Bytes,
    /// When its last byte was read from the socket.
    pub arrived: Instant,
}

/// The properties of `onMetaData` that this program uses. Publishers send wrong values, so every value is only a hint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// `width`
    pub width: Option<f64>,
    /// `height`
    pub height: Option<f64>,
    /// `framerate` (or `fps`)
    pub frame_rate: Option<f64>,
    /// `videodatarate`, kbit/s
    pub video_kbps: Option<f64>,
    /// `audiodatarate`, kbit/s
    pub audio_kbps: Option<f64>,
    /// `audiosamplerate`, Hz
    pub audio_sample_rate: Option<f64>,
    /// Whether a video codec was named.
    pub has_video: Option<bool>,
    /// Whether an audio codec was named.
    pub has_audio: Option<bool>,
    /// `encoder`, cut to 64 printable characters.
    pub encoder: Option<String>,
    /// The sound tracks of `audioTrackIdInfoMap`, in order of their numbers; at most [`MAX_LISTED_TRACKS`].
    pub sound_tracks: Vec<SoundTrackInfo>,
}

/// Maximum number of sound tracks taken from `onMetaData`.
pub const MAX_LISTED_TRACKS: usize = 16;

/// What `onMetaData` says about a sound track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoundTrackInfo {
    /// Number of the track; 0 is the main sound.
    pub number: u8,
    /// Name for viewers: 1 to 64 characters without control characters and double quotes.
    pub name: Option<String>,
    /// Language tag: 2 to 35 of the characters of a BCP 47 tag.
    pub language: Option<String>,
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The publisher ended the publish with FCUnpublish, deleteStream or closeStream.
    Unpublished,
    /// The socket was closed without such a command.
    Closed,
    /// No whole message arrived within the read time-out.
    TimedOut,
    /// The publisher broke the protocol or a limit.
    Violation,
    /// The server ended the publish.
    SentOff,
}

impl EndReason {
    /// The reason in log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unpublished => "unpublished",
            Self::Closed => "closed",
            Self::TimedOut => "timed out",
            Self::Violation => "violation",
            Self::SentOff => "sent off",
        }
    }

    /// Who has to mend something when a publish ends like this; `None` if nobody has to, or if the reason that the
    /// publisher was told says so.
    pub const fn fault(self) -> Option<&'static str> {
        match self {
            Self::TimedOut => Some("publisher or its network"),
            Self::Violation => Some("publisher"),
            Self::Unpublished | Self::Closed | Self::SentOff => None,
        }
    }
}
