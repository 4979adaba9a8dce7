//! AV1 (AV1 bitstream specification, AV1 codec ISO media file format binding): what sequence headers say, the
//! AV1CodecConfigurationRecord, read and written, and which temporal units are keyframes.
//!
//! What belongs here: what several crates need to know about the codec. What does not: containers, timestamps, decoding;
//! nothing here reads a tile.

use crate::bits::Bits;
use crate::error::{CodecError, checked_size};
use crate::{Colour, PictureFormat, VideoCodec, VideoConfig};
use bytes::{BufMut, Bytes, BytesMut};

/// Longest record accepted, in bytes.
pub const MAX_RECORD: usize = 16 << 10;
/// Bytes of an AV1CodecConfigurationRecord before its OBUs.
const RECORD_HEAD: usize = 4;
/// Maximum number of OBUs read in a temporal unit; real ones have a handful, and one for each tile group.
const MAX_OBUS: usize = 1024;

/// metadata_type of ITU-T T.35 messages (6.7.1).
const ITUT_T35: usize = 4;

/// OBU types (6.2.2) that matter outside a decoder.
mod obu_type {
    pub(super) const SEQUENCE_HEADER: u32 = 1;
    pub(super) const TEMPORAL_DELIMITER: u32 = 2;
    pub(super) const FRAME_HEADER: u32 = 3;
    pub(super) const METADATA: u32 = 5;
    pub(super) const FRAME: u32 = 6;
}

/// Code points of colours that the short form of [`codecs_string`] means: BT.709 and unspecified.
const SHORT_FORM: [u8; 2] = [1, 2];

/// A temporal unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemporalUnit {
    /// Whether decoding can start here: the first frame is a key frame that is coded and shown here. A key frame that is
    /// coded here and shown later does not count, because frames in between may refer to earlier ones.
    pub key: bool,
    /// The configuration that its sequence header gives, if there is one that can be read.
    pub config: Option<VideoConfig>,
}

/// Reads an AV1CodecConfigurationRecord. A record without a sequence header, which is allowed, gives `None`: the first
/// keyframe then has one.
///
/// # Errors
/// [`CodecError`].
pub fn read_config(record: &Bytes) -> Result<Option<VideoConfig>, CodecError> {
    if record.len() > MAX_RECORD {
        return Err(CodecError::Broken("AV1 configuration is too long"));
    }
    // One bit of marker and seven of version.
    if record.len() < RECORD_HEAD || record[0] != 0x81 {
        return Err(CodecError::Broken("AV1 configuration cannot be read"));
    }
    sequence_header(record).map(|header| config(header, Some(record.clone()))).transpose()
}

/// Reads a temporal unit; `None` if it has no frame.
pub fn read_unit(unit: &[u8]) -> Option<TemporalUnit> {
    let mut sequence = None;
    for Obu { kind, payload, .. } in obus(unit) {
        match kind {
            obu_type::SEQUENCE_HEADER => sequence = config(payload, None).ok(),
            obu_type::FRAME_HEADER | obu_type::FRAME => {
                // show_existing_frame, frame_type (0 is a key frame), show_frame.
                let key = payload.first().is_some_and(|byte| byte & 0b1111_0000 == 0b0001_0000);
                return Some(TemporalUnit { key, config: sequence });
            }
            _ => {}
        }
    }
    None
}

/// The ITU-T T.35 messages (5.8.2) of a temporal unit, from the country code on, with the trailing bits of their OBUs.
pub(crate) fn t35_metadata(unit: &[u8]) -> impl Iterator<Item = &[u8]> {
    let metadata = obus(unit).filter(|obu| obu.kind == obu_type::METADATA);
    metadata.filter_map(|obu| leb128(obu.payload)).filter(|(kind, _)| *kind == ITUT_T35).map(|(_, rest)| rest)
}

