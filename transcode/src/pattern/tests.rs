use super::draw::{Canvas, Painter};
use super::*;

const THIRTY: FrameRate = FrameRate { num: 30, den: 1 };
/// 2026-11-22T18:04:05.678Z
const NOW_MS: u64 = 1_795_370_645_678;

fn painted(width: usize, height: usize, frame: u64, unix_ms: u64) -> Canvas {
    let painter = Painter::new(width, height, THIRTY);
    let mut picture = painter.canvas();
    painter.paint(&mut picture, frame, unix_ms);
    picture
}

/// Scales with a box filter to any smaller size, in exact fractions of source pixels.
fn scaled(luma: &[u8], (width, height): (usize, usize), (to_width, to_height): (usize, usize)) -> Vec<u8> {
    let mut out = Vec::with_capacity(to_width * to_height);
    for y in 0..to_height {
        let rows = y * height / to_height..((y + 1) * height).div_ceil(to_height);
        for x in 0..to_width {
            let columns = x * width / to_width..((x + 1) * width).div_ceil(to_width);
            let sum: usize = rows
                .clone()
                .map(|row| {
                    luma[row * width..][columns.clone()].iter().map(|l| usize::from(*l)).sum::<usize>()
                })
                .sum();
            out.push((sum / (rows.len() * columns.len())) as u8);
        }
    }
    out
}

/// Applies a box blur of `radius` and noise of `amplitude`, as recompression and analogue capture would.
fn damaged(luma: &[u8], width: usize, radius: usize, amplitude: i32) -> Vec<u8> {
    let height = luma.len() / width;
    let mut seed = 1_u32;
    let mut out = Vec::with_capacity(luma.len());
    for y in 0..height {
        for x in 0..width {
            let (rows, columns) = (
                y.saturating_sub(radius)..(y + radius + 1).min(height),
                x.saturating_sub(radius)..(x + radius + 1).min(width),
            );
            let sum: i32 = rows
                .clone()
                .map(|row| luma[row * width..][columns.clone()].iter().map(|l| i32::from(*l)).sum::<i32>())
                .sum();
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (seed >> 16) as i32 % (2 * amplitude + 1) - amplitude;
            out.push((sum / (rows.len() * columns.len()) as i32 + noise).clamp(0, 255) as u8);
        }
    }
    out
}

#[test]
fn the_clock_survives_scaling_blur_and_noise() {
    let picture = painted(1280, 720, 17, NOW_MS);
    for (width, height) in [(1280, 720), (854, 480), (640, 360), (426, 240), (320, 180), (500, 500)] {
        let small = scaled(&picture.planes[0], (1280, 720), (width, height));
        assert_eq!(read_clock(&small, width, width, height), Some(NOW_MS), "{width}x{height}");
        let worse = damaged(&small, width, 1, 40);
        assert_eq!(
            read_clock(&worse, width, width, height),
            Some(NOW_MS),
            "{width}x{height}, blurred and noisy"
        );
    }
}

#[test]
fn a_flipped_block_is_noticed() {
    let mut picture = painted(1280, 720, 0, NOW_MS);
    let [left, top, right, bottom] = clock_code::block_area(0, 20, 1280, 720);
    for y in top..bottom {
        for level in &mut picture.planes[0][y * 1280 + left..y * 1280 + right] {
            *level = 251 - *level;
        }
    }
    assert_eq!(read_clock(&picture.planes[0], 1280, 1280, 720), None);
}

#[test]
fn portrait_and_small_pictures_have_a_readable_clock_too() {
    for (width, height) in [(720, 1280), (160, 160), (320, 240), (1920, 1080)] {
        let picture = painted(width, height, 5, NOW_MS);
        assert_eq!(read_clock(&picture.planes[0], width, width, height), Some(NOW_MS), "{width}x{height}");
    }
}

#[test]
fn the_dial_flashes_on_marks_only() {
    let middle = |frame| painted(1280, 720, frame, NOW_MS).planes[0][150 * 1280 + 700];
    let bright: Vec<u64> = (0..90).filter(|frame| middle(*frame) > 200).collect();
    assert_eq!(bright, [0, 30, 60]);
}

#[test]
fn every_frame_differs_from_the_one_before() {
    let frames: Vec<Canvas> = (0..4).map(|frame| painted(640, 360, frame, NOW_MS)).collect();
    assert!(frames.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn marks_at_fractional_rates_are_the_first_frame_of_each_second() {
    let ntsc = FrameRate { num: 30_000, den: 1_001 };
    let marks: Vec<u64> = (0..100).filter(|frame| ntsc.is_mark(*frame)).collect();
    assert_eq!(marks, [0, 30, 60, 90]);
    assert_eq!(ntsc.to_string(), "29.97");
    assert_eq!(ntsc.mark_sample(1, 90_000), ntsc.time_of(30).ticks_90k() as u64);
}

fn settings() -> PatternSettings {
    PatternSettings {
        width: 320,
        height: 240,
        frame_rate: THIRTY,
        bitrate: 500_000,
        video: true,
        audio: true,
    }
}

#[test]
fn encoded_in_order_with_a_key_frame_each_second_and_sound_to_match() {
    let mut pattern = Pattern::open(&settings()).unwrap();
    let mut media = Vec::new();
    for frame in 0..60 {
        assert_eq!(pattern.next_due(), THIRTY.time_of(frame));
        media.extend(pattern.advance(WallTime::from_unix_micros(NOW_MS as i64 * 1000)).unwrap());
    }
    let units: Vec<_> = media
        .iter()
        .filter_map(|media| match media {
            Media::Video(unit) => Some((true, unit)),
            Media::Audio(unit) => Some((false, unit)),
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => None,
        })
        .collect();
    assert!(units.windows(2).all(|pair| pair[0].1.dts <= pair[1].1.dts), "ordered across tracks");
    let keys: Vec<i64> = units
        .iter()
        .filter(|(video, unit)| *video && unit.key)
        .map(|(_, unit)| unit.pts.ticks_90k())
        .collect();
    assert_eq!(keys, [900_000, 990_000]);
    assert_eq!(units.iter().filter(|(video, _)| *video).count(), 60);
    let audio: Vec<i64> =
        units.iter().filter(|(video, _)| !video).map(|(_, unit)| unit.pts.ticks_90k()).collect();
    assert_eq!(audio[0], 900_000 - 1920, "one frame of priming");
    assert!(audio.windows(2).all(|pair| pair[1] - pair[0] == 1920));
    assert!(*audio.last().unwrap() + 1920 >= 900_000 + 2 * 90_000);
    assert!(
        matches!(&media[..2], [Media::VideoConfig(_), Media::AudioConfig(_)]),
        "configurations come first"
    );
    assert_eq!(media.iter().filter(|m| matches!(m, Media::VideoConfig(_))).count(), 1);
}

#[test]
fn picture_or_sound_alone() {
    let mut silent = Pattern::open(&PatternSettings { audio: false, ..settings() }).unwrap();
    let media = silent.advance(WallTime::from_unix_micros(0)).unwrap();
    assert!(media.iter().all(|m| matches!(m, Media::VideoConfig(_) | Media::Video(_))) && media.len() == 2);
    let mut blind = Pattern::open(&PatternSettings { video: false, ..settings() }).unwrap();
    let media = blind.advance(WallTime::from_unix_micros(0)).unwrap();
    assert!(media.iter().all(|m| matches!(m, Media::AudioConfig(_) | Media::Audio(_))) && media.len() > 2);
}
