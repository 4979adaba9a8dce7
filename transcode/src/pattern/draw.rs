//! Draws the test pattern's picture from frame number and wall clock. Pure. The layout of the machine-readable clock
//! is in [`super::clock_code`].
//!
//! From top to bottom, in 1/72 of the height: colour bars with a dial that fills once a second and flashes white on
//! the mark (0..30); wall clock and frame counter (30..47); two layers of noise that drift against each other, with a
//! ball (47..62); the machine-readable clock (62..72).

use super::clock_code::draw_clock;
use super::font::{glyph, strokes};
use super::{FrameRate, noise};

/// A picture in 8-bit YUV 4:2:0, lines packed. Both dimensions are even.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    /// The luma plane, then both chroma planes of half the width and height.
    pub(super) planes: [Vec<u8>; 3],
}

/// A colour in BT.709, limited range.
#[derive(Clone, Copy)]
struct Colour(u8, u8, u8);

const BLACK: Colour = Colour(16, 128, 128);
const WHITE: Colour = Colour(235, 128, 128);
const GREY: Colour = Colour(120, 128, 128);
const AMBER: Colour = Colour(190, 50, 150);
/// Colour bars at 75 %.
const BARS: [Colour; 7] = [
    Colour(180, 128, 128),
    Colour(168, 44, 136),
    Colour(145, 147, 44),
    Colour(133, 63, 52),
    Colour(63, 193, 204),
    Colour(51, 109, 212),
    Colour(28, 212, 120),
];

/// Edges of the areas in 1/72 of the height.
const UNITS: usize = 72;
const BARS_END: usize = 30;
const CLOCK_END: usize = 47;
const NOISE_END: usize = 62;

/// Time in milliseconds in which the ball crosses the picture and returns.
const BALL_PERIOD_MS: u64 = 6_000;

impl Canvas {
    fn black(width: usize, height: usize) -> Self {
        let chroma = vec![128; (width / 2) * (height / 2)];
        Self { width, height, planes: [vec![16; width * height], chroma.clone(), chroma] }
    }

    /// Fills a rectangle, clipped to the picture; chroma follows at half resolution.
    fn fill(&mut self, [left, top, right, bottom]: [usize; 4], colour: Colour) {
        let (right, bottom) = (right.min(self.width), bottom.min(self.height));
        let levels = [colour.0, colour.1, colour.2];
        for (at, (plane, level)) in self.planes.iter_mut().zip(levels).enumerate() {
            let shift = usize::from(at > 0);
            let stride = self.width >> shift;
            for y in top >> shift..bottom >> shift {
                let line = &mut plane[y * stride..][..stride];
                if left >> shift < right >> shift {
                    line[left >> shift..right >> shift].fill(level);
                }
            }
        }
    }
}

/// Paints frames of one size and rate.
pub(super) struct Painter {
    background: Canvas,
    noise: noise::Tile,
    dial: Dial,
    frame_rate: FrameRate,
}

impl Painter {
    /// Creates a painter. Both dimensions must be even and at least 16 (far below any useful size).
    pub(super) fn new(width: usize, height: usize, frame_rate: FrameRate) -> Self {
        let mut background = Canvas::black(width, height);
        let line = |units: usize| units * height / UNITS;
        for (at, colour) in BARS.into_iter().enumerate() {
            let edge = |bar: usize| even(bar * width / BARS.len());
            let right = if at + 1 == BARS.len() { width } else { edge(at + 1) };
            background.fill([edge(at), 0, right, even(line(BARS_END))], colour);
        }
        // A slow colour change under the noise gives the chroma encoder work as well.
        let (half_width, half_height) = (width / 2, height / 2);
        for y in line(CLOCK_END) / 2..(line(NOISE_END) / 2).min(half_height) {
            for x in 0..half_width {
                background.planes[1][y * half_width + x] = (90 + 76 * x / half_width) as u8;
                background.planes[2][y * half_width + x] = (150 - 60 * x / half_width) as u8;
            }
        }
        let radius = (13 * height / UNITS).min(width / 5);
        let dial = Dial::new(width / 2, line(BARS_END) / 2, radius);
        Self { background, noise: noise::Tile::new(width), dial, frame_rate }
    }

    /// An empty picture of the right size to paint on.
    pub(super) fn canvas(&self) -> Canvas {
        self.background.clone()
    }

    /// Paints the frame with number `frame` since the start, with the wall clock `unix_ms` (Unix time in
    /// milliseconds).
    pub(super) fn paint(&self, picture: &mut Canvas, frame: u64, unix_ms: u64) {
        for (to, from) in picture.planes.iter_mut().zip(&self.background.planes) {
            to.copy_from_slice(from);
        }
        self.dial.paint(picture, self.frame_rate.phase(frame), self.frame_rate.is_mark(frame));
        self.paint_clock(picture, frame, unix_ms);
        self.paint_noise(picture, frame);
        let (width, height) = (picture.width, picture.height);
        draw_clock(picture.planes.each_mut().map(Vec::as_mut_slice), width, height, unix_ms);
    }

