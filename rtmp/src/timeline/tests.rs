use super::*;
use proptest::prelude::*;

/// A wall clock that advances only when the test says so, so that input arrives as fast as possible.
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    pub(super) fn at_ms(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }
}

/// The exact time of a picture, rounded to milliseconds as encoders do.
fn frame_ms(index: u64, (num, den): (u64, u64)) -> u64 {
    (index * 1000 * den + num / 2) / num
}

fn ticks(time: MediaTime) -> i64 {
    time.ticks_90k() - START.ticks_90k()
}

fn play_video(timeline: &mut Timeline, clock: &Clock, times: impl IntoIterator<Item = u64>) -> Vec<i64> {
    let mut places = Vec::new();
    for ms in times {
        places.extend(timeline.video(ms as u32, 0, clock.at_ms(ms)).map(|stamp| ticks(stamp.dts)));
    }
    places
}

fn steps(places: &[i64]) -> Vec<i64> {
    places.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_stream_begins_at_ten_seconds_whatever_its_clock_says() {
    for first in [0, 1, 5_000, u32::MAX] {
        let mut timeline = Timeline::new();
        let stamp = timeline.video(first, 0, Instant::now()).unwrap();
        assert_eq!(stamp.dts, MediaTime::from_ticks_90k(900_000), "{first}");
    }
}

#[test]
fn known_rates_come_out_on_their_exact_grid() {
    // 24000/1001 has frames of 3753.75 ticks: places are rounded to the nearest tick, and the errors do not accumulate.
    let rates = [(30, 1), (25, 1), (60, 1), (30_000, 1001), (60_000, 1001), (24_000, 1001), (24, 1), (50, 1)];
    for (num, den) in rates {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_frame_rate(Some((num, den)));
        let (num, den) = (u64::from(num), u64::from(den));
        let frames = 100_000;
        let places = play_video(&mut timeline, &clock, (0..frames).map(|n| frame_ms(n, (num, den))));
        for (n, place) in places.iter().enumerate() {
            let exact = media::time::rescale(n as i64 * den as i64, num as i64, 90_000);
            assert_eq!(*place, exact, "{num}/{den} frame {n}");
        }
        assert_eq!(timeline.repairs(), Repairs::default(), "{num}/{den}");
    }
}

#[test]
fn an_unknown_rate_is_found_and_a_wrong_one_is_found_out() {
    for hint in [None, Some((30, 1)), Some((25, 1)), Some((1, 1))] {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_frame_rate(hint);
        let places = play_video(&mut timeline, &clock, (0..2_000).map(|n| frame_ms(n, (30_000, 1001))));
        let steps = steps(&places);
        assert!(steps[300..].iter().all(|&step| step == 3003), "{hint:?}: {:?}", &steps[280..320]);
        assert!(steps.iter().all(|&step| (2700..=3300).contains(&step)), "{hint:?}");
        assert!(timeline.repairs().grid_losses <= 1, "{hint:?}: {:?}", timeline.repairs());
    }
}

#[test]
fn variable_rates_keep_their_milliseconds() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_frame_rate(Some((30, 1)));
    let mut ms = 0;
    let times: Vec<u64> = (0..2_000u64)
        .map(|n| {
            ms += 17 + n * 7919 % 40;
            ms
        })
        .collect();
    let places = play_video(&mut timeline, &clock, times.iter().copied());
    for (place, ms) in places.iter().zip(&times) {
        assert!((place - (*ms as i64 - times[0] as i64) * 90).abs() <= 135, "at {ms} ms");
    }
}

#[test]
fn a_dropped_frame_leaves_a_hole_of_one_frame() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_frame_rate(Some((30, 1)));
    let times = (0..100).filter(|n| *n != 50).map(|n| frame_ms(n, (30, 1)));
    let steps = steps(&play_video(&mut timeline, &clock, times));
    assert_eq!(steps[49], 6000);
    assert!(steps.iter().enumerate().all(|(n, &step)| n == 49 || step == 3000));
}

#[test]
fn presentation_is_on_the_grid_too() {
    let mut timeline = Timeline::new();
    timeline.set_frame_rate(Some((30, 1)));
    let now = Instant::now();
    // Two frames of reordering: 66.67 ms, which rounds to 66 or 67.
    for (n, composition) in [(0u64, 67), (1, 66), (2, 67), (3, 133), (4, 0)] {
        let stamp = timeline.video(frame_ms(n, (30, 1)) as u32, composition, now).unwrap();
        assert_eq!((stamp.pts - stamp.dts).ticks_90k() % 3000, 0, "frame {n}");
    }
}

