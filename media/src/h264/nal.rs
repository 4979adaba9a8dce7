//! NAL units in an access unit, in the byte stream format (ITU-T H.264 annex B) and with length prefixes (ISO/IEC
//! 14496-15 5.3.2).
//!
//! h264-reader's `annexb` and `push` readers are not used here: they parse byte by byte through callbacks, for streams
//! that arrive in pieces, and the crate has no length-prefixed reader. An access unit is in memory as a whole, so
//! borrowed slices of that memory are enough.

use super::H264Error;
use crate::framing::NalFacts;
use bytes::{BufMut, Bytes, BytesMut};

/// NAL unit types (ITU-T H.264 table 7-1) that matter outside a decoder.
pub mod nal_type {
    /// Coded slices: 1 to 5.
    pub const SLICES: std::ops::RangeInclusive<u8> = 1..=5;
    /// Coded slice of an IDR picture.
    pub const IDR: u8 = 5;
    /// Supplemental enhancement information.
    pub const SEI: u8 = 6;
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const ACCESS_UNIT_DELIMITER: u8 = 9;
    /// Filler data.
    pub const FILLER: u8 = 12;

    /// The type of a NAL unit, from its first byte; `None` for an empty unit.
    pub fn of(nal: &[u8]) -> Option<u8> {
        nal.first().map(|header| header & 0x1f)
    }
}

/// Number of bytes in which a NAL unit's length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthSize {
    /// One byte.
    One,
    /// Two bytes.
    Two,
    /// Four bytes: all that this workspace writes.
    Four,
}

impl LengthSize {
    /// From lengthSizeMinusOne, the lowest two bits of a configuration record's fifth byte.
    pub(crate) fn from_record_byte(byte: u8) -> Result<Self, H264Error> {
        match byte & 3 {
            0 => Ok(Self::One),
            1 => Ok(Self::Two),
            3 => Ok(Self::Four),
            _ => Err(H264Error::LengthSize),
        }
    }

    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// The NAL units of an access unit with length prefixes; empty units come out too. After an error nothing follows.
#[derive(Clone, Debug)]
pub struct LengthPrefixedUnits<'a> {
    rest: &'a [u8],
    size: LengthSize,
}

/// Iterates over the NAL units of an access unit whose lengths have `size` bytes.
///
/// # Errors
/// An item is [`H264Error::UnitLengths`] when a length reaches beyond the end.
pub fn length_prefixed_units(unit: &[u8], size: LengthSize) -> LengthPrefixedUnits<'_> {
    LengthPrefixedUnits { rest: unit, size }
}

impl<'a> LengthPrefixedUnits<'a> {
    fn split(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (length, tail) = self.rest.split_at_checked(self.size.bytes())?;
        let length = length.iter().fold(0_usize, |length, &byte| length << 8 | usize::from(byte));
        tail.split_at_checked(length)
    }
}

impl<'a> Iterator for LengthPrefixedUnits<'a> {
    type Item = Result<&'a [u8], H264Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.split();
        self.rest = split.map_or(&[], |(_, rest)| rest);
        Some(split.map(|(nal, _)| nal).ok_or(H264Error::UnitLengths))
    }
}

/// Iterates over the NAL units of a byte stream, without start codes and trailing zeros. Empty units are left out.
pub fn annex_b_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = find_start_code(stream).map(|at| &stream[at + 3..]);
    std::iter::from_fn(move || {
        let data = rest?;
        let end = find_start_code(data);
        rest = end.map(|at| &data[at + 3..]);
        Some(&data[..end.unwrap_or(data.len())])
    })
    // trailing_zero_8bits, and the zero_byte of a following four-byte start code (B.1.1).
    .map(without_trailing_zeros)
    .filter(|unit| !unit.is_empty())
}

pub(crate) fn without_trailing_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Position of the next `00 00 01`.
pub(crate) fn find_start_code(data: &[u8]) -> Option<usize> {
    let mut at = 2;
    while at < data.len() {
        // Step by three bytes where possible: the third byte tells how far away the next start code must be.
        match data[at] {
            0 => at += 1,
            1 if data[at - 1] == 0 && data[at - 2] == 0 => return Some(at - 2),
            _ => at += 3,
        }
    }
    None
}

/// Writes NAL units as a byte stream, each after a four-byte start code.
pub fn annex_b<'a>(units: impl IntoIterator<Item = &'a [u8]>) -> Bytes {
    let mut out = BytesMut::new();
    for unit in units {
        out.put_slice(&[0, 0, 0, 1]);
        out.put_slice(unit);
    }
    out.freeze()
}

/// Writes NAL units with lengths of four bytes. Empty units are left out. The iterator runs twice, so that the result
/// takes no more memory than its length.
fn length_prefixed<'a>(units: impl Iterator<Item = &'a [u8]> + Clone) -> Bytes {
    let units = units.filter(|unit| !unit.is_empty());
    let mut out = BytesMut::with_capacity(units.clone().map(|unit| 4 + unit.len()).sum());
    for unit in units {
        out.put_u32(unit.len() as u32);
        out.put_slice(unit);
    }
    out.freeze()
}

/// Whether a NAL unit of a byte stream belongs in an `avc1` sample. Parameter sets are in the configuration record;
/// delimiters and filler have no use outside a byte stream (ISO/IEC 14496-15 5.3.2).
fn kept_in_samples(nal: &[u8]) -> bool {
    use nal_type::{ACCESS_UNIT_DELIMITER, FILLER, PPS, SPS};
    !matches!(nal_type::of(nal), None | Some(SPS | PPS | ACCESS_UNIT_DELIMITER | FILLER))
}

/// Converts an access unit from a byte stream to four-byte lengths, without parameter sets, delimiters and filler.
pub fn annex_b_to_length_prefixed(stream: &[u8]) -> Bytes {
    length_prefixed(annex_b_units(stream).filter(|unit| kept_in_samples(unit)))
}

/// Rewrites lengths of `size` bytes to four bytes. Empty NAL units are removed. The access unit grows to 2.5 times its
/// size at most (one-byte lengths and NAL units of one byte).
///
/// # Errors
/// [`H264Error::UnitLengths`] when a length reaches beyond the end.
pub fn relength(unit: &[u8], size: LengthSize) -> Result<Bytes, H264Error> {
    let units = length_prefixed_units(unit, size);
    units.clone().try_for_each(|unit| unit.map(drop))?;
    Ok(length_prefixed(units.filter_map(Result::ok)))
}

/// Whether a NAL unit has SEI messages.
pub(crate) fn is_sei(nal: &[u8]) -> bool {
    nal_type::of(nal) == Some(nal_type::SEI)
}

/// What a NAL unit is; `None` for an empty one.
pub fn facts(nal: &[u8]) -> Option<NalFacts> {
    use nal_type::{ACCESS_UNIT_DELIMITER, FILLER, IDR, PPS, SLICES, SPS};
    let kind = nal_type::of(nal)?;
    Some(NalFacts {
        slice: SLICES.contains(&kind),
        key: kind == IDR,
        parameter_set: matches!(kind, SPS | PPS),
        delimiter: matches!(kind, ACCESS_UNIT_DELIMITER | FILLER),
    })
}
