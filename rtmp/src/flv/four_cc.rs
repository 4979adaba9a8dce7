//! The codecs of Enhanced RTMP by their FourCC: the one list, for reading tags and for saying at `connect` what is taken.

use media::{AudioCodec, VideoCodec};

/// Video codecs.
pub const VIDEO: [(&[u8; 4], VideoCodec); 5] = [
    (b"avc1", VideoCodec::H264),
    (b"hvc1", VideoCodec::Hevc),
    (b"av01", VideoCodec::Av1),
    (b"vp09", VideoCodec::Vp9),
    (b"vp08", VideoCodec::Vp8),
];

/// Audio codecs.
pub const AUDIO: [(&[u8; 4], AudioCodec); 6] = [
    (b"mp4a", AudioCodec::Aac),
    (b"Opus", AudioCodec::Opus),
    (b"fLaC", AudioCodec::Flac),
    (b"ac-3", AudioCodec::Ac3),
    (b"ec-3", AudioCodec::Eac3),
    (b".mp3", AudioCodec::Mp3),
];

/// The codec with a FourCC in one of the lists.
pub(super) fn find<C: Copy>(list: &[(&[u8; 4], C)], code: &[u8; 4]) -> Option<C> {
    list.iter().find(|(known, _)| *known == code).map(|(_, codec)| *codec)
}
