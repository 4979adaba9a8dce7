//! From bytes to messages: the reading side of RTMP's chunk layer (Adobe RTMP 1.0, section 5.3). Sans-IO.
//!
//! What belongs here: chunk headers, reassembly per chunk stream, time deltas, SetChunkSize and Abort, and the limits
//! that keep a peer from growing this process's memory. What a message means is in [`super::session`].
//!
//! Why not `rml_rtmp`'s `ChunkDeserializer`: it keeps one payload buffer for all chunk streams, so legal interleaving
//! panics or mixes messages (rml_rtmp-0.8.0/src/chunk_io/deserializer.rs:25,371), and its limits cannot be lowered.
//!
//! Decisions where the specification and real encoders differ:
//! - *Extended timestamp on type 3.* A type 3 chunk repeats the extended timestamp of its message, but some encoders
//!   omit the field. Inside a message, four bytes that equal the current extended timestamp are read as the field, and
//!   any others as payload; a payload matches the field by chance with odds of 2^-32. A type 3 chunk that *begins* a
//!   message always carries the field, because the repeated value is its time delta.
//! - *Type 3 begins a message after a type 0.* The delta is the timestamp of the type 0 chunk (5.3.1.2.4), as ffmpeg
//!   writes it.
//! - *Type 1 on a new chunk stream* is accepted, on message stream 0, because librtmp sends it. Types 2 and 3 are
//!   refused there, because they carry no message length.
//! - *A new header inside an unfinished message* (types 0 to 2) is refused: dropping the message silently would hide a
//!   desynchronised reader.

use bytes::{Bytes, BytesMut};
use std::collections::HashMap;

/// Chunk size in bytes until the peer sends SetChunkSize (RTMP 1.0, 5.4.1).
const INITIAL_CHUNK_SIZE: u32 = 128;
/// Largest chunk size in bytes (RTMP 1.0, 5.4.1). Clients that want one chunk for each message announce it. It costs no
/// memory: buffers follow the length of messages, which have limits of their own.
const MAX_CHUNK_SIZE: u32 = 0x7fff_ffff;
/// A timestamp field with this value means that the extended timestamp field follows.
const EXTENDED: u32 = 0xff_ffff;
/// Longest header in bytes: basic header 3, message header 11, extended timestamp 4.
const MAX_HEADER: usize = 18;

/// Message type ids (RTMP 1.0, sections 5.4 and 7.1).
pub mod message_type {
    /// SetChunkSize: read by the chunk layer itself.
    pub const SET_CHUNK_SIZE: u8 = 1;
    /// Abort: read by the chunk layer itself.
    pub const ABORT: u8 = 2;
    /// Acknowledgement.
    pub const ACKNOWLEDGEMENT: u8 = 3;
    /// User control events.
    pub const USER_CONTROL: u8 = 4;
    /// Window acknowledgement size.
    pub const WINDOW_ACK_SIZE: u8 = 5;
    /// Set peer bandwidth.
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    /// FLV audio tag body.
    pub const AUDIO: u8 = 8;
    /// FLV video tag body.
    pub const VIDEO: u8 = 9;
    /// Data marked as AMF3; in practice AMF0 after one zero byte.
    pub const DATA_AMF3: u8 = 15;
    /// A command marked as AMF3; in practice AMF0 after one zero byte.
    pub const COMMAND_AMF3: u8 = 17;
    /// AMF0 data: `onMetaData` and the like.
    pub const DATA_AMF0: u8 = 18;
    /// AMF0 command.
    pub const COMMAND_AMF0: u8 = 20;
    /// Several FLV tags in one message.
    pub const AGGREGATE: u8 = 22;
}

/// How much memory a peer may occupy in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Longest video (and aggregate) message in bytes.
    pub video: u32,
    /// Longest audio message in bytes.
    pub audio: u32,
    /// Longest message of any other type in bytes.
    pub other: u32,
    /// Sum of the announced lengths of all unfinished messages in bytes: the most that reassembly can hold.
    pub partial_bytes: usize,
    /// Maximum number of unfinished messages at one time.
    pub partial_messages: usize,
    /// Maximum number of chunk streams used over the connection's life.
    pub chunk_streams: usize,
    /// Whether a message beyond a limit of bytes is passed over: its bytes are discarded as they come. Otherwise it ends
    /// the connection.
    pub passes_over: bool,
}