/// The temporal unit without its temporal delimiters, as a container's sample has it (AV1 in ISOBMFF, 2.4). The unit is
/// not copied where it has none but at its beginning.
pub fn without_delimiters(unit: &Bytes) -> Bytes {
    let is_delimiter = |obu: &Obu<'_>| obu.kind == obu_type::TEMPORAL_DELIMITER;
    let leading: usize = obus(unit).take_while(is_delimiter).map(|obu| obu.whole.len()).sum();
    let rest = unit.slice(leading..);
    if !obus(&rest).any(|obu| is_delimiter(&obu)) {
        return rest;
    }
    let mut own = BytesMut::with_capacity(rest.len());
    let mut read = 0;
    for obu in obus(&rest) {
        read += obu.whole.len();
        if !is_delimiter(&obu) {
            own.put_slice(obu.whole);
        }
    }
    // What is behind the last OBU that can be read stays as it is.
    own.put_slice(&rest[read..]);
    own.freeze()
}

/// An open bitstream unit.
struct Obu<'a> {
    kind: u32,
    payload: &'a [u8],
    /// Header, size and payload.
    whole: &'a [u8],
}

/// Reads OBUs; ends at the first that is cut short. The last OBU may lack its size.
fn obus(mut rest: &[u8]) -> impl Iterator<Item = Obu<'_>> {
    std::iter::from_fn(move || {
        let start = rest;
        let (&header, behind) = rest.split_first()?;
        let kind = u32::from(header >> 3 & 0xf);
        // obu_extension_flag, obu_has_size_field
        let behind = if header & 4 != 0 { behind.get(1..)? } else { behind };
        let (payload, next) = if header & 2 != 0 {
            let (size, behind) = leb128(behind)?;
            behind.split_at_checked(size)?
        } else {
            (behind, &[][..])
        };
        rest = next;
        Some(Obu { kind, payload, whole: &start[..start.len() - next.len()] })
    })
    .take(MAX_OBUS)
}

/// Reads leb128() (4.10.5).
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

/// The payload of the sequence header in a record; `None` where there is none.
fn sequence_header(record: &[u8]) -> Option<&[u8]> {
    let header = obus(record.get(RECORD_HEAD..)?).find(|obu| obu.kind == obu_type::SEQUENCE_HEADER)?;
    Some(header.payload)
}

/// The configuration by a sequence header. `record` is the record that has it; where there is none, one is written.
fn config(header: &[u8], record: Option<Bytes>) -> Result<VideoConfig, CodecError> {
    let sequence = sequence(header).ok_or(CodecError::Broken("AV1 sequence header cannot be read"))?;
    let (width, height) = checked_size(sequence.width, sequence.height)?;
    Ok(VideoConfig {
        codec: VideoCodec::Av1,
        record: record.unwrap_or_else(|| own_record(&sequence, header)),
        width,
        height,
        sample_aspect: (1, 1),
        frame_rate: sequence.frame_rate,
    })
}

/// Writes an AV1CodecConfigurationRecord (AV1 in ISOBMFF, 2.3.3); empty where the header's colours cannot be read, or where
/// the header is too long.
fn own_record(sequence: &Sequence, header: &[u8]) -> Bytes {
    let (Some(color), Ok(size)) = (sequence.color, u8::try_from(header.len())) else { return Bytes::new() };
    if size >= 0x80 {
        return Bytes::new();
    }
    let mut record = BytesMut::with_capacity(RECORD_HEAD + 2 + header.len());
    record.put_slice(&[0x81, sequence.profile << 5 | sequence.level]);
    let flags = [
        sequence.high_tier,
        color.bit_depth > 8,
        color.bit_depth == 12,
        color.monochrome,
        color.subsampling.0,
        color.subsampling.1,
    ];
    let flags = flags.into_iter().fold(0, |bits, flag| bits << 1 | u8::from(flag));
    record.put_slice(&[flags << 2 | color.sample_position, 0]);
    // obu_type 1 with its size.
    record.put_slice(&[0x0a, size]);
    record.put_slice(header);
    record.freeze()
}

/// The picture format that the record's sequence header gives.
pub fn picture_format(record: &[u8]) -> Option<PictureFormat> {
    let color = sequence(sequence_header(record)?)?.color?;
    let chroma = match (color.monochrome, color.subsampling) {
        (true, _) => 0,
        (false, (true, true)) => 1,
        (false, (true, false)) => 2,
        (false, (false, _)) => 3,
    };
    Some(PictureFormat { chroma, bit_depth: color.bit_depth, colour: color.colour })
}

