//! `onMetaData`: the few properties that anything here uses.

use super::Metadata;
use rml_amf0::Amf0Value;
use std::collections::HashMap;

/// The values of a data message, if it is `onMetaData` with properties: `@setDataFrame`, `onMetaData`, properties, or
/// without the first. Everything else (cue points, captions, a lone `@setDataFrame`) is none.
pub(crate) fn read(values: Vec<Amf0Value>) -> Option<Metadata> {
    let mut values = values.into_iter();
    let mut name = values.next()?.get_string()?;
    if name == "@setDataFrame" {
        name = values.next()?.get_string()?;
    }
    if name != "onMetaData" {
        return None;
    }
    let mut properties = values.next()?.get_object_properties()?;
    let codec = |properties: &HashMap<String, Amf0Value>, key| match properties.get(key)? {
        // Codec 0 stands for "none" with some encoders, for PCM with others: no hint.
        Amf0Value::Number(number) => (*number > 0.0).then_some(true),
        Amf0Value::Utf8String(name) => Some(!name.is_empty()),
        Amf0Value::Boolean(_)
        | Amf0Value::Object(_)
        | Amf0Value::StrictArray(_)
        | Amf0Value::Null
        | Amf0Value::Undefined => None,
    };
    let has_video = codec(&properties, "videocodecid");
    let has_audio = codec(&properties, "audiocodecid");
    let mut number = |key| properties.remove(key).and_then(Amf0Value::get_number).filter(|n| n.is_finite());
    Some(Metadata {
        width: number("width"),
        height: number("height"),
        frame_rate: number("framerate").or_else(|| number("fps")),
        video_kbps: number("videodatarate"),
        audio_kbps: number("audiodatarate"),
        has_video,
        has_audio,
        encoder: properties
            .remove("encoder")
            .and_then(Amf0Value::get_string)
            .map(|name| printable(&name, 64)),
    })
}

/// At most `limit` characters of what a peer sent, everything but printable ASCII replaced: fit for logs and terminals.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
