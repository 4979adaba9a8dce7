//! Writes this server's messages: answers to commands, refusals, acknowledgements and pongs, and bounds the unsent
//! output. When to send a message is decided in [`super`].

use super::{ServerError, ServerSession, SessionState, capabilities};
use crate::{Refusal, metadata};
use rml_amf0::Amf0Value;
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::messages::{PeerBandwidthLimitType, RtmpMessage, UserControlEventType};
use rml_rtmp::time::RtmpTimestamp;

/// Window in bytes that the server announces: the peer acknowledges after this many bytes, and may have this many
/// unacknowledged itself.
const OUR_WINDOW: u32 = 2_500_000;
/// Chunk size of the server's messages, in bytes.
const OUR_CHUNK_SIZE: u32 = 4096;
/// Maximum output in bytes that the peer has not read. Every ping gets an answer, so a peer that never reads must hit a
/// limit.
pub(super) const MAX_OUTPUT: usize = 64 << 10;

impl ServerSession {
    /// Refuses in the sequence that ffmpeg, rtmp2sink and librtmp all understand: a new serializer, so that headers are
    /// full ones, and the chunk size first. After `_error`, rtmp2sink and librtmp would hang.
    pub(super) fn refuse_with(
        &mut self,
        stream_id: u32,
        code: &str,
        reason: &str,
    ) -> Result<(), ServerError> {
        self.serializer = ChunkSerializer::new();
        self.send_chunk_size()?;
        self.send(on_status("error", code, reason), stream_id)?;
        self.state = SessionState::Ended;
        Ok(())
    }

    pub(super) fn user_control(&mut self, payload: &[u8]) -> Result<(), ServerError> {
        // PingRequest (RTMP 1.0, 7.1.7). All other events are for players, and unknown ones must not end a publish.
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

    /// Sends an Acknowledgement with the total of received bytes each time the peer's window is used up.
    pub(super) fn acknowledge(&mut self) -> Result<(), ServerError> {
        let Some(window) = self.ack_window else { return Ok(()) };
        if self.received.wrapping_sub(self.acknowledged) < window {
            return Ok(());
        }
        self.acknowledged = self.received;
        self.send(RtmpMessage::Acknowledgement { sequence_number: self.received }, 0)
    }

    /// Answers `connect`. A client of Enhanced RTMP is told what this server can do; all others get what servers have
    /// always sent, because the parsers of cameras are written for that.
    pub(super) fn send_connected(&mut self, transaction: f64, enhanced: bool) -> Result<(), ServerError> {
        self.send(RtmpMessage::WindowAcknowledgement { size: OUR_WINDOW }, 0)?;
        self.send(
            RtmpMessage::SetPeerBandwidth { size: OUR_WINDOW, limit_type: PeerBandwidthLimitType::Dynamic },
            0,
        )?;
        self.send_chunk_size()?;
        let mut server = vec![("fmsVer", text("FMS/3,5,7,7009")), ("capabilities", Amf0Value::Number(31.0))];
        if enhanced {
            server.extend(capabilities::of_this_server());
        }
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

    /// Answers `createStream`. Each one returns another message stream, so that a later `deleteStream` says which.
    pub(super) fn send_stream_created(&mut self, transaction: f64) -> Result<(), ServerError> {
        self.created = self.created.saturating_add(1);
        self.send(
            RtmpMessage::Amf0Command {
                command_name: "_result".into(),
                transaction_id: transaction,
                command_object: Amf0Value::Null,
                additional_arguments: vec![Amf0Value::Number(self.created.into())],
            },
            0,
        )
    }

    /// Tells the publisher that it may send media.
    pub(super) fn send_publish_start(&mut self, stream_id: u32) -> Result<(), ServerError> {
        self.send(
            RtmpMessage::UserControl {
                event_type: UserControlEventType::StreamBegin,
                stream_id: Some(stream_id),
                buffer_length: None,
                timestamp: None,
            },
            0,
        )?;
        self.send(on_status("status", "NetStream.Publish.Start", "publishing"), stream_id)
    }

    /// Asks the publisher to end its group of pictures and to connect anew, at `tc_url` or, without one, where it is
    /// connected. The publish goes on until the publisher leaves. Returns whether the publisher is one that does so.
    pub fn ask_to_reconnect(&mut self, tc_url: Option<&str>) -> Result<bool, ServerError> {
        if !self.can_reconnect() {
            return Ok(false);
        }
        let mut properties = vec![
            ("level", text("status")),
            ("code", text("NetConnection.Connect.ReconnectRequest")),
            ("description", text("this server is about to leave")),
        ];
        properties.extend(tc_url.map(|url| ("tcUrl", text(url))));
        self.send(on_status_of(properties), 0)?;
        Ok(true)
    }

    fn send_chunk_size(&mut self) -> Result<(), ServerError> {
        let packet = self.serializer.set_max_chunk_size(OUR_CHUNK_SIZE, RtmpTimestamp::new(0));
        self.output.extend_from_slice(&packet.map_err(|_| ServerError::Internal)?.bytes);
        Ok(())
    }

    pub(super) fn send(&mut self, message: RtmpMessage, stream_id: u32) -> Result<(), ServerError> {
        let payload = message
            .into_message_payload(RtmpTimestamp::new(0), stream_id)
            .map_err(|_| ServerError::Internal)?;
        // Full headers for all messages: some clients require them, and the server sends only a few hundred bytes in
        // total.
        let packet = self.serializer.serialize(&payload, true, false).map_err(|_| ServerError::Internal)?;
        if self.output.len() + packet.bytes.len() > MAX_OUTPUT {
            return Err(ServerError::OutputOverflow);
        }
        self.output.extend_from_slice(&packet.bytes);
        Ok(())
    }
}

/// The `onStatus` code of a refusal. Clients distinguish these codes and show others verbatim.
pub(super) fn status_code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadName(_) | Refusal::Forbidden(_) | Refusal::AlreadyPublishing | Refusal::TakenOver => {
            "NetStream.Publish.BadName"
        }
        Refusal::Busy
        | Refusal::AllBusy
        | Refusal::AdmissionDown
        | Refusal::Draining
        | Refusal::Silent(_)
        | Refusal::Internal => "NetStream.Publish.Denied",
        Refusal::Unsupported(_)
        | Refusal::Violation(_)
        | Refusal::EndedByOperator(_)
        | Refusal::OverLimit(_) => "NetStream.Publish.Rejected",
    }
}

pub(super) fn on_status(level: &str, code: &str, description: &str) -> RtmpMessage {
    let description = text(&metadata::printable(description, 512));
    on_status_of([("level", text(level)), ("code", text(code)), ("description", description)])
}

fn on_status_of<'a>(properties: impl IntoIterator<Item = (&'a str, Amf0Value)>) -> RtmpMessage {
    RtmpMessage::Amf0Command {
        command_name: "onStatus".into(),
        transaction_id: 0.0,
        command_object: Amf0Value::Null,
        additional_arguments: vec![object(properties)],
    }
}

pub(super) fn object<'a>(properties: impl IntoIterator<Item = (&'a str, Amf0Value)>) -> Amf0Value {
    Amf0Value::Object(properties.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}

pub(super) fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.into())
}
