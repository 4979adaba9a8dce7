//! Converts H.264 as found in files to the form that FLV and MP4 carry: an AVCDecoderConfigurationRecord and access
//! units of 4-byte length-prefixed NAL units. Pure; no libav, no timestamps.

use bytes::{BufMut, Bytes, BytesMut};
use rtmp::flv::avc::configuration_record;

/// NAL unit types (ITU-T H.264 table 7-1) that need separate handling.
mod nal_type {
    pub(super) const SPS: u8 = 7;
    pub(super) const PPS: u8 = 8;
    pub(super) const ACCESS_UNIT_DELIMITER: u8 = 9;
    pub(super) const FILLER: u8 = 12;
}

/// Limit of parameter sets; a file with more is broken: the record counts sequence parameter sets in 5 bits.
const MAX_PARAMETER_SETS: usize = 31;

/// Why H.264 data is not in the form that the container promised. The file is at fault; a retry does not help.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// The AVCDecoderConfigurationRecord is cut short or declares 3-byte lengths, which do not exist.
    #[error("malformed H.264 decoder configuration")]
    Record,
    /// A length prefix points beyond the packet's end.
    #[error("an H.264 NAL unit reaches behind its packet")]
    Length,
}

/// An access unit in the form that is published.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Converted {
    /// A new configuration record for this access unit and all later ones; `None` while the previous record applies.
    pub(crate) record: Option<Bytes>,
    /// 4-byte length-prefixed NAL units.
    pub(crate) data: Bytes,
}

/// Layout of NAL units in a source's packets.
#[derive(Debug)]
enum Layout {
    /// Each NAL unit follows its length, in this many bytes (1, 2 or 4).
    LengthPrefixed(usize),
    /// Each NAL unit follows a start code (Annex B), parameter sets included.
    StartCodes,
}

/// Converts one source's packets.
#[derive(Debug)]
pub(crate) struct Framing {
    layout: Layout,
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
    record: Option<Bytes>,
}

impl Framing {
    /// Creates a converter from the container's codec configuration: an AVCDecoderConfigurationRecord, Annex B
    /// parameter sets, or nothing. If the configuration contains a complete record or both kinds of parameter sets,
    /// [`Framing::record`] returns it from the start.
    pub(crate) fn new(extradata: &[u8]) -> Result<Self, FramingError> {
        let mut framing = Self { layout: Layout::StartCodes, sps: Vec::new(), pps: Vec::new(), record: None };
        if extradata.first() == Some(&1) {
            let size = usize::from(extradata.get(4).ok_or(FramingError::Record)? & 3) + 1;
            if extradata.len() < 7 || size == 3 {
                return Err(FramingError::Record);
            }
            framing.layout = Layout::LengthPrefixed(size);
            let mut record = extradata.to_vec();
            // Access units leave with 4-byte lengths, regardless of the source's length size.
            record[4] |= 3;
            framing.record = Some(record.into());
        } else {
            for nal in start_code_units(extradata) {
                framing.keep_parameter_set(nal);
            }
            framing.refresh_record();
        }
        Ok(framing)
    }

    /// The configuration record; `None` until one is known.
    pub(crate) fn record(&self) -> Option<&Bytes> {
        self.record.as_ref()
    }

    /// Converts one access unit. From Annex B, parameter sets, delimiters and filler are removed: they belong in the
    /// record, or have no use outside a byte stream (ISO 14496-15 5.3.2).
    pub(crate) fn convert(&mut self, packet: &[u8]) -> Result<Converted, FramingError> {
        match self.layout {
            Layout::LengthPrefixed(size) => Ok(Converted { record: None, data: relength(packet, size)? }),
            Layout::StartCodes => {
                let mut data = BytesMut::with_capacity(packet.len() + 16);
                let mut changed = false;
                for nal in start_code_units(packet) {
                    match nal.first().map_or(0, |header| header & 0x1f) {
                        nal_type::SPS | nal_type::PPS => changed |= self.keep_parameter_set(nal),
                        nal_type::ACCESS_UNIT_DELIMITER | nal_type::FILLER => {}
                        _ => {
                            data.put_u32(nal.len() as u32);
                            data.put_slice(nal);
                        }
                    }
                }
                let record = if changed && self.refresh_record() { self.record.clone() } else { None };
                Ok(Converted { record, data: data.freeze() })
            }
        }
    }

    /// Stores a parameter set, replacing a set with the same id. Returns whether that changed anything.
    fn keep_parameter_set(&mut self, nal: &[u8]) -> bool {
        let (sets, id) = match nal.first().map(|header| header & 0x1f) {
            // seq_parameter_set_id follows profile, constraints and level (7.3.2.1.1).
            Some(nal_type::SPS) if nal.len() >= 5 => (&mut self.sps, exp_golomb(&nal[4..])),
            Some(nal_type::PPS) if nal.len() >= 2 => (&mut self.pps, exp_golomb(&nal[1..])),
            _ => return false,
        };
        let same_id =
            |kept: &Bytes| exp_golomb(&kept[if kept[0] & 0x1f == nal_type::SPS { 4 } else { 1 }..]) == id;
        match sets.iter().position(same_id) {
            Some(at) if sets[at] == nal => false,
            Some(at) => {
                sets[at] = Bytes::copy_from_slice(nal);
                true
            }
            None if sets.len() < MAX_PARAMETER_SETS => {
                sets.push(Bytes::copy_from_slice(nal));
                true
            }
            None => false,
        }
    }

    /// Rebuilds the record once both kinds of parameter sets are present. Returns whether the record differs from the
    /// previous one.
    fn refresh_record(&mut self) -> bool {
        if self.sps.is_empty() || self.pps.is_empty() {
            return false;
        }
        let record = configuration_record(&self.sps, &self.pps);
        let changed = self.record.as_ref() != Some(&record);
        self.record = Some(record);
        changed
    }
}

