//! Video tags: headers, old and enhanced, and the pictures behind them.
//!
//! What belongs here: which codec a tag has, where its picture begins, and when a picture brings its own configuration.
//! What does not: audio; the codecs' own bytes, which are read by the crate `media`.

use super::track::{self, Found};
use super::{CodedPicture, FlvError, Tag, four_cc};
use crate::{MessageKind, Metadata};
use bytes::Bytes;
use media::framing::{self, CodedUnit, NalFacts};
use media::h264::LengthSize;
use media::{CodecError, PictureFormat, VideoCodec, VideoConfig, av1, h264, hevc, vpx};

/// Frame type 5: a command for a player that seeks.
const COMMAND: u8 = 5;
const KEY: u8 = 1;

/// Packet types of Enhanced RTMP video. The first three are also AVCPacketType of FLV.
mod packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const CODED_FRAMES_X: u8 = 3;
    pub(super) const METADATA: u8 = 4;
    pub(super) const MULTITRACK: u8 = 6;
}

/// Reads the video tags of one publisher.
#[derive(Clone, Debug, Default)]
pub(super) struct VideoReader {
    /// The present configuration's codec; `None` before the first configuration.
    codec: Option<VideoCodec>,
    /// Size of a NAL unit's length field, from the configuration.
    length_size: Option<LengthSize>,
    /// The pictures of the present configuration.
    pictures: Pictures,
    /// Parameter sets in band, collected while there is no configuration, and the last ones of a keyframe that were
    /// examined afterwards.
    sets: Vec<Bytes>,
    /// The last in-band parameter sets whose picture size was judged.
    judged: Vec<Bytes>,
    /// Pixels of the largest coded picture that is accepted; `None`: any.
    max_pixels: Option<u64>,
    /// Width and height in pixels by `onMetaData`, for parameter sets that cannot be read.
    metadata_size: MetadataSize,
}

/// What about pictures makes a new configuration where a keyframe's own headers differ from the present one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pictures {
    /// Width and height in pixels.
    size: (u16, u16),
    /// Of HEVC and AV1, whose pictures may be passed through with a description of their format. Of H.264 only the size
    /// counts: some encoders send parameter sets with every IDR picture that differ from the sequence header in other
    /// ways, and decoders read those sets anyway.
    format: Option<PictureFormat>,
}

impl Pictures {
    fn of(config: &VideoConfig) -> Self {
        let format = match config.codec {
            VideoCodec::Hevc | VideoCodec::Av1 => config.picture_format(),
            VideoCodec::H264 | VideoCodec::Vp9 | VideoCodec::Vp8 => None,
        };
        Self { size: (config.width, config.height), format }
    }
}

/// Width and height in pixels that `onMetaData` gives.
type MetadataSize = Option<(u32, u32)>;

/// Where a picture's composition offset is.
enum Composition {
    /// In the first three bytes of the data.
    Leading,
    /// There is none, or this.
    Given(i32),
}

impl VideoReader {
    pub(super) fn with_max_pixels(self, max_pixels: u64) -> Self {
        Self { max_pixels: Some(max_pixels), ..self }
    }

    pub(super) fn metadata(&mut self, metadata: &Metadata) {
        let side = |value: Option<f64>| value.filter(|v| (1.0..=65_535.0).contains(v)).map(|v| v as u32);
        self.metadata_size = side(metadata.width).zip(side(metadata.height));
    }

    pub(super) fn read(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        const SHORT: &str = "short video tag";
        let Some(&first) = body.first() else { return Ok(Tag::Nothing) };
        if first & 0x80 == 0 {
            return self.legacy(first >> 4, first & 0x0f, body);
        }
        // Bit 7 set, 3 bits of frame type, 4 bits of packet type, FourCC.
        let frame_type = first >> 4 & 0x07;
        if frame_type == COMMAND {
            return Ok(Tag::Nothing);
        }
        let packet = match track::find(body, packet::MULTITRACK, packet::METADATA, SHORT)? {
            Found::Packet(packet) => packet,
            Found::Bare => return Ok(Tag::Nothing),
            Found::OtherTrack => return Ok(Tag::OtherTrack),
        };
        let codec = four_cc::find(&four_cc::VIDEO, &packet.four_cc)
            .ok_or(FlvError::Unreadable(unknown_four_cc(&packet.four_cc)))?;
        let flagged_key = frame_type == KEY;
        // Codecs with NAL units have a composition offset, but not in the message type that says so.
        let reorders = matches!(codec, VideoCodec::H264 | VideoCodec::Hevc);
        match packet.packet_type {
            packet::SEQUENCE_START => self.config(codec, &packet.data),
            packet::CODED_FRAMES if reorders => {
                self.picture(codec, flagged_key, Composition::Leading, &packet.data)
            }
            packet::CODED_FRAMES | packet::CODED_FRAMES_X => {
                self.picture(codec, flagged_key, Composition::Given(0), &packet.data)
            }
            packet::SEQUENCE_END => Ok(Tag::EndOfSequence(MessageKind::Video)),
            packet::METADATA => Ok(Tag::Nothing),
            _ => Err(FlvError::Unreadable("unknown video packet type")),
        }
    }

