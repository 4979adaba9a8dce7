//! From media to FLV tag bodies, and from media time to RTMP milliseconds: the inverse of [`crate::flv`] and
//! [`crate::timeline`] on the server. H.264 and AAC are sent as FLV has always carried them, [`ENHANCED_VIDEO`] and
//! [`ENHANCED_AUDIO`] as Enhanced RTMP does. Pure.

use super::four_cc;
use crate::{MessageKind, SoundTrackInfo};
use bytes::{BufMut, Bytes, BytesMut};
use media::{AudioCodec, AudioConfig, Media, MediaTime, SoundTrackId, Unit, VideoCodec, VideoConfig};
use rml_amf0::Amf0Value;
use std::collections::HashMap;

/// FLV codec ids (video file format specification 10.1, E.4.2.1 and E.4.3.1).
const AVC: u8 = 7;
const AAC: u8 = 10;
/// AAC tags always say 44 kHz, 16 bits, stereo, whichever format the stream has (E.4.2.1).
const AAC_HEADER: u8 = AAC << 4 | 0b1111;
/// Sound format 9: Enhanced RTMP; packet type 5: multitrack. The next byte's upper half, 0, says "one track".
const ENHANCED_MULTITRACK: u8 = 9 << 4 | 5;
const KEY_FRAME: u8 = 1 << 4;
const INTER_FRAME: u8 = 2 << 4;
/// AVCPacketType and AACPacketType.
const SEQUENCE_HEADER: u8 = 0;
const CODED: u8 = 1;
/// Composition offsets are signed 24-bit milliseconds.
const MAX_OFFSET_MS: i64 = 0x7f_ffff;

/// Video codecs that are sent by Enhanced RTMP.
pub const ENHANCED_VIDEO: [VideoCodec; 2] = [VideoCodec::Hevc, VideoCodec::Av1];
/// Audio codecs that are sent by Enhanced RTMP.
pub const ENHANCED_AUDIO: [AudioCodec; 4] =
    [AudioCodec::Opus, AudioCodec::Flac, AudioCodec::Ac3, AudioCodec::Eac3];
/// The first byte of Enhanced RTMP: for video with the frame type, for audio the sound format 9.
const EXTENDED_VIDEO: u8 = 0x80;
const EXTENDED_AUDIO: u8 = 9 << 4;
/// Packet types of Enhanced RTMP; the first two are those of FLV.
const CODED_WITHOUT_OFFSET: u8 = 3;

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

/// Makes tags of configurations and access units. The access units are in the codec of the last configuration; before the
/// first, in H.264 and AAC.
#[derive(Clone, Copy, Debug)]
pub struct TagWriter {
    video: VideoCodec,
    audio: AudioCodec,
}

impl Default for TagWriter {
    fn default() -> Self {
        Self { video: VideoCodec::H264, audio: AudioCodec::Aac }
    }
}

impl TagWriter {
    /// Makes a tag. Configurations have no time of their own and get `now`. `None` for codecs that are not sent, and for
    /// configurations of codecs whose access units tell everything.
    pub fn tag(&mut self, media: &Media, clock: &RtmpClock, now: MediaTime) -> Option<OutgoingTag> {
        let (kind, at, body) = match media {
            Media::VideoConfig(config) => {
                self.video = config.codec;
                (MessageKind::Video, now, self.video_body(true, SEQUENCE_HEADER, 0, &config.record)?)
            }
            Media::AudioConfig(config) => {
                self.audio = config.codec;
                let record = match config.codec {
                    AudioCodec::Ac3 | AudioCodec::Eac3 => return None,
                    AudioCodec::Flac => flac_header(&config.record),
                    _ => config.record.clone(),
                };
                (MessageKind::Audio, now, self.audio_body(SEQUENCE_HEADER, &record)?)
            }
            Media::Video(Unit { pts, dts, key, data }) => {
                // Computed from rounded times, so that the offset adds no rounding of its own.
                let offset = (clock.millis(*pts) - clock.millis(*dts)).clamp(-MAX_OFFSET_MS, MAX_OFFSET_MS);
                (MessageKind::Video, *dts, self.video_body(*key, CODED, offset as i32, data)?)
            }
            Media::Audio(Unit { dts, data, .. }) => (MessageKind::Audio, *dts, self.audio_body(CODED, data)?),
            Media::TrackConfig(id, config) => {
                (MessageKind::Audio, now, track_body(*id, SEQUENCE_HEADER, &config.record))
            }
            Media::Track(id, Unit { dts, data, .. }) => {
                (MessageKind::Audio, *dts, track_body(*id, CODED, data))
            }
        };
        Some(OutgoingTag { kind, timestamp_ms: clock.timestamp(at), body })
    }

