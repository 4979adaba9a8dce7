//! AV1 (AV1 bitstream specification, AV1 codec ISO media file format binding): the picture size in sequence headers, and
//! which temporal units are keyframes.
//!
//! What belongs here: what several crates need to know about the codec. What does not: containers, timestamps, decoding;
//! nothing here reads a tile.

use crate::bits::Bits;
use crate::error::{CodecError, checked_size};
use crate::{VideoCodec, VideoConfig};
use bytes::Bytes;

/// Longest record accepted, in bytes.
pub const MAX_RECORD: usize = 16 << 10;
/// Bytes of an AV1CodecConfigurationRecord before its OBUs.
const RECORD_HEAD: usize = 4;
/// Maximum number of OBUs read in a temporal unit; real ones have a handful, and one for each tile group.
const MAX_OBUS: usize = 1024;

/// OBU types (6.2.2) that matter outside a decoder.
mod obu_type {
    pub(super) const SEQUENCE_HEADER: u32 = 1;
    pub(super) const FRAME_HEADER: u32 = 3;
    pub(super) const FRAME: u32 = 6;
}

/// A temporal unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemporalUnit {
    /// Whether its first frame is a key frame that is coded here.
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
    let sequence = obus(&record[RECORD_HEAD..]).find(|(kind, _)| *kind == obu_type::SEQUENCE_HEADER);
    sequence.map(|(_, header)| config(header, record.clone())).transpose()
}

/// Reads a temporal unit; `None` if it has no frame.
pub fn read_unit(unit: &[u8]) -> Option<TemporalUnit> {
    let mut sequence = None;
    for (kind, payload) in obus(unit) {
        match kind {
            obu_type::SEQUENCE_HEADER => sequence = config(payload, Bytes::new()).ok(),
            obu_type::FRAME_HEADER | obu_type::FRAME => {
                // show_existing_frame, frame_type: 0 is a key frame.
                let key = payload.first().is_some_and(|byte| byte & 0b1110_0000 == 0);
                return Some(TemporalUnit { key, config: sequence });
            }
            _ => {}
        }
    }
    None
}

/// Types and payloads of OBUs; ends at the first that is cut short. The last OBU may lack its size.
fn obus(mut rest: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
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
        Some((kind, payload))
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

fn config(sequence_header: &[u8], record: Bytes) -> Result<VideoConfig, CodecError> {
    let Sequence { width, height, frame_rate } =
        sequence(sequence_header).ok_or(CodecError::Broken("AV1 sequence header cannot be read"))?;
    let (width, height) = checked_size(width, height)?;
    Ok(VideoConfig { codec: VideoCodec::Av1, record, width, height, sample_aspect: (1, 1), frame_rate })
}

/// What a sequence header says.
#[derive(Debug, PartialEq, Eq)]
struct Sequence {
    /// In pixels.
    width: u32,
    /// In pixels.
    height: u32,
    /// If the header gives a plausible constant one.
    frame_rate: Option<(u32, u32)>,
}

/// Reads a sequence header (5.5.1) as far as the picture size.
fn sequence(payload: &[u8]) -> Option<Sequence> {
    let mut bits = Bits::new(payload);
    // seq_profile, still_picture
    bits.take(3 + 1)?;
    let mut frame_rate = None;
    if bits.flag()? {
        // reduced_still_picture_header: seq_level_idx
        bits.take(5)?;
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
        for _ in 0..=bits.take(5)? {
            operating_point(&mut bits, delay_bits, display_delay)?;
        }
    }
    let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
    let (width, height) = (bits.take(width_bits as usize)? + 1, bits.take(height_bits as usize)? + 1);
    Some(Sequence { width, height, frame_rate })
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

fn operating_point(bits: &mut Bits<'_>, delay_bits: Option<u32>, display_delay: bool) -> Option<()> {
    // operating_point_idc
    bits.take(12)?;
    if bits.take(5)? > 7 {
        // seq_tier
        bits.flag()?;
    }
    if let Some(size) = delay_bits
        && bits.flag()?
    {
        bits.skip(2 * size + 1)?;
    }
    if display_delay && bits.flag()? {
        bits.take(4)?;
    }
    Some(())
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
        let expected = Sequence { width: 320, height: 180, frame_rate: Some((30, 1)) };
        assert_eq!(sequence(&header), Some(expected));
    }
}