    /// FLV: four bits of frame type, four of codec id, packet type, composition offset.
    fn legacy(&mut self, frame_type: u8, codec: u8, body: &Bytes) -> Result<Tag, FlvError> {
        if frame_type == COMMAND {
            return Ok(Tag::Nothing);
        }
        // 12 and 13 are in no specification, but widely used.
        let codec = match codec {
            7 => VideoCodec::H264,
            12 => VideoCodec::Hevc,
            13 => VideoCodec::Av1,
            other => return Err(FlvError::Unreadable(legacy_name(other))),
        };
        let &[_, packet_type, a, b, c, ..] = &body[..] else {
            return Err(FlvError::Unreadable("short video tag"));
        };
        let data = body.slice(5..);
        match packet_type {
            packet::SEQUENCE_START => self.config(codec, &data),
            packet::CODED_FRAMES => {
                self.picture(codec, frame_type == KEY, Composition::Given(composition(a, b, c)), &data)
            }
            packet::SEQUENCE_END => Ok(Tag::EndOfSequence(MessageKind::Video)),
            _ => Err(FlvError::Unreadable("unknown video packet type")),
        }
    }

    fn config(&mut self, codec: VideoCodec, record: &Bytes) -> Result<Tag, FlvError> {
        if record.is_empty() {
            return Ok(Tag::Nothing);
        }
        let (config, length_size) = match codec {
            VideoCodec::H264 => {
                if let Ok(parts) = h264::Record::read(record) {
                    self.judge(h264::largest_picture(parts.sps))?;
                }
                let (config, size) = h264::read_config(record, self.metadata_size)?;
                (config, Some(size))
            }
            VideoCodec::Hevc => {
                self.judge(hevc::largest_picture_of_record(record))?;
                let (config, size) = hevc::read_config(record, self.metadata_size)?;
                (config, Some(size))
            }
            VideoCodec::Av1 => match av1::read_config(record)? {
                Some(config) => (config, None),
                // The first keyframe tells.
                None => return Ok(Tag::Nothing),
            },
            // Their frames tell everything.
            VideoCodec::Vp8 | VideoCodec::Vp9 => return Ok(Tag::Nothing),
        };
        self.judge(u64::from(config.width) * u64::from(config.height))?;
        self.adopt(&config);
        self.length_size = length_size;
        Ok(Tag::VideoConfig(config))
    }

    fn adopt(&mut self, config: &VideoConfig) {
        self.codec = Some(config.codec);
        self.pictures = Pictures::of(config);
        self.sets.clear();
    }

