//! Parameter sets and the AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1.2): the only place that reads or
//! writes one (but for the box `avcC`, which `hls` fills with mp4-atom).
//!
//! Sequence parameter sets are parsed by h264-reader, and where it refuses one, their size by [`super::size`]. Records are
//! not read by `h264_reader::avcc`: its iterators index the first byte of a parameter set without a check, so a record that
//! ends with an empty set panics, and a set of another type hides the sets after it. Nor by mp4-atom's `Avcc`: it copies
//! every set, takes lengths of three bytes, and its writer cuts counts and lengths to their fields' width without an error.

use super::H264Error;
use super::nal::{LengthSize, annex_b_units, nal_type, without_trailing_zeros};
use super::size;
use crate::picture::PictureSize;
use crate::{Colour, PictureFormat, VideoCodec, VideoConfig, plausible_rate};
use bytes::{BufMut, Bytes, BytesMut};
use h264_reader::nal::sps::{SeqParameterSet, VuiParameters};
use h264_reader::rbsp::{BitReader, decode_nal};

/// Longest record accepted, in bytes: real records have 30 to 300.
pub const MAX_RECORD: usize = 16 << 10;
/// Longest sequence parameter set parsed, in bytes.
const MAX_SPS: usize = 1 << 10;
/// Maximum number of sequence and of picture parameter sets kept: the record counts sequence parameter sets in 5 bits.
const MAX_KEPT: usize = 31;
/// Accepted width and height in pixels.
pub const DIMENSIONS: std::ops::RangeInclusive<u32> = 16..=8192;
/// Offset of the level in a sequence parameter set NAL unit.
const LEVEL_AT: usize = 3;
/// Level 6.2: h264-reader refuses pictures larger than the level allows, while decoders decode them.
const HIGHEST_LEVEL: u8 = 62;

/// A configuration record, taken apart: the parameter sets are NAL units without lengths, in the record's order, at
/// least one of each kind. Their contents are not parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    whole: &'a [u8],
    /// Size of the length fields in the access units that the record describes.
    pub length_size: LengthSize,
    /// Sequence parameter sets: 1 to 31.
    pub sps: Vec<&'a [u8]>,
    /// Picture parameter sets: 1 to 255.
    pub pps: Vec<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// Reads the record's structure. What follows the picture parameter sets (chroma format, bit depths, extensions) is
    /// not read: many senders leave it out, and the sequence parameter sets say the same.
    ///
    /// # Errors
    /// See [`H264Error`]: all errors about records, and [`H264Error::NoParameterSets`].
    pub fn read(record: &'a [u8]) -> Result<Self, H264Error> {
        if record.len() > MAX_RECORD {
            return Err(H264Error::RecordTooLong);
        }
        let &[1, _profile, _compatibility, _level, lengths, sps_count, ..] = record else {
            return Err(H264Error::RecordVersion);
        };
        let length_size = LengthSize::from_record_byte(lengths)?;
        let mut rest = &record[6..];
        let sps = parameter_sets(sps_count & 0x1f, &mut rest)?;
        let (&pps_count, mut rest) = rest.split_first().ok_or(H264Error::RecordTruncated)?;
        let pps = parameter_sets(pps_count, &mut rest)?;
        if sps.is_empty() || pps.is_empty() {
            return Err(H264Error::NoParameterSets);
        }
        Ok(Self { whole: record, length_size, sps, pps })
    }

    /// The record for the same access units after [`super::relength`].
    pub fn with_four_byte_lengths(&self) -> Bytes {
        let mut own = BytesMut::from(self.whole);
        if let Some(lengths) = own.get_mut(4) {
            *lengths |= 3;
        }
        own.freeze()
    }

    /// All parameter sets, in the order in which a byte stream needs them.
    pub fn parameter_sets(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.sps.iter().chain(&self.pps).copied()
    }
}

fn parameter_sets<'a>(count: u8, rest: &mut &'a [u8]) -> Result<Vec<&'a [u8]>, H264Error> {
    let mut one = || {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (set, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        *rest = tail;
        Some(set)
    };
    (0..count).map(|_| one().ok_or(H264Error::RecordTruncated)).collect()
}

