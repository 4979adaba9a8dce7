//! CMAF boxes: init segments and media segments (ISO 14496-12, 23000-19), one track a file. Which sample goes into
//! which segment is decided in [`crate::packager`].

mod fragment;
pub mod index;
mod init;

pub(crate) use fragment::{FragmentKind, FragmentSample, fragment};
pub use init::{InvalidTrack, init_segment};

use mp4_atom::FourCC;

/// The only track of every file.
const TRACK_ID: u32 = 1;
/// Ticks a second of video tracks: those of the media axis.
pub const VIDEO_TIMESCALE: u32 = 90_000;
/// sample_depends_on = 2: others are not needed.
const FLAGS_KEY: u32 = 0x0200_0000;
/// sample_depends_on = 1 and sample_is_non_sync_sample.
const FLAGS_NON_KEY: u32 = 0x0101_0000;

const CMFC: FourCC = FourCC::new(b"cmfc");
const CMFS: FourCC = FourCC::new(b"cmfs");
const ISO6: FourCC = FourCC::new(b"iso6");
