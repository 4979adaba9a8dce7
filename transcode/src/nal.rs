//! Converts H.264 between the byte stream format (Annex B of ITU-T H.264) and length-prefixed NAL units with an
//! AVCDecoderConfigurationRecord (ISO/IEC 14496-15 5.3.3.1). Framing only: nothing here reads a slice.

use bytes::{BufMut, Bytes, BytesMut};

/// NAL unit types (ITU-T H.264 table 7-1) that framing has to know.
const SEQUENCE_PARAMETER_SET: u8 = 7;
const PICTURE_PARAMETER_SET: u8 = 8;
const ACCESS_UNIT_DELIMITER: u8 = 9;

/// What is wrong with a configuration record or an access unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NalError {
    /// A sequence or picture parameter set is missing where one is needed.
    #[error("a parameter set is missing")]
    NoParameterSets,
    /// A parameter set is longer than its 16-bit length field can state, or there are more sets than the count field
    /// can state.
    #[error("too many or too long parameter sets")]
    TooLarge,
    /// The record or the access unit ends before its length fields say.
    #[error("truncated")]
    Truncated,
}

/// The NAL units of a byte stream, without start codes and trailing zeros. Empty units are left out.
pub fn annex_b_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = find_start_code(stream).map(|at| &stream[at + 3..]);
    std::iter::from_fn(move || {
        let data = rest?;
        let end = find_start_code(data);
        rest = end.map(|at| &data[at + 3..]);
        Some(&data[..end.unwrap_or(data.len())])
    })
    .map(|unit| {
        // trailing_zero_8bits, and the zero_byte of a following four-byte start code (B.1.1).
        let end = unit.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        &unit[..end]
    })
    .filter(|unit| !unit.is_empty())
}

