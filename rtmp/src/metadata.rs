//! `onMetaData`: the few properties that this program uses.

use super::Metadata;
use rml_amf0::Amf0Value;
use std::collections::HashMap;

/// Reads a data message of the form `@setDataFrame`, `onMetaData`, properties, or the same without `@setDataFrame`.
/// Returns `None` for all other data messages (cue points, captions, a lone `@setDataFrame`).
pub(crate) fn read(values: Vec<Amf0Value>) -> Option<Metadata> {
    let mut values = values.into_iter();
    let mut name = values.next()?.get_string()?;
    if name == "@setDataFrame" {
        name = values.next()?.get_string()?;
    }
    // Some encoders write `onMetadata`.
    if !name.eq_ignore_ascii_case("onMetaData") {
        return None;
    }
    let mut properties = values.next()?.get_object_properties()?;
    let codec = |properties: &HashMap<String, Amf0Value>, key| match properties.get(key)? {
        // Codec 0 means "none" to some encoders and PCM to others, so it is no hint.
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
        audio_sample_rate: number("audiosamplerate"),
        has_video,
        has_audio,
        encoder: properties
            .remove("encoder")
            .and_then(Amf0Value::get_string)
            .map(|name| printable(&name, 64)),
    })
}

/// Cuts a peer's text to `limit` characters and replaces everything except printable ASCII, so that the result is safe
/// in logs and terminals.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
