//! Gradient noise for the test pattern: moving detail, so that an encoder has a realistic load. Pure, and the same on
//! every machine.

/// Tile size; a power of two, so that the noise repeats without a seam.
const WIDTH: usize = 512;
const HEIGHT: usize = 256;

/// Tileable noise. Every line is long enough to be read from any offset without wrapping.
pub(super) struct Tile {
    line_len: usize,
    levels: Vec<u8>,
}

impl Tile {
    /// Creates a tile for pictures `picture_width` pixels wide.
    pub(super) fn new(picture_width: usize) -> Self {
        let line_len = WIDTH + picture_width;
        let mut levels = Vec::with_capacity(line_len * HEIGHT);
        for y in 0..HEIGHT {
            let line: Vec<u8> = (0..WIDTH).map(|x| level(x, y)).collect();
            levels.extend((0..line_len).map(|x| line[x % WIDTH]));
        }
        Self { line_len, levels }
    }

    /// Writes the mean of two layers that drift against each other: no single motion vector explains the movement.
    pub(super) fn blend(&self, line: &mut [u8], y: usize, frame: u64) {
        let drift = |speed: u64, size: usize| (frame * speed % size as u64) as usize;
        let one = self.at(drift(3, WIDTH), y + drift(1, HEIGHT));
        let other = self.at(WIDTH - 1 - drift(2, WIDTH), y + HEIGHT / 2);
        for ((level, one), other) in line.iter_mut().zip(one).zip(other) {
            *level = ((u16::from(*one) + u16::from(*other)) / 2) as u8;
        }
    }

    fn at(&self, x: usize, y: usize) -> &[u8] {
        &self.levels[y % HEIGHT * self.line_len + x..]
    }
}

/// Three octaves of Perlin's gradient noise, as a luma level.
fn level(x: usize, y: usize) -> u8 {
    let octaves = [(64, 1.0), (16, 0.5), (4, 0.25)];
    let sum: f64 = octaves.into_iter().map(|(cell, weight)| weight * gradient_noise(x, y, cell)).sum();
    (120.0 + 110.0 * sum).clamp(16.0, 235.0) as u8
}

/// Gradient noise on a lattice of `cell` pixels that wraps at the tile's edges; about -1 to 1.
fn gradient_noise(x: usize, y: usize, cell: usize) -> f64 {
    let (column, row) = (x / cell, y / cell);
    let (fx, fy) = ((x % cell) as f64 / cell as f64, (y % cell) as f64 / cell as f64);
    let corner = |dx: usize, dy: usize| {
        let angle = f64::from(hash((column + dx) % (WIDTH / cell), (row + dy) % (HEIGHT / cell), cell));
        angle.sin().mul_add(fy - dy as f64, angle.cos() * (fx - dx as f64))
    };
    let fade = |t: f64| t * t * t * (t * (t * 6.0 - 15.0) + 10.0);
    let mix = |a: f64, b: f64, t: f64| a + (b - a) * t;
    mix(mix(corner(0, 0), corner(1, 0), fade(fx)), mix(corner(0, 1), corner(1, 1), fade(fx)), fade(fy))
}

/// The gradient of a lattice point, as an angle.
fn hash(column: usize, row: usize, cell: usize) -> u16 {
    let mut h =
        (column as u32).wrapping_mul(0x9e37_79b9) ^ (row as u32).wrapping_mul(0x85eb_ca6b) ^ cell as u32;
    h = (h ^ h >> 15).wrapping_mul(0x2c1b_3c6d);
    h = (h ^ h >> 12).wrapping_mul(0x297a_2d39);
    (h >> 16) as u16
}
