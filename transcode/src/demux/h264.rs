//! Converts H.264 as found in files to the form that FLV and MP4 carry: an AVCDecoderConfigurationRecord and access
//! units of 4-byte length-prefixed NAL units. Pure; no libav, no timestamps. How records and NAL units look is in
//! [`media::h264`].

use bytes::Bytes;
use media::h264::{self, H264Error, LengthSize, ParameterSets, Record, annex_b_units};

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
    /// Each NAL unit follows its length, which has this size.
    LengthPrefixed(LengthSize),
    /// Each NAL unit follows a start code (Annex B), parameter sets included.
    StartCodes,
}

/// Converts one source's packets.
#[derive(Debug)]
pub(crate) struct Framing {
    layout: Layout,
    sets: ParameterSets,
    record: Option<Bytes>,
}

impl Framing {
    /// Creates a converter from the container's codec configuration: an AVCDecoderConfigurationRecord, Annex B
    /// parameter sets, or nothing. If the configuration contains a complete record or both kinds of parameter sets,
    /// [`Framing::record`] returns it from the start.
    pub(crate) fn new(extradata: &[u8]) -> Result<Self, H264Error> {
        if extradata.first() == Some(&1) {
            let record = Record::read(extradata)?;
            return Ok(Self {
                layout: Layout::LengthPrefixed(record.length_size),
                sets: ParameterSets::default(),
                // Access units leave with 4-byte lengths, regardless of the source's length size.
                record: Some(record.with_four_byte_lengths()),
            });
        }
        let sets = ParameterSets::of_annex_b(extradata);
        let record = sets.record().ok();
        Ok(Self { layout: Layout::StartCodes, sets, record })
    }

    /// The configuration record; `None` until one is known.
    pub(crate) fn record(&self) -> Option<&Bytes> {
        self.record.as_ref()
    }

    /// Converts one access unit. From Annex B, parameter sets, delimiters and filler are removed: they belong in the
    /// record, or have no use outside a byte stream (ISO 14496-15 5.3.2).
    pub(crate) fn convert(&mut self, packet: &[u8]) -> Result<Converted, H264Error> {
        match self.layout {
            Layout::LengthPrefixed(size) => {
                Ok(Converted { record: None, data: h264::relength(packet, size)? })
            }
            Layout::StartCodes => {
                let mut changed = false;
                for nal in annex_b_units(packet) {
                    changed |= self.sets.keep(nal);
                }
                let record = if changed && self.refresh_record() { self.record.clone() } else { None };
                Ok(Converted { record, data: h264::annex_b_to_length_prefixed(packet) })
            }
        }
    }

    /// Rebuilds the record once both kinds of parameter sets are present. Returns whether the record differs from the
    /// previous one.
    fn refresh_record(&mut self) -> bool {
        let Ok(record) = self.sets.record() else { return false };
        let changed = self.record.as_ref() != Some(&record);
        self.record = Some(record);
        changed
    }
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
    fn two_byte_lengths_become_four() {
        let record = [&[1, 66, 0, 30, 0xfd, 0xe1, 0, 9][..], &SPS, &[1, 0, 4], &PPS].concat();
        let mut framing = Framing::new(&record).unwrap();
        assert_eq!(framing.record().unwrap()[4], 0xff);
        let data = framing.convert(&[0, 2, 0x65, 9, 0, 1, 0x41]).unwrap().data;
        assert_eq!(&data[..], [0, 0, 0, 2, 0x65, 9, 0, 0, 0, 1, 0x41]);
    }

    #[test]
    fn broken_lengths_and_records_are_errors() {
        let record = [&[1, 66, 0, 30, 0xff, 0xe1, 0, 9][..], &SPS, &[1, 0, 4], &PPS].concat();
        let mut framing = Framing::new(&record).unwrap();
        assert_eq!(framing.convert(&[0, 0, 0, 9, 1]), Err(H264Error::UnitLengths));
        assert_eq!(framing.convert(&[0, 0]), Err(H264Error::UnitLengths));
        assert_eq!(Framing::new(&[1, 66]).unwrap_err(), H264Error::RecordVersion);
        assert_eq!(Framing::new(&[1, 66, 0, 30, 0xfe, 0xe1, 0]).unwrap_err(), H264Error::LengthSize);
        assert_eq!(Framing::new(&record[..12]).unwrap_err(), H264Error::RecordTruncated);
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
