//! From media to FLV tag bodies, and from media time to RTMP milliseconds: the inverse of [`crate::flv`] and
//! [`crate::timeline`] on the server, for H.264 and AAC, the only codecs that the publisher sends. Pure.

use crate::MessageKind;
use bytes::{BufMut, Bytes, BytesMut};
use media::{AudioConfig, Media, MediaTime, Unit, VideoConfig};
use rml_amf0::Amf0Value;
use std::collections::HashMap;

/// FLV codec ids (video file format specification 10.1, E.4.2.1 and E.4.3.1).
const AVC: u8 = 7;
const AAC: u8 = 10;
/// AAC tags always say 44 kHz, 16 bits, stereo, whichever format the stream has (E.4.2.1).
const AAC_HEADER: u8 = AAC << 4 | 0b1111;
const KEY_FRAME: u8 = 1 << 4;
const INTER_FRAME: u8 = 2 << 4;
/// AVCPacketType and AACPacketType.
const SEQUENCE_HEADER: u8 = 0;
const CODED: u8 = 1;
/// Composition offsets are signed 24-bit milliseconds.
const MAX_OFFSET_MS: i64 = 0x7f_ffff;

/// A message ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingTag {
    /// Audio or video.
    pub kind: MessageKind,
    /// RTMP time in milliseconds.
    pub timestamp_ms: u32,
    /// FLV tag body.
    pub body: Bytes,
}

/// The RTMP clock of a broadcast: milliseconds from a chosen start, wrapping at 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct RtmpClock {
    /// The media time that maps to `start_ms`.
    origin: MediaTime,
    start_ms: u32,
}

impl RtmpClock {
    /// A clock that shows `start_ms` at `origin`.
    pub fn new(origin: MediaTime, start_ms: u32) -> Self {
        Self { origin, start_ms }
    }

    /// Milliseconds since the origin; negative before it.
    fn millis(&self, at: MediaTime) -> i64 {
        (at - self.origin).to_scaled(1000)
    }

    /// The RTMP timestamp. A time before the origin gets the origin's timestamp: a negative one would look like 49
    /// days.
    fn timestamp(&self, at: MediaTime) -> u32 {
        self.start_ms.wrapping_add(self.millis(at).max(0) as u32)
    }
}

/// Makes a tag from a configuration or an access unit of H.264 or AAC: what `encoder publish` sends. Configurations have no time of their own and get `now`.
pub fn tag(media: &Media, clock: &RtmpClock, now: MediaTime) -> OutgoingTag {
    match media {
        Media::VideoConfig(config) => {
            let body = video_body(KEY_FRAME, SEQUENCE_HEADER, 0, &config.record);
            OutgoingTag { kind: MessageKind::Video, timestamp_ms: clock.timestamp(now), body }
        }
        Media::AudioConfig(config) => {
            let body = audio_body(SEQUENCE_HEADER, &config.record);
            OutgoingTag { kind: MessageKind::Audio, timestamp_ms: clock.timestamp(now), body }
        }
        Media::Video(Unit { pts, dts, key, data }) => {
            // Computed from rounded times, so that the offset adds no rounding of its own.
            let offset = (clock.millis(*pts) - clock.millis(*dts)).clamp(-MAX_OFFSET_MS, MAX_OFFSET_MS);
            let frame_type = if *key { KEY_FRAME } else { INTER_FRAME };
            let body = video_body(frame_type, CODED, offset as i32, data);
            OutgoingTag { kind: MessageKind::Video, timestamp_ms: clock.timestamp(*dts), body }
        }
        Media::Audio(Unit { dts, data, .. }) => OutgoingTag {
            kind: MessageKind::Audio,
            timestamp_ms: clock.timestamp(*dts),
            body: audio_body(CODED, data),
        },
    }
}

fn video_body(frame_type: u8, packet_type: u8, offset_ms: i32, data: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(5 + data.len());
    body.put_u8(frame_type | AVC);
    body.put_u8(packet_type);
    body.put_slice(&offset_ms.to_be_bytes()[1..]);
    body.put_slice(data);
    body.freeze()
}

fn audio_body(packet_type: u8, data: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(2 + data.len());
    body.put_u8(AAC_HEADER);
    body.put_u8(packet_type);
    body.put_slice(data);
    body.freeze()
}

/// The values of `onMetaData`.
pub fn metadata(video: Option<&VideoConfig>, audio: Option<&AudioConfig>) -> Amf0Value {
    let mut values = HashMap::new();
    let mut number = |name: &str, value: f64| values.insert(name.to_owned(), Amf0Value::Number(value));
    if let Some(video) = video {
        number("width", video.width.into());
        number("height", video.height.into());
        number("videocodecid", AVC.into());
        if let Some((num, den)) = video.frame_rate {
            number("framerate", f64::from(num) / f64::from(den.max(1)));
        }
    }
    if let Some(audio) = audio {
        number("audiocodecid", AAC.into());
        number("audiosamplerate", audio.sample_rate.into());
        number("audiosamplesize", 16.0);
        number("audiochannels", audio.channels.into());
        values.insert("stereo".into(), Amf0Value::Boolean(audio.channels >= 2));
    }
    values.insert("encoder".into(), Amf0Value::Utf8String(crate::client::CLIENT_NAME.into()));
    Amf0Value::Object(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::MediaSpan;

    fn unit(pts_ms: i64, dts_ms: i64, key: bool) -> Unit {
        let at = |ms| MediaTime::ZERO + MediaSpan::from_millis(ms);
        Unit { pts: at(pts_ms), dts: at(dts_ms), key, data: Bytes::from_static(&[9]) }
    }

    fn clock(start_ms: u32) -> RtmpClock {
        RtmpClock::new(MediaTime::ZERO + MediaSpan::from_millis(10_000), start_ms)
    }

    #[test]
    fn pictures_carry_their_composition_offset() {
        let made = tag(&Media::Video(unit(10_100, 10_033, true)), &clock(0), MediaTime::ZERO);
        assert_eq!((made.timestamp_ms, &made.body[..]), (33, &[0x17, 1, 0, 0, 67, 9][..]));
        let made = tag(&Media::Video(unit(10_000, 10_010, false)), &clock(0), MediaTime::ZERO);
        assert_eq!(&made.body[..], [0x27, 1, 0xff, 0xff, 0xf6, 9], "negative offsets are legal");
    }

    #[test]
    fn sound_and_configurations() {
        let made = tag(&Media::Audio(unit(10_021, 10_021, true)), &clock(5), MediaTime::ZERO);
        assert_eq!((made.timestamp_ms, &made.body[..]), (26, &[0xaf, 1, 9][..]));
    }

    #[test]
    fn the_clock_wraps_and_does_not_go_below_its_start() {
        let at = |ms| MediaTime::ZERO + MediaSpan::from_millis(ms);
        assert_eq!(clock(u32::MAX).timestamp(at(10_033)), 32);
        assert_eq!(clock(0).timestamp(at(9_979)), 0);
        let months = 10_000 + (1_i64 << 32) + 7;
        assert_eq!(clock(0).timestamp(at(months)), 7);
    }
}