/// Two B-frames between references at 25 frames a second: decode times in ms, with composition offsets.
const REORDERED: [(u32, i32); 10] = [
    (0, 80),
    (40, 160),
    (80, 40),
    (120, 40),
    (160, 160),
    (200, 40),
    (240, 40),
    (280, 160),
    (320, 40),
    (360, 40),
];

/// Steps of the presentation times in display order, and whether all decode times are in order and not after them.
fn display_steps(stamps: &[Stamp]) -> Vec<i64> {
    assert!(stamps.windows(2).all(|pair| pair[0].dts < pair[1].dts), "{stamps:?}");
    assert!(stamps.iter().all(|stamp| stamp.pts >= stamp.dts), "{stamps:?}");
    let mut shown: Vec<i64> = stamps.iter().map(|stamp| ticks(stamp.pts)).collect();
    shown.sort_unstable();
    steps(&shown)
}

/// Some senders subtract the delay of reordering from all offsets, so that a presentation is before its decode time.
#[test]
fn negative_offsets_move_decode_times_and_keep_presentation() {
    for shift in [-80, -120, -200, -3000] {
        let mut timeline = Timeline::new();
        let now = Instant::now();
        let place = |&(ms, composition): &(u32, i32)| timeline.video(ms, composition + shift, now).unwrap();
        let stamps: Vec<Stamp> = REORDERED.iter().map(place).collect();
        // Where the first picture is not the one with the lowest offset, a picture is moved by a millisecond once.
        let steps = display_steps(&stamps);
        assert!(steps[2..].iter().all(|&step| step == 3600), "{shift}: {steps:?}");
        assert!(steps[..2].iter().all(|&step| (3500..3700).contains(&step)), "{shift}: {steps:?}");
        assert_eq!(ticks(stamps[0].pts), i64::from(80 + shift) * 90, "{shift}: in step with the sound");
        assert!(timeline.repairs().compositions <= 3, "{shift}: {:?}", timeline.repairs());
    }
}

#[test]
fn impossible_offsets_are_none() {
    let mut timeline = Timeline::new();
    let now = Instant::now();
    for (ms, composition) in [(0, i32::MIN >> 8), (40, 8_388_607), (80, -5001), (120, 5001)] {
        let stamp = timeline.video(ms, composition, now).unwrap();
        assert_eq!(stamp.pts, stamp.dts, "{composition}");
    }
    assert_eq!(timeline.repairs().compositions, 4);
}

/// Phones and cameras that put the presentation time into the tag, and no offset.
#[test]
fn presentation_times_in_place_of_decode_times_are_recognised() {
    for rate in [None, Some((25, 1))] {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_frame_rate(rate);
        // As decoded: a reference, then the two pictures before it.
        let order = (0..60).flat_map(|n| [3 * n + 3, 3 * n + 1, 3 * n + 2]);
        let times = std::iter::once(0).chain(order).map(|index| index * 40);
        let stamps: Vec<Stamp> =
            times.map(|ms| timeline.video(ms, 0, clock.at_ms(ms.into())).unwrap()).collect();
        let known = 12;
        assert_eq!(display_steps(&stamps)[known..], [3600; 180][known..], "{rate:?}");
        let repairs = timeline.repairs();
        assert_eq!(repairs.presentation_times, 1, "{rate:?}");
        assert!(repairs.reordered <= 8, "{rate:?}: {repairs:?}");
    }
}

/// Single disorder is none of that.
#[test]
fn a_late_picture_now_and_then_is_no_presentation_time() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    for n in 0..400_u32 {
        let ms = if n % 10 == 9 { 40 * n - 50 } else { 40 * n };
        timeline.video(ms, 0, clock.at_ms(ms.into())).unwrap();
    }
    assert_eq!(timeline.repairs().presentation_times, 0);
}

/// Phones that stamp two pictures alike: the second one belongs between the first and the next.
#[test]
fn equal_times_are_spread_evenly() {
    for (rate, offset) in [(None, 0), (Some((25, 1)), 0), (None, 80)] {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_frame_rate(rate);
        let stamps: Vec<Stamp> = (0..200_u32)
            .map(|n| {
                let ms = 40 * if n % 10 == 9 { n - 1 } else { n };
                timeline.video(ms, offset, clock.at_ms(ms.into())).unwrap()
            })
            .collect();
        assert_eq!(display_steps(&stamps), [3600; 199], "{rate:?} {offset}");
        assert_eq!(timeline.repairs().reordered, 20, "{rate:?} {offset}");
    }
}

