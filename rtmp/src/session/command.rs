//! Parses the peer's commands as far as this server uses them, and builds the publish request. What a command leads to
//! is in [`super`].

use super::capabilities::ClientCapabilities;
use crate::amf::AmfCommand;
use crate::{PublishRequest, Refusal, RequestDetails, StreamKey, metadata};
use rml_amf0::Amf0Value;
use std::fmt;
use std::net::SocketAddr;

/// Longest text of [`RequestDetails`], in characters.
const MAX_DETAIL: usize = 1024;

/// A parsed command.
#[derive(Debug)]
pub(super) enum RtmpCommand {
    Connect {
        transaction: f64,
        connected: Connected,
    },
    CreateStream {
        transaction: f64,
    },
    Publish {
        stream_id: u32,
        published: Published,
    },
    Play {
        stream_id: u32,
    },
    /// FCUnpublish, deleteStream, closeStream. Holds the message stream that ends, if the command says which.
    Unpublish {
        stream_id: Option<u32>,
    },
    /// releaseStream, FCPublish, _checkbw and all other commands: no client waits for an answer.
    Other,
}

/// Reads a command that came on a message stream.
pub(super) fn parse(command: AmfCommand, stream_id: u32) -> RtmpCommand {
    let AmfCommand { name, transaction, arguments, cut: _ } = command;
    let mut arguments = arguments.into_iter();
    match name.as_str() {
        "connect" => {
            let mut properties =
                arguments.next().and_then(Amf0Value::get_object_properties).unwrap_or_default();
            let capabilities = ClientCapabilities::read(&properties);
            let mut string = |key| properties.remove(key).and_then(Amf0Value::get_string);
            let app = string("app").unwrap_or_default();
            let client = metadata::printable(&string("flashVer").unwrap_or_default(), 64);
            let mut detail = |key| metadata::printable(&string(key).unwrap_or_default(), MAX_DETAIL);
            let details = RequestDetails {
                tc_url: detail("tcUrl"),
                swf_url: detail("swfUrl"),
                page_url: detail("pageUrl"),
                can_reconnect: capabilities.can_reconnect,
                ..RequestDetails::default()
            };
            RtmpCommand::Connect { transaction, connected: Connected { app, client, details, capabilities } }
        }
        "createStream" => RtmpCommand::CreateStream { transaction },
        "publish" => {
            // Some clients leave out the command object in front of the name.
            let name = match arguments.next() {
                Some(Amf0Value::Utf8String(name)) => Some(name),
                Some(_) | None => arguments.next().and_then(Amf0Value::get_string),
            };
            let publish_type = arguments.next().and_then(Amf0Value::get_string);
            RtmpCommand::Publish { stream_id, published: Published { name, publish_type } }
        }
        "play" | "play2" => RtmpCommand::Play { stream_id },
        "FCUnpublish" => RtmpCommand::Unpublish { stream_id: None },
        "deleteStream" => {
            // Some clients leave the number out, or the command object in front of it.
            let number = arguments.find_map(Amf0Value::get_number);
            let stream_id = number.filter(|number| (1.0..=f64::from(u32::MAX)).contains(number));
            RtmpCommand::Unpublish { stream_id: stream_id.map(|number| number as u32) }
        }
        "closeStream" => RtmpCommand::Unpublish { stream_id: Some(stream_id).filter(|id| *id != 0) },
        _ => RtmpCommand::Other,
    }
}

/// Removes the zero byte that precedes the AMF0 content of messages marked as AMF3; some clients omit this byte. The
/// result is unambiguous: zero is also the marker of a number, but no command or data message begins with a number.
pub(super) fn without_amf3_marker(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(&[0]).unwrap_or(payload)
}

/// The values of `connect`.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) app: String,
    pub(super) client: String,
    /// Without what the query of the application and `publish` add.
    pub(super) details: RequestDetails,
    pub(super) capabilities: ClientCapabilities,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The application may contain the beginning of a key.
        f.debug_struct("Connected").field("client", &self.client).finish_non_exhaustive()
    }
}

/// The values of `publish`.
#[derive(Clone)]
pub(super) struct Published {
    /// The key and its query.
    pub(super) name: Option<String>,
    pub(super) publish_type: Option<String>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name is the key.
        f.debug_struct("Published").finish_non_exhaustive()
    }
}

/// Builds a publish request or refuses it. With `key_paths`, what follows a slash in the application is taken as the
/// beginning of the key. The refusal contains nothing that the peer sent, because that may be the key.
pub(super) fn request(
    connected: &Connected,
    published: Published,
    peer: SocketAddr,
    key_paths: bool,
) -> Result<PublishRequest, Refusal> {
    let (sent, app_query) = connected.app.split_once('?').unwrap_or((&connected.app, ""));
    let sent = sent.trim_end_matches('/');
    let (app, path) = match sent.split_once('/') {
        Some((app, path)) if key_paths => (app, path),
        Some(_) | None => (sent, ""),
    };
    if !media::is_valid_name(app) {
        return Err(bad_app(sent));
    }
    let name = published.name.unwrap_or_default();
    let (key, query) = name.split_once('?').unwrap_or((&name, ""));
    if key.is_empty() && path.is_empty() {
        return Err(Refusal::BadName("no stream key was sent".into()));
    }
    let publish_type = metadata::printable(&published.publish_type.unwrap_or_default(), MAX_DETAIL);
    Ok(PublishRequest {
        app: app.into(),
        path: StreamKey::new(path.into()),
        key: StreamKey::new(key.into()),
        query: query.into(),
        peer,
        client: connected.client.clone(),
        details: RequestDetails { app_query: app_query.into(), publish_type, ..connected.details.clone() },
    })
}

fn bad_app(app: &str) -> Refusal {
    if app.is_empty() {
        let hint = "no application in the URL: publish to rtmp://HOST/APP with the stream key apart";
        Refusal::BadName(hint.into())
    } else if app.contains('/') {
        Refusal::too_many_parts()
    } else {
        Refusal::BadName("an application name is 1 to 64 characters of A-Z a-z 0-9 _ -".into())
    }
}
