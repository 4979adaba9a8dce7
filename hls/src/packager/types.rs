//! What goes into the packager and what comes out; no behaviour.

use crate::fmp4::InvalidTrack;
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
    /// First segment of an epoch other than the first; of the first too when sequence numbers continue an earlier
    /// presentation.
    pub discontinuity: bool,
    /// First presentation time.
    pub start: MediaTime,
    /// Presentation time covered.
    pub duration: MediaSpan,
    /// PROGRAM-DATE-TIME of `start`.
    pub wall: WallTime,
    /// File name within the rendition's folder.
    pub name: String,
    /// Name of the init segment that it needs: of its own session, or of an earlier one that had the same bytes.
    pub init: String,
    /// styp and fragments; `None` for a gap (EXT-X-GAP): no such object exists.
    pub body: Option<Bytes>,
}

/// A part of a segment that is not whole yet (EXT-X-PART). The bodies of a segment's parts, one behind the other, are
/// the segment's.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its rendition.
    pub rung: RungName,
    /// Media sequence number of its segment.
    pub sequence: u64,
    /// From 0 in each segment, without holes.
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
    /// Whether there is a frame in it from which decoding can begin.
    pub independent: bool,
    /// File name within the rendition's folder.
    pub name: String,
    /// Name of the init segment that it needs.
    pub init: String,
    /// A fragment, behind a styp in a segment's first part; `None` for a gap (GAP=YES): no such object exists.
    pub body: Option<Bytes>,
}

/// What the packager made.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Comes before the first segment that needs it; not repeated in epochs in which its bytes stay the same.
    Init(InitSegment),
    /// In sequence within its rendition, each before its segment. Only where [`Timing::parts`](crate::Timing) are set.
    Part(Part),
    /// In sequence within its rendition; renditions in any order.
    Segment(Segment),
}

/// Why an epoch cannot begin. The packager is as before the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// Nothing to package: the caller's mistake.
    #[error("an epoch needs at least one track")]
    NoTracks,
    /// Two tracks of one name: the caller's mistake.
    #[error("two tracks are named {0}")]
    DuplicateRung(RungName),
    /// The publisher's or the encoder's parameters are unusable; the same track fails again.
    #[error("track {rung}: {source}")]
    Track {
        /// Which track.
        rung: RungName,
        /// What is wrong with it.
        source: InvalidTrack,
    },
}

/// Why a sample was not taken. It is dropped and counted; the next one may be fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Outside an epoch: the caller's mistake.
    #[error("no epoch is open")]
    NoEpoch,
    /// Not a track of the epoch: the caller's mistake.
    #[error("the epoch has no such rendition")]
    UnknownRung,
    /// No data.
    #[error("the sample is empty")]
    Empty,
    /// Negative, or beyond any stream's life, or presentation and decoding too far apart.
    #[error("timestamps are out of range")]
    OutOfRange,
    /// Decode times grow strictly within a track.
    #[error("decode time does not grow")]
    NotGrowing,
    /// More than [`MAX_JUMP`](super::MAX_JUMP) ahead of everything else. If it goes on, the clock jumped: end the epoch, begin another.
    #[error("the sample is too far ahead")]
    TooFarAhead,
    /// [`MAX_BUFFERED_BYTES`](super::MAX_BUFFERED_BYTES) are waiting. The rendition with the most loses what waits of it, and it and this one go
    /// on at their next keyframe.
    #[error("too much is buffered")]
    Full,
}

/// What did not go as it should, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Slots that a video rendition did not enter with a keyframe at the common cut.
    pub misaligned: u64,
    /// Cuts made because no keyframe came within the longest segment.
    pub forced_cuts: u64,
    /// Gaps written in place of segments.
    pub gaps: u64,
    /// Samples refused by [`Packager::push`](super::Packager::push).
    pub rejected_samples: u64,
    /// Samples before the epoch's first slot, or in slots that were closed without them.
    pub late_samples: u64,
    /// Samples dropped because no keyframe came before them in their segment, or because too much was buffered.
    pub undecodable_samples: u64,
    /// Samples at or behind the end of their epoch.
    pub surplus_samples: u64,
    /// Audio timestamps more than half a frame off the count of samples.
    pub audio_resyncs: u64,
}