#[test]
fn the_32_bit_clock_goes_round_unnoticed() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_frame_rate(Some((25, 1)));
    timeline.set_audio_format(48_000, 1024);
    let start = (1u64 << 32) - 1_000;
    for n in 0..100 {
        let ms = start + n * 40;
        timeline.video(ms as u32, 0, clock.at_ms(n * 40)).unwrap();
        if let Some(time) = timeline.audio(ms as u32, clock.at_ms(n * 40)) {
            assert!(ticks(time) < 100 * 3600);
        }
    }
    assert_eq!(timeline.repairs().wraps, 2);
    assert_eq!(timeline.repairs().jumps_forward + timeline.repairs().jumps_backward, 0);
}

#[test]
fn jumps_are_taken_out_and_sound_stays_with_the_picture() {
    // (jump in milliseconds, silence in milliseconds, allowed step of the axis at the jump in milliseconds)
    let hour = 3_600_000i64;
    let table = [
        (hour, 0, 0..=100),
        (-hour, 0, 0..=100),
        (3 * hour, 4_000, 4_000..=4_100),
        (-3 * hour, 4_000, 4_000..=4_100),
        (-1_000, 0, 0..=100),
        (2_500, 0, 0..=100),
        (1 << 31, 0, 0..=100),
    ];
    for (jump, silence, allowed) in table {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_audio_format(48_000, 1024);
        let (mut video, mut audio) = (Vec::new(), Vec::new());
        for n in 0..200i64 {
            let (jump, silence) = if n < 100 { (0, 0) } else { (jump, silence) };
            let ms = 5 * hour + n * 40 + jump;
            let now = clock.at_ms((n * 40 + silence) as u64);
            video.push(ticks(timeline.video(ms as u32, 0, now).unwrap().dts));
            // Audio timestamps are 15 ms later than the video's, and each audio frame counts as long as a picture here.
            audio.extend(timeline.audio((ms + 15) as u32, now).map(ticks));
        }
        let step_ms = (video[100] - video[99]) / 90;
        assert!(allowed.contains(&step_ms), "jump {jump}: the axis stepped {step_ms} ms");
        assert!(steps(&video).iter().all(|&step| step > 0), "jump {jump}");
        let repairs = timeline.repairs();
        assert_eq!(repairs.jumps_forward + repairs.jumps_backward, 1, "jump {jump}: {repairs:?}");
        assert_eq!(repairs.jumps_followed, 1, "jump {jump}: {repairs:?}");
        // In sync to the millisecond: both tracks were moved by the same amount.
        let (video, audio) = (timeline.video.unwrap(), timeline.audio.unwrap());
        assert_eq!(audio.axis - video.axis, 15 * 90, "jump {jump}");
    }
}

#[test]
fn late_messages_of_before_a_jump_keep_their_place() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    let now = clock.at_ms(0);
    timeline.video(1_000, 0, now).unwrap();
    timeline.audio(1_000, now).unwrap();
    timeline.video(1_040, 0, now).unwrap();
    timeline.video(900_000, 0, now).unwrap();
    // Two messages with the old clock, then one with the new clock.
    timeline.audio(1_021, now).unwrap();
    assert_eq!(timeline.audio.unwrap().axis, START.ticks_90k() + 21 * 90);
    timeline.audio(1_043, now).unwrap();
    timeline.audio(900_005, now).unwrap();
    assert_eq!(timeline.audio.unwrap().axis - timeline.video.unwrap().axis, 5 * 90);
}

#[test]
fn a_pause_on_the_wire_and_on_the_clock_is_a_gap() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.video(0, 0, clock.at_ms(0)).unwrap();
    let stamp = timeline.video(20_000, 0, clock.at_ms(19_500)).unwrap();
    assert_eq!(ticks(stamp.dts), 20 * 90_000);
    assert_eq!(timeline.repairs(), Repairs { gaps: 1, ..Repairs::default() });
}

/// OBS drops video frames on a slow uplink while audio continues.
#[test]
fn missing_pictures_are_a_gap_when_sound_went_on() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_audio_format(48_000, 1024);
    let now = clock.at_ms(0);
    timeline.video(0, 0, now).unwrap();
    for n in 0..400u64 {
        timeline.audio((n * 1024 / 48) as u32, now).unwrap();
    }
    let stamp = timeline.video(8_500, 0, now).unwrap();
    assert_eq!(ticks(stamp.dts), 8_500 * 90);
}

