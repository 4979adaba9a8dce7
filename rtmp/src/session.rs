//! One connection's RTMP session: bytes in, events and bytes out. Sans-IO, and without a clock.
//!
//! What belongs here: the session's states and the one function that moves between them. Commands are parsed in
//! `command`, answers are written in `answer`, aggregate messages are split in `aggregate`. Sockets and time-outs are
//! with the caller, chunks in [`super::chunk`], AMF limits in [`super::amf`].
//!
//! `rml_rtmp` does the handshake and serializes this server's messages. Its `ServerSession` is not used, because a peer
//! can make it panic before admission (rml_rtmp-0.8.0/src/sessions/server/mod.rs:938,
//! messages/types/amf0_command.rs:35).

mod aggregate;
mod answer;
mod capabilities;
mod command;

use super::amf::{self, AmfError, AmfMessage};
use super::chunk::{ChunkError, ChunkLimits, ChunkMessage, ChunkReader, message_type};
use super::{EndReason, MediaMessage, MessageKind, Metadata, PublishRequest, Refusal, metadata};
use aggregate::{Aggregate, SubMessage};
use answer::status_code;
use command::{Connected, Published, RtmpCommand, parse, request, without_amf3_marker};
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use std::net::SocketAddr;
use std::time::Instant;

/// C0, C1 and C2 together, in bytes, and as many S0, S1 and S2 together (RTMP 1.0, 5.2).
pub(super) const HANDSHAKE_LEN: usize = 1 + 1536 + 1536;
/// Smallest acknowledgement window in bytes that a peer can set; with smaller windows the server would answer every
/// packet.
const MIN_ACK_WINDOW: u32 = 64 << 10;
/// The message stream ID that the first `createStream` returns.
const FIRST_STREAM_ID: u32 = 1;

/// The session cannot continue. The peer's fault, except [`ServerError::Internal`].
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Not RTMP, or RTMPE.
    #[error("handshake: not RTMP version 3")]
    Handshake,
    /// See [`ChunkError`].
    #[error("chunks: {0}")]
    Chunk(#[from] ChunkError),
    /// A command that could not be read.
    #[error("command: {0}")]
    Amf(#[from] AmfError),
    /// A command that is not allowed in this state. The text says what was expected, never what the peer sent.
    #[error("{0}")]
    OutOfOrder(&'static str),
    /// More than 64 KiB of output wait for a peer that does not read.
    #[error("the peer does not read our answers")]
    OutputOverflow,
    /// A message of this server could not be serialized.
    #[error("internal: a message could not be written")]
    Internal,
}

/// What the session reports to its caller.
#[derive(Clone, Debug)]
pub enum ServerEvent {
    /// A request to publish: call [`ServerSession::accept`] or [`ServerSession::refuse`] before handing in further
    /// input.
    Publish(PublishRequest),
    /// The session itself refused a request, independent of the publisher. The refusal is already in the output and the
    /// session has ended.
    Refused(Refusal),
    /// The publisher's media.
    Media(MediaMessage),
    /// The publisher's `onMetaData`.
    Metadata(Metadata),
    /// The publisher has ended the publish. It may begin another one on the same connection.
    Ended(EndReason),
    /// The publisher has ended the publish by asking to publish another stream: to be answered like
    /// [`ServerEvent::Publish`].
    PublishInstead(PublishRequest),
}

/// Counts of messages that were passed over since the connection began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// Commands that could not be read, or not to their end.
    pub commands: u64,
    /// Metadata that could not be read, or not to its end.
    pub metadata: u64,
    /// Messages that were too long.
    pub too_long: u64,
}

impl PassedOver {
    /// What came since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            commands: self.commands.saturating_sub(earlier.commands),
            metadata: self.metadata.saturating_sub(earlier.metadata),
            too_long: self.too_long.saturating_sub(earlier.too_long),
        }
    }

    /// Kinds and counts, for logs and metrics.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("unreadable_commands", self.commands),
            ("unreadable_metadata", self.metadata),
            ("too_long", self.too_long),
        ]
        .into_iter()
    }
}

/// The session's state.
enum SessionState {
    /// Counting down the bytes of C0 to C2.
    Handshake { handshake: Box<Handshake>, left: usize },
    /// The chunk layer is running; `connect` is expected.
    Connect,
    /// `createStream` and then `publish` are expected: before the first publish, and after each.
    Connected(Connected),
    /// [`ServerEvent::Publish`] was returned; the caller has not decided yet.
    Deciding(Publication),
    /// The publisher sends media.
    Publishing(Publication),
    /// Further input is discarded.
    Ended,
}

