//! The publisher's side of an RTMP connection: bytes and media in, bytes and events out. Sans-IO; sockets and time-outs
//! are with the caller.
//!
//! Reading uses the server side's chunk and AMF readers with their limits, because a server's bytes are untrusted input
//! like any other. Writing uses `rml_rtmp`'s serializer.

use super::url::RtmpUrl;
use crate::MessageKind;
use crate::amf::{self, AmfCommand, AmfError};
use crate::chunk::{ChunkError, ChunkLimits, ChunkMessage, ChunkReader, message_type};
use crate::flv::four_cc;
use crate::flv::write::{ENHANCED_AUDIO, ENHANCED_VIDEO, OutgoingTag};
use crate::session::HANDSHAKE_LEN;
use bytes::Bytes;
use media::{AudioCodec, VideoCodec};
use rml_amf0::Amf0Value;
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::messages::MessagePayload;
use rml_rtmp::time::RtmpTimestamp;
use std::collections::HashMap;

/// What this client calls itself towards servers.
pub(crate) const CLIENT_NAME: &str = concat!("encoder/", env!("CARGO_PKG_VERSION"));

/// Chunk size of this client's messages, in bytes: large, because no urgent message needs to be interleaved, and
/// accepted by most servers.
const CHUNK_SIZE: u32 = 65_536;
/// User control events (RTMP 1.0, 7.1.7).
const PING_REQUEST: [u8; 2] = [0, 6];
const PING_RESPONSE: [u8; 2] = [0, 7];
/// `capsEx` (Enhanced RTMP 2): this client connects anew when it is asked to.
const CAN_RECONNECT: f64 = 1.0;
/// Longest text from a server that is shown, in characters.
const MAX_TEXT: usize = 200;

/// Transaction numbers of the commands whose answers are read.
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;

/// Codecs beside H.264 and AAC that a server takes by Enhanced RTMP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCodecs {
    /// Video codecs, among those of [`ENHANCED_VIDEO`].
    pub video: Vec<VideoCodec>,
    /// Audio codecs, among those of [`ENHANCED_AUDIO`].
    pub audio: Vec<AudioCodec>,
}

impl ServerCodecs {
    /// Every codec that this client sends.
    pub fn all() -> Self {
        Self { video: ENHANCED_VIDEO.into(), audio: ENHANCED_AUDIO.into() }
    }

    /// Reads an object of the answer to `connect`: `fourCcList`, and the codecs that can be decoded or forwarded in
    /// `videoFourCcInfoMap` and `audioFourCcInfoMap`.
    fn take(&mut self, object: &Amf0Value) {
        let Amf0Value::Object(properties) = object else { return };
        let listed = |code: &str| match properties.get("fourCcList") {
            Some(Amf0Value::StrictArray(codes)) => codes.iter().any(|known| is_code(known, code)),
            Some(_) | None => false,
        };
        let mapped = |map: &str, code: &str| match properties.get(map) {
            Some(Amf0Value::Object(codes)) => [code, ANY_CODEC].iter().any(|name| match codes.get(*name) {
                Some(Amf0Value::Number(bits)) => *bits as u32 & (CAN_DECODE | CAN_FORWARD) != 0,
                Some(_) | None => false,
            }),
            Some(_) | None => false,
        };
        self.video.extend(ENHANCED_VIDEO.into_iter().filter(|codec| {
            let code = four_cc::of(&four_cc::VIDEO, *codec);
            code.is_some_and(|code| listed(code) || mapped("videoFourCcInfoMap", code))
        }));
        self.audio.extend(ENHANCED_AUDIO.into_iter().filter(|codec| {
            let code = four_cc::of(&four_cc::AUDIO, *codec);
            // The list of Enhanced RTMP 1 has video alone, so all codecs mean all video codecs.
            code.is_some_and(|code| {
                let named = match properties.get("fourCcList") {
                    Some(Amf0Value::StrictArray(codes)) => codes
                        .iter()
                        .any(|known| matches!(known, Amf0Value::Utf8String(known) if known == code)),
                    Some(_) | None => false,
                };
                named || mapped("audioFourCcInfoMap", code)
            })
        }));
    }
}

/// Stands for every codec in the lists of Enhanced RTMP.
const ANY_CODEC: &str = "*";
/// Bits of a codec in `videoFourCcInfoMap` and `audioFourCcInfoMap`.
const CAN_DECODE: u32 = 1;
const CAN_ENCODE: f64 = 2.0;
const CAN_FORWARD: u32 = 4;

fn is_code(value: &Amf0Value, code: &str) -> bool {
    matches!(value, Amf0Value::Utf8String(known) if known == code || known == ANY_CODEC)
}