#[test]
fn tracks_that_start_apart() {
    // (first audio time, place of that audio frame, whether the starts are separated)
    for (audio_ms, place_ms, separated) in [
        (100_000u32, 0, 0),
        (100_700, 700, 0),
        (98_000, -2_000, 0),
        (104_900, 4_900, 0),
        (0, 0, 1),
        (4_000_000_000, 0, 1),
    ] {
        let mut timeline = Timeline::new();
        let now = Instant::now();
        timeline.video(100_000, 0, now).unwrap();
        let audio = timeline.audio(audio_ms, now).unwrap();
        assert_eq!(ticks(audio), place_ms * 90, "{audio_ms}");
        assert_eq!(timeline.repairs().separated_starts, separated, "{audio_ms}");
    }
}

/// Four tracks of one publisher jump together: each takes over the first one's correction.
#[test]
fn sound_tracks_stay_together_through_a_jump() {
    let ids = [1, 2].map(|number| SoundTrackId::new(number).unwrap());
    for jump_ms in [3_600_000_i64, -3_600_000] {
        let mut timeline = Timeline::new();
        timeline.set_audio_format(48_000, 1024);
        ids.iter().for_each(|id| timeline.set_track_format(*id, 48_000, 1024));
        let start = Instant::now();
        for frame in 0..1000_u64 {
            let ms = frame * 64 / 3;
            let now = start + Duration::from_millis(ms);
            let clock = (10_000_000 + ms as i64 + if frame < 500 { 0 } else { jump_ms }) as u32;
            let video = timeline.video(clock, 0, now).unwrap();
            let audio = timeline.audio(clock, now).unwrap();
            for id in ids {
                let apart = (timeline.track_audio(id, clock, now).unwrap() - audio).abs();
                assert!(apart < MediaSpan::from_millis(25), "{jump_ms} {frame} {apart:?}");
                assert!((video.pts - audio).abs() < MediaSpan::from_millis(40), "{jump_ms} {frame}");
            }
        }
        let Repairs { jumps_followed, jumps_forward, jumps_backward, .. } = timeline.repairs();
        assert_eq!((jumps_followed, jumps_forward + jumps_backward), (3, 1));
    }
}

#[test]
fn a_sound_track_begins_on_the_clock_of_the_others_whichever_comes_first() {
    let id = SoundTrackId::new(3).unwrap();
    let now = Instant::now();
    let mut timeline = Timeline::new();
    let first = timeline.track_audio(id, 5_000, now).unwrap();
    assert_eq!(ticks(timeline.audio(5_300, now).unwrap()) - ticks(first), 300 * 90);
    assert_eq!(ticks(timeline.video(5_100, 0, now).unwrap().pts) - ticks(first), 100 * 90);
    let late = now + Duration::from_secs(60);
    let other = SoundTrackId::new(4).unwrap();
    timeline.video(65_100, 0, late).unwrap();
    assert_eq!(ticks(timeline.track_audio(other, 65_000, late).unwrap()) - ticks(first), 60_000 * 90);
}

#[test]
fn decode_times_grow_whatever_is_sent() {
    let now = Instant::now();
    let mut timeline = Timeline::new();
    let mut last = None;
    for ms in [0, 40, 40, 40, 20, 80, 60, 120, 121, 121] {
        let dts = timeline.video(ms, 0, now).unwrap().dts;
        assert!(last.is_none_or(|last| dts > last), "{ms}");
        last = Some(dts);
    }
    assert_eq!(timeline.repairs().reordered, 8);
}

#[test]
fn audio_is_exact_for_a_day() {
    for (rate, samples) in [(44_100u32, 1024u32), (48_000, 1024), (48_000, 2048), (22_050, 1024)] {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_audio_format(rate, samples);
        let frames = 86_400 * u64::from(rate) / u64::from(samples);
        for n in 0..frames {
            let ms = n * u64::from(samples) * 1000 / u64::from(rate);
            let place = timeline.audio(ms as u32, clock.at_ms(ms)).unwrap();
            let exact = media::time::rescale((n * u64::from(samples)) as i64, rate.into(), 90_000);
            assert_eq!(ticks(place), exact, "{rate} frame {n}");
        }
        assert_eq!(timeline.repairs(), Repairs::default(), "{rate}");
    }
}

#[test]
fn arrival_stamps_with_jitter_do_not_disturb_audio() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_audio_format(48_000, 1024);
    let mut places = Vec::new();
    for n in 0..5_000u64 {
        let ms = 100 + n * 1024 / 48 + n * 7919 % 60 - 30;
        places.push(timeline.audio(ms as u32, clock.at_ms(ms)).unwrap().ticks_90k());
    }
    assert!(steps(&places).iter().all(|&step| step == 1920));
    assert_eq!(timeline.repairs().audio_resyncs, 0);
}