/// The CODECS entry (AV1 in ISOBMFF, 5) `av01.P.LLT.DD`: profile, level and tier, bit depth. Its further fields follow
/// where the stream is not 4:2:0 in the colours of BT.709, which the short form means. `None` when the record's sequence
/// header cannot be read.
pub fn codecs_string(record: &[u8]) -> Option<String> {
    let sequence = sequence(sequence_header(record)?)?;
    let color = sequence.color?;
    let Colour { primaries, transfer, matrix, full_range } = color.colour;
    let tier = if sequence.high_tier { 'H' } else { 'M' };
    let short = format!("av01.{}.{:02}{tier}.{:02}", sequence.profile, sequence.level, color.bit_depth);
    let usual = [primaries, transfer, matrix].iter().all(|code| SHORT_FORM.contains(code));
    if usual && !full_range && !color.monochrome && color.subsampling == (true, true) {
        return Some(short);
    }
    let (x, y) = color.subsampling;
    let position = if x && y { color.sample_position } else { 0 };
    let [monochrome, x, y, full_range] = [color.monochrome, x, y, full_range].map(u8::from);
    Some(format!(
        "{short}.{monochrome}.{x}{y}{position}.{primaries:02}.{transfer:02}.{matrix:02}.{full_range}"
    ))
}

/// What a sequence header says.
#[derive(Debug, PartialEq, Eq)]
struct Sequence {
    /// seq_profile: 0 to 7.
    profile: u8,
    /// Of the first operating point: 0 to 31.
    level: u8,
    /// Of the first operating point.
    high_tier: bool,
    /// In pixels.
    width: u32,
    /// In pixels.
    height: u32,
    /// If the header gives a plausible constant one.
    frame_rate: Option<(u32, u32)>,
    /// `None` where the header ends before it.
    color: Option<ColorConfig>,
}

/// color_config() (5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ColorConfig {
    bit_depth: u8,
    monochrome: bool,
    /// Horizontal and vertical.
    subsampling: (bool, bool),
    /// chroma_sample_position: 0 to 3.
    sample_position: u8,
    colour: Colour,
}

/// Reads a sequence header (5.5.1). What stands behind the picture size is optional.
fn sequence(payload: &[u8]) -> Option<Sequence> {
    let mut bits = Bits::new(payload);
    let profile = bits.take(3)? as u8;
    // still_picture
    bits.flag()?;
    let mut frame_rate = None;
    let reduced = bits.flag()?;
    let (mut level, mut high_tier) = (0, false);
    if reduced {
        level = bits.take(5)? as u8;
    } else {
        let mut delay_bits = None;
        if bits.flag()? {
            frame_rate = timing_info(&mut bits)?;
            // decoder_model_info_present_flag
            if bits.flag()? {
                delay_bits = Some(bits.take(5)? + 1);
                bits.skip(32 + 5 + 5)?;
            }
        }
        let display_delay = bits.flag()?;
        for index in 0..=bits.take(5)? {
            let point = operating_point(&mut bits, delay_bits, display_delay)?;
            if index == 0 {
                (level, high_tier) = point;
            }
        }
    }
    let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
    let (width, height) = (bits.take(width_bits as usize)? + 1, bits.take(height_bits as usize)? + 1);
    let color = to_color_config(&mut bits, reduced).and_then(|()| color_config(&mut bits, profile));
    Some(Sequence { profile, level, high_tier, width, height, frame_rate, color })
}

/// Skips the coding tools, between the picture size and the colours.
fn to_color_config(bits: &mut Bits<'_>, reduced: bool) -> Option<()> {
    // frame_id_numbers_present_flag: lengths of frame ids
    if !reduced && bits.flag()? {
        bits.skip(4 + 3)?;
    }
    // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
    bits.skip(3)?;
    if !reduced {
        // enable_interintra_compound, enable_masked_compound, enable_warped_motion, enable_dual_filter
        bits.skip(4)?;
        let order_hint = bits.flag()?;
        if order_hint {
            // enable_jnt_comp, enable_ref_frame_mvs
            bits.skip(2)?;
        }
        // seq_choose_screen_content_tools, seq_force_screen_content_tools, seq_choose_integer_mv,
        // seq_force_integer_mv
        let screen_content = bits.flag()? || bits.flag()?;
        if screen_content && !bits.flag()? {
            bits.flag()?;
        }
        if order_hint {
            bits.skip(3)?;
        }
    }
    // enable_superres, enable_cdef, enable_restoration
    bits.skip(3)
}

