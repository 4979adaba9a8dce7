//! What becomes of each segment of a stream: one ledger per rendition, from the packager's segment to its final fate.
//! Everything that lists segments reads it, with one of two cursors:
//!
//! - The **live cursor** ([`Ledger::next_live`]) moves at the deadline: a segment that is not acknowledged by then, or
//!   whose init segment is not, is passed as a gap.
//! - The **archive cursor** ([`Ledger::next_archived`]) follows, and moves at the final fate: it waits for a late
//!   segment until the segment is readable or given up for good.
//!
//! Both pass each rendition's segments in the packager's order, and a readable segment only once its init segment is
//! readable: that is what a [`Presentation`](crate::Presentation) and an archive's playlists ask for, and nothing else
//! in this crate waits for a segment. Times come in as arguments, as spans since any fixed start.
//!
//! What does not belong here: the uploads themselves, their deadlines' length, and the reasons of their failures.
//!
//! Bounds: the ledger holds no bodies. The live cursor passes a segment by its deadline; the archive cursor waits for
//! uploads, which the uploader bounds by their bytes.

use crate::names::RungName;
use crate::packager::InitSegment;
use crate::segment::SegmentInfo;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

/// The ledgers of all renditions of a stream.
#[derive(Debug, Default)]
pub struct Ledger {
    renditions: BTreeMap<RungName, LedgerRendition>,
}

/// What the archive cursor passed: a segment with its final fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The rendition.
    pub rung: RungName,
    /// Media sequence number.
    pub sequence: u64,
    /// Whether the segment is readable, however late that was; otherwise it never will be.
    pub stored: bool,
}

/// What a segment still lacks before it can be listed as readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The segment's own acknowledgement.
    Segment,
    /// That of its init segment; the segment itself is readable.
    Init,
}

/// What is known about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not acknowledged, and on time.
    Waiting,
    /// Acknowledged on time.
    Readable,
    /// A gap for viewers, and not acknowledged: the upload continues.
    Late,
    /// A gap for viewers, and readable: the segment or its init segment was acknowledged too late.
    ReadableLate,
    /// Given up for good.
    Never,
}

/// A rendition's segments in the packager's order, from the archive cursor on.
#[derive(Debug, Default)]
struct LedgerRendition {
    entries: VecDeque<Entry>,
    /// The live cursor: number of entries that it has passed.
    live: usize,
    /// Names of the readable init segments.
    inits: HashSet<String>,
}

#[derive(Debug)]
struct Entry {
    segment: SegmentInfo,
    deadline: Duration,
    fate: Fate,
}

// === impl Ledger ===

impl Ledger {
    /// Enters the next segment of its rendition.
    pub fn enter(&mut self, segment: SegmentInfo, deadline: Duration) {
        let rendition = self.renditions.entry(segment.rung.clone()).or_default();
        rendition.entries.push_back(Entry { segment, deadline, fate: Fate::Waiting });
    }

    /// An init segment is readable. Earlier init segments are forgotten when no entry needs them.
    pub fn init_readable(&mut self, init: &InitSegment) {
        let LedgerRendition { entries, inits, .. } = self.renditions.entry(init.rung.clone()).or_default();
        inits.retain(|name| entries.iter().any(|entry| entry.segment.init == *name));
        inits.insert(init.name.clone());
    }

    /// A segment is readable. False if it is a gap for viewers all the same.
    pub fn readable(&mut self, rung: &RungName, sequence: u64) -> bool {
        let Some(entry) = self.entry(rung, sequence) else { return false };
        let (fate, on_time) = match entry.fate {
            Fate::Waiting => (Fate::Readable, true),
            Fate::Late => (Fate::ReadableLate, false),
            Fate::Readable | Fate::ReadableLate | Fate::Never => (entry.fate, false),
        };
        entry.fate = fate;
        on_time
    }

    /// A segment, or its init segment, is not acknowledged in time. True if the segment becomes a gap by this call.
    pub fn late(&mut self, rung: &RungName, sequence: u64) -> bool {
        self.gap(rung, sequence, Fate::Late)
    }

    /// A segment that is not readable is given up for good. True if it becomes a gap by this call.
    pub fn never(&mut self, rung: &RungName, sequence: u64) -> bool {
        self.gap(rung, sequence, Fate::Never)
    }

