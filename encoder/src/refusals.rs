//! Refused publishers in log lines, events and metrics: the name of a refusal's reason, and which refusals are told when
//! there is a flood of them. Time comes in as an argument. The metric `encoder_rejected_total` counts every refusal.

use rtmp::Refusal;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time for which a reason is told once.
const WINDOW: Duration = Duration::from_secs(10);

/// Decides which refusals are told: one for each reason in ten seconds. Keeps one entry for each reason, so its size
/// does not depend on publishers.
#[derive(Debug, Default)]
pub(crate) struct RefusalSampler {
    reasons: Mutex<BTreeMap<&'static str, LastTold>>,
}

#[derive(Debug)]
struct LastTold {
    at: Instant,
    /// Refusals that were not told since then.
    left_out: u64,
}

impl RefusalSampler {
    /// A publisher was refused for a reason, as [`reason`] names it. Returns how many refusals for that reason were
    /// left out before, if this one is to be told.
    pub(crate) fn refused(&self, reason: &'static str, now: Instant) -> Option<u64> {
        // Entries are changed in one step; a panic elsewhere cannot leave them inconsistent.
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = reasons.get_mut(reason) else {
            reasons.insert(reason, LastTold { at: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(last.at) < WINDOW {
            last.left_out += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.left_out))
    }
}

/// The name of a refusal's reason, without the text that is made for one publisher.
pub(crate) fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadName(_) => "bad_name",
        Refusal::AlreadyPublishing | Refusal::TakenOver => "already_publishing",
        Refusal::Busy => "busy",
        Refusal::AllBusy => "all_busy",
        Refusal::Forbidden(_) => "forbidden",
        Refusal::AdmissionDown => "admission_down",
        Refusal::EndedByOperator(_) => "ended_by_operator",
        Refusal::OverLimit(_) => "over_limit",
        Refusal::Draining => "draining",
        Refusal::Unsupported(_) => "unsupported",
        Refusal::Silent(_) => "silent",
        Refusal::Violation(_) => "violation",
        Refusal::Internal => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_once_in_ten_seconds() {
        let sampler = RefusalSampler::default();
        let start = Instant::now();
        let name = |text: &str| Refusal::BadName(text.to_owned());
        let refused =
            |refusal: &Refusal, ms: u64| sampler.refused(reason(refusal), start + Duration::from_millis(ms));
        assert_eq!(refused(&name("a"), 0), Some(0), "the first is told at once");
        for number in 1..10_000 {
            assert_eq!(refused(&name(&number.to_string()), number), None, "at {number} ms");
        }
        assert_eq!(refused(&name("b"), 10_000), Some(9_999));
        assert_eq!(refused(&name("c"), 10_001), None);
        assert_eq!(refused(&name("d"), 60_000), Some(1), "what was left out is told late");
        assert_eq!(refused(&name("e"), 80_000), Some(0));
        assert_eq!(refused(&name("f"), 0), None, "a clock that seems to go back changes nothing");
    }

    #[test]
    fn a_rare_reason_is_told_during_a_flood_of_another() {
        let sampler = RefusalSampler::default();
        let now = Instant::now();
        let refused = |refusal: &Refusal| sampler.refused(reason(refusal), now);
        assert_eq!(refused(&Refusal::Busy), Some(0));
        assert_eq!(refused(&Refusal::Busy), None);
        assert_eq!(refused(&Refusal::Forbidden("no such key".into())), Some(0));
        assert_eq!(refused(&Refusal::Forbidden("expired".into())), None);
        assert_eq!(sampler.reasons.lock().unwrap().len(), 2);
    }
}