    fn judge(&self, pixels: u64) -> Result<(), FlvError> {
        match self.max_pixels {
            Some(most) if pixels > most => Err(FlvError::Unsupported(format!(
                "video has pictures of {pixels} pixels; this encoder takes up to {most} (--max-pixels)"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn picture(
        &mut self,
        codec: VideoCodec,
        flagged_key: bool,
        composition_at: Composition,
        data: &Bytes,
    ) -> Result<Tag, FlvError> {
        let (composition_ms, data) = match (composition_at, &data[..]) {
            (Composition::Given(offset), _) => (offset, data.clone()),
            (Composition::Leading, &[a, b, c, ..]) => (composition(a, b, c), data.slice(3..)),
            (Composition::Leading, _) => return Err(FlvError::Unreadable("short video tag")),
        };
        if data.is_empty() {
            return Ok(Tag::Nothing);
        }
        let picture = |key, config, data| CodedPicture { composition_ms, key, flagged_key, data, config };
        let read = match codec {
            VideoCodec::H264 | VideoCodec::Hevc => {
                let rules = if codec == VideoCodec::Hevc { HEVC } else { H264 };
                let (unit, config) = self.nal_units(rules, &data)?;
                if !unit.has_picture {
                    return Ok(config.map_or(Tag::Nothing, Tag::VideoConfig));
                }
                picture(unit.key, config, unit.data)
            }
            VideoCodec::Av1 => {
                let unit =
                    av1::read_unit(&data).ok_or(FlvError::Unreadable("AV1 temporal unit without a frame"))?;
                let config = self.new_pictures(unit.config, unit.key)?;
                picture(unit.key, config, av1::without_delimiters(&data))
            }
            VideoCodec::Vp9 => self.vpx(vpx::read_vp9(&data), data, picture)?,
            VideoCodec::Vp8 => self.vpx(vpx::read_vp8(&data), data, picture)?,
        };
        if self.codec != Some(codec) {
            return Err(FlvError::Unreadable("picture before its configuration"));
        }
        Ok(Tag::Video(read))
    }

    fn vpx(
        &mut self,
        frame: Result<vpx::Frame, CodecError>,
        data: Bytes,
        picture: impl Fn(bool, Option<VideoConfig>, Bytes) -> CodedPicture,
    ) -> Result<CodedPicture, FlvError> {
        let vpx::Frame { key, config } = frame?;
        Ok(picture(key, self.new_pictures(config, key)?, data))
    }

    /// Adopts a keyframe's own configuration if it has another codec or other pictures than the present one.
    fn new_pictures(
        &mut self,
        config: Option<VideoConfig>,
        key: bool,
    ) -> Result<Option<VideoConfig>, FlvError> {
        let Some(config) = config.filter(|_| key) else { return Ok(None) };
        if self.codec == Some(config.codec) && self.pictures == Pictures::of(&config) {
            return Ok(None);
        }
        self.judge(u64::from(config.width) * u64::from(config.height))?;
        self.adopt(&config);
        Ok(Some(config))
    }

    /// Reads an access unit, and finds the configuration that it brings.
    fn nal_units(
        &mut self,
        codec: NalCodec,
        payload: &Bytes,
    ) -> Result<(CodedUnit, Option<VideoConfig>), FlvError> {
        let is_present = self.codec == Some(codec.codec);
        let unit = framing::read_unit(payload, self.length_size.filter(|_| is_present), codec.facts)
            .ok_or(FlvError::Unreadable("no picture in the access unit"))?;
        if !unit.sets.is_empty() && unit.sets != self.judged {
            self.judge((codec.largest_picture)(&unit.sets))?;
            self.judged = copied(&unit.sets);
        }
        let config = if !is_present {
            self.first_sets(codec, &unit.sets)
        } else if unit.key {
            self.other_pictures(codec, &unit.sets)
        } else {
            None
        };
        Ok((unit, config))
    }

    /// Collects parameter sets while no configuration has come: some cameras send them in front of keyframes alone.
    fn first_sets(&mut self, codec: NalCodec, sets: &[Bytes]) -> Option<VideoConfig> {
        /// Sets kept: those of the last few messages that had any.
        const MOST: usize = 32;
        /// Longest set kept, in bytes.
        const LONGEST: usize = 4 << 10;
        if sets.is_empty() {
            return None;
        }
        self.sets.extend(copied(sets).into_iter().filter(|set| set.len() <= LONGEST));
        let surplus = self.sets.len().saturating_sub(MOST);
        self.sets.drain(..surplus);
        let config = (codec.config)(&self.sets, self.metadata_size)?;
        self.adopt(&config);
        self.length_size = None;
        Some(config)
    }

    /// Returns a configuration only if the pictures change; see [`Pictures`].
    fn other_pictures(&mut self, codec: NalCodec, sets: &[Bytes]) -> Option<VideoConfig> {
        if sets.is_empty() || sets == self.sets {
            return None;
        }
        self.sets = copied(sets);
        let config = (codec.config)(&self.sets, self.metadata_size)?;
        let pictures = Pictures::of(&config);
        (std::mem::replace(&mut self.pictures, pictures) != pictures).then_some(config)
    }
}

/// What differs between the codecs with NAL units.
#[derive(Clone, Copy)]
struct NalCodec {
    codec: VideoCodec,
    /// What a NAL unit is.
    facts: fn(&[u8]) -> Option<NalFacts>,
    /// Pixels of the largest picture that parameter sets announce.
    largest_picture: fn(&[Bytes]) -> u64,
    /// The configuration that parameter sets give, with the size to fall back on.
    config: fn(&[Bytes], MetadataSize) -> Option<VideoConfig>,
}

const H264: NalCodec = NalCodec {
    codec: VideoCodec::H264,
    facts: h264::facts,
    largest_picture: |sets| h264::largest_picture(sets.iter().map(|set| &set[..])),
    config: h264::in_band_config,
};

const HEVC: NalCodec = NalCodec {
    codec: VideoCodec::Hevc,
    facts: hevc::facts,
    largest_picture: |sets| hevc::largest_picture(sets.iter().map(|set| &set[..])),
    config: hevc::in_band_config,
};

/// Copies parameter sets, so that they do not keep the whole message in memory.
fn copied(sets: &[Bytes]) -> Vec<Bytes> {
    sets.iter().map(|set| Bytes::copy_from_slice(set)).collect()
}

/// Reads a composition offset: signed 24 bits, big-endian.
fn composition(a: u8, b: u8, c: u8) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}

fn unknown_four_cc(code: &[u8; 4]) -> &'static str {
    match code {
        b"vvc1" => "video is VVC (vvc1)",
        _ => "video of an unknown FourCC",
    }
}

/// A codec id (FLV annex E.4.3.1) that is not taken.
fn legacy_name(codec: u8) -> &'static str {
    match codec {
        2 => "video is Sorenson H.263",
        3 | 6 => "video is Screen Video",
        4 | 5 => "video is VP6",
        _ => "video of an unknown codec id",
    }
}
