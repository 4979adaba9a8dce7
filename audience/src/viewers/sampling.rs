//! Which share of the sessions is tracked: a power of one half. A session is in the sample of level `n` if `n` bits of
//! its hash are zero, so every sample holds the smaller ones.
//!
//! The sample shrinks immediately and grows with a delay. A session that the larger sample would hold is tracked from
//! its next request on, so the larger sample is complete after one window; until then the smaller sample is counted.

use super::WINDOW_S;
use crate::identity::Session;

/// The first bit that decides. A hash table uses lower bits for the place and the highest seven for its tags; with
/// others the tracked sessions are spread evenly over its places.
const FIRST_BIT: u32 = 36;
/// Smallest share: one in 65,536. With it a limit of 200,000 sessions is enough for every person on earth.
const MAX_LEVEL: u32 = 16;

/// The levels, and the bound that they keep.
#[derive(Clone, Copy)]
pub(super) struct Sampling {
    limit: usize,
    /// Sessions of this level are tracked.
    tracked: u32,
    /// Sessions of this level are counted; not below `tracked`.
    counted: u32,
    /// When the sample of level `tracked` is complete.
    complete_s: u32,
}

impl Sampling {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), tracked: 0, counted: 0, complete_s: 0 }
    }

    /// Most tracked sessions.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether the session is tracked.
    pub(super) fn tracks(&self, session: Session) -> bool {
        is_sampled(session, self.tracked)
    }

    /// Whether the session is counted. A counted session is tracked.
    pub(super) fn counts(&self, session: Session) -> bool {
        is_sampled(session, self.counted)
    }

    /// The number of viewers for a number of counted sessions.
    pub(super) fn scaled(&self, counted: u64) -> u64 {
        counted << self.counted
    }

    /// Tracks half as many sessions. `false` if the share is the smallest one already.
    pub(super) fn halve(&mut self) -> bool {
        if self.tracked == MAX_LEVEL {
            return false;
        }
        self.tracked += 1;
        self.counted = self.counted.max(self.tracked);
        true
    }

    /// Tracks more sessions if the tracked ones are few: at most so many that half of the limit is expected to be used.
    pub(super) fn grow(&mut self, sessions: usize, now_s: u32) {
        if self.tracked < self.counted {
            return;
        }
        while self.tracked > 0 && sessions << (self.counted - self.tracked + 1) <= self.limit / 2 {
            self.tracked -= 1;
            self.complete_s = now_s + WINDOW_S + 1;
        }
    }

    /// Counts the grown sample if it is complete. `true` if so: then the caller recounts every session.
    pub(super) fn settle(&mut self, now_s: u32) -> bool {
        let complete = self.tracked < self.counted && now_s >= self.complete_s;
        if complete {
            self.counted = self.tracked;
        }
        complete
    }
}

fn is_sampled(session: Session, level: u32) -> bool {
    session.hash() >> FIRST_BIT & ((1 << level) - 1) == 0
}