/// What the session reports to its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The server accepts media from now on.
    Publishing,
    /// The server refused the publish, with its text; no event follows.
    Refused(String),
    /// The server ended a publish that it had accepted, with its text; no event follows.
    SentOff(String),
    /// The server is about to leave, and asks for a new connection after the present group of pictures: to this
    /// application's URL (`tcUrl`), or to the same server. The publish goes on until then.
    ReconnectAsked(Option<String>),
}

/// The server's RTMP is invalid or unsupported. A retry may reach another server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's handshake is not RTMP.
    #[error("the server's handshake is not RTMP")]
    Handshake,
    /// A chunk that breaks the protocol or a limit.
    #[error("the server breaks the protocol: {0}")]
    Chunk(#[from] ChunkError),
    /// A command that cannot be read.
    #[error("the server sent a command that cannot be read: {0}")]
    Amf(#[from] AmfError),
    /// The answer to `createStream` contains no stream ID.
    #[error("the server gave no stream to publish on")]
    NoStream,
    /// A message of this client is too long for RTMP: above 16 MiB.
    #[error("a message is too long for RTMP")]
    TooLong,
}

/// The session's state.
enum ClientState {
    /// The server's part of the handshake is not complete.
    Handshake {
        handshake: Box<Handshake>,
        /// Bytes of the server's part that have not come yet.
        left: usize,
    },
    /// `connect` was sent.
    Connecting,
    /// `createStream` was sent.
    CreatingStream,
    /// `publish` was sent.
    Asking { stream: u32 },
    /// Media may be sent.
    Publishing { stream: u32 },
    /// Refused, ended by the server, or finished by this client.
    Over,
}

/// A server's command, as far as the state machine uses it.
enum Reply {
    /// `_result` of a transaction, with the value that follows the command object.
    Result { transaction: f64, value: Option<Amf0Value>, codecs: ServerCodecs },
    /// `_error`, or `onStatus` of level `error`.
    Failure(String),
    /// `onStatus` of another level, by its code.
    Status(String),
    /// The server asks for a new connection (Enhanced RTMP 2), perhaps to another URL.
    Reconnect(Option<String>),
    /// Commands without effect: `onBWDone`, `onFCPublish`.
    Other,
}

/// One attempt to publish.
pub struct ClientSession {
    url: RtmpUrl,
    state: ClientState,
    reader: ChunkReader,
    serializer: ChunkSerializer,
    output: Vec<u8>,
    codecs: ServerCodecs,
}

impl ClientSession {
    /// Begins the handshake: output is available immediately.
    pub fn new(url: RtmpUrl) -> Result<Self, ClientError> {
        let mut handshake = Handshake::new(PeerType::Client);
        let output = handshake.generate_outbound_p0_and_p1().map_err(|_| ClientError::Handshake)?;
        Ok(Self {
            url,
            state: ClientState::Handshake { handshake: Box::new(handshake), left: HANDSHAKE_LEN },
            reader: ChunkReader::new(ChunkLimits::BEFORE_PUBLISH),
            serializer: ChunkSerializer::new(),
            output,
            codecs: ServerCodecs::default(),
        })
    }

    /// What the server has said that it takes; nothing before it accepts the publish.
    pub fn server_codecs(&self) -> &ServerCodecs {
        &self.codecs
    }

    /// Takes the output to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Reads bytes of the server off the front of `input` until an event occurs (`Some`) or `input` is empty (`None`).
    /// The caller hands in what is left after an event again: one read may hold several events, and messages that the
    /// session answers.
    pub fn handle(&mut self, input: &mut &[u8]) -> Result<Option<ClientEvent>, ClientError> {
        while let ClientState::Handshake { handshake, left } = &mut self.state {
            if input.is_empty() {
                return Ok(None);
            }
            // Only the handshake's own bytes; the chunk reader gets the rest.
            let (head, tail) = input.split_at(input.len().min(*left));
            *input = tail;
            *left -= head.len();
            match handshake.process_bytes(head).map_err(|_| ClientError::Handshake)? {
                HandshakeProcessResult::InProgress { .. } if *left == 0 => {
                    return Err(ClientError::Handshake);
                }
                HandshakeProcessResult::InProgress { response_bytes } => self.output.extend(response_bytes),
                HandshakeProcessResult::Completed { response_bytes, remaining_bytes: _ } => {
                    self.output.extend(response_bytes);
                    self.connect()?;
                    self.state = ClientState::Connecting;
                }
            }
        }
        while let Some(message) = self.reader.read(input)? {
            if let Some(event) = self.message(&message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Sends `onMetaData`. Ignored unless publishing, like all media.
    pub fn metadata(&mut self, values: Amf0Value) -> Result<(), ClientError> {
        let ClientState::Publishing { stream } = self.state else { return Ok(()) };
        let text = |text: &str| Amf0Value::Utf8String(text.into());
        self.amf(message_type::DATA_AMF0, stream, &vec![text("@setDataFrame"), text("onMetaData"), values])
    }

    /// Sends a sequence header or coded media.
    pub fn media(&mut self, tag: OutgoingTag) -> Result<(), ClientError> {
        let ClientState::Publishing { stream } = self.state else { return Ok(()) };
        let type_id = match tag.kind {
            MessageKind::Video => message_type::VIDEO,
            MessageKind::Audio => message_type::AUDIO,
        };
        self.send(type_id, stream, tag.timestamp_ms, tag.body)
    }

    /// Sends the commands that end the publish.
    pub fn finish(&mut self) -> Result<(), ClientError> {
        if let ClientState::Publishing { stream } = self.state {
            let key = Amf0Value::Utf8String(self.url.key.expose().to_owned());
            self.command("FCUnpublish", 6.0, Amf0Value::Null, Some(key))?;
            self.command("deleteStream", 7.0, Amf0Value::Null, Some(Amf0Value::Number(stream.into())))?;
        }
        self.state = ClientState::Over;
        Ok(())
    }

    fn message(&mut self, message: &ChunkMessage) -> Result<Option<ClientEvent>, ClientError> {
        match message.type_id {
            message_type::COMMAND_AMF0 => self.reply(parse_reply(&message.payload)?),
            message_type::USER_CONTROL if message.payload.starts_with(&PING_REQUEST) => {
                let response = [&PING_RESPONSE, &message.payload[2..]].concat();
                self.send(message_type::USER_CONTROL, 0, 0, response.into())?;
                Ok(None)
            }
            // Acknowledgements, windows and bandwidth are ignored: TCP does the flow control.
            _ => Ok(None),
        }
    }

    /// The session's transition function.
    fn reply(&mut self, reply: Reply) -> Result<Option<ClientEvent>, ClientError> {
        match (&self.state, reply) {
            (ClientState::Connecting, Reply::Result { transaction: CONNECT, codecs, .. }) => {
                self.codecs = codecs;
                self.ask_for_stream()?;
                self.state = ClientState::CreatingStream;
            }
            (ClientState::CreatingStream, Reply::Result { transaction: CREATE_STREAM, value, .. }) => {
                let stream = match value {
                    Some(Amf0Value::Number(stream)) if (1.0..=f64::from(u32::MAX)).contains(&stream) => {
                        stream as u32
                    }
                    Some(_) | None => return Err(ClientError::NoStream),
                };
                self.ask_to_publish(stream)?;
                self.state = ClientState::Asking { stream };
            }
            (ClientState::Asking { stream }, Reply::Status(code)) if code == "NetStream.Publish.Start" => {
                self.state = ClientState::Publishing { stream: *stream };
                return Ok(Some(ClientEvent::Publishing));
            }
            (
                ClientState::Connecting | ClientState::CreatingStream | ClientState::Asking { .. },
                Reply::Failure(text),
            ) => {
                self.state = ClientState::Over;
                return Ok(Some(ClientEvent::Refused(text)));
            }
            (ClientState::Publishing { .. }, Reply::Reconnect(tc_url)) => {
                return Ok(Some(ClientEvent::ReconnectAsked(tc_url)));
            }
            (ClientState::Publishing { .. }, Reply::Failure(text)) => {
                self.state = ClientState::Over;
                return Ok(Some(ClientEvent::SentOff(text)));
            }
            // Answers to commands that need none (releaseStream, FCPublish), and notices.
            (
                ClientState::Handshake { .. }
                | ClientState::Connecting
                | ClientState::CreatingStream
                | ClientState::Asking { .. }
                | ClientState::Publishing { .. },
                Reply::Result { .. } | Reply::Status(_) | Reply::Other,
            )
            | (ClientState::Handshake { .. }, Reply::Failure(_))
            | (
                ClientState::Handshake { .. }
                | ClientState::Connecting
                | ClientState::CreatingStream
                | ClientState::Asking { .. },
                Reply::Reconnect(_),
            )
            | (ClientState::Over, _) => {}
        }
        Ok(None)
    }

    fn connect(&mut self) -> Result<(), ClientError> {
        let packet = self
            .serializer
            .set_max_chunk_size(CHUNK_SIZE, RtmpTimestamp::new(0))
            .map_err(|_| ClientError::TooLong)?;
        self.output.extend(packet.bytes);
        let text = |value: &str| Amf0Value::Utf8String(value.into());
        let video: Vec<&str> =
            ENHANCED_VIDEO.into_iter().filter_map(|codec| four_cc::of(&four_cc::VIDEO, codec)).collect();
        let audio: Vec<&str> =
            ENHANCED_AUDIO.into_iter().filter_map(|codec| four_cc::of(&four_cc::AUDIO, codec)).collect();
        let can_encode = |codes: &[&str]| {
            let entry = |code: &&str| ((*code).to_owned(), Amf0Value::Number(CAN_ENCODE));
            Amf0Value::Object(codes.iter().map(entry).collect())
        };
        let object = HashMap::from([
            ("app".into(), text(&self.url.app)),
            ("type".into(), text("nonprivate")),
            ("flashVer".into(), text(&format!("FMLE/3.0 (compatible; {})", CLIENT_NAME))),
            ("tcUrl".into(), text(&self.url.tc_url())),
            ("capsEx".into(), Amf0Value::Number(CAN_RECONNECT)),
            ("fourCcList".into(), Amf0Value::StrictArray(video.iter().map(|code| text(code)).collect())),
            ("videoFourCcInfoMap".into(), can_encode(&video)),
            ("audioFourCcInfoMap".into(), can_encode(&audio)),
        ]);
        self.command("connect", CONNECT, Amf0Value::Object(object), None)
    }

    fn ask_for_stream(&mut self) -> Result<(), ClientError> {
        let key = || Some(Amf0Value::Utf8String(self.url.key.expose().to_owned()));
        let (release, publish) = (key(), key());
        self.command("releaseStream", 2.0, Amf0Value::Null, release)?;
        self.command("FCPublish", 3.0, Amf0Value::Null, publish)?;
        self.command("createStream", CREATE_STREAM, Amf0Value::Null, None)
    }

    fn ask_to_publish(&mut self, stream: u32) -> Result<(), ClientError> {
        let text = |value: &str| Amf0Value::Utf8String(value.into());
        let values = vec![
            text("publish"),
            Amf0Value::Number(5.0),
            Amf0Value::Null,
            text(self.url.key.expose()),
            text("live"),
        ];
        self.amf(message_type::COMMAND_AMF0, stream, &values)
    }

    fn command(
        &mut self,
        name: &str,
        transaction: f64,
        object: Amf0Value,
        argument: Option<Amf0Value>,
    ) -> Result<(), ClientError> {
        let mut values = vec![Amf0Value::Utf8String(name.into()), Amf0Value::Number(transaction), object];
        values.extend(argument);
        self.amf(message_type::COMMAND_AMF0, 0, &values)
    }

    fn amf(&mut self, type_id: u8, stream: u32, values: &Vec<Amf0Value>) -> Result<(), ClientError> {
        let payload = rml_amf0::serialize(values).map_err(|_| ClientError::TooLong)?;
        self.send(type_id, stream, 0, payload.into())
    }

    fn send(&mut self, type_id: u8, stream: u32, timestamp_ms: u32, data: Bytes) -> Result<(), ClientError> {
        let timestamp = RtmpTimestamp::new(timestamp_ms);
        let payload = MessagePayload { timestamp, type_id, message_stream_id: stream, data };
        let packet = self.serializer.serialize(&payload, false, false).map_err(|_| ClientError::TooLong)?;
        self.output.extend(packet.bytes);
        Ok(())
    }
}

fn parse_reply(payload: &[u8]) -> Result<Reply, ClientError> {
    let AmfCommand { name, transaction, arguments: mut values, cut } = match amf::command(payload) {
        // A command without a name is ignored.
        Err(AmfError::NotACommand) => return Ok(Reply::Other),
        command => command?,
    };
    if let Some(error) = cut {
        return Err(error.into());
    }
    let mut codecs = ServerCodecs::default();
    if name == "_result" {
        values.iter().for_each(|object| codecs.take(object));
    }
    let value = (values.len() > 1).then(|| values.swap_remove(1));
    Ok(match name.as_str() {
        "_result" => Reply::Result { transaction, value, codecs },
        "_error" => Reply::Failure(status_text(value)),
        "onStatus" => match property(value.as_ref(), "level") {
            Some("error") => Reply::Failure(status_text(value)),
            _ if property(value.as_ref(), "code") == Some("NetConnection.Connect.ReconnectRequest") => {
                Reply::Reconnect(property(value.as_ref(), "tcUrl").map(str::to_owned))
            }
            Some(_) | None => Reply::Status(property(value.as_ref(), "code").unwrap_or_default().to_owned()),
        },
        _ => Reply::Other,
    })
}

fn property<'a>(status: Option<&'a Amf0Value>, name: &str) -> Option<&'a str> {
    match status {
        Some(Amf0Value::Object(properties)) => match properties.get(name) {
            Some(Amf0Value::Utf8String(text)) => Some(text),
            Some(_) | None => None,
        },
        Some(_) | None => None,
    }
}

/// The readable text of a status object: its description, else its code; without control characters and cut to length.
fn status_text(status: Option<Amf0Value>) -> String {
    let text = property(status.as_ref(), "description")
        .filter(|text| !text.trim().is_empty())
        .or_else(|| property(status.as_ref(), "code"))
        .unwrap_or("no reason given");
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests;