#[test]
fn missing_audio_becomes_a_gap_and_surplus_audio_is_left_out() {
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_audio_format(48_000, 1024);
    let mut last = i64::MIN;
    let mut feed = |timeline: &mut Timeline, ms: u64| {
        let place = timeline.audio(ms as u32, clock.at_ms(ms)).map(ticks);
        if let Some(place) = place {
            assert!(place > last, "at {ms} ms");
            last = place;
        }
        place
    };
    for n in 0..100 {
        feed(&mut timeline, n * 1024 / 48).unwrap();
    }
    // 300 ms of audio are missing.
    let behind = 100 * 1024 / 48 + 300;
    assert_eq!(feed(&mut timeline, behind), Some(behind as i64 * 90));
    assert_eq!(timeline.repairs().audio_resyncs, 1);
    // The clock stops for twenty frames and then continues: 427 ms too much audio.
    for _ in 0..20 {
        feed(&mut timeline, behind);
    }
    for n in 0..200 {
        feed(&mut timeline, behind + n * 1024 / 48);
    }
    let repairs = timeline.repairs();
    assert!((18..=22).contains(&repairs.audio_frames_dropped), "{repairs:?}");
    let end = (behind + 199 * 1024 / 48) as i64 * 90;
    assert!((last - end).abs() < 50 * 90, "{last} should be near {end}");
}

#[test]
fn a_slow_sample_clock_is_brought_back_within_its_bound() {
    // 100 ppm: 0.36 s in an hour.
    let clock = Clock::new();
    let mut timeline = Timeline::new();
    timeline.set_audio_format(48_000, 1024);
    for n in 0..170_000u64 {
        let exact_us = n * 1024 * 1_000_000 / 48_000;
        let ms = (exact_us + exact_us / 10_000) / 1000;
        if let Some(place) = timeline.audio(ms as u32, clock.at_ms(ms)) {
            assert!((ticks(place) - ms as i64 * 90).abs() < 45 * 90, "frame {n}");
        }
    }
    let repairs = timeline.repairs();
    assert!((7..=12).contains(&repairs.audio_resyncs), "{repairs:?}");
}

#[test]
fn a_resumed_axis_is_strictly_behind_the_old_end() {
    let after = MediaTime::from_ticks_90k(123_456_789);
    let now = Instant::now();
    let mut timeline = Timeline::resume(after);
    timeline.set_audio_format(44_100, 1024);
    let first = timeline.video(77, 0, now).unwrap();
    assert_eq!(first.dts, after + RESUME_LEAD);
    // Audio with earlier timestamps: accepted after the old end, dropped before it.
    let mut timeline = Timeline::resume(after);
    timeline.video(10_000, 0, now).unwrap();
    for ms in (8_000..10_000).step_by(23) {
        if let Some(place) = timeline.audio(ms, now) {
            assert!(place > after, "{ms}");
        }
    }
    assert!(timeline.repairs().before_start > 0);
}

#[test]
fn repairs_can_be_compared() {
    let earlier = Repairs { wraps: 1, ..Repairs::default() };
    let later = Repairs { wraps: 3, gaps: 2, ..Repairs::default() };
    assert_eq!(later.since(&earlier), Repairs { wraps: 2, gaps: 2, ..Repairs::default() });
    assert_eq!(later.total(), 5);
    assert!(later.by_kind().any(|kind| kind == ("gaps", 2)));
}

proptest! {
    /// For any clock: decode times strictly grow, presentation is never before decoding, all times are above zero, and
    /// nothing overflows.
    #[test]
    fn any_clock_gives_a_sound_axis(
        messages in proptest::collection::vec((any::<bool>(), any::<u32>(), any::<i32>(), 0u64..10_000), 1..300),
        hint in proptest::option::of((1u32..=u32::MAX, 1u32..=u32::MAX)),
    ) {
        let clock = Clock::new();
        let mut timeline = Timeline::new();
        timeline.set_frame_rate(hint);
        timeline.set_audio_format(44_100, 1024);
        let mut now = 0;
        let (mut video, mut audio) = (None, None);
        for (is_video, ms, composition, pause) in messages {
            now += pause;
            if is_video {
                if let Some(stamp) = timeline.video(ms, composition >> 8, clock.at_ms(now)) {
                    prop_assert!(video.is_none_or(|last| stamp.dts > last));
                    prop_assert!(stamp.pts >= stamp.dts);
                    prop_assert!(stamp.dts > MediaTime::ZERO);
                    video = Some(stamp.dts);
                }
            } else if let Some(time) = timeline.audio(ms, clock.at_ms(now)) {
                prop_assert!(audio.is_none_or(|last| time > last));
                prop_assert!(time > MediaTime::ZERO);
                audio = Some(time);
            }
        }
    }
}
