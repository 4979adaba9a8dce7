//! The machine-readable clock of the test pattern: UTC in milliseconds as black and white blocks. Pure.
//!
//! ```text
//!            column 0..4   4..36                        36..40
//! upper row  W B W B       bits 63..32 of the word      B W B W
//! lower row  W B W B       bits 31..0 of the word       B W B W
//! ```
//!
//! The word is 48 bits of Unix time in milliseconds, most significant bit first, then a CRC-16/CCITT-FALSE over those
//! six bytes; white (235) is 1, black (16) is 0. The strip spans the picture's full width. Its two rows are each 1/18
//! of the picture's height, and the lower row ends 1/72 above the picture's bottom edge; the surround of the strip is
//! black. All edges are fractions of the picture, so a scaled picture is read in the same way: a block of 32 × 40
//! pixels at 720p is 16 × 20 at 360p. The outer four columns on each side are finder marks: they prove that the
//! picture is not cropped or shifted, and show the current levels of black and white.

/// Columns of blocks, finder marks included.
const COLUMNS: usize = 40;
/// Rows of blocks.
const ROWS: usize = 2;
/// Columns of finder marks on either side.
const FINDER: usize = 4;
/// Finder marks on the left and on the right; white is true.
const LEFT: [bool; FINDER] = [true, false, true, false];
const RIGHT: [bool; FINDER] = [false, true, false, true];
/// The strip's rows in units of 1/72 of the picture's height: two rows of 4 units, 1 unit above the bottom edge.
const UNITS: usize = 72;
const ROW_UNITS: usize = 4;
const FIRST_ROW_UNIT: usize = UNITS - 1 - ROWS * ROW_UNITS;
/// Minimum luma difference between white and black for the strip to count as present.
const MIN_CONTRAST: u32 = 60;
/// Minimum picture width in pixels; below this the blocks are too small to sample.
const MIN_WIDTH: usize = 2 * COLUMNS;
const MIN_HEIGHT: usize = 2 * UNITS;

/// The blocks for a time, row by row, finder marks included; white is true.
fn blocks(unix_ms: u64) -> [[bool; COLUMNS]; ROWS] {
    let millis = unix_ms & 0xffff_ffff_ffff;
    let word = millis << 16 | u64::from(crc16(&millis.to_be_bytes()[2..]));
    std::array::from_fn(|row| {
        std::array::from_fn(|column| match column {
            0..FINDER => LEFT[column],
            36..COLUMNS => RIGHT[column - 36],
            _ => word >> (63 - (row * 32 + column - FINDER)) & 1 == 1,
        })
    })
}

/// Area of a block in a picture: [left, top, right, bottom] in pixels, the latter two exclusive.
pub(super) fn block_area(row: usize, column: usize, width: usize, height: usize) -> [usize; 4] {
    let top = FIRST_ROW_UNIT + row * ROW_UNITS;
    [
        column * width / COLUMNS,
        top * height / UNITS,
        (column + 1) * width / COLUMNS,
        (top + ROW_UNITS) * height / UNITS,
    ]
}

/// First line of the black surround of the strip.
fn strip_top(height: usize) -> usize {
    (FIRST_ROW_UNIT - 1) * height / UNITS
}

/// Luma of a block that is 1 (white) and of a block that is 0 (black), in limited range.
const WHITE_LUMA: u8 = 235;
const BLACK_LUMA: u8 = 16;
/// Chroma of black and white.
const NO_COLOUR: u8 = 128;

/// Draws the clock for `unix_ms` over the bottom of a picture: 8-bit YUV 4:2:0 in limited range, lines packed, both
/// dimensions even. [`read_clock`] reads the clock back.
///
/// # Panics
/// When the planes are smaller than a picture of that size.
pub fn draw_clock([luma, u, v]: [&mut [u8]; 3], width: usize, height: usize, unix_ms: u64) {
    let top = strip_top(height);
    luma[top * width..height * width].fill(BLACK_LUMA);
    for chroma in [u, v] {
        chroma[top / 2 * (width / 2)..height / 2 * (width / 2)].fill(NO_COLOUR);
    }
    for (row, line) in blocks(unix_ms).iter().enumerate() {
        for (column, _) in line.iter().enumerate().filter(|(_, white)| **white) {
            // Luma only: the chroma of black and white is the same, and block edges may be odd.
            let [left, top, right, bottom] = block_area(row, column, width, height);
            for y in top..bottom {
                luma[y * width + left..y * width + right].fill(WHITE_LUMA);
            }
        }
    }
}

