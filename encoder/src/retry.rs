//! Pauses between attempts.

use std::time::Duration;

/// How long to wait after failed attempts: each pause is twice as long as the one before, up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Pause after the first failure.
    pub first: Duration,
    /// Longest pause.
    pub most: Duration,
}

impl Backoff {
    /// The pause after that many failures in a row, shortened by up to a half at random, so that encoders do not all
    /// retry at the same moment.
    pub(crate) fn pause(self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        self.longest_pause(failures).mul_f64(1.0 - random.f64() / 2.0)
    }

    /// The pause after that many failures in a row, without jitter.
    pub(crate) fn longest_pause(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_jitter_takes_half_at_most() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };
        let longest: Vec<_> = (0..7).map(|failures| backoff.longest_pause(failures).as_millis()).collect();
        assert_eq!(longest, [100, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.longest_pause(u32::MAX), Duration::from_secs(1));
        let pauses = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (1..100).map(|failures| backoff.pause(failures, &mut random)).collect::<Vec<_>>()
        };
        for (pause, failures) in pauses(7).into_iter().zip(1..) {
            let longest = backoff.longest_pause(failures);
            assert!((longest / 2..=longest).contains(&pause), "{pause:?} after {failures}");
        }
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }
}
