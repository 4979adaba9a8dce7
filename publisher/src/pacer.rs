//! When to send media, and when to reconnect: real-time pacing and backoff. Pure: the caller passes the time in.

use media::{MediaSpan, MediaTime};
use std::time::{Duration, Instant};

/// An access unit that is overdue by more than this counts as late.
const LATE: Duration = Duration::from_millis(200);
/// If an access unit is overdue by more than this, the lost time is not made up: a burst of that length would hurt more
/// than the gap.
const MAX_CATCH_UP: Duration = Duration::from_secs(3);
/// A step in media time beyond this is a hole in the source and is not waited out.
const MAX_STEP: MediaSpan = MediaSpan::from_millis(10_000);

/// Maps media time to due times.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    anchor: Option<(MediaTime, Instant)>,
    last: MediaTime,
    late: u64,
}

impl Pacer {
    /// When an access unit is due. The first one is due immediately; access units must come in order of dts.
    pub(super) fn due(&mut self, dts: MediaTime, now: Instant) -> Instant {
        let step = (dts - self.last).abs();
        let (media, start) = match self.anchor {
            Some(anchor) if step <= MAX_STEP => anchor,
            Some(_) | None => *self.anchor.insert((dts, now)),
        };
        self.last = dts;
        let due = start + (dts - media).to_duration();
        let behind = now.saturating_duration_since(due);
        if behind > LATE {
            self.late += 1;
        }
        if behind > MAX_CATCH_UP {
            self.anchor = Some((dts, now));
        }
        due
    }

    /// Starts over with the next access unit, as after a lost connection.
    pub(super) fn restart(&mut self) {
        self.anchor = None;
    }

    /// Number of access units that were handed in more than 200 ms after their due time.
    pub(super) fn late(&self) -> u64 {
        self.late
    }
}

/// The pause between attempts to connect: it doubles from half a second to ten seconds.
#[derive(Debug, Default)]
pub(super) struct ReconnectBackoff {
    failures: u32,
}

impl ReconnectBackoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);
    /// A connection that lasted this long was good: the next wait is short again.
    const GOOD: Duration = Duration::from_secs(10);

    /// How long to wait after an attempt that published for `lasted` (zero if it never published).
    pub(super) fn wait(&mut self, lasted: Duration) -> Duration {
        if lasted >= Self::GOOD {
            self.failures = 0;
        }
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> MediaTime {
        MediaTime::ZERO + MediaSpan::from_millis(10_000 + ms)
    }

    #[test]
    fn media_time_is_spread_over_real_time() {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        assert_eq!(pacer.due(at(0), start), start);
        assert_eq!(pacer.due(at(33), start), start + Duration::from_millis(33));
        // Handed in late: due in the past, and later access units are not shifted.
        let late = start + Duration::from_millis(1_000);
        assert_eq!(pacer.due(at(66), late), start + Duration::from_millis(66));
        assert_eq!(pacer.due(at(1_100), late), start + Duration::from_millis(1_100));
        assert_eq!(pacer.late(), 1);
    }

    #[test]
    fn a_long_stall_is_not_made_up_for() {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        pacer.due(at(0), start);
        let later = start + Duration::from_secs(60);
        assert!(pacer.due(at(40), later) < later, "overdue: at once");
        assert_eq!(pacer.due(at(80), later), later + Duration::from_millis(40));
    }

    #[test]
    fn a_hole_in_the_source_is_not_waited_out() {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        pacer.due(at(0), start);
        assert_eq!(pacer.due(at(3_600_000), start), start);
        assert_eq!(pacer.due(at(3_600_040), start), start + Duration::from_millis(40));
    }

    #[test]
    fn a_restart_begins_at_once() {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        pacer.due(at(0), start);
        pacer.restart();
        let later = start + Duration::from_secs(60);
        assert_eq!(pacer.due(at(40), later), later);
        assert_eq!(pacer.late(), 0);
    }

    #[test]
    fn waits_double_up_to_ten_seconds_and_shorten_after_success() {
        let mut backoff = ReconnectBackoff::default();
        let waits: Vec<u128> = (0..7).map(|_| backoff.wait(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(backoff.wait(Duration::from_secs(60)).as_millis(), 500);
    }
}
