//! What can end a worker early.

use super::nal::NalError;
use crate::wire::protocol::ProtocolError;

/// Why a worker gave up. Damage in single access units is counted instead and never ends up here.
#[derive(Debug, thiserror::Error)]
pub enum TranscodeError {
    /// The publisher's video configuration cannot be used; another worker would fail alike.
    #[error("video decoder does not take the configuration: {0}")]
    VideoConfig(#[source] ffmpeg_next::Error),
    /// The publisher's video configuration is not what it should be; another worker would fail alike.
    #[error("video configuration: {0}")]
    VideoRecord(#[source] NalError),
    /// The publisher's audio configuration cannot be used; another worker would fail alike.
    #[error("audio decoder does not take the configuration: {0}")]
    AudioConfig(#[source] ffmpeg_next::Error),
    /// libav has no encoder of the name in the job: a setting is wrong.
    #[error("no encoder named {0:?}")]
    NoEncoder(String),
    /// An encoder does not open with the job's settings.
    #[error("encoder for {name} does not open: {source}")]
    OpenEncoder {
        /// Which rendition.
        name: String,
        /// libav's word.
        source: ffmpeg_next::Error,
    },
    /// An encoder made a configuration that cannot be read: a fault of ours or libav's.
    #[error("encoder for {name} made no usable configuration: {source}")]
    EncoderConfig {
        /// Which rendition.
        name: String,
        /// What is missing in it.
        source: NalError,
    },
    /// Encoding or scaling failed: a fault of ours or libav's, or memory ran out. A new worker may do better.
    #[error("{what} failed: {source}")]
    Libav {
        /// What was being done.
        what: &'static str,
        /// libav's word.
        source: ffmpeg_next::Error,
    },
    /// The supervisor broke the protocol (or is of another version).
    #[error("protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// A request out of order: a fault of ours.
    #[error("unexpected request: {0}")]
    Unexpected(&'static str),
    /// The pipe to or from the supervisor broke: it is gone.
    #[error("pipe: {0}")]
    Pipe(#[from] std::io::Error),
    /// A thread of the worker panicked: a fault of ours.
    #[error("a {0} thread panicked")]
    Panicked(&'static str),
    /// A stage stopped because the one behind it did, whose own error says why.
    #[error("the next stage is gone")]
    Downstream,
}

impl TranscodeError {
    /// The exit code that tells the supervisor whose fault it was, after sysexits(3): 65 the media, 64 the settings,
    /// 74 the pipe, 76 the protocol, 70 ourselves.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::VideoConfig(_) | Self::VideoRecord(_) | Self::AudioConfig(_) => 65,
            Self::NoEncoder(_) | Self::OpenEncoder { .. } => 64,
            Self::Pipe(_) => 74,
            Self::Protocol(_) | Self::Unexpected(_) => 76,
            Self::EncoderConfig { .. } | Self::Libav { .. } | Self::Panicked(_) | Self::Downstream => 70,
        }
    }
}
