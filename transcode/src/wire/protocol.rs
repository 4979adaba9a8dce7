//! The wire format between supervisor and worker: requests in one direction, responses in the other. This module does
//! no input or output; the pipes are in the supervisor.
//!
//! Each direction begins with a preamble of eight bytes: `ENCW`, the version as a 16-bit number, the direction's letter
//! and a zero. Frames follow: a 32-bit length of type and body together, a type byte, a body. All numbers are
//! little-endian. Media has a binary layout; job, tracks and counters, which are rare, are JSON. Neither side trusts
//! the other: lengths are checked before memory is reserved, and no input panics.

use super::file::FileMessage;
use super::{Job, OpenedTrack, Request, Response, WireUnit, WorkerProgress};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::{AudioCodec, MediaTime, Unit, VideoCodec};
use std::marker::PhantomData;

/// Protocol version, incremented with every change of the layout. Supervisor and worker are the same binary, so a
/// mismatch means that the file was replaced while the supervisor was running.
pub const VERSION: u16 = 3;

/// The largest coded access unit or thumbnail, in bytes: several seconds of the highest ladder bitrate in one frame.
pub const MAX_UNIT: usize = 16 << 20;

/// The largest JSON body or decoder configuration, in bytes.
pub const MAX_CONTROL: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"ENCW";
const PREAMBLE: usize = 8;
/// Bytes of track, flags, pts and dts before a unit's data.
pub(super) const UNIT_HEAD: usize = 1 + 1 + 8 + 8;
const KEY: u8 = 1;
/// The largest frame, not counting its length field.
const MAX_FRAME: usize = 1 + UNIT_HEAD + MAX_UNIT;

/// The peer violated the protocol. Nothing after the violation can be read; the supervisor replaces the worker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The preamble is wrong: the peer is not a worker, or not a supervisor, at all.
    #[error("not the worker protocol")]
    Preamble,
    /// The peer was built with another protocol version.
    #[error("protocol version {theirs}, expected {VERSION}")]
    Version {
        /// The peer's version.
        theirs: u16,
    },
    /// A frame's length is larger than its type allows.
    #[error("frame of {length} bytes is too long")]
    TooLong {
        /// The frame's length in bytes: type and body.
        length: usize,
    },
    /// A frame has an unknown type.
    #[error("unknown frame type {0:#04x}")]
    UnknownType(u8),
    /// A frame's body is invalid for its type; the field names the part that failed to parse.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// One direction of the protocol: [`Request`] or [`Response`].
pub trait WireMessage: Sized {
    #[doc(hidden)]
    const DIRECTION: u8;
    #[doc(hidden)]
    fn write_body(&self, out: &mut BytesMut) -> Result<(), ProtocolError>;
    #[doc(hidden)]
    fn read_body(kind: u8, body: Bytes) -> Result<Self, ProtocolError>;
    #[doc(hidden)]
    fn max_body(kind: u8) -> Option<usize>;
}

/// Serialises the messages of one direction.
#[derive(Debug)]
pub struct FrameWriter<M> {
    greeted: bool,
    message: PhantomData<fn(M)>,
}

impl<M> Default for FrameWriter<M> {
    fn default() -> Self {
        Self { greeted: false, message: PhantomData }
    }
}

