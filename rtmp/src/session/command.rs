//! Parses the peer's commands as far as this server uses them, and builds the publish request. What a command leads to
//! is in [`super`].

use crate::amf::{self, AmfError};
use crate::{PublishRequest, Refusal, StreamKey, metadata};
use rml_amf0::Amf0Value;
use std::net::SocketAddr;

/// A parsed command.
#[derive(Debug)]
pub(super) enum RtmpCommand {
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
    /// releaseStream, FCPublish, _checkbw and all other commands: no client waits for an answer.
    Other,
}

pub(super) fn parse(payload: &[u8], stream_id: u32) -> Result<RtmpCommand, AmfError> {
    let (name, transaction, arguments) = amf::command(payload)?;
    let mut arguments = arguments.into_iter();
    Ok(match name.as_str() {
        "connect" => {
            let mut properties =
                arguments.next().and_then(Amf0Value::get_object_properties).unwrap_or_default();
            let mut string = |key| properties.remove(key).and_then(Amf0Value::get_string);
            let app = string("app");
            let client = metadata::printable(&string("flashVer").unwrap_or_default(), 64);
            RtmpCommand::Connect { transaction, app, client }
        }
        "createStream" => RtmpCommand::CreateStream { transaction },
        "publish" => {
            RtmpCommand::Publish { stream_id, name: arguments.nth(1).and_then(Amf0Value::get_string) }
        }
        "play" | "play2" => RtmpCommand::Play { stream_id },
        "FCUnpublish" | "deleteStream" | "closeStream" => RtmpCommand::Unpublish,
        _ => RtmpCommand::Other,
    })
}

/// Removes the zero byte that precedes the AMF0 content of messages marked as AMF3; some clients omit this byte. The
/// result is unambiguous: zero is also the marker of a number, but no command or data message begins with a number.
pub(super) fn without_amf3_marker(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(&[0]).unwrap_or(payload)
}

/// The values of `connect`.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub(super) app: String,
    pub(super) client: String,
}

/// Builds a publish request or refuses it. The refusal contains nothing that the peer sent, because that may be the
/// key.
pub(super) fn request(
    connected: &Connected,
    name: String,
    peer: SocketAddr,
) -> Result<PublishRequest, Refusal> {
    let app = connected.app.split('?').next().unwrap_or_default().trim_end_matches('/');
    if !media::is_valid_name(app) {
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