/// Reads a configuration record, or the parameter sets as a byte stream, which some senders put in its place. Returns the
/// configuration, with its record rewritten to four-byte lengths, and the size of the access units' length fields.
///
/// A sequence parameter set that cannot be parsed as a whole is read up to its picture size: some cameras write a VUI
/// that h264-reader refuses, while decoders decode the pictures. `fallback_size` (width and height in pixels) is taken
/// where even that fails.
///
/// # Errors
/// Those of [`Record::read`], and [`H264Error::ParameterSet`] or [`H264Error::PictureSize`] for the first sequence
/// parameter set.
pub fn read_config(
    record: &Bytes,
    fallback_size: Option<(u32, u32)>,
) -> Result<(VideoConfig, LengthSize), H264Error> {
    if record.starts_with(&[0, 0, 1]) || record.starts_with(&[0, 0, 0, 1]) {
        if record.len() > MAX_RECORD {
            return Err(H264Error::RecordTooLong);
        }
        let record = ParameterSets::of_annex_b(record).record()?;
        return read_config(&record, fallback_size);
    }
    let parts = Record::read(record)?;
    let first = parts.sps.first().ok_or(H264Error::NoParameterSets)?;
    let strict = parse_sps(first);
    let strict_size = strict.as_ref().ok().and_then(|sps| sps.pixel_dimensions().ok());
    let (width, height) = strict_size
        .or_else(|| size::read(first).map(|size| size.shown))
        .or(fallback_size)
        .ok_or(H264Error::ParameterSet)?;
    if !DIMENSIONS.contains(&width) || !DIMENSIONS.contains(&height) {
        return Err(H264Error::PictureSize { width, height });
    }
    let vui = strict.as_ref().ok().and_then(|sps| sps.vui_parameters.as_ref());
    let config = VideoConfig {
        codec: VideoCodec::H264,
        record: parts.with_four_byte_lengths(),
        width: width as u16,
        height: height as u16,
        sample_aspect: vui.and_then(sample_aspect).unwrap_or((1, 1)),
        frame_rate: vui.and_then(frame_rate),
    };
    Ok((config, parts.length_size))
}

/// Whether two records configure a decoder in the same way: they have the same parameter sets. Some senders repeat their
/// configuration with other bytes elsewhere.
pub fn same_parameter_sets(one: &[u8], other: &[u8]) -> bool {
    match (Record::read(one), Record::read(other)) {
        (Ok(one), Ok(other)) => one
            .parameter_sets()
            .map(without_trailing_zeros)
            .eq(other.parameter_sets().map(without_trailing_zeros)),
        _ => one == other,
    }
}

/// The picture format that the record's first sequence parameter set gives; `None` where that set cannot be parsed as a
/// whole.
pub fn picture_format(record: &[u8]) -> Option<PictureFormat> {
    let record = Record::read(record).ok()?;
    let sps = parse_sps(record.sps.first()?).ok()?;
    let signal = sps.vui_parameters.as_ref().and_then(|vui| vui.video_signal_type.as_ref());
    let colour = signal.map_or(Colour::UNSPECIFIED, |signal| {
        let full_range = signal.video_full_range_flag;
        let given = signal.colour_description.as_ref().map(|given| Colour {
            primaries: given.colour_primaries,
            transfer: given.transfer_characteristics,
            matrix: given.matrix_coefficients,
            full_range,
        });
        given.unwrap_or(Colour { full_range, ..Colour::UNSPECIFIED })
    });
    let chroma = u8::try_from(sps.chroma_info.chroma_format.to_u32()).ok()?;
    let bit_depth = sps.chroma_info.bit_depth_luma_minus8.checked_add(8)?;
    Some(PictureFormat { chroma, bit_depth, colour })
}

/// Parses a sequence parameter set. h264-reader's allocations are bounded by the set's own counts (at most 255 and 32
/// entries), and it returns errors.
fn parse_sps(nal: &[u8]) -> Result<SeqParameterSet, H264Error> {
    const BROKEN: H264Error = H264Error::ParameterSet;
    if nal.len() > MAX_SPS || nal_type::of(nal) != Some(nal_type::SPS) {
        return Err(BROKEN);
    }
    // Some encoders pad with zeros after the stop bit, which the crate takes for more data.
    let mut nal = without_trailing_zeros(nal).to_vec();
    *nal.get_mut(LEVEL_AT).ok_or(BROKEN)? = HIGHEST_LEVEL;
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
    plausible_rate(timing.time_scale.into(), 2 * u64::from(timing.num_units_in_tick))
}

/// Parameter sets collected from access units or a byte stream, at most 31 of each kind, from which records are
/// written.
#[derive(Clone, Debug, Default)]
pub struct ParameterSets {
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
}

impl ParameterSets {
    /// The parameter sets of a byte stream.
    pub fn of_annex_b(stream: &[u8]) -> Self {
        let mut sets = Self::default();
        for nal in annex_b_units(stream) {
            sets.keep(nal);
        }
        sets
    }

