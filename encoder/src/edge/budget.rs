//! How often an edge asks on behalf of strangers: look-ups of names that no stream has. Pure: time comes in.
//!
//! A look-up that finds a stream costs nothing, so the budget bounds the requests for names that never were. Each of
//! 256 groups of clients has a budget of its own, so that one client that asks for thousands of names uses up the
//! budget of a 256th of all clients.

use listen::bucket::{Rate, TokenBucket};
use listen::fairness::Source;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// Number of groups.
const GROUPS: usize = 256;
/// Look-ups of unknown names that a group may cause.
const GROUP: Rate = Rate { burst: 32.0, per_second: 4.0 };
/// Those of all groups together.
const TOTAL: Rate = Rate { burst: 512.0, per_second: 128.0 };

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
            groups: vec![TokenBucket::full(GROUP, now); GROUPS].into(),
            total: TokenBucket::full(TOTAL, now),
            hasher: RandomState::new(),
        }
    }

    /// Pays for a look-up on behalf of a client. `None` if the budget is used up.
    pub(super) fn pay(&mut self, client: Option<Source>, now: Instant) -> Option<Paid> {
        let group = (self.hasher.hash_one(client) % GROUPS as u64) as usize;
        if !self.groups[group].take(GROUP, now) {
            return None;
        }
        if !self.total.take(TOTAL, now) {
            self.groups[group].give_back(GROUP);
            return None;
        }
        Some(Paid { group })
    }

    /// The look-up found a stream, or could not find out: it is not counted.
    pub(super) fn refund(&mut self, paid: Paid) {
        self.groups[paid.group].give_back(GROUP);
        self.total.give_back(TOTAL);
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
        assert_eq!(paid, GROUP.burst as usize);
        let later = now + Duration::from_secs(10);
        let paid = (0..5000).filter(|_| budget.pay(flood, later).is_some()).count();
        assert_eq!(paid, GROUP.burst as usize, "no more than the burst, however long it waited");
        let others = (0..64).map(|n| source([198, 51, 100, n]));
        let served = others.filter(|client| budget.pay(*client, later).is_some()).count();
        assert!(served > 60, "{served} of 64");
        let all = (0..=255).flat_map(|a| (0..=255).map(move |b| source([203, 0, a, b])));
        let paid = all.filter(|client| budget.pay(*client, later).is_some()).count();
        assert!(paid <= TOTAL.burst as usize, "{paid}");
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