    fn gap(&mut self, rung: &RungName, sequence: u64, unreadable: Fate) -> bool {
        let Some(entry) = self.entry(rung, sequence) else { return false };
        let (fate, is_new) = match entry.fate {
            Fate::Waiting => (unreadable, true),
            Fate::Readable => (Fate::ReadableLate, true),
            Fate::Late => (unreadable, false),
            Fate::ReadableLate | Fate::Never => (entry.fate, false),
        };
        entry.fate = fate;
        is_new
    }

    /// Segments past their deadline that must become gaps now ([`Ledger::late`]): rendition, sequence number, and what
    /// is missing.
    pub fn overdue(&self, now: Duration) -> Vec<(RungName, u64, Missing)> {
        let overdue = self.renditions.values().flat_map(|rendition| {
            let due = rendition.unlisted().filter(|entry| entry.deadline <= now);
            due.filter_map(|entry| Some((entry, rendition.missing(entry)?)))
        });
        overdue
            .map(|(entry, missing)| (entry.segment.rung.clone(), entry.segment.sequence, missing))
            .collect()
    }

    /// The earliest deadline at which a segment may become a gap.
    pub fn next_deadline(&self) -> Option<Duration> {
        let unlisted = self.renditions.values().flat_map(LedgerRendition::unlisted);
        let open = unlisted.filter(|entry| match entry.fate {
            Fate::Waiting | Fate::Readable => true,
            Fate::Late | Fate::ReadableLate | Fate::Never => false,
        });
        open.map(|entry| entry.deadline).min()
    }

    /// Moves the live cursor past a segment of any rendition: readable, or a gap.
    pub fn next_live(&mut self) -> Option<SegmentInfo> {
        self.renditions.values_mut().find_map(LedgerRendition::next_live)
    }

    /// Whether the live cursor has passed every segment.
    pub fn is_listed(&self) -> bool {
        self.renditions.values().all(|rendition| rendition.unlisted().next().is_none())
    }

    /// Moves the archive cursor past a segment of any rendition. It stays behind the live cursor.
    pub fn next_archived(&mut self) -> Option<Settled> {
        self.renditions.values_mut().find_map(LedgerRendition::next_archived)
    }

    /// Nothing is uploaded any more: segments that cannot be read by now never will be. The live cursor passes
    /// everything.
    pub fn close(&mut self) {
        for LedgerRendition { entries, live, inits } in self.renditions.values_mut() {
            for entry in entries.iter_mut() {
                let has_init = inits.contains(&entry.segment.init);
                entry.fate = match entry.fate {
                    Fate::Readable | Fate::ReadableLate if has_init => entry.fate,
                    Fate::Readable | Fate::ReadableLate => Fate::Never,
                    Fate::Waiting | Fate::Late | Fate::Never => Fate::Never,
                };
            }
            *live = entries.len();
        }
    }

    fn entry(&mut self, rung: &RungName, sequence: u64) -> Option<&mut Entry> {
        let mut entries = self.renditions.get_mut(rung)?.entries.iter_mut();
        entries.find(|entry| entry.segment.sequence == sequence)
    }
}

// === impl LedgerRendition ===

impl LedgerRendition {
    /// Entries that the live cursor has not passed.
    fn unlisted(&self) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.live..)
    }

    /// What holds a segment back, unless it is a gap already.
    fn missing(&self, entry: &Entry) -> Option<Missing> {
        match entry.fate {
            Fate::Waiting => Some(Missing::Segment),
            Fate::Readable => (!self.inits.contains(&entry.segment.init)).then_some(Missing::Init),
            Fate::Late | Fate::ReadableLate | Fate::Never => None,
        }
    }

    fn next_live(&mut self) -> Option<SegmentInfo> {
        let entry = self.entries.get(self.live)?;
        if self.missing(entry).is_some() {
            return None;
        }
        let segment = entry.segment.clone();
        let segment = match entry.fate {
            Fate::Readable => segment,
            Fate::Waiting | Fate::Late | Fate::ReadableLate | Fate::Never => segment.into_gap(),
        };
        self.live += 1;
        Some(segment)
    }

    fn next_archived(&mut self) -> Option<Settled> {
        let entry = self.entries.front().filter(|_| self.live > 0)?;
        let stored = match entry.fate {
            Fate::Waiting | Fate::Late => return None,
            Fate::Readable | Fate::ReadableLate if self.inits.contains(&entry.segment.init) => true,
            Fate::Readable | Fate::ReadableLate => return None,
            Fate::Never => false,
        };
        let SegmentInfo { rung, sequence, .. } = self.entries.pop_front()?.segment;
        self.live -= 1;
        Some(Settled { rung, sequence, stored })
    }
}

#[cfg(test)]
mod tests;