fn color_config(bits: &mut Bits<'_>, profile: u8) -> Option<ColorConfig> {
    /// sRGB: BT.709 primaries, the transfer of IEC 61966-2-1, the identity matrix.
    const SRGB: (u8, u8, u8) = (1, 13, 0);
    let high = bits.flag()?;
    let twelve = profile == 2 && high && bits.flag()?;
    let bit_depth = match (high, twelve) {
        (_, true) => 12,
        (true, false) => 10,
        (false, false) => 8,
    };
    let monochrome = profile != 1 && bits.flag()?;
    let mut colour = Colour::UNSPECIFIED;
    if bits.flag()? {
        colour.primaries = bits.take(8)? as u8;
        colour.transfer = bits.take(8)? as u8;
        colour.matrix = bits.take(8)? as u8;
    }
    let mut color =
        ColorConfig { bit_depth, monochrome, subsampling: (true, true), sample_position: 0, colour };
    if !monochrome && (colour.primaries, colour.transfer, colour.matrix) == SRGB {
        color.colour.full_range = true;
        color.subsampling = (false, false);
        return Some(color);
    }
    color.colour.full_range = bits.flag()?;
    if monochrome {
        return Some(color);
    }
    color.subsampling = match profile {
        0 => (true, true),
        1 => (false, false),
        _ if bit_depth == 12 => {
            let x = bits.flag()?;
            (x, x && bits.flag()?)
        }
        _ => (true, false),
    };
    if color.subsampling == (true, true) {
        color.sample_position = bits.take(2)? as u8;
    }
    Some(color)
}

fn timing_info(bits: &mut Bits<'_>) -> Option<Option<(u32, u32)>> {
    let (ticks, scale) = (bits.take(32)?, bits.take(32)?);
    // equal_picture_interval
    if !bits.flag()? {
        return Some(None);
    }
    let per = u64::from(ticks) * (u64::from(bits.ue()?) + 1);
    Some(crate::plausible_rate(scale.into(), per))
}

