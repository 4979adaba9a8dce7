//! One connection's conversation: bytes in, events and bytes out. Sans-IO, and without a clock.
//!
//! What belongs here: handshake, connect, createStream, publish, the end of a publish, acknowledgements, pings, and
//! refusals. Sockets and time-outs are in [`super::server`], chunks in [`super::chunk`], AMF limits in [`super::amf`].
//!
//! `rml_rtmp` does the handshake and writes our messages. Its `ServerSession` is not used: it can be made to panic
//! before anybody was let in (rml_rtmp-0.8.0/src/sessions/server/mod.rs:938, messages/types/amf0_command.rs:35).

use super::amf::{self, AmfError};
use super::chunk::{ChunkError, ChunkReader, Limits, Message, message_type};
use super::metadata;
use super::{EndReason, MediaMessage, MessageKind, Metadata, PublishRequest, Refusal, StreamKey};
use bytes::Bytes;
use rml_amf0::Amf0Value;
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::messages::{PeerBandwidthLimitType, RtmpMessage, UserControlEventType};
use rml_rtmp::time::RtmpTimestamp;
use std::net::SocketAddr;
use std::time::Instant;

/// C0, C1 and C2 together, in bytes (RTMP 1.0, 5.2).
const HANDSHAKE_LEN: usize = 1 + 1536 + 1536;
/// What we ask the peer to acknowledge by, and may send it unacknowledged.
const OUR_WINDOW: u32 = 2_500_000;
/// Chunk size of what we send.
const OUR_CHUNK_SIZE: u32 = 4096;
/// The peer may ask for acknowledgements this often at most; smaller windows would have us answer every packet.
const MIN_ACK_WINDOW: u32 = 64 << 10;
/// Answers that the peer has not taken. Pings are answered one to one, so a peer that never reads must end somewhere.
const MAX_OUTPUT: usize = 64 << 10;
/// Bytes of a FLV tag header inside an aggregate message.
const AGGREGATE_HEADER: usize = 11;
/// The only message stream ever given out.
const STREAM_ID: u32 = 1;

