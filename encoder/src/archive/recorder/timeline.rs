//! The archive's own time axis, and the discontinuities on it.

use super::super::contents::Contents;
use hls::{SegmentInfo, SessionId};
use media::{MediaSpan, MediaTime, WallTime};
use std::collections::HashSet;

/// Where on the archive's time axis the current epoch is.
#[derive(Debug, Default)]
pub(super) struct ArchiveTimeline {
    session: Option<SessionId>,
    /// End of the archive so far, on its own time axis and by the wall clock.
    end: Option<(MediaTime, WallTime)>,
    /// See [`ArchivedEpoch::shift`](super::ArchivedEpoch::shift).
    shift: MediaSpan,
    /// Sequence numbers of discontinuities after the archive's first segment.
    discontinuities: HashSet<u64>,
    first_sequence: Option<u64>,
}

impl ArchiveTimeline {
    /// The timeline of an archive that another process began.
    pub(super) fn resume(archive: &Contents) -> Self {
        let infos = || archive.lanes.values().flatten().map(|entry| &entry.info);
        let first_sequence = infos().map(|info| info.sequence).min();
        let breaks = infos().filter(|info| info.discontinuity && Some(info.sequence) != first_sequence);
        let last = archive.lanes.values().filter_map(|lane| lane.last()).map(|entry| &entry.info);
        Self {
            session: archive.epochs.last().map(|epoch| epoch.session.clone()),
            end: last.map(|info| (info.end(), info.wall + info.duration)).max(),
            shift: MediaSpan::ZERO,
            discontinuities: breaks.map(|info| info.sequence).collect(),
            first_sequence,
        }
    }

    /// Whether a segment is the first one of an epoch.
    pub(super) fn is_new_epoch(&self, segment: &SegmentInfo) -> bool {
        self.session.as_ref() != Some(&segment.session)
    }

    /// The archive begins with this segment.
    pub(super) fn begin(&mut self, segment: &SegmentInfo) {
        self.first_sequence = Some(segment.sequence);
    }

    /// An epoch begins with this segment. Another process's timestamps start anew, and within one process they continue
    /// one second later, however long the publisher was away: the wall clock gives the true distance.
    pub(super) fn begin_epoch(&mut self, segment: &SegmentInfo) {
        self.session = Some(segment.session.clone());
        if let Some((end, wall)) = self.end {
            let away = (segment.wall - wall).max(MediaSpan::ZERO);
            self.shift = end + away - segment.start;
        }
    }

    /// Adds the next segment of a rendition, and returns its playlist entry on the archive's time axis.
    pub(super) fn add(&mut self, segment: &SegmentInfo) -> SegmentInfo {
        let mut info = segment.clone();
        info.start += self.shift;
        self.end = self.end.max(Some((info.end(), info.wall + info.duration)));
        if info.discontinuity && self.first_sequence.is_some_and(|first| info.sequence > first) {
            self.discontinuities.insert(info.sequence);
        }
        info
    }

    /// Offset from the current epoch's times to the archive's time axis.
    pub(super) const fn shift(&self) -> MediaSpan {
        self.shift
    }

    /// Sequence numbers of discontinuities after the archive's first segment.
    pub(super) const fn discontinuities(&self) -> &HashSet<u64> {
        &self.discontinuities
    }
}
