//! How fast a publisher sends: bytes and time in, a verdict out. What follows from an excess belongs in
//! [`super::server`].

use std::time::{Duration, Instant};

/// Time over which the rate is measured. A publisher whose network stood still sends what it has kept in one burst, so
/// that a shorter time would punish bad networks.
const WINDOW: Duration = Duration::from_secs(10);
/// Number of parts that the window is counted in.
const SLOTS: usize = 10;

/// Counts received bytes over the last ten seconds.
#[derive(Debug)]
pub(super) struct ReceiveRate {
    /// Most bytes within the window.
    most: u64,
    began: Instant,
    /// Bytes by second; the second number `n` is kept in the slot `n % SLOTS`.
    slots: [u64; SLOTS],
    /// The second that is being counted.
    second: u64,
}

impl ReceiveRate {
    /// Begins to count for a publisher that may send `bits_per_second`.
    pub(super) fn new(bits_per_second: u64, now: Instant) -> Self {
        let most = bits_per_second.saturating_mul(WINDOW.as_secs()) / 8;
        Self { most, began: now, slots: [0; SLOTS], second: 0 }
    }

    /// Counts bytes that were received, and returns whether the publisher keeps to its rate.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.began).as_secs();
        let passed = second.saturating_sub(self.second).min(SLOTS as u64);
        for step in 1..=passed {
            self.slots[((self.second + step) % SLOTS as u64) as usize] = 0;
        }
        self.second = self.second.max(second);
        self.slots[(self.second % SLOTS as u64) as usize] += bytes as u64;
        self.slots.iter().sum::<u64>() <= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two megabits a second: 2.5 megabytes in ten seconds.
    const LIMIT: u64 = 2_000_000;

    #[test]
    fn a_steady_publisher_at_the_limit_keeps_to_it() {
        let start = Instant::now();
        let mut rate = ReceiveRate::new(LIMIT, start);
        for step in 0..6000 {
            assert!(rate.received(2_499, start + Duration::from_millis(10 * step)), "after {step}");
        }
    }

    #[test]
    fn a_burst_after_a_silence_is_no_excess() {
        let start = Instant::now();
        let mut rate = ReceiveRate::new(LIMIT, start);
        assert!(rate.received(500_000, start));
        assert!(rate.received(2_400_000, start + Duration::from_secs(12)));
        assert!(!rate.received(200_000, start + Duration::from_secs(13)));
        assert!(rate.received(200_000, start + Duration::from_secs(23)));
    }

    #[test]
    fn a_publisher_that_does_not_pace_itself_exceeds_it() {
        let start = Instant::now();
        let mut rate = ReceiveRate::new(LIMIT, start);
        let kept = (0..100).take_while(|_| rate.received(32 << 10, start)).count();
        assert_eq!(kept, 2_500_000 / (32 << 10));
        let mut rate = ReceiveRate::new(u64::MAX, start);
        assert!(rate.received(usize::MAX >> 8, start + Duration::from_secs(1 << 40)));
    }
}
