//! H.264: the AVCDecoderConfigurationRecord (ISO 14496-15, 5.3.3.1) and length-prefixed access units.
//!
//! NAL unit lengths of one or two bytes are rewritten to four bytes, in the record and in every access unit, so that
//! later modules only handle four-byte lengths.

use super::FlvError;
use bytes::{BufMut, Bytes, BytesMut};
use h264_reader::nal::sps::{SeqParameterSet, VuiParameters};
use h264_reader::rbsp::{BitReader, decode_nal};
use media::{VideoCodec, VideoConfig};

/// Longest record accepted, in bytes: real records have 30 to 300.
const MAX_RECORD: usize = 16 << 10;
/// Longest sequence parameter set parsed, in bytes.
const MAX_SPS: usize = 1 << 10;
/// Maximum number of parameter sets examined per access unit: real access units have two or three.
const MAX_SETS: usize = 16;
/// Accepted width and height in pixels.
const DIMENSIONS: std::ops::RangeInclusive<u32> = 16..=8192;
/// Offset of the level in a sequence parameter set NAL unit.
const LEVEL_AT: usize = 3;
/// Level 6.2: the crate refuses pictures larger than the level allows, while decoders decode them.
const HIGHEST_LEVEL: u8 = 62;

/// NAL unit types (ITU-T H.264, table 7-1).
mod nal_type {
    pub(super) const IDR: u8 = 5;
    pub(super) const SPS: u8 = 7;
    pub(super) const PPS: u8 = 8;
    /// 1 to 5 are coded slices.
    pub(super) const SLICES: std::ops::RangeInclusive<u8> = 1..=5;
}

/// Reads a configuration record. Returns the configuration, with its record rewritten to four-byte lengths, and the
/// size of the access units' length fields in bytes: 1, 2 or 4.
pub fn read_config(record: &Bytes) -> Result<(VideoConfig, usize), FlvError> {
    if record.len() > MAX_RECORD {
        return Err(FlvError::Malformed("AVC configuration is too long"));
    }
    let &[1, _profile, _compatibility, _level, lengths, counts, ..] = &record[..] else {
        return Err(FlvError::Malformed("AVC configuration of unknown version"));
    };
    let nal_length_size = usize::from(lengths & 3) + 1;
    if nal_length_size == 3 {
        return Err(FlvError::Malformed("AVC configuration with lengths of three bytes"));
    }
    let mut rest = &record[6..];
    let mut first = None;
    for _ in 0..counts & 0x1f {
        let set = parameter_set(&mut rest)?;
        first = first.or(Some(set));
    }
    let (&pictures, mut rest) = rest.split_first().ok_or(SHORT_RECORD)?;
    for _ in 0..pictures {
        parameter_set(&mut rest)?;
    }
    if pictures == 0 {
        return Err(FlvError::Malformed("AVC configuration without a picture parameter set"));
    }
    let first = first.ok_or(FlvError::Malformed("AVC configuration without a sequence parameter set"))?;
    let sps = parse_sps(first)?;

    let (width, height) =
        sps.pixel_dimensions().map_err(|_| FlvError::Malformed("sequence parameter set of unknown size"))?;
    if !DIMENSIONS.contains(&width) || !DIMENSIONS.contains(&height) {
        return Err(FlvError::Unsupported(format!(
            "video is {width}x{height}; this encoder takes {} to {} pixels a side",
            DIMENSIONS.start(),
            DIMENSIONS.end()
        )));
    }
    let vui = sps.vui_parameters.as_ref();
    let mut own_record = BytesMut::from(&record[..]);
    own_record[4] = lengths | 3;
    let config = VideoConfig {
        codec: VideoCodec::H264,
        record: own_record.freeze(),
        width: width as u16,
        height: height as u16,
        sample_aspect: vui.and_then(sample_aspect).unwrap_or((1, 1)),
        frame_rate: vui.and_then(frame_rate),
    };
    Ok((config, nal_length_size))
}

const SHORT_RECORD: FlvError = FlvError::Malformed("AVC configuration ends early");