/// The conversation cannot go on. The peer's fault, except [`SessionError::Internal`].
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not RTMP, or RTMPE.
    #[error("handshake: not RTMP version 3")]
    Handshake,
    /// See [`ChunkError`].
    #[error("chunks: {0}")]
    Chunk(#[from] ChunkError),
    /// A command that could not be read.
    #[error("command: {0}")]
    Amf(#[from] AmfError),
    /// A command that has no place in this state. Carries the expectation, never what was sent.
    #[error("{0}")]
    OutOfOrder(&'static str),
    /// More than 64 KiB of answers wait for a peer that does not read.
    #[error("the peer does not read our answers")]
    OutputOverflow,
    /// Our own message could not be written.
    #[error("internal: a message could not be written")]
    Internal,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody asks to publish: call [`Session::accept`] or [`Session::refuse`], and read nothing before.
    Publish(PublishRequest),
    /// A request that is refused whoever asks. The refusal is in the output already and the session has ended.
    Refused(Refusal),
    /// The publisher's media.
    Media(MediaMessage),
    /// The publisher's `onMetaData`.
    Metadata(Metadata),
    /// The publisher is done.
    Ended(EndReason),
}

/// Who is connected to what.
#[derive(Clone, Debug)]
struct Connected {
    app: String,
    client: String,
}

/// Where the conversation is.
enum State {
    /// Counting down the bytes of C0 to C2.
    Handshake { handshake: Box<Handshake>, left: usize },
    /// The chunk layer is up; `connect` is due.
    Connect,
    /// `publish` is due; `createStream` comes before.
    Connected(Connected),
    /// [`Event::Publish`] waits for its answer.
    Deciding { stream_id: u32 },
    /// Media flows.
    Publishing { stream_id: u32 },
    /// Whatever still comes is thrown away.
    Ended,
}

/// A command, as far as it matters here.
#[derive(Debug)]
enum Command {
    Connect {
        transaction: f64,
        app: Option<String>,
        client: String,
    },
    CreateStream {
        transaction: f64,
    },
    Publish {
        stream_id: u32,
        name: Option<String>,
    },
    Play {
        stream_id: u32,
    },
    /// FCUnpublish, deleteStream, closeStream.
    Unpublish,
    /// releaseStream, FCPublish, _checkbw and whatever else clients say: no client waits for an answer.
    Other,
}

/// FLV tags in one message, handed out one by one.
struct Aggregate {
    rest: Bytes,
    /// What to add to a tag's time: the message's time less the first tag's.
    offset_ms: Option<u32>,
    timestamp_ms: u32,
}

/// One connection's conversation.
pub struct Session {
    peer: SocketAddr,
    state: State,
    reader: ChunkReader,
    serializer: ChunkSerializer,
    output: Vec<u8>,
    aggregate: Option<Aggregate>,
    /// Bytes received behind the handshake, wrapping (RTMP 1.0, 5.4.3).
    received: u32,
    acknowledged: u32,
    ack_window: Option<u32>,
    unreadable_metadata: u64,
}

impl Session {
    /// For a connection just accepted.
    pub fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            state: State::Handshake {
                handshake: Box::new(Handshake::new(PeerType::Server)),
                left: HANDSHAKE_LEN,
            },
            reader: ChunkReader::new(Limits::BEFORE_PUBLISH),
            serializer: ChunkSerializer::new(),
            output: Vec::new(),
            aggregate: None,
            received: 0,
            acknowledged: 0,
            ack_window: None,
            unreadable_metadata: 0,
        }
    }

    /// Whether the handshake is over.
    pub fn is_shaken(&self) -> bool {
        !matches!(self.state, State::Handshake { .. })
    }

    /// Metadata messages that could not be read and were passed over.
    pub fn unreadable_metadata(&self) -> u64 {
        self.unreadable_metadata
    }

    /// Bytes held for unfinished messages: at most [`Limits::partial_bytes`] of the phase.
    pub fn buffered_bytes(&self) -> usize {
        self.reader.buffered_bytes()
    }

    /// What is to be sent; the caller takes the bytes that it has sent off the front. At most 64 KiB.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes bytes off the front of `input` until something happened (`Some`) or `input` is empty (`None`). `now` is
    /// stamped on media. After [`Event::Publish`] nothing may be handed in before the answer.
    pub fn handle(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<Event>, SessionError> {
        loop {
            if let Some(event) = self.next_of_aggregate(now) {
                return Ok(Some(event));
            }
            match &mut self.state {
                State::Handshake { handshake, left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    // Never more than the handshake: the crate would keep the rest for us, unbounded.
                    let (head, tail) = input.split_at(input.len().min(*left));
                    *input = tail;
                    *left -= head.len();
                    match handshake.process_bytes(head).map_err(|_| SessionError::Handshake)? {
                        HandshakeProcessResult::InProgress { response_bytes } => {
                            self.output.extend_from_slice(&response_bytes);
                        }
                        HandshakeProcessResult::Completed { response_bytes, remaining_bytes: _ } => {
                            self.output.extend_from_slice(&response_bytes);
                            self.state = State::Connect;
                        }
                    }
                }
                State::Ended => {
                    *input = &[];
                    return Ok(None);
                }
                State::Connect | State::Connected(_) | State::Deciding { .. } | State::Publishing { .. } => {
                    let before = input.len();
                    let message = self.reader.read(input);
                    self.received = self.received.wrapping_add((before - input.len()) as u32);
                    self.acknowledge()?;
                    let Some(message) = message? else { return Ok(None) };
                    if let Some(event) = self.message(message, now)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// Lets the publisher in.
    pub fn accept(&mut self) -> Result<(), SessionError> {
        let State::Deciding { stream_id } = self.state else { return Err(SessionError::Internal) };
        self.reader.set_limits(Limits::PUBLISHING);
        self.send(
            RtmpMessage::UserControl {
                event_type: UserControlEventType::StreamBegin,
                stream_id: Some(stream_id),
                buffer_length: None,
                timestamp: None,
            },
            0,
        )?;
        self.send(on_status("status", "NetStream.Publish.Start", "publishing"), stream_id)?;
        self.state = State::Publishing { stream_id };
        Ok(())
    }

    /// Turns a publisher away, or sends it off: puts the reason into the output and ends the session. The caller sends
    /// the output, gives the client a moment to read it, and closes.
    pub fn refuse(&mut self, refusal: &Refusal) -> Result<(), SessionError> {
        let stream_id = match self.state {
            State::Deciding { stream_id } | State::Publishing { stream_id } => stream_id,
            State::Handshake { .. } | State::Connect | State::Connected(_) | State::Ended => STREAM_ID,
        };
        self.refuse_with(stream_id, status_code(refusal), &refusal.to_string())
    }

    /// The sequence that ffmpeg, rtmp2sink and librtmp all understand: a serializer of its own, so that the headers are
    /// full ones, chunk size first. `_error` leaves the latter two hanging.
    fn refuse_with(&mut self, stream_id: u32, code: &str, reason: &str) -> Result<(), SessionError> {
        self.serializer = ChunkSerializer::new();
        self.send_chunk_size()?;
        self.send(on_status("error", code, reason), stream_id)?;
        self.state = State::Ended;
        Ok(())
    }

    /// What one message leads to.
    fn message(&mut self, message: Message, now: Instant) -> Result<Option<Event>, SessionError> {
        match message.type_id {
            message_type::AUDIO => Ok(self.media(MessageKind::Audio, message, now)),
            message_type::VIDEO => Ok(self.media(MessageKind::Video, message, now)),
            message_type::AGGREGATE => {
                if let State::Publishing { .. } = self.state {
                    let (rest, timestamp_ms) = (message.payload, message.timestamp_ms);
                    self.aggregate = Some(Aggregate { rest, offset_ms: None, timestamp_ms });
                }
                Ok(None)
            }
            message_type::DATA_AMF0 => Ok(self.data(&message.payload)),
            message_type::DATA_AMF3 => Ok(self.data(without_amf3_marker(&message.payload))),
            message_type::COMMAND_AMF0 => self.command(parse(&message.payload, message.stream_id)?),
            message_type::COMMAND_AMF3 => {
                self.command(parse(without_amf3_marker(&message.payload), message.stream_id)?)
            }
            message_type::WINDOW_ACK_SIZE => {
                if let Some(size) = message.payload.first_chunk::<4>() {
                    self.ack_window = Some(u32::from_be_bytes(*size).max(MIN_ACK_WINDOW));
                }
                Ok(None)
            }
            message_type::USER_CONTROL => {
                self.user_control(&message.payload)?;
                Ok(None)
            }
            // Acknowledgements and bandwidth tell us nothing we act on, as we send next to nothing; unknown types are
            // passed over as the specification asks.
            _ => Ok(None),
        }
    }

    /// The transition function of the conversation.
    fn command(&mut self, command: Command) -> Result<Option<Event>, SessionError> {
        match (&self.state, command) {
            (State::Connect, Command::Connect { transaction, app, client }) => {
                self.send_connected(transaction)?;
                self.state = State::Connected(Connected { app: app.unwrap_or_default(), client });
                Ok(None)
            }
            (State::Connect, Command::Other | Command::Unpublish) => Ok(None),
            (
                State::Connect,
                Command::CreateStream { .. } | Command::Publish { .. } | Command::Play { .. },
            ) => Err(SessionError::OutOfOrder("the first command is connect")),

            (State::Connected(_), Command::CreateStream { transaction }) => {
                self.send(
                    RtmpMessage::Amf0Command {
                        command_name: "_result".into(),
                        transaction_id: transaction,
                        command_object: Amf0Value::Null,
                        additional_arguments: vec![Amf0Value::Number(STREAM_ID.into())],
                    },
                    0,
                )?;
                Ok(None)
            }
            (State::Connected(connected), Command::Publish { stream_id, name }) => {
                match request(connected, name.unwrap_or_default(), self.peer) {
                    Ok(request) => {
                        self.state = State::Deciding { stream_id };
                        Ok(Some(Event::Publish(request)))
                    }
                    Err(refusal) => {
                        self.refuse_with(stream_id, status_code(&refusal), &refusal.to_string())?;
                        Ok(Some(Event::Refused(refusal)))
                    }
                }
            }
            (State::Connected(_), Command::Play { stream_id }) => {
                let refusal =
                    Refusal::Unsupported("this server takes publishers only, it does not play".into());
                self.refuse_with(stream_id, "NetStream.Play.Failed", &refusal.to_string())?;
                Ok(Some(Event::Refused(refusal)))
            }
            (State::Connected(_), Command::Unpublish | Command::Other) => Ok(None),
            (
                State::Connected(_) | State::Deciding { .. } | State::Publishing { .. },
                Command::Connect { .. },
            ) => Err(SessionError::OutOfOrder("one connect in a connection")),

            (State::Publishing { .. }, Command::Unpublish) => {
                self.state = State::Ended;
                Ok(Some(Event::Ended(EndReason::Unpublished)))
            }
            (State::Deciding { .. } | State::Publishing { .. }, Command::Publish { .. }) => {
                Err(SessionError::OutOfOrder("one publish in a connection"))
            }
            (State::Deciding { .. } | State::Publishing { .. }, Command::Play { .. }) => {
                Err(SessionError::OutOfOrder("a publisher cannot play"))
            }
            (
                State::Deciding { .. } | State::Publishing { .. },
                Command::CreateStream { .. } | Command::Other,
            ) => Ok(None),
            (State::Deciding { .. }, Command::Unpublish) => Ok(None),
            // The chunk layer is not read in these states.
            (
                State::Handshake { .. } | State::Ended,
                Command::Connect { .. }
                | Command::CreateStream { .. }
                | Command::Publish { .. }
                | Command::Play { .. }
                | Command::Unpublish
                | Command::Other,
            ) => Ok(None),
        }
    }

    /// Media outside a publish is beyond [`Limits::BEFORE_PUBLISH`], save for empty messages: passed over.
    fn media(&self, kind: MessageKind, message: Message, now: Instant) -> Option<Event> {
        let State::Publishing { .. } = self.state else { return None };
        let (timestamp_ms, payload) = (message.timestamp_ms, message.payload);
        Some(Event::Media(MediaMessage { kind, timestamp_ms, payload, arrived: now }))
    }

    /// The next audio or video tag of the aggregate message under way. What does not parse ends the aggregate.
    fn next_of_aggregate(&mut self, now: Instant) -> Option<Event> {
        loop {
            let aggregate = self.aggregate.as_mut()?;
            let tag = &aggregate.rest;
            if tag.len() < AGGREGATE_HEADER {
                self.aggregate = None;
                return None;
            }
            let type_id = tag[0];
            let length = u32::from_be_bytes([0, tag[1], tag[2], tag[3]]) as usize;
            // Low 24 bits first, then the high 8 (FLV, annex E.4.1).
            let time = u32::from_be_bytes([tag[7], tag[4], tag[5], tag[6]]);
            if tag.len() < AGGREGATE_HEADER + length {
                self.aggregate = None;
                return None;
            }
            let payload = tag.slice(AGGREGATE_HEADER..AGGREGATE_HEADER + length);
            // Behind each tag comes its size once more, in four bytes.
            aggregate.rest = tag.slice((AGGREGATE_HEADER + length + 4).min(tag.len())..);
            let offset = *aggregate.offset_ms.get_or_insert(aggregate.timestamp_ms.wrapping_sub(time));
            let timestamp_ms = time.wrapping_add(offset);
            let kind = match type_id {
                message_type::AUDIO => MessageKind::Audio,
                message_type::VIDEO => MessageKind::Video,
                _ => continue,
            };
            return Some(Event::Media(MediaMessage { kind, timestamp_ms, payload, arrived: now }));
        }
    }

    fn data(&mut self, payload: &[u8]) -> Option<Event> {
        let State::Publishing { .. } = self.state else { return None };
        match amf::values(payload) {
            Ok(values) => metadata::read(values).map(Event::Metadata),
            Err(_) => {
                self.unreadable_metadata += 1;
                None
            }
        }
    }

    fn user_control(&mut self, payload: &[u8]) -> Result<(), SessionError> {
        // PingRequest (RTMP 1.0, 7.1.7); all other events are for players, and unknown ones must not end a publish.
        if let [0, 6, a, b, c, d, ..] = *payload {
            self.send(
                RtmpMessage::UserControl {
                    event_type: UserControlEventType::PingResponse,
                    stream_id: None,
                    buffer_length: None,
                    timestamp: Some(RtmpTimestamp::new(u32::from_be_bytes([a, b, c, d]))),
                },
                0,
            )?;
        }
        Ok(())
    }

    /// Tells the running total once the peer's window is used up.
    fn acknowledge(&mut self) -> Result<(), SessionError> {
        let Some(window) = self.ack_window else { return Ok(()) };
        if self.received.wrapping_sub(self.acknowledged) < window {
            return Ok(());
        }
        self.acknowledged = self.received;
        self.send(RtmpMessage::Acknowledgement { sequence_number: self.received }, 0)
    }

    fn send_connected(&mut self, transaction: f64) -> Result<(), SessionError> {
        self.send(RtmpMessage::WindowAcknowledgement { size: OUR_WINDOW }, 0)?;
        self.send(
            RtmpMessage::SetPeerBandwidth { size: OUR_WINDOW, limit_type: PeerBandwidthLimitType::Dynamic },
            0,
        )?;
        self.send_chunk_size()?;
        let server = [("fmsVer", text("FMS/3,5,7,7009")), ("capabilities", Amf0Value::Number(31.0))];
        let information = [
            ("level", text("status")),
            ("code", text("NetConnection.Connect.Success")),
            ("description", text("connected")),
            ("objectEncoding", Amf0Value::Number(0.0)),
        ];
        self.send(
            RtmpMessage::Amf0Command {
                command_name: "_result".into(),
                transaction_id: transaction,
                command_object: object(server),
                additional_arguments: vec![object(information)],
            },
            0,
        )
    }

    fn send_chunk_size(&mut self) -> Result<(), SessionError> {
        let packet = self.serializer.set_max_chunk_size(OUR_CHUNK_SIZE, RtmpTimestamp::new(0));
        self.output.extend_from_slice(&packet.map_err(|_| SessionError::Internal)?.bytes);
        Ok(())
    }

    fn send(&mut self, message: RtmpMessage, stream_id: u32) -> Result<(), SessionError> {
        let payload = message
            .into_message_payload(RtmpTimestamp::new(0), stream_id)
            .map_err(|_| SessionError::Internal)?;
        // Full headers throughout: some clients want them, and we send a few hundred bytes in all.
        let packet = self.serializer.serialize(&payload, true, false).map_err(|_| SessionError::Internal)?;
        if self.output.len() + packet.bytes.len() > MAX_OUTPUT {
            return Err(SessionError::OutputOverflow);
        }
        self.output.extend_from_slice(&packet.bytes);
        Ok(())
    }
}

/// Who asks for what. Nothing that the peer sent goes into a refusal: it may be the key.
fn request(connected: &Connected, name: String, peer: SocketAddr) -> Result<PublishRequest, Refusal> {
    let app = connected.app.split('?').next().unwrap_or_default().trim_end_matches('/');
    if !hls::names::is_valid_name(app) {
        let hint = if app.is_empty() {
            "no application in the URL: publish to rtmp://HOST/APP with the stream key apart"
        } else if app.contains('/') {
            "the URL has too many parts: publish to rtmp://HOST/APP with the stream key apart"
        } else {
            "an application name is 1 to 64 characters of A-Z a-z 0-9 _ -"
        };
        return Err(Refusal::BadName(hint.into()));
    }
    let (key, query) = name.split_once('?').unwrap_or((&name, ""));
    if key.is_empty() {
        return Err(Refusal::BadName("no stream key was sent".into()));
    }
    Ok(PublishRequest {
        app: app.into(),
        key: StreamKey::new(key.into()),
        query: query.into(),
        peer,
        client: connected.client.clone(),
    })
}

/// The codes that clients tell apart; others they show as they are.
fn status_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadName(_) | Refusal::AlreadyPublishing => "NetStream.Publish.BadName",
        Refusal::Busy | Refusal::Draining | Refusal::Internal => "NetStream.Publish.Denied",
        Refusal::Unsupported(_) => "NetStream.Publish.Rejected",
    }
}

fn on_status(level: &str, code: &str, description: &str) -> RtmpMessage {
    RtmpMessage::Amf0Command {
        command_name: "onStatus".into(),
        transaction_id: 0.0,
        command_object: Amf0Value::Null,
        additional_arguments: vec![object([
            ("level", text(level)),
            ("code", text(code)),
            ("description", text(&metadata::printable(description, 512))),
        ])],
    }
}

fn object<const N: usize>(properties: [(&str, Amf0Value); N]) -> Amf0Value {
    Amf0Value::Object(properties.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}

fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.into())
}

/// What claims to be AMF3 is AMF0 behind one zero byte, or AMF0 as it is. No command or data begins with the zero that
/// marks a number.
fn without_amf3_marker(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(&[0]).unwrap_or(payload)
}

fn parse(payload: &[u8], stream_id: u32) -> Result<Command, AmfError> {
    let (name, transaction, arguments) = amf::command(payload)?;
    let mut arguments = arguments.into_iter();
    Ok(match name.as_str() {
        "connect" => {
            let mut properties =
                arguments.next().and_then(Amf0Value::get_object_properties).unwrap_or_default();
            let mut string = |key| properties.remove(key).and_then(Amf0Value::get_string);
            let app = string("app");
            let client = metadata::printable(&string("flashVer").unwrap_or_default(), 64);
            Command::Connect { transaction, app, client }
        }
        "createStream" => Command::CreateStream { transaction },
        "publish" => Command::Publish { stream_id, name: arguments.nth(1).and_then(Amf0Value::get_string) },
        "play" | "play2" => Command::Play { stream_id },
        "FCUnpublish" | "deleteStream" | "closeStream" => Command::Unpublish,
        _ => Command::Other,
    })
}

#[cfg(test)]
mod tests;
