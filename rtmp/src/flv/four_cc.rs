//! The codecs of Enhanced RTMP by their FourCC: the one list, for reading tags and for saying at `connect` what is taken.

use media::{AudioCodec, VideoCodec};

/// Video codecs.
pub const VIDEO: [(&str, VideoCodec); 5] = [
    ("avc1", VideoCodec::H264),
    ("hvc1", VideoCodec::Hevc),
    ("av01", VideoCodec::Av1),
    ("vp09", VideoCodec::Vp9),
    ("vp08", VideoCodec::Vp8),
];

/// Audio codecs.
pub const AUDIO: [(&str, AudioCodec); 6] = [
    ("mp4a", AudioCodec::Aac),
    ("Opus", AudioCodec::Opus),
    ("fLaC", AudioCodec::Flac),
    ("ac-3", AudioCodec::Ac3),
    ("ec-3", AudioCodec::Eac3),
    (".mp3", AudioCodec::Mp3),
];

/// The codec with a FourCC in one of the lists.
pub(super) fn find<C: Copy>(list: &[(&str, C)], code: &[u8; 4]) -> Option<C> {
    list.iter().find(|(known, _)| known.as_bytes() == code).map(|(_, codec)| *codec)
}

/// The FourCC of a codec in one of the lists.
pub(crate) fn of<C: Copy + PartialEq>(list: &[(&'static str, C)], codec: C) -> Option<&'static str> {
    list.iter().find(|(_, known)| *known == codec).map(|(code, _)| *code)
}
