//! NAL units of an access unit, however a sender has framed them: one lenient reader for H.264 and HEVC.
//!
//! What belongs here: lengths of one, two or four bytes, start codes (ITU-T H.264 annex B), start codes within a length,
//! and zeros behind a unit. What does not: what a unit means; that is a question to the caller ([`NalFacts`]).
//!
//! A NAL unit never contains a start code (7.4.1), so splitting at start codes cuts no unit in two.

use crate::h264::{LengthSize, annex_b_units, length_prefixed_units};
use bytes::{BufMut, Bytes, BytesMut};

/// Maximum number of NAL units in an access unit; real ones have up to some hundreds, one for each slice.
const MAX_UNITS: usize = 4096;
/// Maximum number of parameter sets that [`read_unit`] returns: real access units have two or three.
const MAX_SETS: usize = 16;

/// What a NAL unit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NalFacts {
    /// A coded slice.
    pub slice: bool,
    /// A coded slice of a picture where decoding can start.
    pub key: bool,
    /// A parameter set.
    pub parameter_set: bool,
    /// A delimiter or filler: of no use outside a byte stream (ISO/IEC 14496-15 5.3.2).
    pub delimiter: bool,
}

/// An access unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodedUnit {
    /// Whether decoding can start here: an IDR slice in H.264, a random access point in HEVC. In H.264 the I picture with
    /// a recovery point that begins an open GOP does not count, because later pictures may refer to pictures before it.
    pub key: bool,
    /// Whether there is a slice; without one, the access unit has parameter sets alone.
    pub has_picture: bool,
    /// NAL units, each preceded by its length in four bytes.
    pub data: Bytes,
    /// The first sixteen parameter sets in the access unit, of all kinds.
    pub sets: Vec<Bytes>,
}

/// Reads an access unit whose NAL unit lengths should have `size` bytes (`None`: not known), and writes lengths of four
/// bytes. What else senders do is read too: start codes in place of lengths or within a length, zeros behind a unit, a
/// last unit that is cut short, which is left out. An access unit that is as it should be is not copied.
///
/// `facts` tells what a NAL unit is; `None` for one that is too short, which is left out.
///
/// `None` without a slice and without a parameter set.
pub fn read_unit(
    payload: &Bytes,
    size: Option<LengthSize>,
    facts: impl Fn(&[u8]) -> Option<NalFacts>,
) -> Option<CodedUnit> {
    let Split { units, plain } = split(payload, size)?;
    let mut unit = CodedUnit { key: false, has_picture: false, data: Bytes::new(), sets: Vec::new() };
    let mut kept = Vec::with_capacity(units.len());
    let mut as_is = plain && size == Some(LengthSize::Four);
    for nal in units {
        let Some(NalFacts { slice, key, parameter_set, delimiter }) = facts(nal) else {
            as_is = false;
            continue;
        };
        unit.has_picture |= slice;
        unit.key |= key;
        if parameter_set && unit.sets.len() < MAX_SETS {
            unit.sets.push(payload.slice_ref(nal));
        }
        if plain || !delimiter {
            kept.push(nal);
        }
    }
    if !unit.has_picture && unit.sets.is_empty() {
        return None;
    }
    unit.data = if as_is { payload.clone() } else { length_prefixed(&kept) };
    Some(unit)
}

struct Split<'a> {
    /// None is empty.
    units: Vec<&'a [u8]>,
    /// The units are exactly those that the lengths give, and each unit has a byte at least.
    plain: bool,
}

fn split(payload: &[u8], size: Option<LengthSize>) -> Option<Split<'_>> {
    let by_length = by_lengths(payload, size.unwrap_or(LengthSize::Four));
    let cut_short = match by_length {
        Ok(split) => return Some(split_inside(split)),
        Err(cut_short) => cut_short,
    };
    if begins_with_start_code(payload) {
        return Some(Split { units: annex_b_units(payload).take(MAX_UNITS).collect(), plain: false });
    }
    // Some senders write another length than their configuration says.
    let others = [LengthSize::Four, LengthSize::Two].into_iter().filter(|other| Some(*other) != size);
    if let Some(split) = others.filter_map(|other| by_lengths(payload, other).ok()).find(looks_right) {
        return Some(Split { plain: false, ..split_inside(split) });
    }
    (!cut_short.is_empty()).then(|| split_inside(Split { units: cut_short, plain: false }))
}

/// The units by their lengths; zeros behind the last unit are taken for padding. The error has the units before the first
/// one that reaches beyond the end.
fn by_lengths(payload: &[u8], size: LengthSize) -> Result<Split<'_>, Vec<&[u8]>> {
    let mut units = Vec::new();
    let (mut plain, mut taken) = (true, 0);
    for unit in length_prefixed_units(payload, size).take(MAX_UNITS) {
        let Ok(unit) = unit else {
            let is_padding = payload[taken..].iter().all(|&byte| byte == 0);
            return if is_padding && !units.is_empty() {
                Ok(Split { units, plain: false })
            } else {
                Err(units)
            };
        };
        taken += size.bytes() + unit.len();
        if unit.is_empty() {
            plain = false;
        } else {
            units.push(unit);
        }
    }
    Ok(Split { units, plain })
}

/// Splits units at start codes within their lengths, and cuts zeros behind them.
fn split_inside(split: Split<'_>) -> Split<'_> {
    let is_whole = |unit: &&[u8]| unit.last() != Some(&0) && !has_start_code(unit);
    if split.units.iter().all(is_whole) {
        return split;
    }
    let mut units = Vec::with_capacity(split.units.len() + 1);
    for unit in split.units {
        let behind = crate::h264::find_start_code(unit);
        let first = crate::h264::without_trailing_zeros(behind.map_or(unit, |at| &unit[..at]));
        units.extend(Some(first).filter(|unit| !unit.is_empty()));
        units.extend(behind.into_iter().flat_map(|at| annex_b_units(&unit[at..])));
    }
    units.truncate(MAX_UNITS);
    Split { units, plain: false }
}

/// The highest bit of a NAL unit is always zero, in both codecs.
fn looks_right(split: &Split<'_>) -> bool {
    split.units.iter().all(|unit| unit[0] & 0x80 == 0)
}

fn has_start_code(unit: &[u8]) -> bool {
    crate::h264::find_start_code(unit).is_some()
}

fn begins_with_start_code(payload: &[u8]) -> bool {
    crate::h264::find_start_code(payload).is_some_and(|at| payload[..at].iter().all(|&byte| byte == 0))
}

fn length_prefixed(units: &[&[u8]]) -> Bytes {
    let mut out = BytesMut::with_capacity(units.iter().map(|unit| 4 + unit.len()).sum());
    for unit in units {
        out.put_u32(unit.len() as u32);
        out.put_slice(unit);
    }
    out.freeze()
}

#[cfg(test)]
mod tests;
