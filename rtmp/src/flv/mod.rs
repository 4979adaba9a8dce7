//! From FLV tag bodies, as RTMP carries them, to configurations and access units.
//!
//! What belongs here: tag headers (FLV annex E, and Enhanced RTMP), and checks that a payload is what its header says;
//! the codecs themselves are in [`media::h264`] and [`media::aac`]. Timestamps are repaired in [`crate::timeline`];
//! [`crate::ingest`] combines both.
//!
//! To add a codec, add a match arm for its FourCC next to the one for H.264 or AAC.

pub mod write;

use crate::MessageKind;
use bytes::Bytes;
use media::aac::{self, AacError};
use media::h264::{self, H264Error, LengthSize};
use media::{AudioConfig, VideoConfig};

/// Why a tag body was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    /// The media cannot be encoded, and a retry will not help: the publisher has to send another format. The text says
    /// what was sent and what is accepted.
    #[error("{0}")]
    Unsupported(String),
    /// This message is broken: ignored and counted. The next one may be valid.
    #[error("{0}")]
    Malformed(&'static str),
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
            | H264Error::UnitLengths
            | H264Error::NoPicture => Self::Malformed(error.reason()),
        }
    }
}

impl From<AacError> for FlvError {
    fn from(error: AacError) -> Self {
        Self::Malformed(error.reason())
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
    /// A coded audio frame.
    Audio(Bytes),
    /// The publisher signals the end of this kind of media; some publishers send more afterwards.
    EndOfSequence(MessageKind),
    /// Content without effect: empty bodies, in-band metadata, seek markers.
    Nothing,
}

/// A coded picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodedPicture {
    /// Composition offset (presentation minus decode time) in milliseconds; 24 bits, signed.
    pub composition_ms: i32,
    /// Whether decoding can start here, that is, whether the picture has an IDR slice; the tag's frame type is not
    /// considered.
    pub key: bool,
    /// Whether the tag's frame type said "key".
    pub flagged_key: bool,
    /// NAL units, each preceded by its length in four bytes.
    pub data: Bytes,
    /// The configuration that applies from this picture on, if the parameter sets in this access unit give another
    /// picture size than before. FLV requires a sequence header for that; some phones rotate their camera without
    /// sending one.
    pub config: Option<VideoConfig>,
}

/// Reads the tags of one publisher, and keeps the state that later tags depend on.
#[derive(Clone, Debug, Default)]
pub struct FlvDemuxer {
    /// Size of a NAL unit's length field, from the configuration.
    nal_length_size: Option<LengthSize>,
    /// Picture size in pixels, from the current configuration.
    size: (u16, u16),
    /// The last in-band parameter sets of a keyframe that were examined.
    sets: Vec<Bytes>,
    /// The last in-band parameter sets whose picture size was judged.
    judged: Vec<Bytes>,
    /// Pixels of the largest coded picture that is accepted; `None`: any.
    max_pixels: Option<u64>,
    has_audio_config: bool,
}

/// The end of every refusal of a codec.
const TAKEN: &str = "this encoder takes H.264 video and AAC audio";

impl FlvDemuxer {
    /// A demuxer that has read no tag yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts coded pictures of up to this many pixels only, by every sequence parameter set in headers and in band: a
    /// picture is refused before a decoder allocates memory for it.
    pub fn with_max_pixels(self, max_pixels: u64) -> Self {
        Self { max_pixels: Some(max_pixels), ..self }
    }

