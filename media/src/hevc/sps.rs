//! Sequence parameter sets (ITU-T H.265, 7.3.2.2): the picture's size and format, its sample aspect ratio and frame rate.
//!
//! What belongs here: the reading of one parameter set. What does not: records, and which parameter sets there are.
//!
//! The size is read leniently: some cameras write a VUI that strict parsers refuse, while decoders decode the pictures. So
//! what stands behind the size is optional, and a set that breaks off there still has its size.

use super::{MAX_SPS, nal_type};
use crate::bits::{Bits, without_emulation_prevention};
use crate::picture::PictureSize;
use crate::{Colour, PictureFormat, plausible_rate};

/// Maximum number of short-term reference picture sets (7.4.3.2.1), and of long-term reference pictures one less.
const MAX_REFERENCE_SETS: u32 = 64;
/// Maximum number of pictures in a short-term reference picture set.
const MAX_REFERENCES: u32 = 16;

/// What a sequence parameter set says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sps {
    pub(super) size: PictureSize,
    /// `None` where the set breaks off, or is not understood, before its bit depth.
    pub(super) format: Option<PictureFormat>,
    /// `None` where the set gives none.
    pub(super) sample_aspect: Option<(u16, u16)>,
    /// Frames per second as a fraction; `None` where the set gives none that is plausible.
    pub(super) frame_rate: Option<(u32, u32)>,
}

/// What the VUI says (E.2.1).
struct Vui {
    sample_aspect: Option<(u16, u16)>,
    colour: Colour,
    frame_rate: Option<(u32, u32)>,
}

/// Reads a sequence parameter set; `None` for other NAL units, and for sets that end before the picture size.
pub(super) fn read(nal: &[u8]) -> Option<Sps> {
    if nal_type::of(nal) != Some(nal_type::SPS) || nal.len() > MAX_SPS {
        return None;
    }
    let payload = without_emulation_prevention(&nal[2..]);
    let mut bits = Bits::new(&payload);
    // sps_video_parameter_set_id
    bits.take(4)?;
    let sub_layers = bits.take(3)?;
    bits.flag()?;
    profile_tier_level(&mut bits, sub_layers)?;
    // sps_seq_parameter_set_id
    bits.ue()?;
    let chroma = bits.ue()?;
    if chroma == 3 {
        bits.flag()?;
    }
    let coded = (bits.ue()?, bits.ue()?);
    let size = PictureSize::read_cropping(&mut bits, coded, chroma, 1)?;
    let mut sps = Sps { size, format: None, sample_aspect: None, frame_rate: None };
    let Some(bit_depth) = bits.ue().filter(|depth| *depth <= 8 && chroma <= 3) else { return Some(sps) };
    let vui = to_vui(&mut bits, sub_layers).and_then(|()| vui(&mut bits));
    let colour = vui.as_ref().map_or(Colour::UNSPECIFIED, |vui| vui.colour);
    sps.format = Some(PictureFormat { chroma: chroma as u8, bit_depth: 8 + bit_depth as u8, colour });
    if let Some(vui) = vui {
        sps.sample_aspect = vui.sample_aspect;
        sps.frame_rate = vui.frame_rate;
    }
    Some(sps)
}

/// Skips profile_tier_level() (7.3.3).
fn profile_tier_level(bits: &mut Bits<'_>, sub_layers: u32) -> Option<()> {
    const PROFILE: u32 = 88;
    const LEVEL: u32 = 8;
    bits.skip(PROFILE + LEVEL)?;
    let mut present = Vec::new();
    for _ in 0..sub_layers {
        present.push((bits.flag()?, bits.flag()?));
    }
    if sub_layers > 0 {
        bits.skip(2 * (8 - sub_layers))?;
    }
    for (profile, level) in present {
        bits.skip(if profile { PROFILE } else { 0 } + if level { LEVEL } else { 0 })?;
    }
    Some(())
}

/// Skips what stands between the luma bit depth and the VUI; `None` where there is no VUI.
fn to_vui(bits: &mut Bits<'_>, sub_layers: u32) -> Option<()> {
    // bit_depth_chroma_minus8
    bits.ue()?;
    let order_count_bits = bits.ue()?.checked_add(4).filter(|count| *count <= 16)?;
    let all_layers = bits.flag()?;
    for _ in 0..if all_layers { sub_layers + 1 } else { 1 } {
        skip_codes(bits, 3)?;
    }
    // Sizes of coding and transform blocks, depths of transform hierarchies.
    skip_codes(bits, 6)?;
    // scaling_list_enabled_flag, sps_scaling_list_data_present_flag
    if bits.flag()? && bits.flag()? {
        scaling_lists(bits)?;
    }
    // amp_enabled_flag, sample_adaptive_offset_enabled_flag
    bits.skip(2)?;
    if bits.flag()? {
        // pcm: bit depths, block sizes, loop filter
        bits.skip(4 + 4)?;
        skip_codes(bits, 2)?;
        bits.flag()?;
    }
    short_term_sets(bits)?;
    if bits.flag()? {
        let count = bits.ue().filter(|count| *count < MAX_REFERENCE_SETS)?;
        bits.skip(count * (order_count_bits + 1))?;
    }
    // sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag
    bits.skip(2)?;
    bits.flag()?.then_some(())
}

fn skip_codes(bits: &mut Bits<'_>, count: u32) -> Option<()> {
    (0..count).try_for_each(|_| bits.ue().map(drop))
}

