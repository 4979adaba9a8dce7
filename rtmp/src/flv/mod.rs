//! From FLV tag bodies, as RTMP carries them, to configurations and access units.
//!
//! What belongs here: tag headers (FLV annex E, and Enhanced RTMP 1 and 2), and in `video` and `audio` the checks that
//! a payload is what its header says; the codecs themselves are in the crate `media`. Timestamps are repaired in
//! [`crate::timeline`]; [`crate::ingest`] combines both.
//!
//! The rule: what a mainstream player would show is read. What cannot be read is passed over and counted with its reason;
//! only pictures that are too large or too small end the publish.
//!
//! To add a codec, add its FourCC to [`four_cc`] and a match arm to `video` or `audio`.

mod audio;
pub mod four_cc;
mod track;
mod video;
pub mod write;

use crate::{MessageKind, Metadata};
pub use audio::OtherSound;
use audio::{AudioReader, OtherTracks};
use bytes::Bytes;
use media::h264::H264Error;
use media::{AudioConfig, CodecError, VideoConfig};
use video::VideoReader;

/// Why a tag body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    /// The media cannot be encoded, and a retry will not help: the publisher has to send another format. The text says
    /// what was sent and what is accepted.
    #[error("{0}")]
    Unsupported(String),
    /// This message cannot be read: passed over and counted. The next one may be readable.
    #[error("{0}")]
    Unreadable(&'static str),
}

impl From<H264Error> for FlvError {
    fn from(error: H264Error) -> Self {
        match error {
            H264Error::PictureSize { .. } => Self::Unsupported(error.to_string()),
            H264Error::RecordTooLong
            | H264Error::RecordVersion
            | H264Error::LengthSize
            | H264Error::RecordTruncated
            | H264Error::NoParameterSets
            | H264Error::ParameterSet
            | H264Error::UnitLengths => Self::Unreadable(error.reason()),
        }
    }
}

impl From<CodecError> for FlvError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::PictureSize { .. } => Self::Unsupported(error.to_string()),
            CodecError::Broken(reason) => Self::Unreadable(reason),
        }
    }
}

/// The content of a tag body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// A decoder configuration.
    VideoConfig(VideoConfig),
    /// A decoder configuration.
    AudioConfig(AudioConfig),
    /// A coded picture.
    Video(CodedPicture),
    /// Coded audio.
    Audio(CodedAudio),
    /// The publisher signals the end of this kind of media; some publishers send more afterwards.
    EndOfSequence(MessageKind),
    /// Only tracks beside the first one; of sound tracks see [`FlvDemuxer::read_other_sound`].
    OtherTrack,
    /// Content without effect: empty bodies, in-band metadata, seek markers.
    Nothing,
}

/// A coded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodedPicture {
    /// Composition offset (presentation minus decode time) in milliseconds; 24 bits, signed.
    pub composition_ms: i32,
    /// Whether decoding can start here, by the picture itself (in H.264 an IDR slice); the tag's frame type is not
    /// considered.
    pub key: bool,
    /// Whether the tag's frame type said "key".
    pub flagged_key: bool,
    /// The access unit, as in [`media::Unit::data`].
    pub data: Bytes,
    /// The configuration that applies from this picture on, where none was sent before it: made from the picture itself,
    /// because no sequence header came, or because the picture's size is another one than before. Some phones rotate
    /// their camera without a sequence header.
    pub config: Option<VideoConfig>,
}

/// Coded audio: usually one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodedAudio {
    /// The frames, in order: one, or more where the sender packs several in a message.
    pub frames: Vec<Bytes>,
    /// The configuration that applies from these frames on, where no sequence header gave it.
    pub config: Option<AudioConfig>,
}

/// Reads the tags of one publisher, and keeps the state that later tags depend on.
#[derive(Clone, Debug, Default)]
pub struct FlvDemuxer {
    video: VideoReader,
    audio: AudioReader,
    other_sound: OtherTracks,
}

impl FlvDemuxer {
    /// A demuxer that has read no tag yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts coded pictures of up to this many pixels only, by every sequence parameter set in headers and in band: a
    /// picture is refused before a decoder allocates memory for it.
    pub fn with_max_pixels(self, max_pixels: u64) -> Self {
        Self { video: self.video.with_max_pixels(max_pixels), ..self }
    }

    /// Takes what `onMetaData` says about media that does not describe itself.
    pub fn metadata(&mut self, metadata: &Metadata) {
        self.video.metadata(metadata);
        self.audio.metadata(metadata);
    }

    /// Reads what an audio tag body has for sound tracks beside the first one.
    pub fn read_other_sound(&mut self, body: &Bytes) -> OtherSound {
        self.other_sound.read(body)
    }

    /// Reads what a tag body has for the first track.
    ///
    /// # Errors
    /// [`FlvError`].
    pub fn read(&mut self, kind: MessageKind, body: &Bytes) -> Result<Tag, FlvError> {
        match kind {
            MessageKind::Video => self.video.read(body),
            MessageKind::Audio => self.audio.read(body),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
