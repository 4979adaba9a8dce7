//! The messages from a process that demuxes a file ([`crate::demux`]); the framing is [`super::protocol`]'s, with a
//! direction of its own. The receiver trusts nothing: configurations are read and checked again from their records, and
//! no other value leaves the range in which the demuxer of this process would have kept it.

use super::protocol::{
    MAX_CONTROL, MAX_UNIT, ProtocolError, UNIT_HEAD, WireMessage, code_of, codec_of, kind, read_json,
    read_unit, write_json, write_unit,
};
use super::{AUDIO_TRACK, WireUnit};
use crate::demux::{SourceInfo, SurveyInfo, SurveyedPacket};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::h264::{LengthSize, Record, length_prefixed_units};
use media::{
    AudioCodec, AudioConfig, Media, MediaSpan, MediaTime, Unit, VideoCodec, VideoConfig, aac, av1, hevc,
    sound,
};
use serde::{Deserialize, Serialize};

/// Track number of a file's video.
const VIDEO_TRACK: u8 = 0;
/// Limit of times, in 1/90000 s: 99 years. Sums of such times, over many passes of a loop, do not overflow.
const LONGEST_90K: u64 = 1 << 48;
/// Bytes of the facts of a packet: two flags, two times and a size.
const PACKET_BYTES: usize = 2 + 8 + 8 + 4;
/// The largest report of a failure, in bytes.
const MAX_FAILURE: usize = 16 << 10;

/// Why a file cannot be read (to its end).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileFailure {
    /// The file cannot be opened: libav's error number.
    Open(i32),
    /// The file has nothing that is asked for.
    NoMedia,
    /// Anything else, as text for the operator.
    Other(String),
}

/// A message from the process that demuxes a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FileMessage {
    /// The first message of a file that can be opened.
    Opened(SourceInfo),
    /// Media, in order.
    Media(Media),
    /// The first message of a file whose packets alone are looked at.
    Surveyed(SurveyInfo),
    /// The facts of a packet of such a file.
    Packet(SurveyedPacket),
    /// The last message where reading failed.
    Failed(FileFailure),
    /// The last message of a file that was read to its end.
    Ended,
}

impl WireMessage for FileMessage {
    const DIRECTION: u8 = b'f';

    fn max_body(kind: u8) -> Option<usize> {
        match kind {
            kind::FILE_OPENED | kind::FILE_VIDEO | kind::FILE_AUDIO | kind::FILE_SURVEYED => {
                Some(MAX_CONTROL)
            }
            kind::FILE_PACKET => Some(PACKET_BYTES),
            kind::FILE_UNIT => Some(UNIT_HEAD + MAX_UNIT),
            kind::FILE_FAILED => Some(MAX_FAILURE),
            kind::FILE_ENDED => Some(0),
            _ => None,
        }
    }

    fn write_body(&self, out: &mut BytesMut) -> Result<(), ProtocolError> {
        match self {
            Self::Opened(info) => write_json(kind::FILE_OPENED, info, out)?,
            Self::Media(Media::VideoConfig(config)) => write_video(config, out),
            Self::Media(Media::AudioConfig(config)) => {
                out.put_slice(&[kind::FILE_AUDIO, code_of(&AudioCodec::ALL, config.codec)]);
                out.put_u32_le(config.sample_rate);
                match config.codec {
                    // They have no record.
                    AudioCodec::Ac3 | AudioCodec::Eac3 => out.put_u8(config.channels),
                    _ => out.put_slice(&config.record),
                }
            }
            Self::Media(Media::Video(unit)) => write_unit(kind::FILE_UNIT, VIDEO_TRACK, unit, out),
            Self::Media(Media::Audio(unit)) => write_unit(kind::FILE_UNIT, AUDIO_TRACK, unit, out),
            Self::Surveyed(info) => write_json(kind::FILE_SURVEYED, info, out)?,
            Self::Packet(packet) => write_packet(packet, out),
            // No file's track becomes a sound track beside the main sound.
            Self::Media(Media::TrackConfig(..) | Media::Track(..)) => {
                return Err(ProtocolError::Malformed("sound track of a file"));
            }
            Self::Failed(failure) => write_json(kind::FILE_FAILED, failure, out)?,
            Self::Ended => out.put_u8(kind::FILE_ENDED),
        }
        Ok(())
    }

