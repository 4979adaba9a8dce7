//! Which refused publishers are worth an event: a flood of refusals must not be a flood of events. Sans-IO.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Least time between two events about one reason.
const EVERY: Duration = Duration::from_secs(10);

/// Refusals by reason. Reasons are few: their names are constants.
#[derive(Debug, Default)]
pub(super) struct RefusalSampler {
    reasons: BTreeMap<&'static str, Sampled>,
}

#[derive(Debug)]
struct Sampled {
    told: Instant,
    left_out: u64,
}

impl RefusalSampler {
    /// A publisher was refused. Returns how many refusals for this reason were left out before, if this one is worth an
    /// event.
    pub(super) fn refused(&mut self, reason: &'static str, now: Instant) -> Option<u64> {
        let Some(sampled) = self.reasons.get_mut(reason) else {
            self.reasons.insert(reason, Sampled { told: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(sampled.told) < EVERY {
            sampled.left_out += 1;
            return None;
        }
        sampled.told = now;
        Some(std::mem::take(&mut sampled.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_per_reason_and_ten_seconds_is_told_and_the_others_are_counted() {
        let (mut sampler, began) = (RefusalSampler::default(), Instant::now());
        let mut at = |ms: u64, reason| sampler.refused(reason, began + Duration::from_millis(ms));
        assert_eq!(at(0, "busy"), Some(0));
        assert_eq!(at(1, "forbidden"), Some(0));
        assert_eq!((at(2, "busy"), at(9_999, "busy")), (None, None));
        assert_eq!(at(10_000, "busy"), Some(2));
        assert_eq!(at(10_001, "busy"), None);
        assert_eq!(at(60_000, "busy"), Some(1));
    }
}