/// Skips scaling_list_data() (7.3.4).
fn scaling_lists(bits: &mut Bits<'_>) -> Option<()> {
    for size in 0..4 {
        for _ in (0..6).step_by(if size == 3 { 3 } else { 1 }) {
            // scaling_list_pred_mode_flag: otherwise a list is copied.
            if bits.flag()? {
                let own_first = u32::from(size > 1);
                skip_codes(bits, own_first + 64.min(1 << (4 + 2 * size)))?;
            } else {
                bits.ue()?;
            }
        }
    }
    Some(())
}

/// Skips all st_ref_pic_set() (7.3.7). A set may be coded as a change of the one before, so the distances in each set have
/// to be followed (7.4.8).
fn short_term_sets(bits: &mut Bits<'_>) -> Option<()> {
    let count = bits.ue().filter(|count| *count <= MAX_REFERENCE_SETS)?;
    let mut before: [Vec<i64>; 2] = [Vec::new(), Vec::new()];
    for index in 0..count {
        // inter_ref_pic_set_prediction_flag
        before = if index > 0 && bits.flag()? { changed_set(bits, &before)? } else { own_set(bits)? };
    }
    Some(())
}

/// Distances of the pictures before and after, each nearest first.
fn own_set(bits: &mut Bits<'_>) -> Option<[Vec<i64>; 2]> {
    let counts = [bits.ue()?, bits.ue()?];
    let mut set = [Vec::new(), Vec::new()];
    for (list, sign) in [(0, -1), (1, 1)] {
        let mut distance = 0;
        for _ in 0..Some(counts[list]).filter(|count| *count <= MAX_REFERENCES)? {
            distance += sign * (i64::from(bits.ue()?) + 1);
            // used_by_curr_pic_flag
            bits.flag()?;
            set[list].push(distance);
        }
    }
    Some(set)
}

fn changed_set(bits: &mut Bits<'_>, [earlier, later]: &[Vec<i64>; 2]) -> Option<[Vec<i64>; 2]> {
    let sign = if bits.flag()? { -1 } else { 1 };
    let delta = sign * (i64::from(bits.ue()?) + 1);
    // In the order of the flags: the pictures of the set before, then the picture that the set belonged to.
    let mut distances: Vec<i64> = Vec::new();
    for distance in earlier.iter().chain(later).copied().chain([0]) {
        // used_by_curr_pic_flag, use_delta_flag
        if bits.flag()? || bits.flag()? {
            distances.push(distance + delta);
        }
    }
    distances.sort_unstable_by_key(|distance| distance.abs());
    let side = |earlier: bool| -> Vec<i64> {
        let on_side = |distance: &&i64| if earlier { **distance < 0 } else { **distance > 0 };
        distances.iter().filter(on_side).copied().take(MAX_REFERENCES as usize).collect()
    };
    Some([side(true), side(false)])
}

fn vui(bits: &mut Bits<'_>) -> Option<Vui> {
    let mut vui = Vui { sample_aspect: None, colour: Colour::UNSPECIFIED, frame_rate: None };
    if bits.flag()? {
        vui.sample_aspect = sample_aspect(bits)?;
    }
    // overscan_info_present_flag, overscan_appropriate_flag
    if bits.flag()? {
        bits.flag()?;
    }
    // video_signal_type_present_flag, video_format
    if bits.flag()? {
        bits.take(3)?;
        vui.colour.full_range = bits.flag()?;
        if bits.flag()? {
            vui.colour.primaries = bits.take(8)? as u8;
            vui.colour.transfer = bits.take(8)? as u8;
            vui.colour.matrix = bits.take(8)? as u8;
        }
    }
    vui.frame_rate = frame_rate(bits);
    Some(vui)
}

/// Reads the frame rate, which stands behind the colours; `None` if there is none that is plausible.
fn frame_rate(bits: &mut Bits<'_>) -> Option<(u32, u32)> {
    // chroma_loc_info_present_flag
    if bits.flag()? {
        skip_codes(bits, 2)?;
    }
    // neutral_chroma_indication_flag
    bits.flag()?;
    let fields = bits.flag()?;
    // frame_field_info_present_flag
    bits.flag()?;
    // default_display_window_flag
    if bits.flag()? {
        skip_codes(bits, 4)?;
    }
    // vui_timing_info_present_flag: a tick is a picture, and two fields are a frame.
    if !bits.flag()? {
        return None;
    }
    let (ticks, scale) = (bits.take(32)?, bits.take(32)?);
    plausible_rate(scale.into(), u64::from(ticks) * if fields { 2 } else { 1 })
}

/// aspect_ratio_idc and what follows it (table E.1).
fn sample_aspect(bits: &mut Bits<'_>) -> Option<Option<(u16, u16)>> {
    const KNOWN: [(u16, u16); 16] = [
        (1, 1),
        (12, 11),
        (10, 11),
        (16, 11),
        (40, 33),
        (24, 11),
        (20, 11),
        (32, 11),
        (80, 33),
        (18, 11),
        (15, 11),
        (64, 33),
        (160, 99),
        (4, 3),
        (3, 2),
        (2, 1),
    ];
    const EXTENDED: u32 = 255;
    let index = bits.take(8)?;
    if index == EXTENDED {
        let (width, height) = (bits.take(16)? as u16, bits.take(16)? as u16);
        return Some((width > 0 && height > 0).then_some((width, height)));
    }
    Some(index.checked_sub(1).and_then(|index| KNOWN.get(index as usize)).copied())
}