    fn paint_clock(&self, picture: &mut Canvas, frame: u64, unix_ms: u64) {
        let (width, height) = (picture.width, picture.height);
        let line = |units: usize| units * height / UNITS;
        let seconds = unix_ms / 1000;
        let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let text = format!("{h:02}:{m:02}:{s:02}.{:03}", unix_ms % 1000);
        // Nine digits, and three separators of half a digit's width each.
        let digit = even((width * 2 / 25).min(line(9)));
        let tall = (digit * 3 / 2).min(line(CLOCK_END - BARS_END - 6));
        let mut left = even((width - digit * 21 / 2) / 2);
        let top = line(BARS_END + 1) + 2;
        for character in text.chars() {
            let cell = if character.is_ascii_digit() { digit } else { digit / 2 };
            for [l, t, r, b] in strokes(character) {
                let area =
                    [left + l * cell / 16, top + t * tall / 24, left + r * cell / 16, top + b * tall / 24];
                picture.fill(area, WHITE);
            }
            left += cell;
        }
        let print = format!("UTC  FRAME {frame:08}  {width}X{height}  {}FPS", self.frame_rate);
        let dot = (height / 180).min(width / (6 * (print.len() + 2))).max(1);
        let left = width.saturating_sub(print.len() * 6 * dot) / 2;
        let top = line(CLOCK_END).saturating_sub(9 * dot);
        for (at, character) in print.chars().enumerate() {
            for (row, dots) in glyph(character).into_iter().enumerate() {
                for column in (0..5).filter(|column| dots >> (4 - column) & 1 == 1) {
                    let (x, y) = (left + (at * 6 + column) * dot, top + row * dot);
                    picture.fill([x, y, x + dot, y + dot], AMBER);
                }
            }
        }
    }

    fn paint_noise(&self, picture: &mut Canvas, frame: u64) {
        let (width, height) = (picture.width, picture.height);
        let (top, bottom) = (CLOCK_END * height / UNITS, NOISE_END * height / UNITS);
        for y in top..bottom {
            let line = &mut picture.planes[0][y * width..][..width];
            self.noise.blend(line, y - top, frame);
        }
        let radius = (bottom - top) / 3;
        let millis = self.frame_rate.millis(frame) % BALL_PERIOD_MS;
        let way = (width.saturating_sub(2 * radius)) as u64;
        let there = millis.min(BALL_PERIOD_MS - millis) * 2 * way / BALL_PERIOD_MS;
        let (cx, cy) = (radius + there as usize, (top + bottom) / 2);
        disc(picture, cx, cy, radius, BLACK);
        disc(picture, cx, cy, radius * 5 / 6, AMBER);
    }
}

/// Rounds down to the start of a chroma sample, in luma pixels.
fn even(pixels: usize) -> usize {
    pixels & !1
}

/// Draws a filled circle as spans, clipped to the picture.
fn disc(picture: &mut Canvas, cx: usize, cy: usize, radius: usize, colour: Colour) {
    for y in (even(cy.saturating_sub(radius))..cy + radius).step_by(2) {
        let dy = y.abs_diff(cy);
        let half = (radius * radius).saturating_sub(dy * dy).isqrt();
        picture.fill([cx.saturating_sub(half), y, cx + half, y + 2], colour);
    }
}

/// The dial: stores for each pixel the fraction of a turn (clockwise from 12 o'clock) at which the pixel is filled.
struct Dial {
    left: usize,
    top: usize,
    side: usize,
    /// Turns row by row; the values `OUTSIDE` and `RING` are not turns.
    turns: Vec<u8>,
}

const OUTSIDE: u8 = 255;
const RING: u8 = 254;
const FULL_TURN: f64 = 250.0;

impl Dial {
    fn new(cx: usize, cy: usize, radius: usize) -> Self {
        let side = 2 * radius;
        let middle = side as f64 / 2.0 - 0.5;
        let turn = |x: f64, y: f64| {
            let distance = (x * x + y * y).sqrt() / radius as f64;
            match distance {
                d if d > 1.0 => OUTSIDE,
                d if d > 0.93 => RING,
                _ => ((x.atan2(-y) / std::f64::consts::TAU).rem_euclid(1.0) * (FULL_TURN - 1.0)) as u8,
            }
        };
        let turns = (0..side * side)
            .map(|at| turn((at % side) as f64 - middle, (at / side) as f64 - middle))
            .collect();
        Self { left: even(cx.saturating_sub(radius)), top: even(cy.saturating_sub(radius)), side, turns }
    }

    /// Paints the dial. `phase` is the position within the current second, 0 to 1.
    fn paint(&self, picture: &mut Canvas, phase: f64, mark: bool) {
        let filled = (phase * FULL_TURN) as u8;
        let (width, half_width) = (picture.width, picture.width / 2);
        let [luma, u, v] = &mut picture.planes;
        for (row, turns) in self.turns.chunks_exact(self.side).enumerate() {
            let y = self.top + row;
            let line = &mut luma[y * width + self.left..][..self.side];
            for (level, turn) in line.iter_mut().zip(turns) {
                *level = match *turn {
                    OUTSIDE => *level,
                    RING => WHITE.0,
                    _ if mark => WHITE.0,
                    turn if turn < filled => GREY.0,
                    _ => BLACK.0,
                };
            }
            if row % 2 == 0 {
                for (column, turn) in turns.iter().step_by(2).enumerate() {
                    if *turn != OUTSIDE {
                        let at = y / 2 * half_width + self.left / 2 + column;
                        (u[at], v[at]) = (128, 128);
                    }
                }
            }
        }
    }
}
