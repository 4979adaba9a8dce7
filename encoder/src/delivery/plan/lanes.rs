//! Which segments are settled, and the order in which they are listed: one lane per rendition. When objects are
//! written is in [`super`].

use crate::delivery::Gap;
use hls::RungName;
use hls::packager::{InitSegment, Segment};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

/// Outcome of a segment's upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not known yet.
    Pending,
    /// Acknowledged, with that many bytes.
    Stored(u64),
    /// Given up.
    Gap,
}

/// Every rendition's segments that are not listed yet. Lanes hold no bodies; each segment leaves its lane by its
/// deadline, so a lane's length is bounded by the deadline's duration.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<RungName, VecDeque<AwaitedSegment>>,
    /// Acknowledged init segments.
    inits: HashSet<(RungName, String)>,
}

#[derive(Debug)]
struct AwaitedSegment {
    segment: Segment,
    deadline: Duration,
    outcome: Outcome,
}

impl Lanes {
    pub(super) fn push(&mut self, segment: Segment, deadline: Duration) {
        debug_assert!(segment.body.is_none());
        let lane = self.lanes.entry(segment.rung.clone()).or_default();
        lane.push_back(AwaitedSegment { segment, deadline, outcome: Outcome::Pending });
    }

    /// An init segment is readable. Init segments of earlier epochs are forgotten when no segment waits for them.
    pub(super) fn init_stored(&mut self, init: &InitSegment) {
        let lanes = &self.lanes;
        self.inits.retain(|(rung, name)| {
            *rung != init.rung
                || lanes.get(rung).is_some_and(|lane| lane.iter().any(|slot| slot.segment.init == *name))
        });
        self.inits.insert((init.rung.clone(), init.name.clone()));
    }

    /// Settles a segment; false when it was settled before or has left its lane.
    pub(super) fn set(&mut self, rung: &RungName, sequence: u64, outcome: Outcome) -> bool {
        let slots = self.lanes.get_mut(rung).into_iter().flatten();
        let Some(slot) = slots.into_iter().find(|slot| slot.segment.sequence == sequence) else {
            return false;
        };
        let settles = match (slot.outcome, outcome) {
            (Outcome::Pending, _) => true,
            // The segment was stored, but its init segment was not.
            (Outcome::Stored(_), Outcome::Gap) => true,
            (Outcome::Stored(_), Outcome::Pending | Outcome::Stored(_)) | (Outcome::Gap, _) => false,
        };
        if settles {
            slot.outcome = outcome;
        }
        settles
    }

    /// Segments that are past their deadline and not settled, with the reason.
    pub(super) fn late(&self, now: Duration) -> Vec<((RungName, u64), Gap)> {
        let late = |slot: &&AwaitedSegment| slot.deadline <= now && slot.outcome != Outcome::Gap;
        let why = |slot: &AwaitedSegment| match slot.outcome {
            Outcome::Pending => Some(Gap::Deadline),
            Outcome::Stored(_) if !self.has_init(&slot.segment) => Some(Gap::NoInit),
            Outcome::Stored(_) | Outcome::Gap => None,
        };
        let slots = self.lanes.values().flatten();
        slots
            .filter(late)
            .filter_map(|slot| Some(((slot.segment.rung.clone(), slot.segment.sequence), why(slot)?)))
            .collect()
    }

    /// The next segment to list, of any rendition: readable with its bytes, or a gap.
    pub(super) fn pop(&mut self) -> Option<(Segment, Option<u64>)> {
        let settled = |slot: &AwaitedSegment| match slot.outcome {
            Outcome::Pending => None,
            Outcome::Stored(bytes) => self.inits.contains(&init_key(&slot.segment)).then_some(Some(bytes)),
            Outcome::Gap => Some(None),
        };
        let lane_and_bytes = self
            .lanes
            .iter()
            .find_map(|(rung, lane)| lane.front().and_then(settled).map(|bytes| (rung.clone(), bytes)));
        let (rung, bytes) = lane_and_bytes?;
        let slot = self.lanes.get_mut(&rung)?.pop_front()?;
        Some((slot.segment, bytes))
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let unsettled = |slot: &&AwaitedSegment| slot.outcome != Outcome::Gap;
        self.lanes.values().flatten().filter(unsettled).map(|slot| slot.deadline).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.values().all(VecDeque::is_empty)
    }

    fn has_init(&self, segment: &Segment) -> bool {
        self.inits.contains(&init_key(segment))
    }
}

fn init_key(segment: &Segment) -> (RungName, String) {
    (segment.rung.clone(), segment.init.clone())
}