/// Reads the clock from a picture: Unix time in milliseconds, or `None` when the picture shows no test pattern or is
/// too damaged. `luma` holds `height` lines of `width` samples, and the lines start `stride` samples apart. The
/// picture may be scaled, even to another shape, but not cropped or padded by more than a third of a block.
pub fn read_clock(luma: &[u8], stride: usize, width: usize, height: usize) -> Option<u64> {
    if width < MIN_WIDTH
        || height < MIN_HEIGHT
        || stride < width
        || luma.len() < stride * (height - 1) + width
    {
        return None;
    }
    let mut word = 0_u64;
    for row in 0..ROWS {
        let levels: [u32; COLUMNS] =
            std::array::from_fn(|column| core_mean(luma, stride, block_area(row, column, width, height)));
        let (mut white, mut black) = (0, 0);
        for at in 0..FINDER {
            for (level, is_white) in [(levels[at], LEFT[at]), (levels[COLUMNS - FINDER + at], RIGHT[at])] {
                *(if is_white { &mut white } else { &mut black }) += level;
            }
        }
        let (white, black) = (white / FINDER as u32, black / FINDER as u32);
        if white < black + MIN_CONTRAST {
            return None;
        }
        let is_white = |column: usize| levels[column] > (white + black) / 2;
        let finders_right =
            (0..FINDER).all(|at| is_white(at) == LEFT[at] && is_white(COLUMNS - FINDER + at) == RIGHT[at]);
        if !finders_right {
            return None;
        }
        for column in FINDER..COLUMNS - FINDER {
            word = word << 1 | u64::from(is_white(column));
        }
    }
    let millis = word >> 16;
    (crc16(&millis.to_be_bytes()[2..]) == word as u16).then_some(millis)
}

/// The mean luma of a block's middle, away from edges that scaling and coding have smeared.
fn core_mean(luma: &[u8], stride: usize, [left, top, right, bottom]: [usize; 4]) -> u32 {
    let (inset_x, inset_y) = ((right - left) * 3 / 10, (bottom - top) * 3 / 10);
    let (mut sum, mut count) = (0_u32, 0_u32);
    for y in top + inset_y..bottom - inset_y {
        for level in &luma[y * stride + left + inset_x..y * stride + right - inset_x] {
            sum += u32::from(*level);
            count += 1;
        }
    }
    sum / count.max(1)
}

/// CRC-16/CCITT-FALSE (polynomial 0x1021, start 0xffff).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_check_value() {
        // The check value that CRC catalogues list for CCITT-FALSE.
        assert_eq!(crc16(b"123456789"), 0x29b1);
    }

    #[test]
    fn blocks_tile_the_strip_without_gaps_at_odd_sizes() {
        for (width, height) in [(1280, 720), (854, 480), (426, 240), (1080, 1920)] {
            for row in 0..ROWS {
                assert_eq!(block_area(row, 0, width, height)[0], 0);
                assert_eq!(block_area(row, COLUMNS - 1, width, height)[2], width);
                for column in 1..COLUMNS {
                    let left = block_area(row, column - 1, width, height);
                    assert_eq!(left[2], block_area(row, column, width, height)[0]);
                }
            }
            assert!(block_area(ROWS - 1, 0, width, height)[3] < height);
        }
    }

    #[test]
    fn pictures_without_a_clock_have_none() {
        assert_eq!(read_clock(&[], 0, 0, 0), None);
        assert_eq!(read_clock(&[0; 100], 100, 1280, 720), None);
        assert_eq!(read_clock(&vec![16; 640 * 360], 640, 640, 360), None);
        let noise: Vec<u8> =
            (0..640 * 360_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(read_clock(&noise, 640, 640, 360), None);
    }
}