impl<M: WireMessage> FrameWriter<M> {
    /// An encoder at the start of its direction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message to `out`, preceded by the preamble if it is the first message.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] when the message exceeds the limit of its type; `out` is then unchanged.
    pub fn encode(&mut self, message: &M, out: &mut BytesMut) -> Result<(), ProtocolError> {
        let start = out.len();
        if !self.greeted {
            out.put_slice(&MAGIC);
            out.put_u16_le(VERSION);
            out.put_slice(&[M::DIRECTION, 0]);
        }
        let frame = out.len();
        out.put_u32_le(0);
        let written = message.write_body(out).and_then(|()| {
            let length = out.len() - frame - 4;
            let most = M::max_body(out[frame + 4]).unwrap_or(0);
            if length - 1 > most { Err(ProtocolError::TooLong { length }) } else { Ok(length) }
        });
        match written {
            Ok(length) => {
                out[frame..frame + 4].copy_from_slice(&(length as u32).to_le_bytes());
                self.greeted = true;
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }
}

/// Parses the messages of one direction. Buffers at most one frame and the bytes read after it; payloads are slices of
/// the read buffer, not copies.
#[derive(Debug)]
pub struct FrameReader<M> {
    buffer: BytesMut,
    greeted: bool,
    failed: Option<ProtocolError>,
    message: PhantomData<fn() -> M>,
}

impl<M> Default for FrameReader<M> {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), greeted: false, failed: None, message: PhantomData }
    }
}

impl<M: WireMessage> FrameReader<M> {
    /// A decoder at the start of its direction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes that were read from the pipe.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to append reads to, as an alternative to [`Self::push`], with room for at least `least` bytes.
    pub fn buffer(&mut self, least: usize) -> &mut BytesMut {
        self.buffer.reserve(least);
        &mut self.buffer
    }