    fn read_body(kind: u8, body: Bytes) -> Result<Self, ProtocolError> {
        match kind {
            kind::FILE_OPENED => {
                let what = "information about the file";
                let info: SourceInfo = read_json(&body, what)?;
                let refused = info.duration.is_some_and(is_far);
                if refused { Err(ProtocolError::Malformed(what)) } else { Ok(Self::Opened(info)) }
            }
            kind::FILE_SURVEYED => {
                let what = "information about the file";
                let info: SurveyInfo = read_json(&body, what)?;
                let refused = info.duration.is_some_and(is_far);
                if refused { Err(ProtocolError::Malformed(what)) } else { Ok(Self::Surveyed(info)) }
            }
            kind::FILE_PACKET => read_packet(body).map(Self::Packet),
            kind::FILE_VIDEO => read_video(body).map(|config| Self::Media(Media::VideoConfig(config))),
            kind::FILE_AUDIO => read_audio(body).map(|config| Self::Media(Media::AudioConfig(config))),
            kind::FILE_UNIT => read_file_unit(body).map(Self::Media),
            kind::FILE_FAILED => Ok(Self::Failed(read_json(&body, "failure")?)),
            kind::FILE_ENDED => Ok(Self::Ended),
            other => Err(ProtocolError::UnknownType(other)),
        }
    }
}

fn is_far(duration: MediaSpan) -> bool {
    duration.ticks_90k().unsigned_abs() >= LONGEST_90K
}

fn write_packet(packet: &SurveyedPacket, out: &mut BytesMut) {
    out.put_slice(&[kind::FILE_PACKET, u8::from(packet.video), u8::from(packet.key)]);
    out.put_i64_le(packet.pts.ticks_90k());
    out.put_i64_le(packet.dts.ticks_90k());
    out.put_u32_le(packet.bytes);
}

fn read_packet(mut body: Bytes) -> Result<SurveyedPacket, ProtocolError> {
    let mut read = || -> Option<SurveyedPacket> {
        let flag = |byte: u8| (byte <= 1).then_some(byte == 1);
        let (video, key) = (flag(body.try_get_u8().ok()?)?, flag(body.try_get_u8().ok()?)?);
        let mut time = || {
            let ticks = body.try_get_i64_le().ok().filter(|ticks| ticks.unsigned_abs() < LONGEST_90K)?;
            Some(MediaTime::from_ticks_90k(ticks))
        };
        let (pts, dts) = (time()?, time()?);
        let bytes = body.try_get_u32_le().ok()?;
        body.is_empty().then_some(SurveyedPacket { video, pts, dts, key, bytes })
    };
    read().ok_or(ProtocolError::Malformed("packet of a file"))
}

fn write_video(config: &VideoConfig, out: &mut BytesMut) {
    out.put_slice(&[kind::FILE_VIDEO, code_of(&VideoCodec::ALL, config.codec)]);
    for number in [config.width, config.height, config.sample_aspect.0, config.sample_aspect.1] {
        out.put_u16_le(number);
    }
    let (num, den) = config.frame_rate.unwrap_or((0, 0));
    out.put_u32_le(num);
    out.put_u32_le(den);
    out.put_slice(&config.record);
}

