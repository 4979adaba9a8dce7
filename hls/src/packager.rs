//! Encoded samples in; init and media segments out, all renditions cut at the same media times.
//!
//! What belongs here: epochs, slots (the shared segment numbering), which sample goes into which segment, counting of
//! misalignments. Boxes are in `fmp4`, cut decisions in `cut`, which segments are listed in `window`, text in
//! `playlist`.

use crate::names::{RungName, SessionId};
use crate::time::{Anchor, MediaSpan, MediaTime, WallTime};
use crate::track::Track;
use bytes::Bytes;

/// A stretch of media without a break: the same tracks, the same parameters, a continuous timeline. Every epoch but
/// the first begins with one discontinuity, at the same media sequence number in every rendition.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// Goes into every name written during the epoch.
    pub session: SessionId,
    /// Nothing before this media time belongs to the epoch; earlier samples are dropped and counted.
    pub start: MediaTime,
    /// Wall clock for PROGRAM-DATE-TIME.
    pub anchor: Anchor,
    /// All renditions, as the multivariant playlist lists them: video from largest to smallest, then audio.
    pub tracks: Vec<Track>,
    /// Where segments are cut.
    pub cuts: CutRule,
}

/// Where segments are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutRule {
    /// At the multiples of the segment target on the media axis; every encoder puts an IDR frame there. Without video
    /// the audio is cut there.
    Grid,
    /// At keyframes of the first video track, which are not ours to choose; the other tracks have theirs at the same
    /// times.
    SourceKeys,
}

/// An init segment.
#[derive(Clone, Debug, PartialEq)]
pub struct InitSegment {
    /// Its rendition.
    pub rung: RungName,
    /// File name within the rendition's folder.
    pub name: String,
    /// ftyp and moov.
    pub body: Bytes,
}

/// A media segment, whole; or a hole where one should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Its rendition.
    pub rung: RungName,
    /// Media sequence number, the same for the same stretch of time in every rendition; grows by one.
    pub sequence: u64,
    /// The epoch it belongs to.
    pub session: SessionId,
    /// First segment of an epoch other than the first.
    pub discontinuity: bool,
    /// First presentation time.
    pub start: MediaTime,
    /// Presentation time covered.
    pub duration: MediaSpan,
    /// PROGRAM-DATE-TIME of `start`.
    pub wall: WallTime,
    /// File name within the rendition's folder.
    pub name: String,
    /// Name of the init segment that it needs.
    pub init: String,
    /// styp and fragments; `None` for a gap (EXT-X-GAP): no such object exists.
    pub body: Option<Bytes>,
}
