//! One rendition of an archive while its broadcast runs: the segments whose final fate is not known yet, and the
//! playlist of the others.

use super::super::contents::{Slots, gap_between};
use super::super::page::PageEntry;
use hls::{ArchivePlaylist, SegmentInfo};
use std::collections::{HashSet, VecDeque};

/// A rendition.
#[derive(Debug)]
pub(super) struct RecordingLane {
    /// Segments whose final fate is not known yet, in order.
    pub(super) waiting: VecDeque<PageEntry>,
    pub(super) playlist: ArchivePlaylist,
    /// The last listed segment.
    pub(super) last: Option<SegmentInfo>,
    /// The playlist has changes that are not written.
    pub(super) changed: bool,
    /// The store has some version of the playlist.
    pub(super) written: bool,
}

impl RecordingLane {
    /// Adds a segment to the playlist, readable or as a gap, and returns its entry for the index; `None` for a segment
    /// that is listed already.
    pub(super) fn list(
        &mut self,
        mut entry: PageEntry,
        stored: bool,
        discontinuities: &HashSet<u64>,
    ) -> Option<PageEntry> {
        if !stored {
            entry.info.bytes = None;
            (entry.index, entry.picture) = (None, None);
        }
        self.push(&entry.info, discontinuities).then_some(entry)
    }

    /// Adds a segment to the playlist, after gaps for missing sequence numbers: an encoder that took over continues
    /// after the last sequence number that the former owner had listed. False for a segment that is listed already.
    fn push(&mut self, info: &SegmentInfo, discontinuities: &HashSet<u64>) -> bool {
        match self.playlist.next_sequence() {
            Some(next) if info.sequence < next => return false,
            Some(_) => {}
            None => {
                let before = discontinuities.iter().filter(|sequence| **sequence <= info.sequence);
                self.playlist.begin_behind(before.count() as u64);
            }
        }
        while let Some(last) = self.last.as_ref().filter(|last| last.sequence + 1 < info.sequence) {
            let gap = gap_between(last, info, &Slots::default()).info;
            self.playlist.push(&gap);
            self.last = Some(gap);
        }
        self.playlist.push(info);
        self.last = Some(info.clone());
        self.changed = true;
        true
    }
}
