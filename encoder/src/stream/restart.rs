//! When a dead worker's successor starts, and whether the media since the last keyframe is replayed to it. Pure.

use std::time::{Duration, Instant};

/// A worker that lived this long had a healthy start: the count of deaths in a row is reset.
const HEALTHY_AFTER: Duration = Duration::from_secs(20);
/// Backoff before each successor in a row; the first successor starts immediately.
const DELAYS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// How the next worker is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Restart {
    /// Earliest time of the start.
    pub at: Instant,
    /// Whether the media since the last keyframe is replayed. From the second death in a row on it is not, because this
    /// media may be what kills the worker.
    pub replay: bool,
}

/// Counts worker deaths in a row.
#[derive(Debug, Default)]
pub(super) struct RestartPolicy {
    deaths_in_a_row: usize,
}

impl RestartPolicy {
    /// A worker that was started at `started` died at `now`. Returns how its successor starts.
    pub(super) fn died(&mut self, started: Instant, now: Instant) -> Restart {
        if now.saturating_duration_since(started) >= HEALTHY_AFTER {
            self.deaths_in_a_row = 0;
        }
        let delay = DELAYS[self.deaths_in_a_row.min(DELAYS.len() - 1)];
        self.deaths_in_a_row += 1;
        Restart { at: now + delay, replay: self.deaths_in_a_row == 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_successor_starts_at_once_with_the_last_pictures() {
        let now = Instant::now();
        assert_eq!(RestartPolicy::default().died(now, now), Restart { at: now, replay: true });
    }

    #[test]
    fn deaths_in_a_row_slow_down_and_skip_what_may_have_killed() {
        let mut policy = RestartPolicy::default();
        let mut now = Instant::now();
        policy.died(now, now);
        for _ in 0..10 {
            let restart = policy.died(now, now);
            assert!(restart.at > now && restart.at <= now + Duration::from_secs(2));
            assert!(!restart.replay);
            now = restart.at;
        }
        let healthy = now + HEALTHY_AFTER;
        assert_eq!(policy.died(now, healthy), Restart { at: healthy, replay: true });
    }
}