impl ChunkLimits {
    /// Before admission: commands only, 64 kB in total. Media is refused.
    pub const BEFORE_PUBLISH: Self = Self {
        video: 0,
        audio: 0,
        other: 16 << 10,
        partial_bytes: 64 << 10,
        partial_messages: 8,
        chunk_streams: 64,
        passes_over: false,
    };
    /// For an admitted publisher: 8 MiB per picture, 1 MiB of metadata (recorded files have an index of keyframes in
    /// it), 12 MiB in total.
    pub const PUBLISHING: Self = Self {
        video: 8 << 20,
        audio: 1 << 20,
        other: 1 << 20,
        partial_bytes: 12 << 20,
        partial_messages: 8,
        chunk_streams: 64,
        passes_over: true,
    };
    /// For a publisher that has ended its publish and may begin another one: commands only. Media that was still under
    /// way is passed over.
    pub const BETWEEN_PUBLISHES: Self = Self { passes_over: true, ..Self::BEFORE_PUBLISH };

    fn message_len(&self, type_id: u8) -> u32 {
        match type_id {
            message_type::VIDEO | message_type::AGGREGATE => self.video,
            message_type::AUDIO => self.audio,
            _ => self.other,
        }
    }

    /// Why a message cannot be kept while the unfinished messages have announced `partial_bytes`; `None` if it can.
    fn exceeded_by(&self, type_id: u8, length: u32, partial_bytes: usize) -> Option<ChunkError> {
        let limit = self.message_len(type_id);
        if length > limit {
            return Some(ChunkError::MessageTooLong { type_id, length, limit });
        }
        (partial_bytes + length as usize > self.partial_bytes)
            .then_some(ChunkError::TooManyPartialBytes(self.partial_bytes))
    }
}

/// The peer broke the chunk protocol or a limit. The peer's fault; the connection cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// More chunk streams than [`ChunkLimits::chunk_streams`].
    #[error("more than {0} chunk streams")]
    TooManyChunkStreams(usize),
    /// A type 2 or 3 header on a chunk stream that has had no header before.
    #[error("chunk stream {0} begins with a compressed header")]
    NoPrecedingHeader(u32),
    /// A full header where the rest of a message was expected.
    #[error("chunk stream {0} begins a message inside another")]
    HeaderInsideMessage(u32),
    /// A message longer than the limit for its type.
    #[error("message of type {type_id} is {length} bytes long, {limit} are allowed")]
    MessageTooLong {
        /// Message type id.
        type_id: u8,
        /// Announced length in bytes.
        length: u32,
        /// Allowed length in bytes.
        limit: u32,
    },
    /// More unfinished messages than [`ChunkLimits::partial_messages`].
    #[error("more than {0} unfinished messages")]
    TooManyPartialMessages(usize),
    /// The announced lengths of the unfinished messages exceed [`ChunkLimits::partial_bytes`].
    #[error("unfinished messages of more than {0} bytes")]
    TooManyPartialBytes(usize),
    /// SetChunkSize to zero: no message could ever be complete.
    #[error("a chunk size of zero")]
    ChunkSizeZero,
    /// A protocol control message shorter than its four bytes.
    #[error("control message of type {0} is too short")]
    ShortControl(u8),
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkMessage {
    /// See [`message_type`].
    pub type_id: u8,
    /// Message stream: 0 for the connection itself, otherwise the ID that `createStream` returned.
    pub stream_id: u32,
    /// RTMP time in milliseconds, wrapping at 32 bits.
    pub timestamp_ms: u32,
    /// The message's payload.
    pub payload: Bytes,
}

/// One chunk stream: its last header and its unfinished message.
#[derive(Debug, Default)]
struct ChunkStream {
    timestamp_ms: u32,
    /// The delta that a type 3 chunk adds when it begins a message.
    delta_ms: u32,
    /// The current extended timestamp, if the last header had one.
    extended: Option<u32>,
    length: u32,
    type_id: u8,
    stream_id: u32,
    partial: Option<Partial>,
}

/// An unfinished message.
#[derive(Debug)]
enum Partial {
    /// The payload so far.
    Kept(BytesMut),
    /// The message is passed over: the number of its bytes so far.
    PassedOver(u32),
}

#[derive(Clone, Copy, Debug)]
enum ReaderState {
    /// Collecting a header.
    Header,
    /// `left` payload bytes of the current chunk are still to come.
    Payload { csid: u32, left: u32 },
}

/// A parsed chunk header.
struct Header {
    format: u8,
    csid: u32,
    /// Timestamp or delta, with the extended timestamp applied.
    time: u32,
    extended: Option<u32>,
    length: u32,
    type_id: u8,
    stream_id: u32,
    /// Length of the header in bytes.
    size: usize,
}

/// Reassembles messages. Holds at most [`ChunkLimits::partial_bytes`] of payload and 18 bytes of a header.
#[derive(Debug)]
pub struct ChunkReader {
    limits: ChunkLimits,
    chunk_size: u32,
    state: ReaderState,
    header: [u8; MAX_HEADER],
    header_len: usize,
    streams: HashMap<u32, ChunkStream>,
    partial_messages: usize,
    partial_bytes: usize,
    passed_over: u64,
}