/// Rewrites length prefixes of `size` bytes to 4 bytes, and checks each length.
fn relength(packet: &[u8], size: usize) -> Result<Bytes, FramingError> {
    let mut data = BytesMut::with_capacity(packet.len() + 16);
    let mut rest = packet;
    while !rest.is_empty() {
        let (prefix, behind) = rest.split_at_checked(size).ok_or(FramingError::Length)?;
        let len = prefix.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
        let (nal, behind) = behind.split_at_checked(len).ok_or(FramingError::Length)?;
        data.put_u32(len as u32);
        data.put_slice(nal);
        rest = behind;
    }
    Ok(data.freeze())
}

/// The NAL units between start codes (Annex B), without trailing zero bytes. Empty units are left out.
fn start_code_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut starts = Vec::new();
    let mut at = 0;
    while let Some(found) = stream[at..].windows(3).position(|window| window == [0, 0, 1]) {
        at += found + 3;
        starts.push(at);
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|next| next - 3).chain([stream.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|(start, end)| {
        let nal = &stream[start..end.max(start)];
        let len = nal.iter().rposition(|byte| *byte != 0)? + 1;
        Some(&nal[..len])
    })
}

/// Reads ue(v) at the start of `bytes` (9.1), with the range that parameter set ids need: `None` above 16 leading
/// zeros.
fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let bits = bytes.iter().take(5).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << 24;
    let bits = bits << (8 * 5_usize.saturating_sub(bytes.len()));
    let zeros = bits.leading_zeros();
    (zeros <= 16).then(|| ((bits << zeros) >> (63 - zeros)) as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Baseline 3.0 parameter sets: profile 66, level 30; ids 0.
    const SPS: [u8; 9] = [0x67, 66, 0, 30, 0xe9, 0x01, 0x40, 0x7b, 0x20];
    const PPS: [u8; 4] = [0x68, 0xce, 0x38, 0x80];

    fn annex_b(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&[0, 0, 0, 1], *unit].concat()).collect()
    }

    #[test]
    fn parameter_sets_move_from_the_byte_stream_into_the_record() {
        let mut framing = Framing::new(&[]).unwrap();
        let idr = [0x65, 1, 2, 3];
        let converted = framing.convert(&annex_b(&[&[9, 0xf0], &SPS, &PPS, &idr])).unwrap();
        assert_eq!(&converted.data[..], [0, 0, 0, 4, 0x65, 1, 2, 3]);
        let mut record = vec![1, 66, 0, 30, 0xff, 0xe1, 0, 9];
        record.extend_from_slice(&SPS);
        record.extend_from_slice(&[1, 0, 4]);
        record.extend_from_slice(&PPS);
        assert_eq!(&converted.record.unwrap()[..], record);
    }

    #[test]
    fn repeated_parameter_sets_change_nothing_and_new_ones_do() {
        let mut framing = Framing::new(&annex_b(&[&SPS, &PPS])).unwrap();
        assert!(framing.record().is_some());
        assert_eq!(framing.convert(&annex_b(&[&SPS, &PPS, &[0x65, 1]])).unwrap().record, None);
        let mut other = SPS;
        other[3] = 31;
        let record = framing.convert(&annex_b(&[&other, &PPS, &[0x65, 1]])).unwrap().record.unwrap();
        assert_eq!((record[3], record[5]), (31, 0xe1), "replaced, not added");
    }

    #[test]
    fn three_byte_start_codes_and_trailing_zeros() {
        let stream = [0, 0, 1, 0x41, 7, 0, 0, 0, 1, 0x41, 8, 0];
        let units: Vec<&[u8]> = start_code_units(&stream).collect();
        assert_eq!(units, [&[0x41, 7][..], &[0x41, 8]]);
        assert_eq!(start_code_units(&[0, 0, 1]).count(), 0);
        assert_eq!(start_code_units(&[]).count(), 0);
    }

    #[test]
    fn two_byte_lengths_become_four() {
        let record = [&[1, 66, 0, 30, 0xfd, 0xe1, 0, 9][..], &SPS, &[1, 0, 4], &PPS].concat();
        let mut framing = Framing::new(&record).unwrap();
        assert_eq!(framing.record().unwrap()[4], 0xff);
        let data = framing.convert(&[0, 2, 0x65, 9, 0, 1, 0x41]).unwrap().data;
        assert_eq!(&data[..], [0, 0, 0, 2, 0x65, 9, 0, 0, 0, 1, 0x41]);
    }

    #[test]
    fn broken_lengths_and_records_are_errors() {
        assert_eq!(relength(&[0, 0, 0, 9, 1], 4), Err(FramingError::Length));
        assert_eq!(relength(&[0, 0], 4), Err(FramingError::Length));
        assert_eq!(Framing::new(&[1, 66]).unwrap_err(), FramingError::Record);
        assert_eq!(Framing::new(&[1, 66, 0, 30, 0xfe, 0xe1, 0]).unwrap_err(), FramingError::Record);
    }

    #[test]
    fn exp_golomb_reads_ids() {
        assert_eq!(exp_golomb(&[0b1000_0000]), Some(0));
        assert_eq!(exp_golomb(&[0b0100_0000]), Some(1));
        assert_eq!(exp_golomb(&[0b0010_1000]), Some(4));
        assert_eq!(exp_golomb(&[]), None);
        assert_eq!(exp_golomb(&[0, 0, 0, 0, 0, 0]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer(extradata: Vec<u8>, packet: Vec<u8>) {
            if let Ok(mut framing) = Framing::new(&extradata) {
                let _ = framing.convert(&packet);
            }
        }
    }
}
