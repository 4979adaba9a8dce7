//! HEVC (ITU-T H.265, ISO/IEC 14496-15 8.3.3): the HEVCDecoderConfigurationRecord, read and written, what sequence
//! parameter sets say, and which access units are keyframes.
//!
//! What belongs here: what several crates need to know about the codec. Framing of NAL units is the same as in H.264 and
//! is in [`crate::framing`]. What does not: containers, timestamps, decoding; nothing here reads a slice's payload.

mod sps;

use self::sps::Sps;
use crate::bits::without_emulation_prevention;
use crate::error::{CodecError, checked_size};
use crate::framing::NalFacts;
use crate::h264::{LengthSize, annex_b_units};
use crate::picture::PictureSize;
use crate::{Colour, PictureFormat, VideoCodec, VideoConfig};
use bytes::{BufMut, Bytes, BytesMut};

/// Longest record accepted, in bytes.
pub const MAX_RECORD: usize = 16 << 10;
/// Longest sequence parameter set read, in bytes.
const MAX_SPS: usize = 1 << 10;
/// Maximum number of parameter sets kept of each kind (VPS and SPS ids have four bits).
const MAX_KEPT: usize = 16;
/// Bytes of a record before its arrays.
const RECORD_HEAD: usize = 23;

/// NAL unit types (ITU-T H.265 table 7-1) that matter outside a decoder.
mod nal_type {
    pub(super) const SLICES: std::ops::RangeInclusive<u8> = 0..=31;
    /// Random access points: BLA, IDR, CRA and the reserved types behind them.
    pub(super) const RANDOM_ACCESS: std::ops::RangeInclusive<u8> = 16..=23;
    pub(super) const VPS: u8 = 32;
    pub(super) const SPS: u8 = 33;
    pub(super) const PPS: u8 = 34;
    pub(super) const ACCESS_UNIT_DELIMITER: u8 = 35;
    pub(super) const FILLER: u8 = 38;
    pub(super) const PREFIX_SEI: u8 = 39;

    pub(super) fn of(nal: &[u8]) -> Option<u8> {
        (nal.len() >= 2).then(|| nal[0] >> 1 & 0x3f)
    }
}

/// What a NAL unit is; `None` if it is too short for its header.
pub fn facts(nal: &[u8]) -> Option<NalFacts> {
    let kind = nal_type::of(nal)?;
    Some(NalFacts {
        slice: nal_type::SLICES.contains(&kind),
        key: nal_type::RANDOM_ACCESS.contains(&kind),
        parameter_set: matches!(kind, nal_type::VPS | nal_type::SPS | nal_type::PPS),
        delimiter: matches!(kind, nal_type::ACCESS_UNIT_DELIMITER | nal_type::FILLER),
    })
}

/// Header of a NAL unit with SEI messages for the picture that follows: the base layer, the lowest temporal layer.
pub(crate) const PREFIX_SEI_HEADER: [u8; 2] = [nal_type::PREFIX_SEI << 1, 1];

/// Whether a NAL unit has SEI messages for the picture that follows.
pub(crate) fn is_prefix_sei(nal: &[u8]) -> bool {
    nal_type::of(nal) == Some(nal_type::PREFIX_SEI)
}

/// Reads a configuration record, or the parameter sets as a byte stream, which some senders put in its place. Returns the
/// configuration, with its record rewritten to four-byte lengths, and the size of the access units' length fields.
/// `fallback_size` (width and height in pixels) is taken where no sequence parameter set can be read.
///
/// # Errors
/// [`CodecError`].
pub fn read_config(
    record: &Bytes,
    fallback_size: Option<(u32, u32)>,
) -> Result<(VideoConfig, LengthSize), CodecError> {
    if record.len() > MAX_RECORD {
        return Err(CodecError::Broken("HEVC configuration is too long"));
    }
    if record.starts_with(&[0, 0, 1]) || record.starts_with(&[0, 0, 0, 1]) {
        let mut sets = ParameterSets::default();
        annex_b_units(record).for_each(|nal| sets.keep(nal));
        let record = sets.record().ok_or(CodecError::Broken("HEVC configuration without parameter sets"))?;
        return Ok((config(record, &sets.sps, fallback_size)?, LengthSize::Four));
    }
    let sets = sets_of(record).ok_or(CodecError::Broken("HEVC configuration cannot be read"))?;
    let length_size = LengthSize::from_record_byte(record[21])
        .map_err(|_| CodecError::Broken("HEVC configuration with lengths of three bytes"))?;
    if sets.sps.is_empty() {
        return Err(CodecError::Broken("HEVC configuration without parameter sets"));
    }
    let mut own = BytesMut::from(&record[..]);
    own[21] |= 3;
    Ok((config(own.freeze(), &sets.sps, fallback_size)?, length_size))
}