/// A publish that was asked for.
struct Publication {
    connected: Connected,
    published: Published,
    stream_id: u32,
}

/// One connection's RTMP session.
pub struct ServerSession {
    peer: SocketAddr,
    /// Whether what follows a slash in the application is taken as the beginning of the key.
    key_paths: bool,
    state: SessionState,
    reader: ChunkReader,
    serializer: ChunkSerializer,
    output: Vec<u8>,
    aggregate: Option<Aggregate>,
    /// Bytes received after the handshake, wrapping (RTMP 1.0, 5.4.3).
    received: u32,
    acknowledged: u32,
    ack_window: Option<u32>,
    /// The number of message streams that `createStream` has returned, which is the last one's ID.
    created: u32,
    unreadable_commands: u64,
    unreadable_metadata: u64,
}

impl ServerSession {
    /// A session for a connection that was just accepted.
    pub fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            key_paths: false,
            state: SessionState::Handshake {
                handshake: Box::new(Handshake::new(PeerType::Server)),
                left: HANDSHAKE_LEN,
            },
            reader: ChunkReader::new(ChunkLimits::BEFORE_PUBLISH),
            serializer: ChunkSerializer::new(),
            output: Vec::new(),
            aggregate: None,
            received: 0,
            acknowledged: 0,
            ack_window: None,
            created: 0,
            unreadable_commands: 0,
            unreadable_metadata: 0,
        }
    }

    /// Takes applications with slashes, such as `live/inst`: what follows the first slash becomes
    /// [`PublishRequest::path`]. Without this they are refused.
    #[must_use]
    pub fn with_key_paths(self) -> Self {
        Self { key_paths: true, ..self }
    }

    /// Whether the handshake is over.
    pub fn handshake_done(&self) -> bool {
        !matches!(self.state, SessionState::Handshake { .. })
    }

    /// Messages that were passed over so far.
    pub fn passed_over(&self) -> PassedOver {
        PassedOver {
            commands: self.unreadable_commands,
            metadata: self.unreadable_metadata,
            too_long: self.reader.passed_over(),
        }
    }

    /// Whether the publisher would follow a request to connect anew ([`Self::ask_to_reconnect`]).
    fn can_reconnect(&self) -> bool {
        match &self.state {
            SessionState::Publishing(Publication { connected, .. }) => connected.capabilities.can_reconnect,
            SessionState::Handshake { .. }
            | SessionState::Connect
            | SessionState::Connected(_)
            | SessionState::Deciding(_)
            | SessionState::Ended => false,
        }
    }

    /// Bytes held for unfinished messages: at most the current phase's [`ChunkLimits::partial_bytes`].
    pub fn buffered_bytes(&self) -> usize {
        self.reader.buffered_bytes()
    }

    /// Output to be sent; the caller removes the bytes that it has sent from the front. At most 64 KiB.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Reads bytes off the front of `input` until an event occurs (`Some`) or `input` is empty (`None`). `now` becomes
    /// the arrival time of media. After [`ServerEvent::Publish`] the caller must answer before it hands in more input.
    pub fn handle(&mut self, input: &mut &[u8], now: Instant) -> Result<Option<ServerEvent>, ServerError> {
        loop {
            if let Some(event) = self.next_of_aggregate(now) {
                return Ok(Some(event));
            }
            match &mut self.state {
                SessionState::Handshake { handshake, left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    // Only the handshake's own bytes: the crate would buffer further bytes without a bound.
                    let (head, tail) = input.split_at(input.len().min(*left));
                    *input = tail;
                    *left -= head.len();
                    match handshake.process_bytes(head).map_err(|_| ServerError::Handshake)? {
                        HandshakeProcessResult::InProgress { response_bytes } => {
                            self.output.extend_from_slice(&response_bytes);
                        }
                        HandshakeProcessResult::Completed { response_bytes, remaining_bytes: _ } => {
                            self.output.extend_from_slice(&response_bytes);
                            self.state = SessionState::Connect;
                        }
                    }
                }
                SessionState::Ended => {
                    *input = &[];
                    return Ok(None);
                }
                SessionState::Connect
                | SessionState::Connected(_)
                | SessionState::Deciding(_)
                | SessionState::Publishing(_) => {
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

    /// Admits the publisher.
    pub fn accept(&mut self) -> Result<(), ServerError> {
        let publication = match std::mem::replace(&mut self.state, SessionState::Ended) {
            SessionState::Deciding(publication) => publication,
            SessionState::Handshake { .. }
            | SessionState::Connect
            | SessionState::Connected(_)
            | SessionState::Publishing(_)
            | SessionState::Ended => return Err(ServerError::Internal),
        };
        self.reader.set_limits(ChunkLimits::PUBLISHING);
        self.send_publish_start(publication.stream_id)?;
        self.state = SessionState::Publishing(publication);
        Ok(())
    }

    /// Refuses a publisher or ends its publish: puts the reason into the output and ends the session. The caller sends
    /// the output, gives the client a moment to read it, and closes.
    pub fn refuse(&mut self, refusal: &Refusal) -> Result<(), ServerError> {
        let stream_id = match self.state {
            SessionState::Deciding(Publication { stream_id, .. })
            | SessionState::Publishing(Publication { stream_id, .. }) => stream_id,
            SessionState::Handshake { .. }
            | SessionState::Connect
            | SessionState::Connected(_)
            | SessionState::Ended => FIRST_STREAM_ID,
        };
        self.refuse_with(stream_id, status_code(refusal), &refusal.to_string())
    }

    /// Handles one message.
    fn message(&mut self, message: ChunkMessage, now: Instant) -> Result<Option<ServerEvent>, ServerError> {
        match message.type_id {
            message_type::AUDIO => Ok(self.media(MessageKind::Audio, message, now)),
            message_type::VIDEO => Ok(self.media(MessageKind::Video, message, now)),
            message_type::AGGREGATE => {
                if let SessionState::Publishing(_) = self.state {
                    self.aggregate = Some(Aggregate::new(message.payload, message.timestamp_ms));
                }
                Ok(None)
            }
            message_type::DATA_AMF0 => Ok(self.data(&message.payload)),
            message_type::DATA_AMF3 => Ok(self.data(without_amf3_marker(&message.payload))),
            message_type::COMMAND_AMF0 => self.read_command(&message.payload, message.stream_id),
            message_type::COMMAND_AMF3 => {
                self.read_command(without_amf3_marker(&message.payload), message.stream_id)
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
            // Acknowledgements and bandwidth are not used, because the server sends very little. Unknown types are
            // ignored as the specification asks.
            _ => Ok(None),
        }
    }

    /// Reads a command as far as it can be read. A stranger whose first command is no command does not speak RTMP; after
    /// `connect`, what cannot be read is passed over.
    fn read_command(&mut self, payload: &[u8], stream_id: u32) -> Result<Option<ServerEvent>, ServerError> {
        let command = amf::command(payload);
        let problem = match &command {
            Ok(command) => command.cut,
            Err(error) => Some(*error),
        };
        if let Some(problem) = problem {
            if let SessionState::Connect = self.state {
                return Err(problem.into());
            }
            self.unreadable_commands += 1;
        }
        command.map_or(Ok(None), |command| self.command(parse(command, stream_id)))
    }

    /// The session's transition function.
    fn command(&mut self, command: RtmpCommand) -> Result<Option<ServerEvent>, ServerError> {
        match (&self.state, command) {
            (SessionState::Connect, RtmpCommand::Connect { transaction, connected }) => {
                self.send_connected(transaction, connected.capabilities.enhanced)?;
                self.state = SessionState::Connected(connected);
                Ok(None)
            }
            (SessionState::Connect, RtmpCommand::Other | RtmpCommand::Unpublish { .. }) => Ok(None),
            (
                SessionState::Connect,
                RtmpCommand::CreateStream { .. } | RtmpCommand::Publish { .. } | RtmpCommand::Play { .. },
            ) => Err(ServerError::OutOfOrder("the first command is connect")),

            (
                SessionState::Connected(_) | SessionState::Deciding(_) | SessionState::Publishing(_),
                RtmpCommand::CreateStream { transaction },
            ) => {
                self.send_stream_created(transaction)?;
                Ok(None)
            }
            (SessionState::Connected(connected), RtmpCommand::Publish { stream_id, published }) => {
                let connected = connected.clone();
                let request = self.ask(Publication { connected, published, stream_id })?;
                Ok(Some(request.map_or_else(ServerEvent::Refused, ServerEvent::Publish)))
            }
            (SessionState::Connected(_), RtmpCommand::Play { stream_id }) => {
                let refusal =
                    Refusal::Unsupported("this server takes publishers only, it does not play".into());
                self.refuse_with(stream_id, "NetStream.Play.Failed", &refusal.to_string())?;
                Ok(Some(ServerEvent::Refused(refusal)))
            }
            (SessionState::Connected(_), RtmpCommand::Unpublish { .. } | RtmpCommand::Other) => Ok(None),

            (SessionState::Publishing(publication), RtmpCommand::Unpublish { stream_id }) => {
                if stream_id.is_some_and(|id| self.is_another_stream(id, publication)) {
                    return Ok(None);
                }
                let connected = publication.connected.clone();
                self.reader.set_limits(ChunkLimits::BETWEEN_PUBLISHES);
                self.state = SessionState::Connected(connected);
                Ok(Some(ServerEvent::Ended(EndReason::Unpublished)))
            }
            (SessionState::Publishing(publication), RtmpCommand::Publish { stream_id, published }) => {
                let connected = publication.connected.clone();
                let is_same = publication.published.name == published.name;
                let publication = Publication { connected, published, stream_id };
                if is_same {
                    self.send_publish_start(stream_id)?;
                    self.state = SessionState::Publishing(publication);
                    return Ok(None);
                }
                self.reader.set_limits(ChunkLimits::BETWEEN_PUBLISHES);
                let request = self.ask(publication)?;
                Ok(Some(request.map_or_else(ServerEvent::Refused, ServerEvent::PublishInstead)))
            }
            // A publisher that plays or connects as well goes on as a publisher.
            (
                SessionState::Connected(_) | SessionState::Deciding(_) | SessionState::Publishing(_),
                RtmpCommand::Connect { .. },
            )
            | (SessionState::Deciding(_), RtmpCommand::Publish { .. })
            | (
                SessionState::Deciding(_) | SessionState::Publishing(_),
                RtmpCommand::Play { .. } | RtmpCommand::Other,
            )
            | (SessionState::Deciding(_), RtmpCommand::Unpublish { .. }) => Ok(None),
            // Messages are not read in these states.
            (
                SessionState::Handshake { .. } | SessionState::Ended,
                RtmpCommand::Connect { .. }
                | RtmpCommand::CreateStream { .. }
                | RtmpCommand::Publish { .. }
                | RtmpCommand::Play { .. }
                | RtmpCommand::Unpublish { .. }
                | RtmpCommand::Other,
            ) => Ok(None),
        }
    }

    /// Makes a request of what the publisher asks for, or refuses it.
    fn ask(&mut self, publication: Publication) -> Result<Result<PublishRequest, Refusal>, ServerError> {
        let Publication { connected, published, stream_id } = &publication;
        let request = request(connected, published.clone(), self.peer, self.key_paths);
        match &request {
            Ok(_) => self.state = SessionState::Deciding(publication),
            Err(refusal) => self.refuse_with(*stream_id, status_code(refusal), &refusal.to_string())?,
        }
        Ok(request)
    }

    /// Whether a message stream is one that `createStream` has returned and not the published one: publishers that
    /// change their stream delete the former one afterwards.
    fn is_another_stream(&self, stream_id: u32, publication: &Publication) -> bool {
        let created = FIRST_STREAM_ID..=self.created;
        stream_id != publication.stream_id
            && created.contains(&stream_id)
            && created.contains(&publication.stream_id)
    }

    /// Turns a media message into an event. Outside a publish, [`ChunkLimits`] admit only empty media messages and those
    /// that had begun before; they are ignored here.
    fn media(&self, kind: MessageKind, message: ChunkMessage, now: Instant) -> Option<ServerEvent> {
        let SessionState::Publishing(_) = self.state else { return None };
        let (timestamp_ms, payload) = (message.timestamp_ms, message.payload);
        Some(ServerEvent::Media(MediaMessage { kind, timestamp_ms, payload, arrived: now }))
    }

    /// The next audio or video tag of the aggregate message being read.
    fn next_of_aggregate(&mut self, now: Instant) -> Option<ServerEvent> {
        let Some(SubMessage { kind, timestamp_ms, payload }) = self.aggregate.as_mut()?.next() else {
            self.aggregate = None;
            return None;
        };
        Some(ServerEvent::Media(MediaMessage { kind, timestamp_ms, payload, arrived: now }))
    }

    fn data(&mut self, payload: &[u8]) -> Option<ServerEvent> {
        let SessionState::Publishing(_) = self.state else { return None };
        let AmfMessage { values, cut } = amf::read(payload);
        self.unreadable_metadata += u64::from(cut.is_some());
        metadata::read(values).map(ServerEvent::Metadata)
    }
}

#[cfg(test)]
mod tests;
