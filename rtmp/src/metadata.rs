//! `onMetaData`: the few properties that this program uses.

use super::{MAX_LISTED_TRACKS, Metadata, SoundTrackInfo};
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
    let sound_tracks = properties.remove("audioTrackIdInfoMap").map(sound_tracks).unwrap_or_default();
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
        sound_tracks,
    })
}

/// Reads `audioTrackIdInfoMap`: from track numbers to properties. Enhanced RTMP 2 names no property for the language or
/// the name, so the names that publishers use are tried.
fn sound_tracks(map: Amf0Value) -> Vec<SoundTrackInfo> {
    let Some(map) = map.get_object_properties() else { return Vec::new() };
    let mut tracks: Vec<SoundTrackInfo> = map
        .into_iter()
        .filter_map(|(number, properties)| {
            let number = number.trim().parse().ok()?;
            let properties = properties.get_object_properties().unwrap_or_default();
            let text = |keys: &[&str]| {
                let matches = |name: &str| keys.iter().any(|key| name.eq_ignore_ascii_case(key));
                properties.iter().find_map(|(name, value)| match value {
                    Amf0Value::Utf8String(text) if matches(name) => Some(text.as_str()),
                    _ => None,
                })
            };
            Some(SoundTrackInfo {
                number,
                name: text(&["name", "title", "label", "trackName"]).and_then(shown_name),
                language: text(&["language", "lang", "languageCode"]).and_then(language_tag),
            })
        })
        .collect();
    tracks.sort_by_key(|track| track.number);
    tracks.dedup_by_key(|track| track.number);
    tracks.truncate(MAX_LISTED_TRACKS);
    tracks
}