fn config(
    record: Bytes,
    sps: &[Bytes],
    fallback_size: Option<(u32, u32)>,
) -> Result<VideoConfig, CodecError> {
    let sps = sps.iter().find_map(|sps| sps::read(sps));
    let shown = sps.map(|sps| sps.size.shown).or(fallback_size);
    let (width, height) = shown.ok_or(CodecError::Broken("HEVC picture size cannot be read"))?;
    let (width, height) = checked_size(width, height)?;
    Ok(VideoConfig {
        codec: VideoCodec::Hevc,
        record,
        width,
        height,
        sample_aspect: sps.and_then(|sps| sps.sample_aspect).unwrap_or((1, 1)),
        frame_rate: sps.and_then(|sps| sps.frame_rate),
    })
}

fn sets_of(record: &[u8]) -> Option<ParameterSets> {
    let arrays = *record.get(RECORD_HEAD - 1)?;
    if record[0] > 1 {
        return None;
    }
    let mut rest = &record[RECORD_HEAD..];
    let mut sets = ParameterSets::default();
    for _ in 0..arrays {
        let (&[_kind, a, b], mut tail) = rest.split_first_chunk::<3>()?;
        for _ in 0..u16::from_be_bytes([a, b]) {
            let (length, behind) = tail.split_first_chunk::<2>()?;
            let (nal, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            sets.keep(nal);
            tail = behind;
        }
        rest = tail;
    }
    Some(sets)
}

/// Whether two records have the same parameter sets, so that they configure a decoder in the same way.
pub fn same_parameter_sets(one: &[u8], other: &[u8]) -> bool {
    match (sets_of(one), sets_of(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// The size in pixels of the largest coded picture that the sequence parameter sets among these NAL units announce,
/// before cropping: a decoder allocates such pictures. 0 where none can be read.
pub fn largest_picture<'a>(sets: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    sets.into_iter().filter_map(size_of).map(PictureSize::coded_pixels).max().unwrap_or(0)
}

/// The size of the largest picture that a configuration record announces, as [`largest_picture`].
pub fn largest_picture_of_record(record: &[u8]) -> u64 {
    let sets = sets_of(record).map(|sets| sets.sps).unwrap_or_default();
    largest_picture(sets.iter().map(|set| &set[..]))
}

fn size_of(nal: &[u8]) -> Option<PictureSize> {
    sps::read(nal).map(|sps| sps.size)
}

/// The picture format that the record's first readable sequence parameter set gives.
pub fn picture_format(record: &[u8]) -> Option<PictureFormat> {
    sets_of(record)?.sps.iter().find_map(|set| sps::read(set))?.format
}

/// The CODECS entry (RFC 6381; ISO/IEC 14496-15 annex E.3) `hvc1.…`: profile, compatibility, tier and level, and the
/// constraint bytes up to the last one that is not zero. `None` when the record is too short.
pub fn codecs_string(record: &[u8]) -> Option<String> {
    let &[_, profile, a, b, c, d, ref constraints @ .., level] = record.get(..13)? else { return None };
    let space = ["", "A", "B", "C"][usize::from(profile >> 6)];
    let tier = if profile & 0x20 == 0 { 'L' } else { 'H' };
    let compatibility = u32::from_be_bytes([a, b, c, d]).reverse_bits();
    let mut codecs = format!("hvc1.{space}{}.{compatibility:X}.{tier}{level}", profile & 0x1f);
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..used] {
        codecs.push_str(&format!(".{byte:X}"));
    }
    Some(codecs)
}

/// Builds the configuration from the parameter sets of access units; `None` unless all kinds are present and readable.
/// `fallback_size` as in [`read_config`].
pub fn in_band_config(sets: &[Bytes], fallback_size: Option<(u32, u32)>) -> Option<VideoConfig> {
    let mut kept = ParameterSets::default();
    sets.iter().for_each(|set| kept.keep(set));
    config(kept.record()?, &kept.sps, fallback_size).ok()
}

/// Parameter sets from which a record is written.
#[derive(Default, PartialEq)]
struct ParameterSets {
    vps: Vec<Bytes>,
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
}

impl ParameterSets {
    /// Keeps a copy of a parameter set; ignores other NAL units, repeated sets, and sets beyond the bounds.
    fn keep(&mut self, nal: &[u8]) {
        let sets = match nal_type::of(nal) {
            Some(nal_type::VPS) => &mut self.vps,
            Some(nal_type::SPS) => &mut self.sps,
            Some(nal_type::PPS) => &mut self.pps,
            Some(_) | None => return,
        };
        if sets.len() < MAX_KEPT && nal.len() <= MAX_RECORD && !sets.iter().any(|kept| kept == nal) {
            sets.push(Bytes::copy_from_slice(nal));
        }
    }

    /// The record for access units with four-byte lengths; `None` while a kind is missing. Profile, level, chroma format
    /// and bit depth are copied from the sequence parameter set; the fields that only describe the stream are left at
    /// "unknown".
    fn record(&self) -> Option<Bytes> {
        const USUAL: PictureFormat = PictureFormat { chroma: 1, bit_depth: 8, colour: Colour::UNSPECIFIED };
        let sps = self.sps.first()?;
        let PictureFormat { chroma, bit_depth, .. } =
            sps::read(sps).and_then(|Sps { format, .. }| format).unwrap_or(USUAL);
        if self.vps.is_empty() || self.pps.is_empty() {
            return None;
        }
        let payload = without_emulation_prevention(sps.get(2..)?);
        let mut record = BytesMut::new();
        record.put_u8(1);
        // profile_tier_level begins at the second byte: eleven bytes of profile, one of level.
        record.put_slice(payload.get(1..13)?);
        record.put_slice(&[
            0xf0,
            0,
            0xfc,
            0xfc | chroma,
            0xf8 | (bit_depth - 8),
            0xf8 | (bit_depth - 8),
            0,
            0,
        ]);
        // One temporal layer, lengths of four bytes; three arrays.
        record.put_slice(&[0b0000_1111, 3]);
        for (kind, sets) in
            [(nal_type::VPS, &self.vps), (nal_type::SPS, &self.sps), (nal_type::PPS, &self.pps)]
        {
            record.put_u8(0x80 | kind);
            record.put_u16(sets.len() as u16);
            for set in sets {
                record.put_u16(set.len() as u16);
                record.put_slice(set);
            }
        }
        Some(record.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing;
    use crate::testing::bytes;

    /// 320x180, from libx265 by FFmpeg 9, without its SEI.
    const RECORD: &str =
        "0101600000009000000000003cf000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003003c95
        9809210001002b42010101600000030090000003000003003ca00a080b9f796566924caf0168080000030008000003\
        00c84022000100074401c172b46240";

    fn record() -> Bytes {
        bytes(RECORD)
    }

    #[test]
    fn the_configuration_says_what_ffprobe_says() {
        let (config, size) = read_config(&record(), None).unwrap();
        assert_eq!((config.codec, config.width, config.height), (VideoCodec::Hevc, 320, 180));
        assert_eq!((config.record, size), (record(), LengthSize::Four));
        assert_eq!(largest_picture_of_record(&record()), 320 * 184, "as coded: whole blocks of eight");
    }

    #[test]
    fn codecs_strings_are_those_of_the_standard() {
        assert_eq!(codecs_string(&record()).unwrap(), "hvc1.1.6.L60.90");
        // The example of ISO/IEC 14496-15 annex E.3, and one with a profile space, the high tier and two constraints.
        for (head, codecs) in [
            ("0101600000 00b00000000000 5d f0", "hvc1.1.6.L93.B0"),
            ("01 62 20000000 b0 00 08 00 00 00 99 f0", "hvc1.A2.4.H153.B0.0.8"),
            ("01 01 60000000 00 00 00 00 00 00 5d f0", "hvc1.1.6.L93"),
        ] {
            assert_eq!(codecs_string(&bytes(&head.replace(' ', ""))).as_deref(), Some(codecs), "{head}");
        }
        assert_eq!(codecs_string(&record()[..12]), None);
    }

    /// 320x180 in PQ at 30 frames a second, sample aspect ratio 16:11, 4:2:0 in 10 bits; HLG at 30000/1001, full range,
    /// 4:2:2 in 10 bits, five reference pictures; both from libx265 by FFmpeg 7.
    const PQ: &str =
        "0102200000009000000000003cf000fcfdfafa00000f03a00001001840010c01ffff02200000030090000003000003003c95
        9809a10001002d42010102200000030090000003000003003ca00a080b9f6d96566924e57823509100904000000300400000\
        0782a2000100074401c172b46240";
    const HLG: &str =
        "0104080000009d08000000003cf000fcfefafa00000f03a00001001840010c01ffff0408000003009d0800000300003c9988
        0240a10001002c4201010408000003009d0800000300003cb00a080b9f2b659988924caf016e1224120800001f480003a980\
        40a2000100074401c172b46240";

    #[test]
    fn formats_and_rates_are_those_that_ffprobe_reads() {
        let config = |record: &str| read_config(&bytes(record), None).unwrap().0;
        let bt2020 = |transfer, full_range| Colour { primaries: 9, transfer, matrix: 9, full_range };
        for (record, codecs, format, rate, aspect) in [
            (RECORD, "hvc1.1.6.L60.90", (1, 8, Colour::UNSPECIFIED), (25, 1), (1, 1)),
            (PQ, "hvc1.2.4.L60.90", (1, 10, bt2020(16, false)), (30, 1), (16, 11)),
            (HLG, "hvc1.4.10.L60.9D.8", (2, 10, bt2020(18, true)), (30_000, 1001), (1, 1)),
        ] {
            let config = config(record);
            let (chroma, bit_depth, colour) = format;
            assert_eq!(
                config.picture_format(),
                Some(PictureFormat { chroma, bit_depth, colour }),
                "{codecs}"
            );
            assert_eq!((config.frame_rate, config.sample_aspect), (Some(rate), aspect), "{codecs}");
            assert_eq!(codecs_string(&config.record).as_deref(), Some(codecs));
        }
    }

    #[test]
    fn a_set_that_breaks_off_behind_its_size_still_has_its_size() {
        let sps = sets_of(&bytes(HLG)).unwrap().sps.remove(0);
        let whole = sps::read(&sps).unwrap();
        for length in 0..sps.len() {
            let Some(cut) = sps::read(&sps[..length]) else { continue };
            assert_eq!(cut.size, whole.size, "{length}");
        }
        let first = (0..sps.len()).find(|length| sps::read(&sps[..*length]).is_some()).unwrap();
        assert!(first < sps.len() - 10, "{first}");
    }

    #[test]
    fn the_record_made_from_parameter_sets_has_their_format() {
        let ParameterSets { vps, sps, pps } = sets_of(&bytes(HLG)).unwrap();
        let made = in_band_config(&[vps, sps, pps].concat(), None).unwrap().record;
        assert_eq!(made[16..19], bytes(HLG)[16..19], "chroma format and bit depths");
    }

    #[test]
    fn lengths_in_the_record_become_four_bytes() {
        let mut short = record().to_vec();
        short[21] = short[21] & !3 | 1;
        let (config, size) = read_config(&short.into(), None).unwrap();
        assert_eq!((config.record, size), (record(), LengthSize::Two));
    }

    #[test]
    fn a_record_is_made_from_parameter_sets() {
        let sets = sets_of(&record()).unwrap();
        let all: Vec<Bytes> = [sets.vps, sets.sps, sets.pps].concat();
        let config = in_band_config(&all, None).unwrap();
        assert_eq!((config.width, config.height), (320, 180));
        assert!(same_parameter_sets(&config.record, &record()));
        assert_eq!(config.record[1..13], record()[1..13], "profile and level");
        assert_eq!(in_band_config(&all[1..], None), None, "without a VPS");
        let stream = crate::h264::annex_b(all.iter().map(|set| &set[..]));
        assert_eq!(read_config(&stream, None).unwrap().0, config, "as a byte stream");
    }

    #[test]
    fn keyframes_are_random_access_points() {
        // IDR_W_RADL, CRA, a trailing picture; parameter sets in front.
        for (head, key) in [([0x26, 1], true), ([0x2a, 1], true), ([0x02, 1], false)] {
            let payload = [&[0, 0, 0, 3, 0x40, 1, 7, 0, 0, 0, 4][..], &head, &[9, 9]].concat();
            let unit = framing::read_unit(&payload.into(), Some(LengthSize::Four), facts).unwrap();
            assert_eq!((unit.key, unit.has_picture, unit.sets.len()), (key, true, 1), "{head:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let cut = |len: usize| read_config(&record().slice(..len), None);
        assert!((0..record().len()).all(|len| cut(len).is_err()));
        let mut no_size = record().to_vec();
        // The sequence parameter set's identifier becomes an endless code.
        let sps = 23 + 5 + 24 + 5;
        no_size[sps + 2..sps + 43].fill(0);
        let no_size = Bytes::from(no_size);
        assert!(matches!(read_config(&no_size, None), Err(CodecError::Broken(_))));
        assert_eq!(read_config(&no_size, Some((640, 360))).unwrap().0.width, 640, "onMetaData knows");
    }
}
