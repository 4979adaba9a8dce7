//! Maps media time to the wall clock by arrival times: PROGRAM-DATE-TIME follows the drift of the publisher's clock,
//! and is never in the future. Pure.

use media::{Anchor, MediaSpan, MediaTime, WallTime};
use std::time::Instant;

/// Interval, in media time, between reviews of the mapping. A phone's clock is off by up to 100 ppm: 1 ms in this time.
const WINDOW: MediaSpan = MediaSpan::from_millis(10_000);

/// Maximum change of the mapping per review, in microseconds: many times the drift within a window, and too little to
/// be noticed. The first arrivals of a publish come late and in a burst; correcting that in one step would make the
/// dates jump.
const STEP_MICROS: i64 = 20_000;

/// The same moment on the monotonic and on the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic clock.
    pub instant: Instant,
    /// Wall clock, UTC.
    pub wall: WallTime,
}

impl Now {
    /// Wall-clock time of an earlier instant.
    pub fn wall_of(&self, earlier: Instant) -> WallTime {
        let ago = self.instant.saturating_duration_since(earlier).as_micros();
        WallTime::from_unix_micros(self.wall.unix_micros() - i64::try_from(ago).unwrap_or(i64::MAX))
    }
}

/// Keeps the least delayed arrival of the current and of the previous window.
#[derive(Debug, Default)]
pub(super) struct AnchorTracker {
    window_start: Option<MediaTime>,
    former: Option<Anchor>,
    /// The mapping that was returned last.
    given: Option<Anchor>,
    current: Option<Anchor>,
}

impl AnchorTracker {
    /// A unit arrived. Returns a new mapping at the end of every window.
    pub(super) fn arrived(&mut self, media: MediaTime, wall: WallTime) -> Option<Anchor> {
        let arrival = Anchor { media, wall };
        let start = *self.window_start.get_or_insert(media);
        let mut renewed = None;
        if (media - start).abs() >= WINDOW {
            self.former = self.current.take();
            self.window_start = Some(media);
            renewed = self.former.map(|target| self.towards(target));
        }
        if self.current.is_none_or(|best| offset(arrival) < offset(best)) {
            self.current = Some(arrival);
        }
        renewed
    }

    /// The mapping to start an epoch with; `None` before the first arrival.
    pub(super) fn best(&mut self) -> Option<Anchor> {
        self.given = self.least_delayed();
        self.given
    }

    /// The least delayed arrival: ages of media are measured against it.
    pub(super) fn least_delayed(&self) -> Option<Anchor> {
        match (self.former, self.current) {
            (Some(a), Some(b)) => Some(if offset(a) < offset(b) { a } else { b }),
            (a, b) => a.or(b),
        }
    }

    /// Moves the last returned mapping towards `target`, by one step at most.
    fn towards(&mut self, target: Anchor) -> Anchor {
        let from = self.given.map_or(offset(target), offset);
        let micros = from + (offset(target) - from).clamp(-STEP_MICROS, STEP_MICROS);
        let stepped = Anchor { media: MediaTime::ZERO, wall: WallTime::from_unix_micros(micros) };
        self.given = Some(stepped);
        stepped
    }
}

/// Wall-clock time of the media axis' origin, in microseconds since 1970.
fn offset(anchor: Anchor) -> i64 {
    anchor.wall_at(MediaTime::ZERO).unix_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> MediaTime {
        MediaTime::from_ticks_90k(ms * 90)
    }

    fn wall(ms: i64) -> WallTime {
        WallTime::from_unix_micros(ms * 1000)
    }

    #[test]
    fn the_least_delayed_arrival_counts() {
        let mut tracker = AnchorTracker::default();
        tracker.arrived(at(0), wall(1_000_300));
        tracker.arrived(at(1000), wall(1_001_020));
        tracker.arrived(at(2000), wall(1_002_500));
        assert_eq!(tracker.best().unwrap().wall_at(at(5000)), wall(1_005_020));
    }

    #[test]
    fn a_late_beginning_is_corrected_in_small_steps() {
        let mut tracker = AnchorTracker::default();
        tracker.arrived(at(0), wall(300));
        assert_eq!(tracker.best().unwrap().wall_at(at(0)), wall(300));
        let renewed: Vec<i64> = (1..=60)
            .filter_map(|second| tracker.arrived(at(second * 1000), wall(second * 1000)))
            .map(|anchor| anchor.wall_at(at(0)).unix_micros() / 1000)
            .collect();
        assert_eq!(renewed, [280, 260, 240, 220, 200, 180]);
    }

    #[test]
    fn a_slow_publisher_clock_is_followed() {
        let mut tracker = AnchorTracker::default();
        let mut latest = None;
        for second in 0..3600 {
            // The publisher's clock counts 1 s while 1.0001 s pass.
            let renewed = tracker.arrived(at(second * 1000), wall(second * 1000 + second / 10));
            latest = renewed.or(latest);
        }
        let drift = latest.unwrap().wall_at(at(3_600_000)).unix_micros() - 3_600_000_000;
        assert!((355_000..=360_000).contains(&drift), "{drift}");
    }
}