/// A peer's text as a name for viewers, which fits a quoted string of a playlist (rfc8216bis 4.2).
fn shown_name(text: &str) -> Option<String> {
    const MAX_CHARACTERS: usize = 64;
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    let kept = line.chars().map(|c| if c == '"' { '\'' } else { c }).filter(|c| !is_invisible(*c));
    let name: String = kept.take(MAX_CHARACTERS).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Characters that change how the text around them is shown: they could make one name look like another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A peer's text as a language tag (BCP 47). Three-letter codes of languages that have one with two letters become the
/// shorter one, which is the only valid one (RFC 5646 2.2.1).
fn language_tag(text: &str) -> Option<String> {
    const LENGTHS: std::ops::RangeInclusive<usize> = 2..=35;
    let tag = text.trim().replace('_', "-");
    let is_subtag =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let mut parts = tag.split('-');
    let first = parts.next()?;
    let is_language = (2..=8).contains(&first.len()) && first.bytes().all(|b| b.is_ascii_alphabetic());
    let undetermined = ["und", "mul", "zxx", "mis"].iter().any(|code| first.eq_ignore_ascii_case(code));
    if !LENGTHS.contains(&tag.len()) || !is_language || undetermined || !parts.all(is_subtag) {
        return None;
    }
    let code = first.to_ascii_lowercase();
    let short = SHORT_CODES.iter().find(|(long, _)| *long == code).map_or(code.as_str(), |(_, short)| short);
    Some(format!("{short}{}", &tag[first.len()..]))
}

/// Common languages with ISO 639-2 codes, as containers have them, and their ISO 639-1 codes.
const SHORT_CODES: [(&str, &str); 38] = [
    ("ara", "ar"),
    ("bul", "bg"),
    ("ces", "cs"),
    ("cze", "cs"),
    ("chi", "zh"),
    ("zho", "zh"),
    ("dan", "da"),
    ("deu", "de"),
    ("ger", "de"),
    ("dut", "nl"),
    ("nld", "nl"),
    ("ell", "el"),
    ("gre", "el"),
    ("eng", "en"),
    ("fin", "fi"),
    ("fra", "fr"),
    ("fre", "fr"),
    ("heb", "he"),
    ("hin", "hi"),
    ("hrv", "hr"),
    ("hun", "hu"),
    ("ind", "id"),
    ("ita", "it"),
    ("jpn", "ja"),
    ("kor", "ko"),
    ("nor", "no"),
    ("pol", "pl"),
    ("por", "pt"),
    ("ron", "ro"),
    ("rum", "ro"),
    ("rus", "ru"),
    ("spa", "es"),
    ("srp", "sr"),
    ("swe", "sv"),
    ("tha", "th"),
    ("tur", "tr"),
    ("ukr", "uk"),
    ("vie", "vi"),
];

/// Cuts a peer's text to `limit` characters and replaces everything except printable ASCII, so that the result is safe
/// in logs and terminals.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Amf0Value {
        Amf0Value::Utf8String(text.to_owned())
    }

    fn object(properties: &[(&str, Amf0Value)]) -> Amf0Value {
        Amf0Value::Object(
            properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        )
    }

    #[test]
    fn sound_tracks_are_listed_by_number_with_what_they_are_called() {
        let map = object(&[
            ("2", object(&[("lang", text("fra")), ("channels", Amf0Value::Number(2.0))])),
            ("1", object(&[("Language", text("de-AT")), ("title", text("Kommentar"))])),
            ("3", Amf0Value::Null),
            ("x", object(&[])),
            ("256", object(&[])),
        ]);
        let read = read(vec![text("onMetaData"), object(&[("audioTrackIdInfoMap", map)])]).unwrap();
        let info = |number, name: Option<&str>, language: Option<&str>| SoundTrackInfo {
            number,
            name: name.map(str::to_owned),
            language: language.map(str::to_owned),
        };
        assert_eq!(
            read.sound_tracks,
            [info(1, Some("Kommentar"), Some("de-AT")), info(2, None, Some("fr")), info(3, None, None)]
        );
        let many: Vec<(String, Amf0Value)> = (0..=255).map(|n| (n.to_string(), object(&[]))).collect();
        let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        assert_eq!(sound_tracks(object(&many)).len(), MAX_LISTED_TRACKS);
        assert_eq!(sound_tracks(Amf0Value::Number(1.0)), []);
    }

    #[test]
    fn what_this_crate_writes_of_sound_tracks_can_be_read() {
        let track = |number, name: Option<&str>| SoundTrackInfo {
            number,
            name: name.map(str::to_owned),
            language: Some("de".to_owned()),
        };
        let tracks = [track(0, None), track(1, Some("Kommentar"))];
        let values = crate::flv::write::metadata(None, None, &tracks);
        assert_eq!(read(vec![text("onMetaData"), values]).unwrap().sound_tracks, tracks);
    }

    #[test]
    fn a_name_fits_a_quoted_string_and_one_line() {
        for (given, shown) in [
            ("English", Some("English")),
            ("  two\r\n#EXT-X-ENDLIST\tlines ", Some("two #EXT-X-ENDLIST lines")),
            ("a\",URI=\"b", Some("a',URI='b")),
            ("\u{202e}abc\u{0}d\u{feff}", Some("abc d")),
            ("日本語", Some("日本語")),
            ("", None),
            (" \u{7f}\u{200b}", None),
        ] {
            assert_eq!(shown_name(given).as_deref(), shown, "{given:?}");
        }
        assert_eq!(shown_name(&"ä".repeat(1000)).unwrap().chars().count(), 64);
    }

    #[test]
    fn only_language_tags_are_languages() {
        for (given, tag) in [
            ("en", Some("en")),
            ("eng", Some("en")),
            ("GER", Some("de")),
            ("pt_BR", Some("pt-BR")),
            ("zh-Hant-TW", Some("zh-Hant-TW")),
            ("gsw", Some("gsw")),
            ("und", None),
            ("e", None),
            ("", None),
            ("en\"", None),
            ("en-", None),
            ("English language", None),
        ] {
            assert_eq!(language_tag(given).as_deref(), tag, "{given:?}");
        }
    }
}
