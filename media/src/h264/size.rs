//! The picture size in a sequence parameter set (ITU-T H.264, 7.3.2.1.1), read leniently: nothing behind the cropping is
//! looked at, since cameras write a VUI that strict parsers refuse.
//!
//! What belongs here: that size. What does not: all else in a parameter set, which h264-reader parses ([`super::record`]).

use super::nal::nal_type;
use crate::bits::{Bits, without_emulation_prevention};
use crate::picture::PictureSize;

/// Longest sequence parameter set read, in bytes.
const MAX_SPS: usize = 1 << 10;
/// Profiles whose sequence parameter sets name a chroma format.
const WITH_CHROMA: [u32; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// Reads the size; `None` for other NAL units, and for sets that end early.
pub(super) fn read(nal: &[u8]) -> Option<PictureSize> {
    if nal_type::of(nal) != Some(nal_type::SPS) || nal.len() > MAX_SPS {
        return None;
    }
    let payload = without_emulation_prevention(&nal[1..]);
    let mut bits = Bits::new(&payload);
    let profile = bits.take(8)?;
    // Constraints and level, then seq_parameter_set_id.
    bits.skip(16)?;
    bits.ue()?;
    let chroma = if WITH_CHROMA.contains(&profile) { chroma_and_scaling(&mut bits)? } else { 1 };
    // log2_max_frame_num_minus4
    bits.ue()?;
    picture_order(&mut bits)?;
    // max_num_ref_frames, gaps_in_frame_num_value_allowed_flag
    bits.ue()?;
    bits.flag()?;
    let macroblocks = (bits.ue()?.checked_add(1)?, bits.ue()?.checked_add(1)?);
    let frames_only = bits.flag()?;
    if !frames_only {
        bits.flag()?;
    }
    // direct_8x8_inference_flag
    bits.flag()?;
    let fields = if frames_only { 1 } else { 2 };
    let coded = (macroblocks.0.checked_mul(16)?, macroblocks.1.checked_mul(16 * fields)?);
    PictureSize::read_cropping(&mut bits, coded, chroma, fields)
}

/// Reads the chroma format, and skips the bit depths and scaling lists behind it.
fn chroma_and_scaling(bits: &mut Bits<'_>) -> Option<u32> {
    let chroma = bits.ue()?;
    if chroma == 3 {
        bits.flag()?;
    }
    // Bit depths, qpprime_y_zero_transform_bypass_flag
    bits.ue()?;
    bits.ue()?;
    bits.flag()?;
    if bits.flag()? {
        for list in 0..if chroma == 3 { 12 } else { 8 } {
            if bits.flag()? {
                scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(chroma)
}

fn scaling_list(bits: &mut Bits<'_>, entries: usize) -> Option<()> {
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..entries {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

fn picture_order(bits: &mut Bits<'_>) -> Option<()> {
    match bits.ue()? {
        0 => bits.ue().map(drop),
        1 => {
            bits.flag()?;
            bits.ue()?;
            bits.ue()?;
            for _ in 0..bits.ue()?.min(256) {
                bits.ue()?;
            }
            Some(())
        }
        _ => Some(()),
    }
}