fn parameter_set<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FlvError> {
    let (length, tail) = rest.split_first_chunk::<2>().ok_or(SHORT_RECORD)?;
    let (set, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(SHORT_RECORD)?;
    *rest = tail;
    Ok(set)
}

/// Parses a sequence parameter set. h264-reader's allocations are bounded by the set's own counts (at most 255 and 32
/// entries), and it returns errors.
fn parse_sps(nal: &[u8]) -> Result<SeqParameterSet, FlvError> {
    const BROKEN: FlvError = FlvError::Malformed("sequence parameter set cannot be read");
    if nal.len() > MAX_SPS || nal.len() <= LEVEL_AT || nal[0] & 0x1f != nal_type::SPS {
        return Err(BROKEN);
    }
    // Some encoders pad with zeros after the stop bit, which the crate takes for more data.
    let end = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let mut nal = nal[..end].to_vec();
    if nal.len() <= LEVEL_AT {
        return Err(BROKEN);
    }
    nal[LEVEL_AT] = HIGHEST_LEVEL;
    let rbsp = decode_nal(&nal).map_err(|_| BROKEN)?;
    SeqParameterSet::from_bits(BitReader::new(&rbsp[..])).map_err(|_| BROKEN)
}

fn sample_aspect(vui: &VuiParameters) -> Option<(u16, u16)> {
    let (width, height) = vui.aspect_ratio_info.as_ref()?.get()?;
    (width > 0 && height > 0).then_some((width, height))
}

/// The frame rate: two ticks make a frame (ITU-T H.264, E.2.1), for frames and field pairs alike.
fn frame_rate(vui: &VuiParameters) -> Option<(u32, u32)> {
    let timing = vui.timing_info.as_ref()?;
    let (rate, per) = (u64::from(timing.time_scale), 2 * u64::from(timing.num_units_in_tick));
    if per == 0 || !(per..=240 * per).contains(&rate) {
        return None;
    }
    let divisor = gcd(rate, per);
    Some((u32::try_from(rate / divisor).ok()?, u32::try_from(per / divisor).ok()?))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An access unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Whether the access unit has an IDR slice. The I picture with a recovery point that begins an open GOP does not
    /// count, because later pictures may refer to pictures before it.
    pub idr: bool,
    /// NAL units, each preceded by its length in four bytes.
    pub data: Bytes,
    /// The first sixteen parameter sets in the access unit, sequence and picture parameter sets alike.
    pub sets: Vec<Bytes>,
}

/// Writes an AVCDecoderConfigurationRecord (ISO 14496-15 5.3.3.1.2). `sps` and `pps` must each have 1 to 31 sets; a
/// sequence parameter set has at least 5 bytes, a picture parameter set at least 2.
pub fn configuration_record(sps: &[Bytes], pps: &[Bytes]) -> Bytes {
    let mut record = BytesMut::new();
    let first = &sps[0];
    record.put_u8(1);
    record.put_slice(&first[1..4]);
    record.put_u8(0xff);
    record.put_u8(0xe0 | sps.len() as u8);
    for set in sps {
        record.put_u16(set.len() as u16);
        record.put_slice(set);
    }
    record.put_u8(pps.len() as u8);
    for set in pps {
        record.put_u16(set.len() as u16);
        record.put_slice(set);
    }
    // For profiles above Main the record repeats the chroma format and the bit depths.
    if !matches!(first[1], 66 | 77 | 88)
        && let Ok(parsed) = parse_sps(first)
    {
        record.put_u8(0xfc | parsed.chroma_info.chroma_format.to_u32() as u8);
        record.put_u8(0xf8 | parsed.chroma_info.bit_depth_luma_minus8);
        record.put_u8(0xf8 | parsed.chroma_info.bit_depth_chroma_minus8);
        record.put_u8(0);
    }
    record.freeze()
}

/// Builds the configuration from the parameter sets of an access unit; `None` unless both kinds are present and
/// readable.
pub fn in_band_config(sets: &[Bytes]) -> Option<VideoConfig> {
    let of = |kind: u8| -> Vec<Bytes> {
        sets.iter().filter(|set| set.len() >= 2 && set[0] & 0x1f == kind).cloned().collect()
    };
    let (sps, pps) = (of(nal_type::SPS), of(nal_type::PPS));
    if pps.is_empty() || sps.iter().any(|set| set.len() < 5) || sps.is_empty() {
        return None;
    }
    read_config(&configuration_record(&sps, &pps)).ok().map(|(config, _)| config)
}

/// Checks an access unit whose NAL unit lengths have `size` bytes, and rewrites them to four bytes. Empty NAL units are
/// removed. An access unit with four-byte lengths and no empty NAL unit is not copied.
pub fn read_unit(payload: &Bytes, size: usize) -> Result<Unit, FlvError> {
    const BROKEN: FlvError = FlvError::Malformed("NAL unit lengths do not fit the picture");
    let (mut idr, mut slices, mut as_is) = (false, false, size == 4);
    let mut sets = Vec::new();
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let nal = next_nal(&mut rest, size).ok_or(BROKEN)?;
        match nal.first() {
            None => as_is = false,
            Some(header) => {
                let nal_type = header & 0x1f;
                idr |= nal_type == nal_type::IDR;
                slices |= nal_type::SLICES.contains(&nal_type);
                if matches!(nal_type, nal_type::SPS | nal_type::PPS) && sets.len() < MAX_SETS {
                    sets.push(payload.slice_ref(nal));
                }
            }
        }
    }
    if !slices {
        return Err(FlvError::Malformed("no picture in the video message"));
    }
    if as_is {
        return Ok(Unit { idr, data: payload.clone(), sets });
    }
    // The access unit grows to 2.5 times its size at most (one-byte lengths and NAL units of one byte). Copying is a
    // second pass, so that access units that need no change are not copied.
    let mut data = BytesMut::new();
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let nal = next_nal(&mut rest, size).ok_or(BROKEN)?;
        if !nal.is_empty() {
            data.put_u32(nal.len() as u32);
            data.put_slice(nal);
        }
    }
    Ok(Unit { idr, data: data.freeze(), sets })
}

fn next_nal<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_at_checked(size)?;
    let length = length.iter().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
    let (nal, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(nal)
}
