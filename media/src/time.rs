//! Clocks, as types that cannot be confused.
//!
//! [`MediaTime`] counts 90 kHz ticks on the stream's own axis: continuous, repaired, never wrapping within a stream's
//! life. [`WallTime`] is UTC and enters once per epoch, as data, through an [`Anchor`]. Monotonic time
//! (`std::time::Instant`) does not belong in this module: delays are measured by its callers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub};
use std::time::Duration;

/// Ticks per second of [`MediaTime`].
pub const TICKS_PER_SECOND: i64 = 90_000;

/// A point on the stream's media axis, in 1/90000 s.
///
/// At 90 kHz a frame lasts a whole number of ticks at every common frame rate except 24000/1001 and 60000/1001; MPEG
/// clocks use the same rate. 63 bits last three million years. Serialised as the number of ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaTime(i64);

/// A difference of two [`MediaTime`]s, in 1/90000 s; may be negative. Serialised as the number of ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaSpan(i64);

impl MediaTime {
    /// The origin of the axis.
    pub const ZERO: Self = Self(0);

    /// From 1/90000 s.
    pub const fn from_ticks_90k(ticks: i64) -> Self {
        Self(ticks)
    }

    /// In 1/90000 s.
    pub const fn ticks_90k(self) -> i64 {
        self.0
    }

    /// From a count in another timescale (units per second), rounded to the nearest tick.
    pub fn from_scaled(count: i64, timescale: u32) -> Self {
        Self(rescale(count, timescale.into(), TICKS_PER_SECOND))
    }

    /// In another timescale, rounded to the nearest unit.
    pub fn to_scaled(self, timescale: u32) -> i64 {
        rescale(self.0, TICKS_PER_SECOND, timescale.into())
    }

    /// In seconds, for display and logs.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / TICKS_PER_SECOND as f64
    }
}

impl MediaSpan {
    /// The empty span.
    pub const ZERO: Self = Self(0);

    /// From 1/90000 s.
    pub const fn from_ticks_90k(ticks: i64) -> Self {
        Self(ticks)
    }

    /// From milliseconds.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms * (TICKS_PER_SECOND / 1000))
    }

    /// From seconds, rounded to the nearest tick.
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * TICKS_PER_SECOND as f64).round() as i64)
    }

    /// In 1/90000 s.
    pub const fn ticks_90k(self) -> i64 {
        self.0
    }

    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / TICKS_PER_SECOND as f64
    }

    /// As a standard duration; negative spans become zero.
    pub fn to_duration(self) -> Duration {
        Duration::from_nanos(rescale(self.0.max(0), TICKS_PER_SECOND, 1_000_000_000) as u64)
    }

    /// In another timescale, rounded to the nearest unit.
    pub fn to_scaled(self, timescale: u32) -> i64 {
        rescale(self.0, TICKS_PER_SECOND, timescale.into())
    }

    /// The absolute value.
    pub const fn abs(self) -> Self {
        Self(self.0.abs())
    }
}

impl From<Duration> for MediaSpan {
    fn from(duration: Duration) -> Self {
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        Self(rescale(nanos, 1_000_000_000, TICKS_PER_SECOND))
    }
}

impl Add<MediaSpan> for MediaTime {
    type Output = Self;
    fn add(self, span: MediaSpan) -> Self {
        Self(self.0 + span.0)
    }
}

impl AddAssign<MediaSpan> for MediaTime {
    fn add_assign(&mut self, span: MediaSpan) {
        self.0 += span.0;
    }
}

impl Sub<MediaSpan> for MediaTime {
    type Output = Self;
    fn sub(self, span: MediaSpan) -> Self {
        Self(self.0 - span.0)
    }
}

impl Sub for MediaTime {
    type Output = MediaSpan;
    fn sub(self, other: Self) -> MediaSpan {
        MediaSpan(self.0 - other.0)
    }
}

impl Add for MediaSpan {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for MediaSpan {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for MediaSpan {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl fmt::Display for MediaTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.as_secs_f64())
    }
}

impl fmt::Display for MediaSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.as_secs_f64())
    }
}

/// Converts a count to another timescale, rounded to the nearest unit, halves away from zero. All timescale conversions
/// use this function.
pub fn rescale(count: i64, from_per_second: i64, to_per_second: i64) -> i64 {
    debug_assert!(from_per_second > 0 && to_per_second > 0);
    let product = i128::from(count) * i128::from(to_per_second);
    let half = i128::from(from_per_second / 2);
    let rounded = if product >= 0 { product + half } else { product - half };
    (rounded / i128::from(from_per_second)) as i64
}

/// UTC in microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(i64);

impl WallTime {
    /// From microseconds since the Unix epoch.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// In microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }
}

impl Add<MediaSpan> for WallTime {
    type Output = Self;
    fn add(self, span: MediaSpan) -> Self {
        Self(self.0 + rescale(span.0, TICKS_PER_SECOND, 1_000_000))
    }
}

impl Sub for WallTime {
    type Output = MediaSpan;
    fn sub(self, other: Self) -> MediaSpan {
        MediaSpan(rescale(self.0 - other.0, 1_000_000, TICKS_PER_SECOND))
    }
}

/// "This media time arrived at that wall-clock time": the only way in which the wall clock enters the packager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The point on the media axis.
    pub media: MediaTime,
    /// Wall-clock time of its arrival.
    pub wall: WallTime,
}

impl Anchor {
    /// Wall-clock time of another point on the same axis.
    pub fn wall_at(&self, media: MediaTime) -> WallTime {
        self.wall + (media - self.media)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rescale_rounds_to_nearest_on_both_sides_of_zero() {
        assert_eq!(rescale(1, 3, 1), 0);
        assert_eq!(rescale(2, 3, 1), 1);
        assert_eq!(rescale(-2, 3, 1), -1);
        assert_eq!(rescale(1024, 48_000, 90_000), 1920);
        assert_eq!(rescale(1024, 44_100, 90_000), 2090);
    }

    #[test]
    fn no_overflow_after_a_century() {
        let century = MediaTime::from_ticks_90k(100 * 366 * 86_400 * TICKS_PER_SECOND);
        assert_eq!(MediaTime::from_scaled(century.to_scaled(48_000), 48_000), century);
    }

    #[test]
    fn anchor_maps_both_ways_from_its_point() {
        let anchor =
            Anchor { media: MediaTime::from_ticks_90k(900_000), wall: WallTime::from_unix_micros(5_000_000) };
        assert_eq!(anchor.wall_at(MediaTime::from_ticks_90k(990_000)).unix_micros(), 6_000_000);
        assert_eq!(anchor.wall_at(MediaTime::from_ticks_90k(810_000)).unix_micros(), 4_000_000);
    }
}
