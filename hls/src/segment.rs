//! Segments and parts: the metadata that playlists need, and the media itself.
//!
//! A [`Segment`] or a [`Part`] cannot disagree with its metadata about whether an object exists: its constructor takes
//! that from the body, and neither can be changed alone.

use crate::names::{RungName, SessionId};
use bytes::Bytes;
use media::{MediaSpan, MediaTime, WallTime};

/// A segment's metadata, without its body.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentInfo {
    /// Its rendition.
    pub rung: RungName,
    /// Media sequence number: the same for the same interval of time in every rendition; grows by one.
    pub sequence: u64,
    /// The epoch it belongs to.
    pub session: SessionId,
    /// EXT-X-DISCONTINUITY stands before this segment. True for the first segment of every epoch except the first; for
    /// the first epoch too when sequence numbers continue an earlier presentation.
    pub discontinuity: bool,
    /// First presentation time.
    pub start: MediaTime,
    /// Presentation time covered.
    pub duration: MediaSpan,
    /// PROGRAM-DATE-TIME of `start`.
    pub wall: WallTime,
    /// File name within the rendition's folder.
    pub name: String,
    /// File name of the init segment that this segment needs: from its own session, or from an earlier session whose
    /// init segment had the same bytes.
    pub init: String,
    /// Size in bytes; `None` for a gap (EXT-X-GAP): no such object exists.
    pub bytes: Option<u64>,
}

impl SegmentInfo {
    /// Where the presentation time covered ends.
    pub fn end(&self) -> MediaTime {
        self.start + self.duration
    }

    /// Turns the segment into a gap of the same time, for a segment that could not be stored.
    pub fn into_gap(self) -> Self {
        Self { bytes: None, ..self }
    }
}

/// A complete media segment, or a gap in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    info: SegmentInfo,
    body: Option<Bytes>,
}

impl Segment {
    /// A segment with this body, or a gap without one. The size of the body replaces `info.bytes`.
    pub fn new(info: SegmentInfo, body: Option<Bytes>) -> Self {
        let bytes = body.as_ref().map(|body| body.len() as u64);
        Self { info: SegmentInfo { bytes, ..info }, body }
    }

    /// The metadata; `bytes` is the size of the body.
    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// styp and fragments; `None` for a gap.
    pub fn body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }

    /// The metadata and the body, for a caller that keeps the metadata longer than the body.
    pub fn into_parts(self) -> (SegmentInfo, Option<Bytes>) {
        (self.info, self.body)
    }
}

/// A part's metadata, without its body.
#[derive(Clone, Debug, PartialEq)]
pub struct PartInfo {
    /// Its rendition.
    pub rung: RungName,
    /// Media sequence number of its segment.
    pub sequence: u64,
    /// Counts from 0 in each segment, contiguous.
    pub index: u32,
    /// The epoch it belongs to.
    pub session: SessionId,
    /// Whether EXT-X-DISCONTINUITY stands before its segment.
    pub discontinuity: bool,
    /// First presentation time.
    pub start: MediaTime,
    /// Presentation time covered; not above PART-TARGET.
    pub duration: MediaSpan,
    /// PROGRAM-DATE-TIME of its segment.
    pub wall: WallTime,
    /// The part contains a frame at which decoding can begin.
    pub independent: bool,
    /// File name within the rendition's folder.
    pub name: String,
    /// File name of the init segment that this part needs.
    pub init: String,
    /// Whether this part is a gap (GAP=YES): no such object exists.
    pub gap: bool,
}

impl PartInfo {
    /// Where the presentation time covered ends.
    pub fn end(&self) -> MediaTime {
        self.start + self.duration
    }
}

/// A part of a segment that is not complete yet (EXT-X-PART). The concatenated bodies of a segment's parts are the
/// segment's body.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    info: PartInfo,
    body: Option<Bytes>,
}

impl Part {
    /// A part with this body, or a gap without one. `info.gap` is replaced: true without a body.
    pub fn new(info: PartInfo, body: Option<Bytes>) -> Self {
        Self { info: PartInfo { gap: body.is_none(), ..info }, body }
    }

    /// The metadata; `gap` is true where there is no body.
    pub fn info(&self) -> &PartInfo {
        &self.info
    }

    /// A fragment, preceded by a styp in a segment's first part; `None` for a gap.
    pub fn body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }
}
