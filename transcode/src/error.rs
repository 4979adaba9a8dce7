//! The errors that end a worker early.

use crate::wire::protocol::ProtocolError;
use media::h264::H264Error;

/// Exit code of a worker that reached its memory limit.
pub const OUT_OF_MEMORY: u8 = 75;

/// What an allocation must still find, in bytes, for an error to have another cause.
const SPARE: usize = 16 << 20;

/// Whether libav's error is, or may come from, a failed allocation ([`is_memory_for`] with nothing large in mind).
pub(crate) fn is_memory(error: ffmpeg_next::Error) -> bool {
    is_memory_for(error, 0)
}

/// Whether libav's error is, or may come from, a failed allocation of `wanted` bytes or of [`SPARE`] bytes: decoders and
/// encoders report many failed allocations as broken data, so the limit is tried with an allocation of that size, which
/// is not touched.
pub(crate) fn is_memory_for(error: ffmpeg_next::Error, wanted: usize) -> bool {
    let told = matches!(error, ffmpeg_next::Error::Other { errno } if errno == libc::ENOMEM);
    told || Vec::<u8>::new().try_reserve_exact(SPARE.max(wanted)).is_err()
}

/// Why a worker gave up. Damage in single access units is counted instead and never becomes one of these errors.
#[derive(Debug, thiserror::Error)]
pub enum TranscodeError {
    /// The publisher's video configuration cannot be used; another worker would fail in the same way.
    #[error("video decoder does not take the configuration: {0}")]
    VideoConfig(#[source] ffmpeg_next::Error),
    /// The publisher's video configuration is malformed; another worker would fail in the same way.
    #[error("video configuration: {0}")]
    VideoRecord(#[source] H264Error),
    /// libav has no encoder of the name in the job: a setting is wrong.
    #[error("no encoder named {0:?}")]
    NoEncoder(String),
    /// An encoder does not open with the job's settings.
    #[error("encoder for {name} does not open: {source}")]
    OpenEncoder {
        /// Name of the rendition.
        name: String,
        /// libav's error.
        source: ffmpeg_next::Error,
    },
    /// An encoder produced a configuration that cannot be read: a fault of this program or of libav.
    #[error("encoder for {name} made no usable configuration: {source}")]
    EncoderConfig {
        /// Name of the rendition.
        name: String,
        /// What is wrong with the configuration.
        source: H264Error,
    },
    /// Encoding or scaling failed: a fault of this program or of libav, or memory ran out. A new worker may succeed.
    #[error("{what} failed: {source}")]
    Libav {
        /// The operation that failed.
        what: &'static str,
        /// libav's error.
        source: ffmpeg_next::Error,
    },
    /// There is no memory: the limit of the worker is reached, or the machine's. A new worker may succeed.
    #[error("out of memory: {0} failed")]
    Memory(&'static str),
    /// The supervisor broke the protocol (or is of another version).
    #[error("protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// A request came out of order: a fault of this program.
    #[error("unexpected request: {0}")]
    Unexpected(&'static str),
    /// The pipe to or from the supervisor broke: the supervisor is gone.
    #[error("pipe: {0}")]
    Pipe(#[from] std::io::Error),
    /// A thread of the worker panicked: a fault of this program.
    #[error("a {0} thread panicked")]
    Panicked(&'static str),
    /// A stage stopped because the next stage stopped; the next stage's own error gives the cause.
    #[error("the next stage is gone")]
    Downstream,
}

impl TranscodeError {
    /// The error of an operation of libav that failed.
    pub(crate) fn libav(what: &'static str, source: ffmpeg_next::Error) -> Self {
        if is_memory(source) { Self::Memory(what) } else { Self::Libav { what, source } }
    }

    /// The error of an encoder that does not open.
    pub(crate) fn open_encoder(name: &str, source: ffmpeg_next::Error) -> Self {
        if is_memory(source) {
            Self::Memory("opening an encoder")
        } else {
            Self::OpenEncoder { name: name.to_owned(), source }
        }
    }

    /// The exit code that tells the supervisor where the fault lies, after sysexits(3): 65 the media, 64 the settings,
    /// 74 the pipe, 75 memory ([`OUT_OF_MEMORY`]), 76 the protocol, 70 the worker itself.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Memory(_) => OUT_OF_MEMORY,
            Self::VideoConfig(_) | Self::VideoRecord(_) => 65,
            Self::NoEncoder(_) | Self::OpenEncoder { .. } => 64,
            Self::Pipe(_) => 74,
            Self::Protocol(_) | Self::Unexpected(_) => 76,
            Self::EncoderConfig { .. } | Self::Libav { .. } | Self::Panicked(_) | Self::Downstream => 70,
        }
    }
}