/// Position of the next `00 00 01`.
fn find_start_code(data: &[u8]) -> Option<usize> {
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

/// Converts an access unit from byte stream to four-byte lengths. Parameter sets and delimiters are left out:
/// parameter sets are in the record, and ISO/IEC 14496-15 5.3.2 keeps them out of `avc1` samples.
pub fn annex_b_to_avcc(stream: &[u8]) -> Bytes {
    // A three-byte start code becomes a four-byte length.
    let mut out = BytesMut::with_capacity(stream.len() + 64);
    for unit in annex_b_units(stream) {
        if !matches!(unit[0] & 0x1f, SEQUENCE_PARAMETER_SET | PICTURE_PARAMETER_SET | ACCESS_UNIT_DELIMITER) {
            out.put_u32(unit.len() as u32);
            out.put_slice(unit);
        }
    }
    out.freeze()
}

/// Converts an access unit from lengths of `length_size` bytes (1 to 4) to byte stream.
///
/// # Errors
/// [`NalError::Truncated`] when a length points beyond the end of the access unit.
pub fn avcc_to_annex_b(unit: &[u8], length_size: usize) -> Result<Bytes, NalError> {
    let mut out = BytesMut::with_capacity(unit.len() + 64);
    let mut rest = unit;
    while !rest.is_empty() {
        let (length, tail) = rest.split_at_checked(length_size).ok_or(NalError::Truncated)?;
        let length = length.iter().fold(0usize, |sum, &b| sum << 8 | usize::from(b));
        let (nal, tail) = tail.split_at_checked(length).ok_or(NalError::Truncated)?;
        out.put_slice(&[0, 0, 0, 1]);
        out.put_slice(nal);
        rest = tail;
    }
    Ok(out.freeze())
}

/// The AVCDecoderConfigurationRecord for the parameter sets of a byte stream, with four-byte lengths.
///
/// # Errors
/// [`NalError::NoParameterSets`] when there is no sequence or no picture parameter set; [`NalError::TooLarge`] when
/// the sets do not fit the record.
pub fn avcc_record(stream: &[u8]) -> Result<Bytes, NalError> {
    let of = |kind: u8| annex_b_units(stream).filter(move |u| u[0] & 0x1f == kind);
    let sps = of(SEQUENCE_PARAMETER_SET).next().filter(|s| s.len() >= 4).ok_or(NalError::NoParameterSets)?;
    if of(PICTURE_PARAMETER_SET).next().is_none() {
        return Err(NalError::NoParameterSets);
    }
    let mut out = BytesMut::new();
    // Version 1; profile, compatibility and level copied from the sequence parameter set; six reserved bits and
    // lengthSizeMinusOne = 3.
    out.put_slice(&[1, sps[1], sps[2], sps[3], 0xff]);
    for (kind, reserved, most) in [(SEQUENCE_PARAMETER_SET, 0xe0, 31), (PICTURE_PARAMETER_SET, 0, 255)] {
        let count = of(kind).count();
        if count > most {
            return Err(NalError::TooLarge);
        }
        out.put_u8(reserved | count as u8);
        for set in of(kind) {
            out.put_u16(u16::try_from(set.len()).map_err(|_| NalError::TooLarge)?);
            out.put_slice(set);
        }
    }
    if matches!(sps[1], 100 | 110 | 122 | 144) {
        // chroma_format and bit depths (5.3.3.1.2), each after reserved one bits. Everything encoded here is 4:2:0 of
        // 8 bits; for any other stream these fields would have to be read from the sequence parameter set.
        out.put_slice(&[0xfc | 1, 0xf8, 0xf8, 0]);
    }
    Ok(out.freeze())
}

/// A record's parameter sets as a byte stream, and the number of bytes per length field (1 to 4).
///
/// # Errors
/// [`NalError::Truncated`] when the record ends early.
pub fn record_to_annex_b(record: &[u8]) -> Result<(Bytes, usize), NalError> {
    let head = record.get(..6).ok_or(NalError::Truncated)?;
    let length_size = usize::from(head[4] & 3) + 1;
    let mut out = BytesMut::with_capacity(record.len() + 64);
    let mut rest = &record[5..];
    for mask in [0x1f, 0xff] {
        let (&count, tail) = rest.split_first().ok_or(NalError::Truncated)?;
        rest = tail;
        for _ in 0..count & mask {
            let (length, tail) = rest.split_at_checked(2).ok_or(NalError::Truncated)?;
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let (set, tail) = tail.split_at_checked(length).ok_or(NalError::Truncated)?;
            out.put_slice(&[0, 0, 0, 1]);
            out.put_slice(set);
            rest = tail;
        }
    }
    Ok((out.freeze(), length_size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPS: &[u8] = &[0x67, 100, 0, 31, 0xac, 0xd9];
    const PPS: &[u8] = &[0x68, 0xeb, 0xe3];

    fn stream(units: &[&[u8]], long: bool) -> Vec<u8> {
        let code: &[u8] = if long { &[0, 0, 0, 1] } else { &[0, 0, 1] };
        units.iter().flat_map(|u| [code, u].concat()).collect()
    }

    #[test]
    fn record_round_trips() {
        let sets = stream(&[SPS, PPS], true);
        let record = avcc_record(&sets).unwrap();
        assert_eq!(&record[..6], [1, 100, 0, 31, 0xff, 0xe1]);
        assert_eq!(record_to_annex_b(&record).unwrap(), (Bytes::from(sets), 4));
    }

    #[test]
    fn both_start_codes_and_trailing_zeros() {
        let mut data = stream(&[&[0x65, 1, 0, 0, 3, 2]], true);
        data.extend(stream(&[&[0x41, 7]], false));
        data.extend([0, 0, 0]);
        assert_eq!(annex_b_units(&data).collect::<Vec<_>>(), [&[0x65, 1, 0, 0, 3, 2][..], &[0x41, 7]]);
    }

    #[test]
    fn parameter_sets_and_delimiters_stay_out_of_units() {
        let data = stream(&[&[9, 0xf0], SPS, PPS, &[6, 5], &[0x65, 1]], true);
        assert_eq!(&annex_b_to_avcc(&data)[..], [0, 0, 0, 2, 6, 5, 0, 0, 0, 2, 0x65, 1]);
    }

    #[test]
    fn missing_sets_and_truncated_records_are_errors() {
        assert_eq!(avcc_record(&stream(&[SPS], true)), Err(NalError::NoParameterSets));
        assert_eq!(avcc_record(&[]), Err(NalError::NoParameterSets));
        let record = avcc_record(&stream(&[SPS, PPS], false)).unwrap();
        // The last four bytes are the optional chroma and depth fields of the high profiles.
        for cut in 0..record.len() - 4 {
            assert_eq!(record_to_annex_b(&record[..cut]), Err(NalError::Truncated), "cut at {cut}");
        }
        assert_eq!(avcc_to_annex_b(&[0, 0, 0, 2, 1], 4), Err(NalError::Truncated));
        assert_eq!(avcc_to_annex_b(&[0, 0], 4), Err(NalError::Truncated));
    }

    proptest! {
        #[test]
        fn units_survive_both_ways(payloads in prop::collection::vec(prop::collection::vec(2u8.., 1..40), 1..8)) {
            let units: Vec<Vec<u8>> = payloads.into_iter().map(|p| [vec![0x41], p].concat()).collect();
            let borrowed: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
            let avcc = annex_b_to_avcc(&stream(&borrowed, false));
            let back = avcc_to_annex_b(&avcc, 4).unwrap();
            prop_assert_eq!(annex_b_units(&back).collect::<Vec<_>>(), borrowed);
        }

        #[test]
        fn nothing_panics(data in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..=4) {
            let _ = annex_b_to_avcc(&data);
            let _ = avcc_to_annex_b(&data, size);
            let _ = avcc_record(&data);
            let _ = record_to_annex_b(&data);
        }
    }
}