fn read_video(mut body: Bytes) -> Result<VideoConfig, ProtocolError> {
    let read = || -> Option<VideoConfig> {
        let codec = codec_of(&VideoCodec::ALL, &mut body)?;
        let width = body.try_get_u16_le().ok().filter(|pixels| *pixels >= 2)?;
        let height = body.try_get_u16_le().ok().filter(|pixels| *pixels >= 2)?;
        let aspect = (body.try_get_u16_le().ok()?, body.try_get_u16_le().ok()?);
        let sample_aspect = Some(aspect).filter(|aspect| aspect.0 > 0 && aspect.1 > 0)?;
        let frame_rate = match (body.try_get_u32_le().ok()?, body.try_get_u32_le().ok()?) {
            (0, 0) => None,
            (num, den) if den > 0 && num >= den && u64::from(num) <= 240 * u64::from(den) => Some((num, den)),
            (_, _) => return None,
        };
        let readable = match codec {
            VideoCodec::H264 => {
                Record::read(&body).is_ok_and(|record| record.length_size == LengthSize::Four)
            }
            VideoCodec::Hevc => {
                let size = Some((width.into(), height.into()));
                hevc::read_config(&body, size).is_ok_and(|(config, _)| config.record == body)
            }
            VideoCodec::Av1 => av1::read_config(&body).is_ok_and(|config| config.is_some()),
            // Files in these codecs are encoded again.
            VideoCodec::Vp9 | VideoCodec::Vp8 => false,
        };
        let record = readable.then_some(body)?;
        Some(VideoConfig { codec, record, width, height, sample_aspect, frame_rate })
    };
    read().ok_or(ProtocolError::Malformed("video configuration"))
}

fn read_audio(mut body: Bytes) -> Result<AudioConfig, ProtocolError> {
    let malformed = ProtocolError::Malformed("audio configuration");
    let (Some(codec), Ok(rate)) = (codec_of(&AudioCodec::ALL, &mut body), body.try_get_u32_le()) else {
        return Err(malformed);
    };
    let config = match codec {
        AudioCodec::Aac => aac::read_config(&body, Some(rate)).ok(),
        AudioCodec::Opus => sound::opus(&body),
        AudioCodec::Flac => sound::flac(&body).filter(|config| config.record == body),
        AudioCodec::Ac3 | AudioCodec::Eac3 => {
            let known = (8_000..=48_000).contains(&rate) && body.len() == 1 && (1..=8).contains(&body[0]);
            known.then(|| sound::config(codec, rate, body[0], 0))
        }
        // Files in these codecs are encoded again.
        AudioCodec::Mp3
        | AudioCodec::Speex
        | AudioCodec::Alaw
        | AudioCodec::Mulaw
        | AudioCodec::PcmS16
        | AudioCodec::PcmU8
        | AudioCodec::Nellymoser
        | AudioCodec::AdpcmFlash => None,
    };
    config.ok_or(malformed)
}

fn read_file_unit(body: Bytes) -> Result<Media, ProtocolError> {
    let malformed = Err(ProtocolError::Malformed("unit of a file"));
    let WireUnit { track, unit } = read_unit(body)?;
    let near = |time: MediaTime| time.ticks_90k().unsigned_abs() < LONGEST_90K;
    if !near(unit.dts) || !near(unit.pts) || unit.pts < unit.dts {
        return malformed;
    }
    match track {
        VIDEO_TRACK => Ok(Media::Video(unit)),
        AUDIO_TRACK => Ok(Media::Audio(unit)),
        _ => malformed,
    }
}

/// Whether a picture is as the demuxer writes it: NAL units fill it exactly, or there is a frame of AV1. The receiver asks
/// this, because a message does not tell its codec.
pub(crate) fn is_whole(codec: VideoCodec, unit: &Unit) -> bool {
    match codec {
        VideoCodec::H264 | VideoCodec::Hevc => {
            length_prefixed_units(&unit.data, LengthSize::Four).all(|nal| nal.is_ok())
        }
        VideoCodec::Av1 => av1::read_unit(&unit.data).is_some(),
        VideoCodec::Vp9 | VideoCodec::Vp8 => false,
    }
}

#[cfg(test)]
mod tests;
