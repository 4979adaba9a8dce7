//! Decides which decoded pictures are encoded, and which of the encoded ones must be IDR. These are pure decisions on
//! media time, made once per picture so that all rungs agree. No pixels belong here.

use crate::wire::Keyframes;
use media::MediaTime;
use media::time::TICKS_PER_SECOND;
use std::collections::VecDeque;

/// Limit of remembered keyframes that are still inside the decoder; no decoder delays more pictures than this.
const PENDING_KEYS: usize = 64;

/// Decides which pictures are IDR in all rungs.
#[derive(Debug)]
pub(super) enum KeyDecider {
    /// The first picture at or after each multiple of the grid width is an IDR.
    Grid {
        /// Grid width in 1/90000 s.
        ticks_90k: i64,
        /// Time from which the next IDR is due, in 1/90000 s; `None` before the first picture.
        next: Option<i64>,
    },
    /// The pictures whose access unit was a keyframe are IDR.
    Source {
        /// Times of the keyframes that entered the decoder and have not come out yet.
        pending: VecDeque<MediaTime>,
    },
}

impl KeyDecider {
    pub(super) fn new(keyframes: Keyframes) -> Self {
        match keyframes {
            Keyframes::Grid { ticks_90k } => Self::Grid { ticks_90k: ticks_90k.max(1), next: None },
            Keyframes::Source => Self::Source { pending: VecDeque::new() },
        }
    }

    /// Records an access unit that enters the decoder.
    pub(super) fn submitted(&mut self, pts: MediaTime, key: bool) {
        match self {
            Self::Grid { .. } => {}
            Self::Source { pending } => {
                if key {
                    if pending.len() == PENDING_KEYS {
                        pending.pop_front();
                    }
                    pending.push_back(pts);
                }
            }
        }
    }

    /// Whether the picture that came out of the decoder must be an IDR. Call it in display order.
    pub(super) fn decide(&mut self, pts: MediaTime) -> bool {
        match self {
            Self::Grid { ticks_90k, next } => {
                let pts = pts.ticks_90k();
                let due = next.is_none_or(|next| pts >= next);
                if due {
                    *next = Some((pts.div_euclid(*ticks_90k) + 1) * *ticks_90k);
                }
                due
            }
            Self::Source { pending } => {
                // Forget keyframes that never came out (undecodable). Promoting the next picture instead would break
                // the alignment with the rung that passes the source through.
                while pending.front().is_some_and(|&key| key < pts) {
                    pending.pop_front();
                }
                let ours = pending.front() == Some(&pts);
                if ours {
                    pending.pop_front();
                }
                ours
            }
        }
    }
}

/// Drops pictures evenly, down to a rung's maximum frame rate.
#[derive(Debug)]
pub(super) struct Decimator {
    interval: i64,
    due: Option<i64>,
}

impl Decimator {
    /// Keeps at most `rate` pictures per second, as (numerator, denominator).
    pub(super) fn new(rate: (u32, u32)) -> Self {
        let interval = TICKS_PER_SECOND * i64::from(rate.1.max(1)) / i64::from(rate.0.max(1));
        Self { interval, due: None }
    }

    /// Whether the rung gets this picture. A keyframe is never dropped.
    pub(super) fn keep(&mut self, pts: MediaTime, key: bool) -> bool {
        let pts = pts.ticks_90k();
        let Some(due) = self.due else {
            self.due = Some(pts + self.interval);
            return true;
        };
        // Tolerance of a quarter of the interval: RTMP rounds times to milliseconds, and a source of exactly the
        // maximum rate must lose no picture.
        if pts + self.interval / 4 >= due {
            // While pictures arrive on schedule, advance the schedule by one interval. After a gap, restart the
            // schedule from this picture and do not catch up.
            self.due =
                Some(if pts - due >= self.interval { pts + self.interval } else { due + self.interval });
            true
        } else {
            if key {
                self.due = Some(pts + self.interval);
            }
            key
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ticks: i64) -> MediaTime {
        MediaTime::from_ticks_90k(ticks)
    }

    fn keys(decider: &mut KeyDecider, times: impl IntoIterator<Item = i64>) -> Vec<i64> {
        times.into_iter().filter(|&t| decider.decide(at(t))).collect()
    }

    #[test]
    fn grid_takes_the_first_picture_at_or_after_each_multiple() {
        let mut grid = KeyDecider::new(Keyframes::Grid { ticks_90k: 90_000 });
        // 30 pictures per second, 100 ticks off the grid, beginning inside a grid cell.
        let got = keys(&mut grid, (0..90).map(|n| 45_100 + n * 3000));
        assert_eq!(got, [45_100, 90_100, 180_100, 270_100]);
    }

    #[test]
    fn grid_survives_gaps_and_negative_times() {
        let mut grid = KeyDecider::new(Keyframes::Grid { ticks_90k: 90_000 });
        assert_eq!(keys(&mut grid, [-100, 0, 10, 500_000, 530_000, 540_000]), [-100, 0, 500_000, 540_000]);
    }

    #[test]
    fn source_keys_are_exact_and_lost_ones_are_not_made_up_for() {
        let mut source = KeyDecider::new(Keyframes::Source);
        for t in [0, 9000, 18_000] {
            source.submitted(at(t), true);
        }
        source.submitted(at(3000), false);
        assert_eq!(keys(&mut source, [0, 3000, 12_000, 18_000, 21_000]), [0, 18_000]);
    }

    fn kept(rate: (u32, u32), times: &[i64]) -> usize {
        let mut thin = Decimator::new(rate);
        times.iter().filter(|&&t| thin.keep(at(t), false)).count()
    }

    fn milliseconds(rate: f64, count: usize) -> Vec<i64> {
        (0..count).map(|n| (n as f64 * 1000.0 / rate).round() as i64 * 90).collect()
    }

    #[test]
    fn a_source_at_the_highest_rate_loses_nothing() {
        for (rate, limit) in
            [(24.0, (24, 1)), (30.0, (30, 1)), (29.97, (30_000, 1001)), (50.0, (50, 1)), (60.0, (60, 1))]
        {
            assert_eq!(kept(limit, &milliseconds(rate, 600)), 600, "{rate}");
        }
    }

    #[test]
    fn faster_sources_are_thinned_evenly() {
        assert_eq!(kept((30, 1), &milliseconds(60.0, 600)), 300);
        assert_eq!(kept((25, 1), &milliseconds(50.0, 500)), 250);
        let fifty = kept((50, 1), &milliseconds(60.0, 600));
        assert!((499..=501).contains(&fifty), "{fifty}");
    }

    #[test]
    fn a_grid_picture_is_never_left_out() {
        let mut thin = Decimator::new((30, 1));
        let got: Vec<bool> = (0..6).map(|n| thin.keep(at(n * 1500), n == 3)).collect();
        assert_eq!(got, [true, false, true, true, false, true]);
    }
}
