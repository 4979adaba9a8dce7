//! One rendition of an archive while its broadcast runs: the segments that are not settled yet, and the playlist of
//! those that are.

use super::super::contents::{Slots, gap_between};
use super::super::page::PageEntry;
use hls::{ArchivePlaylist, SegmentInfo};
use std::collections::{HashSet, VecDeque};

/// A rendition.
#[derive(Debug)]
pub(super) struct RecordingLane {
    /// Segments that are not listed yet, in order.
    pub(super) waiting: VecDeque<Waiting>,
    /// Names of the stored init segments.
    pub(super) inits: HashSet<String>,
    pub(super) playlist: ArchivePlaylist,
    /// The last listed segment.
    pub(super) last: Option<SegmentInfo>,
    /// The playlist has changes that are not written.
    pub(super) changed: bool,
    /// The store has some version of the playlist.
    pub(super) written: bool,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) entry: PageEntry,
    /// Whether the segment was stored; `None` until that is known.
    pub(super) stored: Option<bool>,
}

impl RecordingLane {
    /// Adds a segment to the playlist, after gaps for missing sequence numbers: an encoder that took over continues
    /// after the last sequence number that the former owner had listed. False for a segment that is listed already.
    pub(super) fn list(&mut self, info: &SegmentInfo, discontinuities: &HashSet<u64>) -> bool {
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