    /// Keeps a copy of a parameter set, which replaces a set with the same id. Returns whether that changed anything.
    /// Other NAL units are ignored, as are sets too short for their id, sets too long for a record's 16-bit length, and
    /// further sets when 31 of the kind are kept.
    pub fn keep(&mut self, nal: &[u8]) -> bool {
        if nal.len() > usize::from(u16::MAX) {
            return false;
        }
        // seq_parameter_set_id follows profile, constraints and level (7.3.2.1.1).
        let (sets, id_at) = match nal_type::of(nal) {
            Some(nal_type::SPS) if nal.len() >= 5 => (&mut self.sps, 4),
            Some(nal_type::PPS) if nal.len() >= 2 => (&mut self.pps, 1),
            _ => return false,
        };
        let id = exp_golomb(&nal[id_at..]);
        match sets.iter().position(|kept| exp_golomb(&kept[id_at..]) == id) {
            Some(at) if sets[at] == nal => false,
            Some(at) => {
                sets[at] = Bytes::copy_from_slice(nal);
                true
            }
            None if sets.len() < MAX_KEPT => {
                sets.push(Bytes::copy_from_slice(nal));
                true
            }
            None => false,
        }
    }

    /// Writes the record for access units with four-byte lengths.
    ///
    /// # Errors
    /// [`H264Error::NoParameterSets`] until a set of each kind is kept.
    pub fn record(&self) -> Result<Bytes, H264Error> {
        let (Some(first), false) = (self.sps.first(), self.pps.is_empty()) else {
            return Err(H264Error::NoParameterSets);
        };
        let mut record = BytesMut::new();
        // Version 1; profile, compatibility and level copied from the sequence parameter set; six reserved bits and
        // lengthSizeMinusOne = 3.
        record.put_u8(1);
        record.put_slice(&first[1..4]);
        record.put_u8(0xff);
        record.put_u8(0xe0 | self.sps.len() as u8);
        put_sets(&mut record, &self.sps);
        record.put_u8(self.pps.len() as u8);
        put_sets(&mut record, &self.pps);
        put_chroma(&mut record, first);
        Ok(record.freeze())
    }
}

fn put_sets(record: &mut BytesMut, sets: &[Bytes]) {
    for set in sets {
        record.put_u16(set.len() as u16);
        record.put_slice(set);
    }
}

/// For profiles other than Baseline, Main and Extended the record repeats the chroma format and the bit depths of the
/// sequence parameter set, each after reserved one bits. They are left out where the set cannot be parsed.
fn put_chroma(record: &mut BytesMut, sps: &[u8]) {
    if !matches!(sps[1], 66 | 77 | 88)
        && let Ok(parsed) = parse_sps(sps)
    {
        record.put_u8(0xfc | parsed.chroma_info.chroma_format.to_u32() as u8);
        record.put_u8(0xf8 | parsed.chroma_info.bit_depth_luma_minus8);
        record.put_u8(0xf8 | parsed.chroma_info.bit_depth_chroma_minus8);
        // numOfSequenceParameterSetExt
        record.put_u8(0);
    }
}

/// Reads ue(v) at the start of `bytes` (9.1), with the range that parameter set ids need: `None` above 16 leading
/// zeros.
pub(super) fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let bits = bytes.iter().take(5).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << 24;
    let bits = bits << (8 * 5_usize.saturating_sub(bytes.len()));
    let zeros = bits.leading_zeros();
    (zeros <= 16).then(|| ((bits << zeros) >> (63 - zeros)) as u32 - 1)
}

/// Builds the configuration from the parameter sets of an access unit; `None` unless both kinds are present and
/// readable. `fallback_size` as in [`read_config`].
pub fn in_band_config(sets: &[Bytes], fallback_size: Option<(u32, u32)>) -> Option<VideoConfig> {
    let mut kept = ParameterSets::default();
    for set in sets {
        kept.keep(set);
    }
    let (config, _) = read_config(&kept.record().ok()?, fallback_size).ok()?;
    Some(config)
}

/// The size in pixels of the largest coded picture that the sequence parameter sets among these NAL units announce,
/// before cropping: a decoder allocates such pictures. 0 where none can be read.
pub fn largest_picture<'a>(sets: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    sets.into_iter().filter_map(size::read).map(PictureSize::coded_pixels).max().unwrap_or(0)
}

/// The CODECS entry (RFC 6381) `avc1.PPCCLL`: profile, constraint flags and level from bytes 1 to 3 of the record.
/// `None` when the record is too short.
pub fn codecs_string(record: &[u8]) -> Option<String> {
    let [profile, compatibility, level] = record.get(1..4)?.try_into().ok()?;
    Some(format!("avc1.{profile:02x}{compatibility:02x}{level:02x}"))
}
