//! How often an edge asks on behalf of strangers: look-ups of names that turn out to be nobody's. Pure: time comes in.
//!
//! A look-up that finds a stream costs nothing, so the budget bounds the requests for names that never were. Each of
//! 256 groups of clients has a budget of its own, so that one client that asks for thousands of names uses up the
//! budget of a 256th of all clients.

use listen::fairness::Source;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// Number of groups.
const GROUPS: usize = 256;
/// Look-ups of unknown names that a group may cause at once.
const GROUP_BURST: f64 = 32.0;
/// And per second, over time.
const GROUP_PER_SECOND: f64 = 4.0;
/// The same for all groups together.
const TOTAL_BURST: f64 = 512.0;
const TOTAL_PER_SECOND: f64 = 128.0;

/// A number of tokens that grows with time up to a bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenBucket {
    tokens: f64,
    most: f64,
    per_second: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(most: f64, per_second: f64, now: Instant) -> Self {
        Self { tokens: most, most, per_second, filled: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    /// Gives a token back.
    pub(super) fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.most);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        self.filled = now;
    }
}

/// The budget of look-ups.
#[derive(Debug)]
pub(super) struct LookUpBudget {
    groups: Box<[TokenBucket]>,
    total: TokenBucket,
    hasher: RandomState,
}

/// A look-up that is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paid {
    group: usize,
}

impl LookUpBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            groups: vec![TokenBucket::new(GROUP_BURST, GROUP_PER_SECOND, now); GROUPS].into(),
            total: TokenBucket::new(TOTAL_BURST, TOTAL_PER_SECOND, now),
            hasher: RandomState::new(),
        }
    }

    /// Pays for a look-up on behalf of a client. `None` if the budget is used up.
    pub(super) fn pay(&mut self, client: Option<Source>, now: Instant) -> Option<Paid> {
        let group = (self.hasher.hash_one(client) % GROUPS as u64) as usize;
        if !self.groups[group].take(now) {
            return None;
        }
        if !self.total.take(now) {
            self.groups[group].give_back();
            return None;
        }
        Some(Paid { group })
    }

    /// The look-up found a stream, or could not find out: it is not counted.
    pub(super) fn refund(&mut self, paid: Paid) {
        self.groups[paid.group].give_back();
        self.total.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::time::Duration;

    fn source(address: [u8; 4]) -> Option<Source> {
        Some(IpAddr::from(address).into())
    }

    #[test]
    fn a_flood_of_unknown_names_is_bounded_and_leaves_others_their_share() {
        let now = Instant::now();
        let mut budget = LookUpBudget::new(now);
        let flood = source([192, 0, 2, 1]);
        let paid = (0..5000).filter(|_| budget.pay(flood, now).is_some()).count();
        assert_eq!(paid, GROUP_BURST as usize);
        let later = now + Duration::from_secs(10);
        let paid = (0..5000).filter(|_| budget.pay(flood, later).is_some()).count();
        assert_eq!(paid, GROUP_BURST as usize, "no more than the burst, however long it waited");
        let others = (0..64).map(|n| source([198, 51, 100, n]));
        let served = others.filter(|client| budget.pay(*client, later).is_some()).count();
        assert!(served > 60, "{served} of 64");
        let all = (0..=255).flat_map(|a| (0..=255).map(move |b| source([203, 0, a, b])));
        let paid = all.filter(|client| budget.pay(*client, later).is_some()).count();
        assert!(paid <= TOTAL_BURST as usize, "{paid}");
    }

    #[test]
    fn what_is_found_costs_nothing() {
        let now = Instant::now();
        let mut budget = LookUpBudget::new(now);
        for _ in 0..5000 {
            let paid = budget.pay(None, now).unwrap();
            budget.refund(paid);
        }
    }
}