    fn judge_size<'a>(&self, sets: impl IntoIterator<Item = &'a [u8]>) -> Result<(), FlvError> {
        let Some(most) = self.max_pixels else { return Ok(()) };
        match h264::largest_picture(sets) {
            pixels if pixels > most => Err(FlvError::Unsupported(format!(
                "video has pictures of {pixels} pixels; this encoder takes up to {most} (--max-pixels)"
            ))),
            _ => Ok(()),
        }
    }

    /// Reads a tag body.
    pub fn read(&mut self, kind: MessageKind, body: &Bytes) -> Result<Tag, FlvError> {
        match kind {
            MessageKind::Video => self.video(body),
            MessageKind::Audio => self.audio(body),
        }
    }

    fn video(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        let Some(&first) = body.first() else { return Ok(Tag::Nothing) };
        if first & 0x80 != 0 {
            return self.enhanced_video(body);
        }
        let (frame_type, codec) = (first >> 4, first & 0x0f);
        // Frame type 5: a command for a player that seeks.
        if frame_type == 5 {
            return Ok(Tag::Nothing);
        }
        if codec != 7 {
            return Err(unsupported("video", legacy_video_name(codec)));
        }
        let &[_, packet_type, a, b, c, ..] = &body[..] else {
            return Err(FlvError::Malformed("short video tag"));
        };
        let data = body.slice(5..);
        match packet_type {
            0 => self.avc_config(&data),
            1 => self.avc_picture(frame_type == 1, composition(a, b, c), &data),
            2 => Ok(Tag::EndOfSequence(MessageKind::Video)),
            _ => Err(FlvError::Malformed("unknown AVC packet type")),
        }
    }

    /// Enhanced RTMP: bit 7 set, 3 bits of frame type, 4 bits of packet type, FourCC.
    fn enhanced_video(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        let frame_type = (body[0] >> 4) & 0x07;
        let (packet_type, at) = skip_mod_ex(body, body[0] & 0x0f, 1)?;
        if frame_type == 5 || packet_type == video_packet::METADATA {
            return Ok(Tag::Nothing);
        }
        if packet_type == video_packet::MULTITRACK {
            return Err(unsupported(
                "video",
                "several tracks in one message (Enhanced RTMP multitrack)".into(),
            ));
        }
        let Some(four_cc) = body.get(at..at + 4) else { return Err(FlvError::Malformed("short video tag")) };
        if four_cc != b"avc1" {
            return Err(unsupported("video", four_cc_name(four_cc)));
        }
        let data = body.slice(at + 4..);
        match packet_type {
            video_packet::SEQUENCE_START => self.avc_config(&data),
            video_packet::CODED_FRAMES => {
                let &[a, b, c, ..] = &data[..] else { return Err(FlvError::Malformed("short video tag")) };
                self.avc_picture(frame_type == 1, composition(a, b, c), &data.slice(3..))
            }
            video_packet::CODED_FRAMES_X => self.avc_picture(frame_type == 1, 0, &data),
            video_packet::SEQUENCE_END => Ok(Tag::EndOfSequence(MessageKind::Video)),
            _ => Err(FlvError::Malformed("unknown video packet type")),
        }
    }

    fn avc_config(&mut self, record: &Bytes) -> Result<Tag, FlvError> {
        if record.is_empty() {
            return Ok(Tag::Nothing);
        }
        if let Ok(parts) = h264::Record::read(record) {
            self.judge_size(parts.sps)?;
        }
        let (config, nal_length_size) = h264::read_config(record)?;
        self.nal_length_size = Some(nal_length_size);
        self.size = (config.width, config.height);
        self.sets.clear();
        Ok(Tag::VideoConfig(config))
    }

    fn avc_picture(
        &mut self,
        flagged_key: bool,
        composition_ms: i32,
        payload: &Bytes,
    ) -> Result<Tag, FlvError> {
        if payload.is_empty() {
            return Ok(Tag::Nothing);
        }
        let Some(size) = self.nal_length_size else {
            return Err(FlvError::Malformed("picture before its configuration"));
        };
        let h264::CodedUnit { idr: key, data, sets } = h264::read_unit(payload, size)?;
        if !sets.is_empty() && sets != self.judged {
            self.judge_size(sets.iter().map(|set| &set[..]))?;
            // Copied, so that the sets do not keep the whole message in memory.
            self.judged = sets.iter().map(|set| Bytes::copy_from_slice(set)).collect();
        }
        let config = if key { self.another_size(&sets) } else { None };
        Ok(Tag::Video(CodedPicture { composition_ms, key, flagged_key, data, config }))
    }

    /// Returns a configuration only if the picture size changes. Some encoders send parameter sets with every IDR
    /// picture that differ from the sequence header in other ways; decoders read those sets anyway.
    fn another_size(&mut self, sets: &[Bytes]) -> Option<VideoConfig> {
        if sets.is_empty() || sets == self.sets {
            return None;
        }
        // Copied, so that the sets do not keep the whole message in memory.
        self.sets = sets.iter().map(|set| Bytes::copy_from_slice(set)).collect();
        let config = h264::in_band_config(&self.sets)?;
        let size = (config.width, config.height);
        (std::mem::replace(&mut self.size, size) != size).then_some(config)
    }

    fn audio(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        let Some(&first) = body.first() else { return Ok(Tag::Nothing) };
        match first >> 4 {
            9 => self.enhanced_audio(body),
            10 => match body.get(1) {
                None => Ok(Tag::Nothing),
                Some(0) => self.aac_config(&body.slice(2..)),
                Some(1) => self.aac_frame(&body.slice(2..)),
                Some(_) => Err(FlvError::Malformed("unknown AAC packet type")),
            },
            format => Err(unsupported("audio", legacy_audio_name(format))),
        }
    }

    /// Enhanced RTMP: sound format 9, 4 bits of packet type, FourCC.
    fn enhanced_audio(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        let (packet_type, at) = skip_mod_ex(body, body[0] & 0x0f, 1)?;
        match packet_type {
            audio_packet::MULTICHANNEL_CONFIG => return Ok(Tag::Nothing),
            audio_packet::MULTITRACK => {
                return Err(unsupported(
                    "audio",
                    "several tracks in one message (Enhanced RTMP multitrack)".into(),
                ));
            }
            _ => {}
        }
        let Some(four_cc) = body.get(at..at + 4) else { return Err(FlvError::Malformed("short audio tag")) };
        if four_cc != b"mp4a" {
            return Err(unsupported("audio", four_cc_name(four_cc)));
        }
        let data = body.slice(at + 4..);
        match packet_type {
            audio_packet::SEQUENCE_START => self.aac_config(&data),
            audio_packet::CODED_FRAMES => self.aac_frame(&data),
            audio_packet::SEQUENCE_END => Ok(Tag::EndOfSequence(MessageKind::Audio)),
            _ => Err(FlvError::Malformed("unknown audio packet type")),
        }
    }

    fn aac_config(&mut self, record: &Bytes) -> Result<Tag, FlvError> {
        if record.is_empty() {
            return Ok(Tag::Nothing);
        }
        let config = aac::read_config(record, None)?;
        self.has_audio_config = true;
        Ok(Tag::AudioConfig(config))
    }

    fn aac_frame(&self, frame: &Bytes) -> Result<Tag, FlvError> {
        if frame.is_empty() {
            return Ok(Tag::Nothing);
        }
        if !self.has_audio_config {
            return Err(FlvError::Malformed("audio before its configuration"));
        }
        Ok(Tag::Audio(frame.clone()))
    }
}

