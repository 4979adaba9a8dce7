//! CMAF boxes: init segments and media segments (ISO 14496-12, 23000-19), one track per file. The assignment of samples
//! to segments belongs in [`crate::packager`].

mod fragment;
pub mod index;
mod init;

pub(crate) use fragment::{FragmentKind, FragmentSample, fragment};
pub use init::{InvalidTrack, init_segment};

use mp4_atom::FourCC;

/// ID of the only track in a file.
const TRACK_ID: u32 = 1;
/// Ticks per second of video tracks, as on the media axis.
pub const VIDEO_TIMESCALE: u32 = 90_000;
/// sample_depends_on = 2: depends on no other sample.
const FLAGS_KEY: u32 = 0x0200_0000;
/// sample_depends_on = 1 and sample_is_non_sync_sample.
const FLAGS_NON_KEY: u32 = 0x0101_0000;

const CMFC: FourCC = FourCC::new(b"cmfc");
const CMFS: FourCC = FourCC::new(b"cmfs");
const ISO6: FourCC = FourCC::new(b"iso6");
