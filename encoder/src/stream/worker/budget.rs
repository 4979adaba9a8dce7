//! The memory of a stream's workers together: one budget, divided when a worker starts. The newest worker encodes the
//! live media and gets what is left; an older one only flushes, and keeps what it has and a little more.
//!
//! What belongs here: the division. The limits are the kernel's, set in [`super::child`].

use crate::stream::run::RunId;
use std::collections::BTreeMap;

/// What a worker that only flushes may still allocate, in bytes.
const TO_FLUSH: u64 = 64 << 20;

/// The budget and its shares.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    /// For all workers of the stream together, in bytes.
    total: u64,
    /// Of each running worker: process number, limit in bytes.
    shares: BTreeMap<RunId, (u32, u64)>,
}

impl MemoryBudget {
    /// A budget of `total` bytes without any share.
    pub(crate) fn new(total: u64) -> Self {
        Self { total, shares: BTreeMap::new() }
    }

    /// Makes room for another worker: lowers the limits of the running ones with `shrink` (process number, limit, spare
    /// bytes and least limit in, limit in force out). No limit falls below a quarter of the budget, since a worker that
    /// has started a moment ago has not allocated its encoders yet. Returns the new worker's limit, or the oldest
    /// worker, which has to end first because the others leave less than a quarter.
    pub(crate) fn make_room(&mut self, shrink: impl Fn(u32, u64, u64, u64) -> u64) -> Result<u64, RunId> {
        let quarter = self.total / 4;
        for (pid, limit) in self.shares.values_mut() {
            *limit = shrink(*pid, *limit, TO_FLUSH, quarter);
        }
        let taken = self.shares.values().fold(0_u64, |sum, (_, limit)| sum.saturating_add(*limit));
        let left = self.total.saturating_sub(taken);
        match self.shares.first_key_value() {
            Some((oldest, _)) if left < quarter => Err(*oldest),
            Some(_) | None => Ok(left),
        }
    }

    /// Notes a worker that has started with this limit.
    pub(crate) fn started(&mut self, id: RunId, pid: u32, limit: u64) {
        self.shares.insert(id, (pid, limit));
    }

    /// Forgets a worker that has ended.
    pub(crate) fn ended(&mut self, id: RunId) {
        self.shares.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_newest_worker_gets_what_the_others_leave_and_the_sum_stays() {
        let mut budget = MemoryBudget::new(1536 * MIB);
        // Every worker has 400 MiB when the next one starts.
        let shrink = |_, limit: u64, spare: u64, least: u64| limit.min((400 * MIB + spare).max(least));
        assert_eq!(budget.make_room(shrink), Ok(1536 * MIB));
        budget.started(RunId(1), 11, 1536 * MIB);
        assert_eq!(budget.make_room(shrink), Ok((1536 - 464) * MIB));
        budget.started(RunId(2), 12, (1536 - 464) * MIB);
        assert_eq!(budget.make_room(shrink), Ok((1536 - 2 * 464) * MIB));
        budget.ended(RunId(1));
        assert_eq!(budget.make_room(shrink), Ok((1536 - 464) * MIB));
    }

    #[test]
    fn a_worker_that_has_just_started_keeps_a_quarter() {
        let mut budget = MemoryBudget::new(1536 * MIB);
        budget.started(RunId(1), 11, 1536 * MIB);
        let has_nothing_yet = |_, limit: u64, spare: u64, least: u64| limit.min((5 * MIB + spare).max(least));
        assert_eq!(budget.make_room(has_nothing_yet), Ok(1536 / 4 * 3 * MIB));
    }

    #[test]
    fn a_worker_that_keeps_too_much_has_to_end_first() {
        let mut budget = MemoryBudget::new(1000);
        budget.started(RunId(1), 11, 1000);
        budget.started(RunId(2), 12, 100);
        let keeps = |_, limit: u64, _, _| limit.min(800);
        assert_eq!(budget.make_room(keeps), Err(RunId(1)));
        budget.ended(RunId(1));
        assert_eq!(budget.make_room(keeps), Ok(900));
    }
}