    /// The next complete message, or `None` when more bytes are needed. Call this after each push until it returns
    /// `None`; otherwise the buffered memory is not bounded.
    ///
    /// # Errors
    /// When the peer violates the protocol; every later call returns the same error.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's `None` is its end; here it asks for more bytes"
    )]
    pub fn next(&mut self) -> Result<Option<M>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        }
        result
    }

    /// Whether an incomplete message is buffered: a pipe that ends in this state was cut off.
    pub fn is_mid_message(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn advance(&mut self) -> Result<Option<M>, ProtocolError> {
        if !self.greeted {
            // Garbage is rejected by its first wrong byte, without waiting for all eight.
            let seen = self.buffer.len().min(MAGIC.len());
            if self.buffer[..seen] != MAGIC[..seen] {
                return Err(ProtocolError::Preamble);
            }
            if self.buffer.len() < PREAMBLE {
                return Ok(None);
            }
            let preamble = self.buffer.split_to(PREAMBLE);
            let theirs = u16::from_le_bytes([preamble[4], preamble[5]]);
            if theirs != VERSION {
                return Err(ProtocolError::Version { theirs });
            }
            if preamble[6] != M::DIRECTION {
                return Err(ProtocolError::Preamble);
            }
            self.greeted = true;
        }
        let Some(&[a, b, c, d]) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length == 0 {
            return Err(ProtocolError::Malformed("frame length"));
        }
        if length > MAX_FRAME {
            return Err(ProtocolError::TooLong { length });
        }
        let Some(&kind) = self.buffer.get(4) else { return Ok(None) };
        let most = M::max_body(kind).ok_or(ProtocolError::UnknownType(kind))?;
        if length - 1 > most {
            return Err(ProtocolError::TooLong { length });
        }
        if self.buffer.len() < 4 + length {
            // Reserve the rest in one step, within the bound checked above, instead of growing by doubling.
            self.buffer.reserve(4 + length - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(4 + length).freeze();
        frame.advance(5);
        M::read_body(kind, frame).map(Some)
    }
}

pub(super) mod kind {
    pub(super) const START: u8 = 0x01;
    pub(super) const VIDEO_CONFIG: u8 = 0x02;
    pub(super) const AUDIO_CONFIG: u8 = 0x03;
    pub(super) const UNIT: u8 = 0x04;
    pub(super) const FINISH: u8 = 0x05;
    pub(super) const OPENED: u8 = 0x11;
    pub(super) const THUMBNAIL: u8 = 0x12;
    pub(super) const PROGRESS: u8 = 0x13;
    pub(super) const FINISHED: u8 = 0x14;
    // The messages of [`crate::wire::file`].
    pub(in crate::wire) const FILE_OPENED: u8 = 0x21;
    pub(in crate::wire) const FILE_VIDEO: u8 = 0x22;
    pub(in crate::wire) const FILE_AUDIO: u8 = 0x23;
    pub(in crate::wire) const FILE_UNIT: u8 = 0x24;
    pub(in crate::wire) const FILE_FAILED: u8 = 0x25;
    pub(in crate::wire) const FILE_ENDED: u8 = 0x26;
    pub(in crate::wire) const FILE_SURVEYED: u8 = 0x27;
    pub(in crate::wire) const FILE_PACKET: u8 = 0x28;
}

impl WireMessage for Request {
    const DIRECTION: u8 = b'>';

    fn max_body(kind: u8) -> Option<usize> {
        match kind {
            kind::START | kind::VIDEO_CONFIG | kind::AUDIO_CONFIG => Some(MAX_CONTROL),
            kind::UNIT => Some(UNIT_HEAD + MAX_UNIT),
            kind::FINISH => Some(0),
            _ => None,
        }
    }

    fn write_body(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Start(job) => write_json(kind::START, job, out)?,
            Self::VideoConfig { codec, record } => {
                out.put_slice(&[kind::VIDEO_CONFIG, code_of(&VideoCodec::ALL, *codec)]);
                out.put_slice(record);
            }
            Self::AudioConfig { track, codec, sample_rate, channels, record } => {
                out.put_slice(&[kind::AUDIO_CONFIG, *track, code_of(&AudioCodec::ALL, *codec)]);
                out.put_u32_le(*sample_rate);
                out.put_u8(*channels);
                out.put_slice(record);
            }
            Self::Unit(WireUnit { track, unit }) => write_unit(kind::UNIT, *track, unit, out),
            Self::Finish => out.put_u8(kind::FINISH),
        }
        Ok(())
    }

    fn read_body(kind: u8, mut body: Bytes) -> Result<Self, ProtocolError> {
        match kind {
            kind::START => Ok(Self::Start(read_json::<Job>(&body, "job")?)),
            kind::VIDEO_CONFIG => match codec_of(&VideoCodec::ALL, &mut body) {
                Some(codec) => Ok(Self::VideoConfig { codec, record: body }),
                None => Err(ProtocolError::Malformed("video codec")),
            },
            kind::AUDIO_CONFIG => {
                let track = body.try_get_u8();
                let codec = codec_of(&AudioCodec::ALL, &mut body);
                match (track, codec, body.try_get_u32_le(), body.try_get_u8()) {
                    (Ok(track), Some(codec), Ok(sample_rate), Ok(channels)) => {
                        Ok(Self::AudioConfig { track, codec, sample_rate, channels, record: body })
                    }
                    _ => Err(ProtocolError::Malformed("audio codec")),
                }
            }
            kind::UNIT => read_unit(body).map(Self::Unit),
            kind::FINISH => Ok(Self::Finish),
            other => Err(ProtocolError::UnknownType(other)),
        }
    }
}

impl WireMessage for Response {
    const DIRECTION: u8 = b'<';

    fn max_body(kind: u8) -> Option<usize> {
        match kind {
            kind::OPENED | kind::PROGRESS => Some(MAX_CONTROL),
            kind::UNIT => Some(UNIT_HEAD + MAX_UNIT),
            kind::THUMBNAIL => Some(MAX_UNIT),
            kind::FINISHED => Some(0),
            _ => None,
        }
    }

    fn write_body(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Opened(tracks) => write_json(kind::OPENED, tracks, out)?,
            Self::Unit(WireUnit { track, unit }) => write_unit(kind::UNIT, *track, unit, out),
            Self::Thumbnail(jpeg) => {
                out.put_u8(kind::THUMBNAIL);
                out.put_slice(jpeg);
            }
            Self::Progress(progress) => write_json(kind::PROGRESS, progress, out)?,
            Self::Finished => out.put_u8(kind::FINISHED),
        }
        Ok(())
    }

    fn read_body(kind: u8, body: Bytes) -> Result<Self, ProtocolError> {
        match kind {
            kind::OPENED => Ok(Self::Opened(read_json::<Vec<OpenedTrack>>(&body, "tracks")?)),
            kind::UNIT => read_unit(body).map(Self::Unit),
            kind::THUMBNAIL => Ok(Self::Thumbnail(body)),
            kind::PROGRESS => Ok(Self::Progress(read_json::<WorkerProgress>(&body, "progress")?)),
            kind::FINISHED => Ok(Self::Finished),
            other => Err(ProtocolError::UnknownType(other)),
        }
    }
}