/// Packet types of Enhanced RTMP video.
mod video_packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const CODED_FRAMES_X: u8 = 3;
    pub(super) const METADATA: u8 = 4;
    pub(super) const MULTITRACK: u8 = 6;
}

/// Packet types of Enhanced RTMP audio.
mod audio_packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const MULTICHANNEL_CONFIG: u8 = 4;
    pub(super) const MULTITRACK: u8 = 5;
}

/// The packet type for an extension that precedes the real packet type; the same for video and audio.
const MOD_EX: u8 = 7;

/// Skips Enhanced RTMP's ModEx prefixes: the data size minus one in one byte (255: in the next two bytes), the data,
/// then four bits of extension type and four bits of the next packet type. Returns the real packet type and the offset
/// of the FourCC. Every iteration consumes at least three bytes.
fn skip_mod_ex(body: &[u8], mut packet_type: u8, mut at: usize) -> Result<(u8, usize), FlvError> {
    const SHORT: FlvError = FlvError::Malformed("short ModEx");
    while packet_type == MOD_EX {
        let mut size = usize::from(*body.get(at).ok_or(SHORT)?) + 1;
        at += 1;
        if size == 256 {
            let long = body.get(at..at + 2).ok_or(SHORT)?;
            size = usize::from(u16::from_be_bytes([long[0], long[1]])) + 1;
            at += 2;
        }
        packet_type = body.get(at + size).ok_or(SHORT)? & 0x0f;
        at += size + 1;
    }
    Ok((packet_type, at))
}

/// Reads a composition offset: signed 24 bits, big-endian.
fn composition(a: u8, b: u8, c: u8) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}

fn unsupported(kind: &str, what: String) -> FlvError {
    FlvError::Unsupported(format!("{kind} is {what}; {TAKEN}"))
}

fn four_cc_name(four_cc: &[u8]) -> String {
    match four_cc {
        b"hvc1" => "HEVC (hvc1)".into(),
        b"av01" => "AV1 (av01)".into(),
        b"vp08" => "VP8 (vp08)".into(),
        b"vp09" => "VP9 (vp09)".into(),
        b"vvc1" => "VVC (vvc1)".into(),
        b"Opus" => "Opus".into(),
        b"fLaC" => "FLAC".into(),
        b"ac-3" => "AC-3".into(),
        b"ec-3" => "E-AC-3".into(),
        b".mp3" => "MP3".into(),
        other => format!("of unknown FourCC \"{}\"", other.escape_ascii()),
    }
}

/// Name of a codec ID (FLV annex E.4.3.1), with two widely used IDs outside the specification.
fn legacy_video_name(codec: u8) -> String {
    match codec {
        2 => "Sorenson H.263".into(),
        3 | 6 => "Screen Video".into(),
        4 | 5 => "VP6".into(),
        12 => "HEVC (legacy codec id 12)".into(),
        13 => "AV1 (legacy codec id 13)".into(),
        other => format!("of unknown codec id {other}"),
    }
}

/// Name of a sound format (FLV annex E.4.2.1).
fn legacy_audio_name(format: u8) -> String {
    match format {
        0 | 3 => "PCM".into(),
        1 => "ADPCM".into(),
        2 | 14 => "MP3".into(),
        4..=6 => "Nellymoser".into(),
        7 | 8 => "G.711".into(),
        11 => "Speex".into(),
        other => format!("of unknown sound format {other}"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
