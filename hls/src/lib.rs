//! HLS packaging without input or output: takes encoded access units and wall-clock anchors; makes init segments, CMAF
//! media segments and playlists.
//!
//! What belongs here: media time, the latency knob, cut decisions, boxes, the order in which segments are listed, the
//! window of listed segments, playlist text, object names. What does not: sockets, files, clocks, threads, libav, metrics, logging. Time arrives as an argument
//! and results are returned as values, so tests run at the speed of the CPU.
#![forbid(unsafe_code)]

mod cut;
pub mod fmp4;
mod hex;
pub mod ledger;
pub mod names;
pub mod packager;
mod playlist;
pub mod presentation;
pub mod recording;
pub mod resume;
mod segment;
#[cfg(test)]
mod testing;
pub mod timing;
pub mod track;

pub use names::{RungName, SessionId};
pub use packager::{CutRule, Epoch, InitSegment, Output, Packager, PackagerCounters, PushError};
pub use playlist::archive::{ArchivePlaylist, archive_multivariant};
pub use playlist::edit;
pub use playlist::media::date_time;
pub use presentation::{Expired, Presentation};
pub use resume::{Past, ResumeError, StoredPlaylist};
pub use segment::{Part, PartInfo, Segment, SegmentInfo};
pub use timing::{Latency, Parts, Timing, TimingError};
pub use track::{AudioTrack, DEFAULT_AUDIO_NAME, Track, TrackKind, VideoTrack};