/// A codec's code: its place in the list of all codecs.
pub(super) fn code_of<C: PartialEq>(all: &[C], codec: C) -> u8 {
    all.iter().position(|known| *known == codec).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

/// Reads a codec's code.
pub(super) fn codec_of<C: Copy>(all: &[C], body: &mut Bytes) -> Option<C> {
    all.get(usize::from(body.try_get_u8().ok()?)).copied()
}

pub(super) fn write_unit(kind: u8, track: u8, unit: &Unit, out: &mut BytesMut) {
    out.reserve(1 + UNIT_HEAD + unit.data.len());
    out.put_u8(kind);
    out.put_u8(track);
    out.put_u8(if unit.key { KEY } else { 0 });
    out.put_i64_le(unit.pts.ticks_90k());
    out.put_i64_le(unit.dts.ticks_90k());
    out.put_slice(&unit.data);
}

pub(super) fn read_unit(mut body: Bytes) -> Result<WireUnit, ProtocolError> {
    if body.len() < UNIT_HEAD {
        return Err(ProtocolError::Malformed("unit"));
    }
    let track = body.get_u8();
    let flags = body.get_u8();
    let pts = MediaTime::from_ticks_90k(body.get_i64_le());
    let dts = MediaTime::from_ticks_90k(body.get_i64_le());
    // No stream has media times beyond this limit, and sums of such times could overflow.
    let sane = |t: MediaTime| t.ticks_90k().unsigned_abs() < 1 << 56;
    if flags & !KEY != 0 || !sane(pts) || !sane(dts) {
        return Err(ProtocolError::Malformed("unit"));
    }
    Ok(WireUnit { track, unit: Unit { pts, dts, key: flags & KEY != 0, data: body } })
}

pub(super) fn write_json<T: serde::Serialize>(
    kind: u8,
    value: &T,
    out: &mut BytesMut,
) -> Result<(), ProtocolError> {
    out.put_u8(kind);
    serde_json::to_writer(out.writer(), value).map_err(|_| ProtocolError::Malformed("value"))
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    body: &[u8],
    what: &'static str,
) -> Result<T, ProtocolError> {
    serde_json::from_slice(body).map_err(|_| ProtocolError::Malformed(what))
}

/// Entry point of the fuzz target `worker_protocol`: the first byte selects the direction and the read size for the
/// rest. Every message that decodes must encode, and decode again to the same message.
pub fn fuzz_worker_protocol(data: &[u8]) {
    fn run<M: WireMessage + PartialEq + std::fmt::Debug>(data: &[u8], read: usize) {
        let mut decoder = FrameReader::<M>::new();
        for chunk in data.chunks(read) {
            decoder.push(chunk);
            while let Ok(Some(message)) = decoder.next() {
                let mut bytes = BytesMut::new();
                let encoded = FrameWriter::<M>::new().encode(&message, &mut bytes);
                assert!(encoded.is_ok(), "what was read can be written");
                let mut again = FrameReader::<M>::new();
                again.push(&bytes);
                assert_eq!(again.next(), Ok(Some(message)));
            }
        }
    }
    let Some((&first, data)) = data.split_first() else { return };
    let read = usize::from(first >> 1) + 1;
    if first & 1 == 0 {
        run::<Request>(data, read);
    } else {
        run::<Response>(data, read);
        run::<FileMessage>(data, read);
    }
}

#[cfg(test)]
mod tests;