impl ChunkReader {
    /// A reader for a new connection, after the handshake.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            chunk_size: INITIAL_CHUNK_SIZE,
            state: ReaderState::Header,
            header: [0; MAX_HEADER],
            header_len: 0,
            streams: HashMap::new(),
            partial_messages: 0,
            partial_bytes: 0,
            passed_over: 0,
        }
    }

    /// Changes the limits for messages that begin from now on. Unfinished messages keep the limits they began with.
    pub fn set_limits(&mut self, limits: ChunkLimits) {
        self.limits = limits;
    }

    /// Bytes reserved for unfinished messages; never above [`ChunkLimits::partial_bytes`].
    pub fn buffered_bytes(&self) -> usize {
        self.partial_bytes
    }

    /// Number of messages that were passed over because they were too long.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Reads bytes off the front of `input` until a message is complete (`Some`) or `input` is empty (`None`).
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<ChunkMessage>, ChunkError> {
        loop {
            let message = match self.state {
                ReaderState::Header => {
                    let Some(byte) = take_first(input) else { return Ok(None) };
                    self.header[self.header_len] = byte;
                    self.header_len += 1;
                    self.try_header()?
                }
                ReaderState::Payload { csid, left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let (head, tail) = input.split_at(input.len().min(left as usize));
                    *input = tail;
                    self.take_payload(csid, left, head)
                }
            };
            match message {
                Some(message) if message.type_id == message_type::SET_CHUNK_SIZE => {
                    // The first bit must be zero (RTMP 1.0, 5.4.1), so it carries no value.
                    self.chunk_size = match control_value(&message)? & MAX_CHUNK_SIZE {
                        0 => return Err(ChunkError::ChunkSizeZero),
                        size => size,
                    };
                }
                Some(message) if message.type_id == message_type::ABORT => {
                    let csid = control_value(&message)?;
                    self.abort(csid);
                }
                Some(message) => return Ok(Some(message)),
                None => {}
            }
        }
    }

    /// Begins the chunk if its header is complete. A message without payload is complete with its header.
    fn try_header(&mut self) -> Result<Option<ChunkMessage>, ChunkError> {
        let Some(header) = self.parse_header()? else { return Ok(None) };
        // The reader may have collected bytes as an extended timestamp that turn out to follow the header: payload, and
        // then the next header.
        let collected = self.header;
        let mut surplus = &collected[header.size..self.header_len];
        self.header_len = 0;

        let mut message = self.begin_chunk(&header)?;
        if let ReaderState::Payload { csid, left } = self.state {
            let (payload, behind) = surplus.split_at(surplus.len().min(left as usize));
            surplus = behind;
            message = self.take_payload(csid, left, payload);
        }
        self.header[..surplus.len()].copy_from_slice(surplus);
        self.header_len = surplus.len();
        Ok(message)
    }

    /// Parses the collected header; `None` while it is incomplete.
    fn parse_header(&self) -> Result<Option<Header>, ChunkError> {
        let bytes = &self.header[..self.header_len];
        let format = bytes[0] >> 6;
        let (csid, basic) = match (bytes[0] & 0x3f, bytes) {
            (0, [_, low, ..]) => (64 + u32::from(*low), 2),
            (1, [_, low, high, ..]) => (64 + u32::from(*low) + 256 * u32::from(*high), 3),
            (0 | 1, _) => return Ok(None),
            (csid, _) => (csid.into(), 1),
        };
        let known = self.streams.get(&csid);
        if known.is_none() && self.streams.len() >= self.limits.chunk_streams {
            return Err(ChunkError::TooManyChunkStreams(self.limits.chunk_streams));
        }
        let inside = known.is_some_and(|stream| stream.partial.is_some());
        if inside && format != 3 {
            return Err(ChunkError::HeaderInsideMessage(csid));
        }
        if known.is_none() && format >= 2 {
            return Err(ChunkError::NoPrecedingHeader(csid));
        }
        let fresh = ChunkStream::default();
        let last = known.unwrap_or(&fresh);

        let fixed = basic + [11, 7, 3, 0][usize::from(format)];
        if bytes.len() < fixed {
            return Ok(None);
        }
        let field = &bytes[basic..fixed];
        let time = if format == 3 { last.delta_ms } else { be24(field) };
        let mut header = Header {
            format,
            csid,
            time,
            extended: None,
            length: if format <= 1 { be24(&field[3..]) } else { last.length },
            type_id: if format <= 1 { field[6] } else { last.type_id },
            stream_id: match format {
                0 => u32::from_le_bytes([field[7], field[8], field[9], field[10]]),
                _ => last.stream_id,
            },
            size: fixed,
        };
        let expects_extended = if format == 3 { last.extended.is_some() } else { time == EXTENDED };
        if !expects_extended {
            return Ok(Some(header));
        }
        if inside {
            // Some encoders omit the field (see the module's decisions). The bytes are compared one by one, so that the
            // reader does not wait for bytes that may never arrive.
            let expected = last.extended.unwrap_or(0).to_be_bytes();
            let seen = &bytes[fixed..];
            if *seen != expected[..seen.len()] {
                header.extended = last.extended;
                return Ok(Some(header));
            }
        }
        let Some(extended) = bytes.get(fixed..fixed + 4) else { return Ok(None) };
        let extended = u32::from_be_bytes([extended[0], extended[1], extended[2], extended[3]]);
        header.extended = Some(extended);
        header.time = extended;
        header.size = fixed + 4;
        Ok(Some(header))
    }

    fn begin_chunk(&mut self, header: &Header) -> Result<Option<ChunkMessage>, ChunkError> {
        let stream = self.streams.entry(header.csid).or_default();
        if stream.partial.is_none() {
            let length = header.length as usize;
            if self.partial_messages >= self.limits.partial_messages {
                return Err(ChunkError::TooManyPartialMessages(self.limits.partial_messages));
            }
            let beyond = self.limits.exceeded_by(header.type_id, header.length, self.partial_bytes);
            stream.partial = Some(match beyond {
                None => {
                    self.partial_bytes += length;
                    Partial::Kept(BytesMut::with_capacity(length))
                }
                Some(_) if self.limits.passes_over => Partial::PassedOver(0),
                Some(error) => return Err(error),
            });
            self.partial_messages += 1;
            stream.timestamp_ms = match header.format {
                0 => header.time,
                _ => stream.timestamp_ms.wrapping_add(header.time),
            };
            stream.delta_ms = header.time;
            stream.extended = header.extended;
            stream.length = header.length;
            stream.type_id = header.type_id;
            stream.stream_id = header.stream_id;
        }
        let got = match &stream.partial {
            Some(Partial::Kept(bytes)) => bytes.len() as u32,
            Some(Partial::PassedOver(got)) => *got,
            None => 0,
        };
        let left = (stream.length - got).min(self.chunk_size);
        self.state = ReaderState::Payload { csid: header.csid, left };
        if left == 0 { Ok(self.take_payload(header.csid, 0, &[])) } else { Ok(None) }
    }

    /// Adds `bytes`, at most `left`, to the unfinished message and returns the message if it is complete.
    fn take_payload(&mut self, csid: u32, left: u32, bytes: &[u8]) -> Option<ChunkMessage> {
        let left = left - bytes.len() as u32;
        self.state = if left == 0 { ReaderState::Header } else { ReaderState::Payload { csid, left } };
        // An Abort takes effect between chunks, so the unfinished message exists whenever its payload is read.
        let stream = self.streams.get_mut(&csid)?;
        let complete = match stream.partial.as_mut()? {
            Partial::Kept(partial) => {
                partial.extend_from_slice(bytes);
                partial.len() >= stream.length as usize
            }
            Partial::PassedOver(got) => {
                *got += bytes.len() as u32;
                *got >= stream.length
            }
        };
        if !complete {
            return None;
        }
        self.partial_messages -= 1;
        let payload = match stream.partial.take()? {
            Partial::Kept(partial) => partial.freeze(),
            Partial::PassedOver(_) => {
                self.passed_over += 1;
                return None;
            }
        };
        self.partial_bytes -= payload.len();
        Some(ChunkMessage {
            type_id: stream.type_id,
            stream_id: stream.stream_id,
            timestamp_ms: stream.timestamp_ms,
            payload,
        })
    }

    /// Drops the unfinished message of a chunk stream (RTMP 1.0, 5.4.2).
    fn abort(&mut self, csid: u32) {
        let Some(stream) = self.streams.get_mut(&csid) else { return };
        match stream.partial.take() {
            Some(Partial::Kept(_)) => self.partial_bytes -= stream.length as usize,
            Some(Partial::PassedOver(_)) => {}
            None => return,
        }
        self.partial_messages -= 1;
    }
}

fn take_first(input: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = input.split_first()?;
    *input = rest;
    Some(first)
}

fn be24(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]])
}

fn control_value(message: &ChunkMessage) -> Result<u32, ChunkError> {
    match message.payload.first_chunk::<4>() {
        Some(bytes) => Ok(u32::from_be_bytes(*bytes)),
        None => Err(ChunkError::ShortControl(message.type_id)),
    }
}

#[cfg(test)]
mod tests;