    fn video_body(&self, key: bool, packet_type: u8, offset_ms: i32, data: &[u8]) -> Option<Bytes> {
        let frame_type = if key { KEY_FRAME } else { INTER_FRAME };
        let mut body = BytesMut::with_capacity(8 + data.len());
        if self.video == VideoCodec::H264 {
            body.put_slice(&[frame_type | AVC, packet_type]);
            body.put_slice(&offset_ms.to_be_bytes()[1..]);
        } else {
            let code =
                four_cc::of(&four_cc::VIDEO, self.video).filter(|_| ENHANCED_VIDEO.contains(&self.video))?;
            // Only codecs with NAL units have an offset, and a packet type for none.
            let with_offset = self.video == VideoCodec::Hevc && packet_type == CODED;
            let packet_type = if with_offset && offset_ms == 0 { CODED_WITHOUT_OFFSET } else { packet_type };
            body.put_u8(EXTENDED_VIDEO | frame_type | packet_type);
            body.put_slice(code.as_bytes());
            if with_offset && offset_ms != 0 {
                body.put_slice(&offset_ms.to_be_bytes()[1..]);
            }
        }
        body.put_slice(data);
        Some(body.freeze())
    }

    fn audio_body(&self, packet_type: u8, data: &[u8]) -> Option<Bytes> {
        let mut body = BytesMut::with_capacity(5 + data.len());
        if self.audio == AudioCodec::Aac {
            body.put_slice(&[AAC_HEADER, packet_type]);
        } else {
            let code =
                four_cc::of(&four_cc::AUDIO, self.audio).filter(|_| ENHANCED_AUDIO.contains(&self.audio))?;
            body.put_u8(EXTENDED_AUDIO | packet_type);
            body.put_slice(code.as_bytes());
        }
        body.put_slice(data);
        Some(body.freeze())
    }
}

/// A packet of one sound track beside the main sound, in AAC, as Enhanced RTMP 2 has it.
fn track_body(id: SoundTrackId, packet_type: u8, data: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(7 + data.len());
    body.put_u8(ENHANCED_MULTITRACK);
    body.put_u8(packet_type);
    body.put_slice(b"mp4a");
    body.put_u8(id.number());
    body.put_slice(data);
    body.freeze()
}

/// FLAC's STREAMINFO with the signature and the block header before it, as the beginning of a file.
fn flac_header(stream_info: &[u8]) -> Bytes {
    const LAST_BLOCK: u8 = 0x80;
    let length = (stream_info.len() as u32).to_be_bytes();
    Bytes::from([b"fLaC", &[LAST_BLOCK][..], &length[1..], stream_info].concat())
}

/// The values of `onMetaData`.
pub fn metadata(
    video: Option<&VideoConfig>,
    audio: Option<&AudioConfig>,
    sound_tracks: &[SoundTrackInfo],
) -> Amf0Value {
    let mut values = HashMap::new();
    let mut number = |name: &str, value: f64| values.insert(name.to_owned(), Amf0Value::Number(value));
    if let Some(video) = video {
        number("width", video.width.into());
        number("height", video.height.into());
        number("videocodecid", codec_id(AVC, &four_cc::VIDEO, video.codec, VideoCodec::H264));
        if let Some((num, den)) = video.frame_rate {
            number("framerate", f64::from(num) / f64::from(den.max(1)));
        }
    }
    if let Some(audio) = audio {
        number("audiocodecid", codec_id(AAC, &four_cc::AUDIO, audio.codec, AudioCodec::Aac));
        number("audiosamplerate", audio.sample_rate.into());
        number("audiosamplesize", 16.0);
        number("audiochannels", audio.channels.into());
        values.insert("stereo".into(), Amf0Value::Boolean(audio.channels >= 2));
    }
    if !sound_tracks.is_empty() {
        let tracks = sound_tracks.iter().map(|track| (track.number.to_string(), track_properties(track)));
        values.insert("audioTrackIdInfoMap".into(), Amf0Value::Object(tracks.collect()));
    }
    values.insert("encoder".into(), Amf0Value::Utf8String(crate::client::CLIENT_NAME.into()));
    Amf0Value::Object(values)
}

