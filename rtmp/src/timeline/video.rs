//! Video times on the frame grid. FLV's milliseconds turn 33.33 ms into 33 or 34; muxers and encoders need the camera's
//! grid. Pictures that are not on a grid (variable frame rates) keep their milliseconds.

use super::Repairs;
use media::time::{TICKS_PER_SECOND, rescale};
use std::collections::VecDeque;

/// Largest distance of a picture from its grid place, in ticks: one millisecond of rounding in either direction, plus
/// half a millisecond for the anchor.
const TOLERANCE: i64 = 135;
/// Pictures on an exact grid deviate from it by amounts that differ by less than this, in ticks: one rounding to a
/// millisecond, and one to a tick.
const MAX_SPREAD: i64 = 99;
/// Number of pictures needed to tell 29.97 from 30 and 59.94 from 60.
const WINDOW: usize = 90;
/// Tolerance for composition offsets, in ticks; larger because an offset is the difference of two rounded times.
const COMPOSITION_TOLERANCE: i64 = 200;
/// Common frame rates, slowest first, because a stream of 15 frames per second is also on the grid of 30.
const RATES: [(u32, u32); 13] = [
    (10, 1),
    (12, 1),
    (15, 1),
    (20, 1),
    (24_000, 1001),
    (24, 1),
    (25, 1),
    (30_000, 1001),
    (30, 1),
    (50, 1),
    (60_000, 1001),
    (60, 1),
    (120, 1),
];

/// Frame `index` is at `anchor + index * den / num` seconds.
#[derive(Clone, Copy, Debug)]
struct Grid {
    num: i64,
    den: i64,
    anchor: i64,
}

impl Grid {
    fn new((num, den): (u32, u32), anchor: i64) -> Self {
        Self { num: num.into(), den: den.into(), anchor }
    }

    fn at(&self, index: i64) -> i64 {
        self.anchor + rescale(index.saturating_mul(self.den), self.num, TICKS_PER_SECOND)
    }

    fn index(&self, axis: i64) -> i64 {
        self.frames(axis - self.anchor)
    }

    fn frames(&self, ticks: i64) -> i64 {
        rescale(ticks, TICKS_PER_SECOND * self.den, self.num)
    }
}

/// Finds the frame grid and snaps pictures to it.
#[derive(Clone, Debug, Default)]
pub struct FrameGrid {
    hint: Option<(u32, u32)>,
    /// Pictures have contradicted the hint: it is only one candidate among others.
    distrusted: bool,
    locked: Option<Grid>,
    /// The latest unsnapped times, in ticks, while no grid is known.
    window: VecDeque<i64>,
}

impl FrameGrid {
    pub(super) fn set_hint(&mut self, rate: Option<(u32, u32)>) {
        let rate = rate.filter(|&(num, den)| num > 0 && den > 0);
        if self.hint != rate {
            self.hint = rate;
            self.distrusted = false;
            self.restart();
        }
    }

    /// Forgets the grid, because the next picture does not continue the previous ones.
    pub(super) fn restart(&mut self) {
        self.locked = None;
        self.window.clear();
    }

    /// Decode and presentation time of the picture at `axis`, in ticks.
    pub(super) fn snap(&mut self, axis: i64, composition: i64, repairs: &mut Repairs) -> (i64, i64) {
        if self.locked.is_none() {
            self.find(axis);
        }
        let Some(grid) = self.locked else { return (axis, axis + composition) };
        let index = grid.index(axis);
        let dts = grid.at(index);
        if (axis - dts).abs() > TOLERANCE {
            repairs.grid_losses += 1;
            self.distrusted = true;
            self.restart();
            self.window.push_back(axis);
            return (axis, axis + composition);
        }
        let pts = grid.at(index.saturating_add(grid.frames(composition)));
        if (pts - dts - composition).abs() > COMPOSITION_TOLERANCE {
            return (dts, dts + composition);
        }
        (dts, pts)
    }

    fn find(&mut self, axis: i64) {
        if let (Some(rate), false) = (self.hint, self.distrusted) {
            self.locked = Some(Grid::new(rate, axis));
            return;
        }
        self.window.push_back(axis);
        if self.window.len() < WINDOW {
            return;
        }
        self.locked = self.hint.iter().chain(&RATES).find_map(|&rate| fit(rate, &self.window));
        if self.locked.is_some() {
            self.window.clear();
        } else {
            // The next attempt comes after half a window.
            self.window.drain(..WINDOW / 2);
        }
    }
}

/// Returns the grid of that rate if all times in `window` are on it; the anchor is in the middle of their rounding.
fn fit(rate: (u32, u32), window: &VecDeque<i64>) -> Option<Grid> {
    let mut grid = Grid::new(rate, *window.front()?);
    let (mut low, mut high) = (0, 0);
    for &axis in window {
        let off = axis - grid.at(grid.index(axis));
        low = low.min(off);
        high = high.max(off);
        if high - low > MAX_SPREAD {
            return None;
        }
    }
    grid.anchor += (low + high) / 2;
    Some(grid)
}
