//! RTMP ingest: sockets to messages. What is published is handed on unparsed, as [`MediaMessage`]s; FLV tag bodies
//! are read in [`crate::flv`], time is repaired in [`crate::timeline`], and whether a publisher is welcome is decided
//! by whoever implements [`Admission`].

pub mod amf;
pub mod chunk;
mod door;
mod metadata;
pub mod server;
pub mod session;

pub use server::{Publishers, ServerOptions, serve};

use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::sync::watch;

/// The secret part of a publishing URL. Never printed: its `Debug` and `Display` show a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKey(String);

impl StreamKey {
    /// Takes what the publisher sent.
    pub fn new(key: String) -> Self {
        Self(key)
    }

    /// The secret itself, for comparing; never for logs, names or URLs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(..)")
    }
}

/// Somebody asks to publish.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// Application: the `app` of `connect`, without query and trailing slash.
    pub app: String,
    /// The stream key as sent with `publish`, without its query.
    pub key: StreamKey,
    /// The query behind the key (`latency=5`), without the question mark; empty when there was none.
    pub query: String,
    /// Who asks.
    pub peer: SocketAddr,
    /// What the client calls itself (`flashVer`), cut to 64 printable characters.
    pub client: String,
}

/// Why a publisher was turned away or sent off; becomes an `onStatus` error. ffmpeg and GStreamer's rtmp2sink show its
/// text; OBS 29 and librtmp only that they were turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Application or stream name outside the allowed characters, or a key nobody knows.
    #[error("{0}")]
    BadName(String),
    /// Somebody publishes under that name already.
    #[error("this stream is already being published")]
    AlreadyPublishing,
    /// All places are taken: another encoder, or a later try, may do.
    #[error("this encoder is busy, try again")]
    Busy,
    /// Another encoder has taken the stream over, because its publisher came there.
    #[error("another encoder has taken this stream over")]
    TakenOver,
    /// There are more publishers than encoders: a later try may do.
    #[error("all encoders are busy, try again")]
    AllBusy,
    /// The encoder is about to leave.
    #[error("this encoder is shutting down, try again")]
    Draining,
    /// What is sent cannot be encoded.
    #[error("{0}")]
    Unsupported(String),
    /// A fault of ours.
    #[error("internal error, try again")]
    Internal,
}

/// What kind of message carried a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Type 9: an FLV video tag body.
    Video,
    /// Type 8: an FLV audio tag body.
    Audio,
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
    /// When its last byte came off the socket.
    pub arrived: Instant,
}

/// What `onMetaData` said, as far as anything here uses it. Publishers lie; every value is a hint.
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
    /// Whether a video codec was named.
    pub has_video: Option<bool>,
    /// Whether an audio codec was named.
    pub has_audio: Option<bool>,
    /// `encoder`, cut to 64 printable characters.
    pub encoder: Option<String>,
}

/// How a publish came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The publisher said so: FCUnpublish, deleteStream or closeStream.
    Unpublished,
    /// The socket was closed without a word.
    Closed,
    /// Nothing was heard for the read time-out.
    TimedOut,
    /// The publisher broke the protocol or a limit.
    Violation,
    /// We sent the publisher off.
    SentOff,
}

/// Decides who may publish.
pub trait Admission: Send + Sync + 'static {
    /// Takes what an admitted publisher sends.
    type Sink: MediaSink;

    /// Answers before the publisher is told `NetStream.Publish.Start`; from an `Ok` on, the place is taken.
    fn admit(&self, request: PublishRequest) -> impl Future<Output = Result<Self::Sink, Refusal>> + Send;

    /// Whether anybody could be let in. While it says `false` the kernel refuses connections, those in the backlog
    /// included. `None`: everybody is heard, and told why not.
    fn open(&self) -> Option<watch::Receiver<bool>> {
        None
    }
}

/// Takes what one publisher sends. Nothing here blocks: the socket is always read.
pub trait MediaSink: Send + 'static {
    /// A media message. An error sends the publisher off with that reason.
    fn media(&mut self, message: MediaMessage) -> Result<(), Refusal>;

    /// `onMetaData`; may come many times a second.
    fn metadata(&mut self, metadata: Metadata);

    /// Resolves when the publisher is to be sent off, with the reason to tell. Pending for ever otherwise.
    fn sent_off(&mut self) -> impl Future<Output = Refusal> + Send;

    /// The last call.
    fn end(self, reason: EndReason);
}