/// Reads an operating point's level, and whether its tier is the high one.
fn operating_point(bits: &mut Bits<'_>, delay_bits: Option<u32>, display_delay: bool) -> Option<(u8, bool)> {
    // operating_point_idc
    bits.take(12)?;
    let level = bits.take(5)? as u8;
    let high_tier = level > 7 && bits.flag()?;
    if let Some(size) = delay_bits
        && bits.flag()?
    {
        bits.skip(2 * size + 1)?;
    }
    if display_delay && bits.flag()? {
        bits.take(4)?;
    }
    Some((level, high_tier))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes;

    /// 320x180, from SVT-AV1 by FFmpeg 9.
    const RECORD: &str = "81000c000a0b0200000561e7f66017c002";
    const KEY: &str = "12000a0b0200000561e7f66357cc0232da1a1400a17024db2a6d48603eaa7487bd9d463cf9968051";
    const INTER: &str = "1200329f192810004000003d108102081040bf78";

    /// The unit with the first frame's OBU cut to what is there.
    fn unit(hex: &str) -> Vec<u8> {
        let mut unit = bytes(hex).to_vec();
        let at = unit.iter().position(|byte| *byte == 0x32).unwrap();
        unit[at] &= !2;
        unit.drain(at + 1..at + 3);
        unit
    }

    #[test]
    fn the_configuration_says_what_ffprobe_says() {
        let config = read_config(&bytes(RECORD)).unwrap().unwrap();
        assert_eq!((config.codec, config.width, config.height), (VideoCodec::Av1, 320, 180));
        assert_eq!(
            read_config(&bytes("81000c00")).unwrap(),
            None,
            "the sequence header may come with the pictures"
        );
        assert!(read_config(&bytes("01000c00")).is_err());
        assert!(read_config(&bytes("81000c000a0b0200")).unwrap().is_none(), "a header that is cut short");
    }

    #[test]
    fn keyframes_bring_their_size() {
        let key = read_unit(&unit(KEY)).unwrap();
        assert!(key.key);
        assert_eq!(key.config.map(|config| (config.width, config.height)), Some((320, 180)));
        assert_eq!(read_unit(&unit(INTER)).unwrap(), TemporalUnit { key: false, config: None });
        assert_eq!(read_unit(&bytes("1200")), None, "a delimiter alone");
    }

    #[test]
    fn keyframes_without_a_record_bring_one() {
        let of_stream = read_unit(&unit(KEY)).unwrap().config.unwrap().record;
        assert_eq!(of_stream[..4], bytes(RECORD)[..4], "profile, level and format as FFmpeg writes them");
        assert_eq!(of_stream[4..], unit(KEY)[2..15], "the sequence header");
        assert_eq!(read_config(&of_stream).unwrap().unwrap().record, of_stream);
        assert_eq!(picture_format(&of_stream), picture_format(&bytes(RECORD)));
    }

    #[test]
    fn codecs_strings_have_the_colours_where_they_are_unusual() {
        // As FFmpeg 7's DASH muxer writes them: SVT-AV1 in 10 bits with the matrix of BT.2020.
        let wide = "81004c000a0e0200000521e7f66017c281010482";
        for (record, codecs) in [(RECORD, "av01.0.00M.08"), (wide, "av01.0.00M.10.0.110.02.02.09.0")] {
            assert_eq!(codecs_string(&bytes(record)).as_deref(), Some(codecs));
        }
        // libaom, 4:4:4.
        let full_chroma = "812000000a0a200000043cfeccdaf902";
        assert_eq!(codecs_string(&bytes(full_chroma)).as_deref(), Some("av01.1.00M.08.0.000.02.02.02.0"));
        assert_eq!(picture_format(&bytes(full_chroma)).map(|format| format.chroma), Some(3));
        assert_eq!(codecs_string(&bytes("81000c00")), None);
    }

    #[test]
    fn a_key_frame_that_is_shown_later_is_no_place_to_begin() {
        // frame_type 0 and show_frame 0; show_existing_frame 1.
        for first in ["00", "80", "90", "30"] {
            assert!(!read_unit(&bytes(&format!("3201{first}"))).unwrap().key, "{first}");
        }
        assert!(read_unit(&bytes("320110")).unwrap().key);
    }

    #[test]
    fn delimiters_are_left_out() {
        for (with, without) in [("12003201 10", "320110"), ("320110", "320110"), ("1200", "")] {
            assert_eq!(without_delimiters(&bytes(&with.replace(' ', ""))), bytes(without), "{with}");
        }
        assert_eq!(
            without_delimiters(&bytes("1200320110120032011032")),
            bytes("32011032011032"),
            "in between"
        );
    }

    #[test]
    fn timing_and_operating_points_are_read_over() {
        // (profile, still, reduced) 0; timing info: 1 tick, 30 a second, equal intervals, 1 tick a picture; no decoder
        // model; no display delay; one operating point of level 8 with its tier; 9 and 8 bits of size: 320x180.
        let bits = [
            "000",
            "0",
            "0",
            "1",
            &format!("{:032b}", 1),
            &format!("{:032b}", 30),
            "1",
            "1",
            "0",
            "0",
            "00000",
            "000000000000",
            "01000",
            "0",
            "1000",
            "0111",
            "100111111",
            "10110011",
        ]
        .concat();
        let padded = bits.len().next_multiple_of(8);
        let bits = format!("{bits:0<padded$}");
        let header: Vec<u8> = bits
            .as_bytes()
            .chunks(8)
            .map(|byte| byte.iter().fold(0, |v, bit| v << 1 | (bit - b'0')))
            .collect();
        let expected = Sequence {
            profile: 0,
            level: 8,
            high_tier: false,
            width: 320,
            height: 180,
            frame_rate: Some((30, 1)),
            color: None,
        };
        assert_eq!(sequence(&header), Some(expected));
    }
}
