//! One rendition of an archive while its broadcast goes on: what waits for its fate, and the playlist of what does not.

use super::super::contents::{Slots, gap_between};
use super::super::page::Entry;
use hls::{ArchivePlaylist, SegmentInfo};
use std::collections::{HashSet, VecDeque};

/// A rendition.
#[derive(Debug)]
pub(super) struct Lane {
    /// Not listed yet, in order.
    pub(super) waiting: VecDeque<Waiting>,
    /// Init segments that are stored.
    pub(super) inits: HashSet<String>,
    pub(super) playlist: ArchivePlaylist,
    /// The last that is listed.
    pub(super) last: Option<SegmentInfo>,
    /// The store does not have the playlist's end.
    pub(super) changed: bool,
    /// The store has a version of it.
    pub(super) written: bool,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) entry: Entry,
    /// What became of it, once that is known.
    pub(super) stored: Option<bool>,
}

impl Lane {
    /// Adds a segment to the playlist, behind gaps where numbers are missing: an encoder that took over begins behind
    /// what the one before had listed. False for one that is listed already.
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
