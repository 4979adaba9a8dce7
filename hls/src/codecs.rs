//! CODECS strings (RFC 6381), made from the tracks' configuration records. No decoding of media here.

use crate::track::{Codec, Track, TrackKind};

/// `avc1.PPCCLL` from an AVCDecoderConfigurationRecord: profile, constraint flags and level from bytes 1 to 3 of the
/// record. `None` when the record is too short.
pub fn avc1(record: &[u8]) -> Option<String> {
    let [profile, compatibility, level] = record.get(1..4)?.try_into().ok()?;
    Some(format!("avc1.{profile:02x}{compatibility:02x}{level:02x}"))
}

/// `mp4a.40.N` from an AudioSpecificConfig: N is the audio object type (ISO 14496-3 1.6.2.1; 31 escapes to 32 and
/// above). `None` when the record is too short.
pub fn mp4a(config: &[u8]) -> Option<String> {
    let first = *config.first()?;
    let object_type = match first >> 3 {
        31 => 32 + (((first & 7) << 3) | (config.get(1)? >> 5)),
        short => short,
    };
    Some(format!("mp4a.40.{object_type}"))
}

/// The CODECS entry of a track; `None` when its record is too short.
pub fn of_track(track: &Track) -> Option<String> {
    let (codec, config) = match &track.kind {
        TrackKind::Video(video) => (video.codec, &video.config),
        TrackKind::Audio(audio) => (audio.codec, &audio.config),
    };
    match codec {
        Codec::H264 => avc1(config),
        Codec::Aac => mp4a(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_as_players_know_them() {
        assert_eq!(avc1(&[1, 0x64, 0x00, 0x1f, 0xff]).as_deref(), Some("avc1.64001f"));
        assert_eq!(avc1(&[1, 0x42, 0xc0, 0x1e]).as_deref(), Some("avc1.42c01e"));
        assert_eq!(avc1(&[1, 0x64]), None);
        assert_eq!(mp4a(&[0x12, 0x10]).as_deref(), Some("mp4a.40.2"));
        assert_eq!(mp4a(&[0x2b, 0x92, 0x08, 0x00]).as_deref(), Some("mp4a.40.5"));
        assert_eq!(mp4a(&[0xeb, 0x09]).as_deref(), Some("mp4a.40.29"));
        assert_eq!(mp4a(&[0xf9, 0x46]).as_deref(), Some("mp4a.40.42"), "xHE-AAC");
        assert_eq!(mp4a(&[0xf9]), None);
        assert_eq!(mp4a(&[]), None);
    }
}
