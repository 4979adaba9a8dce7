//! Inputs and outputs of the packager, as plain types. No behaviour here.

use crate::fmp4::InvalidTrack;
use crate::names::{RungName, SessionId};
use crate::segment::{Part, Segment};
use crate::track::Track;
use bytes::Bytes;
use media::{Anchor, MediaTime};

/// A stretch of media without a break: the same tracks, the same parameters, a continuous timeline. Every epoch except
/// the first begins with one discontinuity, at the same media sequence number in every rendition.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// Part of every object name written during the epoch.
    pub session: SessionId,
    /// Media time at which the epoch begins; earlier samples are dropped and counted.
    pub start: MediaTime,
    /// Mapping to the wall clock, for PROGRAM-DATE-TIME.
    pub anchor: Anchor,
    /// All renditions in the order of the multivariant playlist: video from largest to smallest, then audio, the main
    /// audio first.
    pub tracks: Vec<Track>,
    /// Where segments are cut.
    pub cuts: CutRule,
}

/// Where segments are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutRule {
    /// At the multiples of the segment target on the media axis, where every encoder puts an IDR frame. Without video,
    /// the main audio is cut there.
    Grid,
    /// At keyframes of the first video track, whose positions the publisher chooses; the other tracks have keyframes at
    /// the same times.
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

/// An output of the packager.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// An init segment. Emitted before the first segment that needs it; not repeated in epochs in which its bytes stay
    /// the same.
    Init(InitSegment),
    /// A part. In order within its rendition, each before its segment. Only where [`Timing::parts`](crate::Timing) is
    /// set.
    Part(Part),
    /// A segment. In sequence within its rendition; renditions in any order.
    Segment(Segment),
}

/// Why an epoch cannot begin. The failed call leaves the packager unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// There is nothing to package; the caller's mistake.
    #[error("an epoch needs at least one track")]
    NoTracks,
    /// Two tracks have the same name; the caller's mistake.
    #[error("two tracks are named {0}")]
    DuplicateRung(RungName),
    /// The parameters from the publisher or the encoder are unusable; the same track fails again.
    #[error("track {rung}: {source}")]
    Track {
        /// The rung of the track.
        rung: RungName,
        /// The defect of the track.
        source: InvalidTrack,
    },
}

/// Why a sample was refused. The sample is dropped and counted; the next one may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No epoch is open; the caller's mistake.
    #[error("no epoch is open")]
    NoEpoch,
    /// The rung is not a track of the epoch; the caller's mistake.
    #[error("the epoch has no such rendition")]
    UnknownRung,
    /// The sample has no data.
    #[error("the sample is empty")]
    Empty,
    /// A time is negative or beyond any stream's life, or presentation and decode time are too far apart.
    #[error("timestamps are out of range")]
    OutOfRange,
    /// The decode time is not above the previous one; decode times grow strictly within a track.
    #[error("decode time does not grow")]
    NotGrowing,
    /// The sample is more than [`MAX_JUMP`](super::MAX_JUMP) ahead of all others. If this repeats, the clock jumped:
    /// end the epoch and begin another.
    #[error("the sample is too far ahead")]
    TooFarAhead,
    /// [`MAX_BUFFERED_BYTES`](super::MAX_BUFFERED_BYTES) are queued. The rendition with the most queued bytes loses its
    /// queue; that rendition and the sample's own continue at their next keyframe.
    #[error("too much is buffered")]
    Full,
}

/// Counts of irregularities since the packager was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackagerCounters {
    /// Slots in which a video rendition had no keyframe at the common cut.
    pub misaligned: u64,
    /// Cuts made because no keyframe came within the longest allowed segment.
    pub forced_cuts: u64,
    /// Gaps written in place of segments.
    pub gaps: u64,
    /// Samples refused by [`Packager::push`](super::Packager::push).
    pub rejected_samples: u64,
    /// Samples before the epoch's first slot, or in slots that were closed without them.
    pub late_samples: u64,
    /// Samples dropped because no keyframe came before them in their segment, or because too much was buffered.
    pub undecodable_samples: u64,
    /// Samples at or after the end of their epoch.
    pub surplus_samples: u64,
    /// Audio timestamps more than half a frame off the count of samples.
    pub audio_resyncs: u64,
}
