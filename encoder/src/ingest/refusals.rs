//! Which refused publishers get a log line: a flood of refusals must not become a flood of lines. Time comes in as an
//! argument. The metric `encoder_rejected_total` counts every refusal.

use rtmp::Refusal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time for which a reason is logged once.
const WINDOW: Duration = Duration::from_secs(10);

/// Decides for one port which refusals are logged: one for each kind of reason in ten seconds. Keeps one entry for each
/// kind of reason, so its size does not depend on publishers.
#[derive(Debug, Default)]
pub(super) struct RefusalSampler {
    logged: Mutex<Vec<Logged>>,
}

#[derive(Debug)]
struct Logged {
    reason: &'static str,
    at: Instant,
    /// Refusals without a line since then.
    left_out: u64,
}

impl RefusalSampler {
    /// The number of refusals for the same kind of reason that were left out since the last line, if this one gets a
    /// line.
    pub(super) fn line(&self, refusal: &Refusal, now: Instant) -> Option<u64> {
        let reason = kind(refusal);
        // Entries are changed in one step; a panic elsewhere cannot leave them inconsistent.
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = logged.iter_mut().find(|last| last.reason == reason) else {
            logged.push(Logged { reason, at: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(last.at) < WINDOW {
            last.left_out += 1;
            return None;
        }
        let left_out = last.left_out;
        *last = Logged { reason, at: now, left_out: 0 };
        Some(left_out)
    }
}

/// The kind of reason, without the text that is made for one publisher.
fn kind(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadName(_) => "bad name",
        Refusal::AlreadyPublishing => "already publishing",
        Refusal::Busy => "busy",
        Refusal::TakenOver => "taken over",
        Refusal::AllBusy => "all busy",
        Refusal::Forbidden(_) => "forbidden",
        Refusal::AdmissionDown => "admission down",
        Refusal::EndedByOperator(_) => "ended by an operator",
        Refusal::OverLimit(_) => "over a limit",
        Refusal::Draining => "draining",
        Refusal::Unsupported(_) => "unsupported",
        Refusal::Internal => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_a_line_in_ten_seconds() {
        let sampler = RefusalSampler::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let name = |text: &str| Refusal::BadName(text.to_owned());
        assert_eq!(sampler.line(&name("a"), at(0)), Some(0), "the first is told at once");
        for number in 1..10_000 {
            assert_eq!(sampler.line(&name(&number.to_string()), at(number)), None, "at {number} ms");
        }
        assert_eq!(sampler.line(&name("b"), at(10_000)), Some(9_999));
        assert_eq!(sampler.line(&name("c"), at(10_001)), None);
        assert_eq!(sampler.line(&name("d"), at(60_000)), Some(1), "what was left out is told late");
        assert_eq!(sampler.line(&name("e"), at(80_000)), Some(0));
        assert_eq!(sampler.line(&name("f"), start), None, "a clock that seems to go back changes nothing");
    }

    #[test]
    fn a_rare_reason_is_told_during_a_flood_of_another() {
        let sampler = RefusalSampler::default();
        let now = Instant::now();
        assert_eq!(sampler.line(&Refusal::Busy, now), Some(0));
        assert_eq!(sampler.line(&Refusal::Busy, now), None);
        assert_eq!(sampler.line(&Refusal::Forbidden("no such key".into()), now), Some(0));
        assert_eq!(sampler.line(&Refusal::Forbidden("expired".into()), now), None);
        assert_eq!(sampler.logged.lock().unwrap().len(), 2);
    }
}
