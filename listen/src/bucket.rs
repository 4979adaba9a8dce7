//! Token buckets: how often something may happen. Time comes in as an argument.

use std::time::{Duration, Instant};

/// What may happen: so many times at once, and so many times a second over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens of a full bucket.
    pub burst: f64,
    /// Tokens that come back each second.
    pub per_second: f64,
}

/// A number of tokens that grows with time up to a bound. The rate is given with each call and is the same in all calls,
/// so that many buckets share one.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: f64,
    /// When `tokens` was right.
    counted_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, counted_at: now }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.counted_at = self.counted_at.max(now);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    /// Gives a token back that turned out not to be needed.
    pub fn give_back(&mut self, rate: Rate) {
        self.tokens = (self.tokens + 1.0).min(rate.burst);
    }

    /// When the bucket is full again; `None` if the bucket is full, or never will be.
    pub fn full_at(&self, rate: Rate) -> Option<Instant> {
        let missing = rate.burst - self.tokens;
        let wait = Duration::try_from_secs_f64(missing / rate.per_second).ok()?;
        (missing > 0.0).then(|| self.counted_at + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3.0, per_second: 2.0 };

    #[test]
    fn tokens_come_back_with_time_up_to_the_burst() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = TokenBucket::full(RATE, start);
        let taken = |bucket: &mut TokenBucket, now| (0..10).filter(|_| bucket.take(RATE, now)).count();
        assert_eq!(bucket.full_at(RATE), None);
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(bucket.full_at(RATE), Some(at(1_500)));
        assert_eq!(taken(&mut bucket, at(499)), 0);
        assert_eq!(taken(&mut bucket, at(500)), 1);
        bucket.give_back(RATE);
        assert_eq!(taken(&mut bucket, at(500)), 1, "what is given back can be taken");
        assert_eq!(taken(&mut bucket, start), 0, "a clock that seems to go back changes nothing");
        assert_eq!(taken(&mut bucket, at(60_000)), 3, "no more than the burst");
    }
}