/// A codec as `onMetaData` names it: FLV's number, or the FourCC as a number (Enhanced RTMP).
fn codec_id<C: Copy + PartialEq>(plain: u8, list: &[(&'static str, C)], codec: C, usual: C) -> f64 {
    let code = four_cc::of(list, codec).filter(|_| codec != usual);
    let code = code.and_then(|code| code.as_bytes().try_into().ok()).map(u32::from_be_bytes);
    f64::from(code.unwrap_or(plain.into()))
}

fn track_properties(track: &SoundTrackInfo) -> Amf0Value {
    let texts = [("name", &track.name), ("language", &track.language)];
    let given = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), Amf0Value::Utf8String(text.clone()?))));
    Amf0Value::Object(given.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::MediaSpan;

    fn unit(pts_ms: i64, dts_ms: i64, key: bool) -> Unit {
        let at = |ms| MediaTime::ZERO + MediaSpan::from_millis(ms);
        Unit { pts: at(pts_ms), dts: at(dts_ms), key, data: Bytes::from_static(&[9]) }
    }

    fn tag(media: &Media, clock: &RtmpClock, now: MediaTime) -> OutgoingTag {
        TagWriter::default().tag(media, clock, now).unwrap()
    }

    /// What is written is read back, for every codec and with every kind of offset.
    #[test]
    fn what_is_written_by_enhanced_rtmp_is_read_back() {
        use crate::flv::{FlvDemuxer, Tag};
        let hevc = "0101600000009000000000003cf000fcfdf8f800000f03200001001840010c01ffff0160000003009000000300000\
                    3003c959809210001002b42010101600000030090000003000003003ca00a080b9f796566924caf01680800000300\
                    0800000300c84022000100074401c172b46240";
        let hex = |digits: &str| -> Bytes {
            (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect()
        };
        let (hevc, _) = media::hevc::read_config(&hex(hevc), None).unwrap();
        let av1 = media::av1::read_config(&hex("81000c000a0b0200000561e7f66017c002")).unwrap().unwrap();
        for (config, frame, offset) in [
            (hevc.clone(), "00000003260109", 67),
            (hevc, "00000003260109", 0),
            (av1, "0a0b0200000561e7f66357cc02301400ff", 0),
        ] {
            let (mut writer, mut reader) = (TagWriter::default(), FlvDemuxer::new());
            let mut sent = |media: &Media| {
                let tag = writer.tag(media, &clock(0), MediaTime::ZERO).unwrap();
                reader.read(tag.kind, &tag.body).unwrap()
            };
            assert_eq!(sent(&Media::VideoConfig(config.clone())), Tag::VideoConfig(config.clone()));
            let picture = Unit { data: hex(frame), ..unit(10_100 + offset, 10_100, true) };
            let Tag::Video(read) = sent(&Media::Video(picture.clone())) else { panic!("{config:?}") };
            assert_eq!((read.key, read.composition_ms, read.data), (true, offset as i32, picture.data));
        }
        let opus = media::sound::opus(&hex("4f707573486561640102380180bb0000000000")).unwrap();
        let flac = hex("100010000000000000000bb802f00000000000000000000000000000000000000000");
        let flac = media::sound::flac(&flac).unwrap();
        for (config, frame) in [(opus, "fc7e"), (flac, "fff8")] {
            let (mut writer, mut reader) = (TagWriter::default(), FlvDemuxer::new());
            let mut sent = |media: &Media| {
                let tag = writer.tag(media, &clock(0), MediaTime::ZERO).unwrap();
                reader.read(tag.kind, &tag.body).unwrap()
            };
            assert_eq!(sent(&Media::AudioConfig(config.clone())), Tag::AudioConfig(config));
            let frame = Unit { data: hex(frame), ..unit(10_100, 10_100, true) };
            assert!(matches!(sent(&Media::Audio(frame)), Tag::Audio(_)));
        }
    }

    #[test]
    fn codecs_that_are_not_sent_make_no_tag() {
        let config = VideoConfig {
            codec: VideoCodec::Vp9,
            record: Bytes::new(),
            width: 320,
            height: 180,
            sample_aspect: (1, 1),
            frame_rate: None,
        };
        let mut writer = TagWriter::default();
        assert_eq!(writer.tag(&Media::VideoConfig(config), &clock(0), MediaTime::ZERO), None);
        assert_eq!(writer.tag(&Media::Video(unit(10_000, 10_000, true)), &clock(0), MediaTime::ZERO), None);
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
