//! One behaviour per test; boxes are read back with mp4-atom. Invariants for all input are in `properties`.

mod parts;
mod properties;

use super::*;
use crate::testing::{
    self, AVCC, Run, START_MS, anchor, audio, audio_at, audio_track, epoch, frames, ms, rung, sound, video,
};
use crate::track::Track;
use media::WallTime;
use mp4_atom::Codec;

const FPS: (i64, i64) = (30, 1);

fn grid(tracks: &[Track]) -> Epoch {
    epoch(0, START_MS, tracks, CutRule::Grid)
}

#[test]
fn video_and_audio_are_cut_at_the_same_times() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("720p"), video("360p"), audio()]));
    run.push_all(&[
        ("720p", frames(START_MS, FPS, 30, 90, true)),
        ("360p", frames(START_MS, FPS, 30, 90, false)),
        ("audio", sound(START_MS, 48_000, 141)),
    ]);
    run.end(None);
    let counts = run.check();
    assert_eq!((counts[&rung("720p")], counts[&rung("360p")], counts[&RungName::audio()]), (90, 90, 141));
    assert_eq!(run.spans("720p"), [(10_000, 1_000), (11_000, 1_000), (12_000, 1_000)]);
    assert_eq!(run.spans("360p"), run.spans("720p"));
    // Frames of 21.33 ms: the first frame at or after 11 s begins at 11.002 s.
    assert_eq!(run.spans("audio"), [(10_000, 1_002), (11_002, 1_002), (12_005, 1_002)]);
    assert_eq!(run.packager.counters(), PackagerCounters::default());
}

#[test]
fn segments_come_out_as_soon_as_the_next_keyframe_is_in() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v")]));
    let samples = frames(START_MS, FPS, 30, 31, false);
    run.push_all(&[("v", samples[..30].to_vec())]);
    assert_eq!(run.segments.len(), 0);
    run.push_all(&[("v", samples[30..].to_vec())]);
    assert_eq!(run.spans("v"), [(10_000, 1_000)]);
}

#[test]
fn b_frames_keep_their_signed_composition_offsets() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v")]));
    let mut samples = frames(START_MS, FPS, 30, 30, true);
    // Decode times 50 ms late: some pts precede their dts.
    samples.iter_mut().for_each(|s| s.dts += MediaSpan::from_millis(50));
    run.push_all(&[("v", samples.clone())]);
    run.end(None);
    run.check();
    let parsed = &run.parsed("v")[0];
    assert_eq!(parsed.base, START_MS as u64 * 90, "decode time begins where the segment does");
    assert!(parsed.samples.iter().any(|s| s.1 < 0) && parsed.samples.iter().any(|s| s.1 > 0));
    let mut decode = parsed.base as i64;
    for (sample, (duration, offset, ..)) in samples.iter().zip(&parsed.samples) {
        assert_eq!(decode + offset, sample.pts.ticks_90k(), "shown when it should be");
        decode += i64::from(*duration);
    }
}

/// Sound tracks whose frames lie elsewhere on the axis, one of them ahead of the main sound and one behind.
#[test]
fn without_video_the_main_audio_alone_decides_the_cuts() {
    let tracks = [audio(), audio_track(2, "b", None), audio_track(3, "c", None)];
    let mut alone = Run::new(4.0);
    alone.begin(grid(&[audio()]));
    alone.push_all(&[("audio", sound(START_MS, 48_000, 300))]);
    alone.end(None);
    let mut run = Run::new(4.0);
    run.begin(grid(&tracks));
    run.push_all(&[
        ("audio", sound(START_MS, 48_000, 300)),
        ("audio_2", sound(START_MS - 10, 48_000, 300)),
        ("audio_3", sound(START_MS + 7, 48_000, 299)),
    ]);
    run.end(None);
    run.check();
    let starts = |run: &Run, name: &str| -> Vec<i64> { run.spans(name).iter().map(|span| span.0).collect() };
    assert_eq!(starts(&run, "audio"), starts(&alone, "audio"));
    for name in ["audio_2", "audio_3"] {
        let apart = starts(&run, name).into_iter().zip(starts(&run, "audio")).map(|(a, b)| (a - b).abs());
        assert!(apart.max().unwrap() <= 22, "{name}: within a frame");
    }
}

#[test]
fn aac_timestamps_come_from_the_sample_count() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[audio_at(44_100)]));
    run.push_all(&[("audio", sound(START_MS, 44_100, 300))]);
    run.end(None);
    run.check();
    let mut next = 441_000;
    for segment in run.parsed("audio") {
        assert_eq!(segment.base, next, "no holes or overlaps from millisecond timestamps");
        assert!(segment.samples.iter().all(|s| s.0 == 1024));
        next += segment.duration();
    }
    assert_eq!(run.packager.counters().audio_resyncs, 0);
}

#[test]
fn audio_that_lost_frames_is_put_right_once() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[audio()]));
    let mut samples = sound(START_MS, 48_000, 141);
    samples.drain(50..60);
    run.push_all(&[("audio", samples)]);
    run.end(None);
    run.check();
    assert_eq!(run.packager.counters().audio_resyncs, 1);
    let last = run.parsed("audio").pop().unwrap();
    assert_eq!((last.base + last.duration()).abs_diff(480_000 + 141 * 1024) / 48, 0, "to the millisecond");
}

#[test]
fn audio_only_is_cut_on_the_grid() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[audio()]));
    run.push_all(&[("audio", sound(START_MS, 48_000, 100))]);
    run.end(None);
    run.check();
    assert_eq!(run.spans("audio"), [(10_000, 1_002), (11_002, 1_002), (12_005, 128)]);
}

#[test]
fn audio_before_video_waits_for_the_first_keyframe() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    run.push_all(&[
        ("audio", sound(START_MS, 48_000, 150)),
        ("v", frames(START_MS + 500, FPS, 30, 60, false)),
    ]);
    run.end(None);
    run.check();
    assert_eq!(run.of("v")[0].info().start, ms(10_500));
    assert_eq!(run.of("audio")[0].info().start, ms(10_500));
    assert_eq!(run.packager.counters().late_samples, 23, "audio from before the first picture");
}

#[test]
fn an_epochs_audio_begins_with_the_frame_that_is_heard_at_its_start() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    run.push_all(&[
        ("audio", sound(START_MS - 11, 48_000, 100)),
        ("v", frames(START_MS, FPS, 30, 61, false)),
    ]);
    run.end(None);
    run.check();
    assert_eq!(run.spans("audio")[0], (10_000, 1_013));
    assert_eq!(run.parsed("audio")[0].base, (START_MS as u64 - 11) * 48, "no hole before the first sound");
}

#[test]
fn audio_behind_video_finds_its_segments() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 91, false))]);
    assert_eq!(run.of("audio").len(), 0);
    run.push_all(&[("audio", sound(START_MS, 48_000, 141))]);
    run.end(None);
    let counts = run.check();
    assert_eq!(counts[&RungName::audio()], 141);
}

#[test]
fn audio_goes_on_with_gaps_for_video_when_video_stops() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 40, false)), ("audio", sound(START_MS, 48_000, 600))]);
    let stall = run.timing.stall.as_secs_f64();
    let newest = run.of("audio").pop().unwrap();
    let behind =
        10.0 + 600.0 * 1024.0 / 48_000.0 - (newest.info().start + newest.info().duration).as_secs_f64();
    assert!(behind < stall + 2.5, "audio is {behind} s behind, {stall} s are allowed, and a segment");
    run.end(None);
    run.check();
    assert!(run.of("audio").iter().all(|s| s.body().is_some()));
    let gaps = run.of("v").iter().filter(|s| s.body().is_none()).count();
    assert_eq!(run.packager.counters().gaps, gaps as u64);
    assert!(gaps >= 10, "{:?}", run.spans("v"));
}

#[test]
fn audio_starts_without_a_video_that_never_comes() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    run.push_all(&[("audio", sound(START_MS, 48_000, 600))]);
    assert!(run.of("audio").len() > 3);
    assert!(run.of("v").iter().all(|s| s.body().is_none()));
    run.end(None);
    run.check();
}

#[test]
fn one_stalled_rendition_holds_nobody_and_gets_gaps() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("a"), video("b")]));
    let all = frames(START_MS, FPS, 30, 600, false);
    run.push_all(&[("a", all[..450].to_vec()), ("b", all[..40].to_vec())]);
    assert_eq!(run.of("a").len(), 14, "a is not held");
    let gaps = run.of("b").iter().filter(|s| s.body().is_none()).count();
    assert!(gaps > 3, "{:?}", run.spans("b"));
    // The rendition continues at its next keyframe at a cut.
    run.push_all(&[("a", all[450..].to_vec()), ("b", all[455..].to_vec())]);
    run.end(None);
    run.check();
    assert_eq!(run.of("a").len(), run.of("b").len());
    assert!(run.of("b").last().unwrap().body().is_some());
}

#[test]
fn a_rendition_without_a_key_at_the_cut_is_counted_and_stays_decodable() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("a"), video("b")]));
    let mut b = frames(START_MS, FPS, 30, 120, false);
    b[30].key = false;
    b[40].key = true;
    run.push_all(&[("a", frames(START_MS, FPS, 30, 120, false)), ("b", b)]);
    run.end(None);
    let counts = run.check();
    let counters = run.packager.counters();
    assert_eq!((counters.misaligned, counters.undecodable_samples, counters.gaps), (1, 10, 0));
    assert_eq!(counts[&rung("b")], 110);
    assert_eq!(run.spans("a"), run.spans("b"));
}

#[test]
fn a_gop_longer_than_a_segment_becomes_gaps_not_an_illegal_playlist() {
    let mut run = Run::new(4.0);
    run.begin(epoch(0, START_MS, &[video("source"), audio()], CutRule::SourceKeys));
    run.push_all(&[
        ("source", frames(START_MS, FPS, 150, 300, false)),
        ("audio", sound(START_MS, 48_000, 469)),
    ]);
    run.end(None);
    run.check();
    let counters = run.packager.counters();
    assert!(counters.forced_cuts >= 6 && counters.gaps >= 6, "{counters:?}");
}

#[test]
fn source_keys_cut_all_renditions() {
    let mut run = Run::new(4.0);
    run.begin(epoch(0, START_MS + 100, &[video("source"), video("360p"), audio()], CutRule::SourceKeys));
    let samples = frames(START_MS + 133, FPS, 36, 144, false);
    run.push_all(&[
        ("source", samples.clone()),
        ("360p", samples),
        ("audio", sound(START_MS + 133, 48_000, 225)),
    ]);
    run.end(None);
    run.check();
    assert_eq!(run.spans("360p"), [(10_133, 1_200), (11_333, 1_200), (12_533, 1_200), (13_733, 1_200)]);
    assert_eq!(run.packager.counters(), PackagerCounters::default());
}

/// An open GOP of HEVC: each keyframe from the second on is followed in decode order by two pictures shown before it.
fn open_gops(start_ms: i64, gop: usize, count: usize) -> Vec<Unit> {
    let mut samples = frames(start_ms, FPS, gop, count, false);
    let times: Vec<_> = samples.iter().map(|s| s.dts).collect();
    for at in (gop..count).step_by(gop) {
        samples[at - 2..=at].rotate_right(1);
    }
    for (sample, dts) in samples.iter_mut().zip(times) {
        sample.dts = dts - MediaSpan::from_millis(100);
    }
    samples
}

#[test]
fn pictures_shown_before_their_keyframe_are_in_its_segment_and_decode_times_never_overlap() {
    for parts in [false, true] {
        let mut run = if parts { Run::with_parts(4.0) } else { Run::new(4.0) };
        run.begin(epoch(0, START_MS, &[video("source"), audio()], CutRule::SourceKeys));
        let samples = open_gops(START_MS, 36, 144);
        run.push_all(&[("source", samples.clone()), ("audio", sound(START_MS, 48_000, 225))]);
        run.end(None);
        assert_eq!(run.check()[&rung("source")], 144);
        assert_eq!(run.packager.counters(), PackagerCounters::default(), "nothing is dropped");
        assert_eq!(run.spans("source")[..3], [(10_000, 1_200), (11_200, 1_200), (12_400, 1_200)]);
        let mut shown = Vec::new();
        let mut ends = 0;
        for segment in run.parsed("source") {
            assert!(segment.base >= ends, "{} after {ends}", segment.base);
            let mut decode = segment.base as i64;
            for (duration, offset, ..) in &segment.samples {
                shown.push(decode + offset);
                decode += i64::from(*duration);
            }
            ends = decode as u64;
        }
        let published: Vec<i64> = samples.iter().map(|s| s.pts.ticks_90k()).collect();
        assert_eq!(shown, published, "shown when they should be");
    }
}

#[test]
fn an_epoch_that_begins_with_an_open_gop_leaves_out_what_it_cannot_decode() {
    let mut run = Run::new(4.0);
    let samples = open_gops(START_MS - 1_200, 36, 108).split_off(34);
    assert!(samples[0].key && samples[1].pts < samples[0].pts && samples[2].pts < samples[0].pts);
    run.begin(epoch(0, START_MS, &[video("source")], CutRule::SourceKeys));
    run.push_all(&[("source", samples)]);
    run.end(None);
    assert_eq!(run.check()[&rung("source")], 72, "leading pictures of the second keyframe stay");
}

#[test]
fn a_published_gop_at_the_limit_passes_and_extinf_stays_in_bounds() {
    for latency in [2.0, 10.5, 15.0] {
        let mut run = Run::new(latency);
        run.begin(epoch(0, START_MS, &[video("source"), audio()], CutRule::SourceKeys));
        let gop = (run.timing.max_source_gop.as_secs_f64() * 30.0).floor() as usize;
        run.push_all(&[
            ("source", frames(START_MS, FPS, gop, gop * 5, false)),
            ("audio", sound(START_MS, 48_000, gop * 5 * 48_000 / 30 / 1024)),
        ]);
        run.end(None);
        run.check();
        assert_eq!(run.packager.counters(), PackagerCounters::default(), "at {latency}");
    }
}

#[test]
fn an_epoch_begins_with_one_discontinuity_in_every_rendition() {
    let mut run = Run::new(4.0);
    let tracks = [video("v"), audio()];
    run.begin(grid(&tracks));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 45, false)), ("audio", sound(START_MS, 48_000, 80))]);
    run.end(Some(ms(11_500)));
    run.begin(epoch(1, 11_500, &tracks, CutRule::Grid));
    run.push_all(&[("v", frames(11_500, FPS, 30, 45, false)), ("audio", sound(11_500, 48_000, 60))]);
    run.end(None);
    run.check();
    for name in ["v", "audio"] {
        let marks: Vec<u64> =
            run.of(name).iter().filter(|s| s.info().discontinuity).map(|s| s.info().sequence).collect();
        assert_eq!(marks, [2], "{name}");
    }
    assert_eq!(run.packager.counters().surplus_samples, 9, "audio at or behind the end");
}

#[test]
fn an_epoch_without_media_leaves_no_trace_but_its_init() {
    let mut run = Run::new(4.0);
    let tracks = [video("v")];
    run.begin(grid(&tracks));
    run.end(None);
    run.begin(epoch(1, START_MS, &tracks, CutRule::Grid));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 40, false))]);
    run.end(None);
    run.begin(epoch(2, 12_000, &tracks, CutRule::Grid));
    run.push_all(&[("v", frames(12_000, FPS, 30, 5, false))]);
    run.end(Some(ms(11_000)));
    run.begin(epoch(3, 13_000, &tracks, CutRule::Grid));
    run.push_all(&[("v", frames(13_000, FPS, 30, 5, false))]);
    run.end(None);
    run.check();
    let marks: Vec<_> = run.of("v").iter().map(|s| (s.info().sequence, s.info().discontinuity)).collect();
    assert_eq!(marks, [(0, false), (1, false), (2, true)]);
}

#[test]
fn init_is_made_again_only_when_its_content_changes() {
    let mut run = Run::new(4.0);
    let mut tracks = vec![video("v"), audio()];
    for number in 0..3 {
        run.begin(epoch(number, START_MS, &tracks, CutRule::Grid));
        if number == 1 {
            assert_eq!(run.inits.len(), 2, "same bytes: no new init");
            tracks[0] = Track {
                kind: TrackKind::Video(crate::VideoTrack { width: 1280, ..video_kind("v") }),
                ..video("v")
            };
        }
    }
    assert_eq!(run.inits.len(), 3);
    assert_eq!(run.inits[2].rung, rung("v"));
    assert_ne!(run.inits[2].name, run.inits[0].name);
    run.push_all(&[("v", frames(START_MS, FPS, 30, 3, false)), ("audio", sound(START_MS, 48_000, 3))]);
    run.end(None);
    run.check();
    assert_eq!(run.of("v")[0].info().init, run.inits[2].name);
    assert_ne!(run.of("audio")[0].info().init, run.inits[2].name, "still the first epoch's");
}

fn video_kind(name: &str) -> crate::VideoTrack {
    match video(name).kind {
        TrackKind::Video(video) => video,
        TrackKind::Audio(_) => unreachable!("it is video"),
    }
}

#[test]
fn decode_times_that_stand_still_or_go_back_are_refused() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v")]));
    let samples = frames(START_MS, FPS, 30, 40, false);
    run.push(&rung("v"), samples[0].clone()).unwrap();
    run.push(&rung("v"), samples[2].clone()).unwrap();
    assert_eq!(run.push(&rung("v"), samples[2].clone()), Err(PushError::NotGrowing));
    assert_eq!(run.push(&rung("v"), samples[1].clone()), Err(PushError::NotGrowing));
    run.push_all(&[("v", samples[3..].to_vec())]);
    run.end(None);
    assert_eq!(run.check()[&rung("v")], 39);
    assert_eq!(run.packager.counters().rejected_samples, 2);
}

#[test]
fn negative_and_absurd_times_are_errors_not_panics() {
    let mut run = Run::new(4.0);
    run.begin(epoch(0, -5_000, &[video("v")], CutRule::Grid));
    let good = frames(START_MS, FPS, 30, 1, false).remove(0);
    let t = MediaTime::from_ticks_90k;
    for (pts, dts) in [
        (t(-1), t(-1)),
        (t(0), t(-1)),
        (t(i64::MAX), t(i64::MAX)),
        (t(i64::MIN), t(i64::MIN)),
        (t(i64::MAX), t(i64::MIN)),
        (ms(10_000), ms(100_000)),
        (ms(100_000), ms(10_000)),
    ] {
        let bad = Unit { pts, dts, ..good.clone() };
        assert_eq!(run.push(&rung("v"), bad), Err(PushError::OutOfRange), "{pts:?} {dts:?}");
    }
    let empty = Unit { data: Bytes::new(), ..good.clone() };
    assert_eq!(run.push(&rung("v"), empty), Err(PushError::Empty));
    assert_eq!(run.push(&rung("w"), good.clone()), Err(PushError::UnknownRung));
    run.push(&rung("v"), good.clone()).unwrap();
    run.end(None);
    assert_eq!(run.push(&rung("v"), good), Err(PushError::NoEpoch));
    run.check();
}

#[test]
fn a_first_decode_time_before_the_epoch_is_fine() {
    let mut run = Run::new(4.0);
    run.begin(epoch(0, START_MS, &[video("v")], CutRule::Grid));
    let samples = frames(START_MS, FPS, 30, 60, true);
    assert!(samples[0].dts < ms(START_MS));
    run.push_all(&[("v", samples)]);
    run.end(None);
    assert_eq!(run.check()[&rung("v")], 60);
}

#[test]
fn a_jump_is_refused_and_a_pause_below_it_becomes_gaps() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v")]));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 30, false))]);
    let mut far = frames(60_000, FPS, 30, 1, false);
    assert_eq!(run.push(&rung("v"), far.remove(0)), Err(PushError::TooFarAhead));
    run.push_all(&[("v", frames(20_000, FPS, 30, 60, false))]);
    run.end(None);
    run.check();
    assert_eq!(run.of("v").last().unwrap().info().start, ms(21_000));
    // The last picture before the pause lasts to the end of its segment; gaps follow.
    let first = &run.parsed("v")[0];
    assert_eq!(first.base + first.duration(), 11_000 * 90);
}

/// Shedding, a bad network and a publisher that stops can each drop pictures among B-frames.
#[test]
fn pictures_that_are_missing_leave_no_hole_and_no_segment_of_another_length() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v")]));
    let mut samples = frames(START_MS, FPS, 30, 90, true);
    let mut n = 0;
    samples.retain(|_| {
        n += 1;
        ![12, 13, 14, 29, 57, 58, 87, 88].contains(&(n - 1))
    });
    run.push_all(&[("v", samples)]);
    run.end(None);
    run.check();
    for (segment, parsed) in run.of("v").iter().zip(run.parsed("v")) {
        assert_eq!(parsed.base, segment.info().start.ticks_90k() as u64);
        assert_eq!(parsed.duration(), segment.info().duration.ticks_90k() as u64);
    }
}

#[test]
fn memory_is_bounded_and_the_rendition_recovers_at_a_keyframe() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v")]));
    let big = Bytes::from(vec![0; MAX_BUFFERED_BYTES / 4]);
    let mut samples = frames(START_MS, FPS, 30, 91, false);
    samples[..10].iter_mut().for_each(|s| s.data = big.clone());
    let mut refused = Vec::new();
    for (i, sample) in samples.into_iter().enumerate() {
        if run.push(&rung("v"), sample) == Err(PushError::Full) {
            refused.push(i);
        }
    }
    assert_eq!(refused, [4]);
    assert_eq!(
        run.packager.counters().undecodable_samples,
        4 + 25,
        "what waited, and up to the next keyframe"
    );
    run.end(None);
    assert_eq!(run.check()[&rung("v")], 61);
    assert_eq!(run.spans("v"), [(10_000, -1_000), (11_000, 1_000), (12_000, 1_000), (13_000, 33)]);
}

#[test]
fn date_times_stay_monotone_when_the_clock_is_set_back() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    let pictures = frames(START_MS, FPS, 30, 600, false);
    run.push_all(&[("v", pictures[..91].to_vec())]);
    let wall = anchor().wall.unix_micros() - 2_000_000;
    run.packager.re_anchor(Anchor { wall: WallTime::from_unix_micros(wall), ..anchor() });
    run.push_all(&[("v", pictures[91..].to_vec()), ("audio", sound(START_MS, 48_000, 900))]);
    run.end(None);
    run.check();
    let offsets: Vec<i64> = run
        .of("v")
        .iter()
        .map(|s| (s.info().wall.unix_micros() - anchor().wall_at(s.info().start).unix_micros()) / 1000)
        .collect();
    assert_eq!(offsets[..4], [0, 0, 0, 0]);
    assert_eq!(offsets[4..9], [-500, -1_000, -1_500, -2_000, -2_000], "half speed until they meet");
    for (v, a) in run.of("v").iter().zip(run.of("audio")) {
        let difference = a.info().wall.unix_micros() - v.info().wall.unix_micros();
        assert!((0..22_000).contains(&difference), "renditions share one mapping");
    }
}

#[test]
fn numbering_can_continue_an_earlier_presentation() {
    let mut run = Run::new(4.0);
    run.packager = Packager::new(run.timing.clone(), 500);
    run.begin(grid(&[video("v")]));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 61, false))]);
    assert_eq!((run.of("v")[0].info().sequence, run.of("v")[0].info().discontinuity), (500, true));
    assert_eq!((run.of("v")[1].info().sequence, run.of("v")[1].info().discontinuity), (501, false));
}

#[test]
fn names_are_never_used_twice_not_even_by_a_second_publish() {
    let mut names = std::collections::BTreeSet::new();
    for publish in 0..2u32 {
        let mut run = Run::new(4.0);
        for number in 0..2 {
            let start = START_MS + i64::from(number) * 2_000;
            let session =
                crate::SessionId::from_start(1_795_348_800_000_000 + i64::from(publish) * 1_000, number);
            run.begin(Epoch { session, ..epoch(0, start, &[video("v")], CutRule::Grid) });
            run.push_all(&[("v", frames(start, FPS, 30, 60, false))]);
            run.end(None);
        }
        for segment in run.segments {
            assert!(names.insert(segment.info().name.clone()));
        }
    }
}

#[test]
fn an_encoder_that_failed_takes_no_audio_without_pictures_along() {
    let mut run = Run::new(4.0);
    run.begin(grid(&[video("v"), audio()]));
    assert_eq!(run.packager.video_end(), None);
    run.push_all(&[("v", frames(START_MS, FPS, 30, 75, false)), ("audio", sound(START_MS, 48_000, 250))]);
    assert_eq!(run.packager.video_end(), Some(ms(12_500)));
    run.end(run.packager.video_end());
    run.check();
    assert_eq!(run.spans("v"), [(10_000, 1_000), (11_000, 1_000), (12_000, 500)]);
    assert_eq!(run.spans("audio").len(), 3);
    assert_eq!(run.packager.counters().gaps, 0);
}

#[test]
fn closing_before_any_data_is_quiet() {
    let mut run = Run::new(4.0);
    run.end(None);
    run.begin(grid(&[video("v"), audio()]));
    run.end(Some(ms(0)));
    run.end(None);
    assert_eq!(run.segments.len(), 0);
    assert_eq!(run.packager.poll(), None);
}

#[test]
fn bad_tracks_are_refused_and_change_nothing() {
    let mut packager = Packager::new(testing::timing(4.0), 0);
    assert_eq!(packager.begin(grid(&[])), Err(BeginError::NoTracks));
    assert_eq!(packager.begin(grid(&[video("v"), video("v")])), Err(BeginError::DuplicateRung(rung("v"))));
    for config in [&AVCC[..0], &AVCC[..5], &AVCC[..20], &[0xff; 40][..]] {
        let kind = crate::VideoTrack { config: Bytes::copy_from_slice(config), ..video_kind("v") };
        let track = Track { kind: TrackKind::Video(kind), ..video("v") };
        assert!(matches!(packager.begin(grid(&[track])), Err(BeginError::Track { .. })), "{config:?}");
    }
    assert!(matches!(packager.begin(grid(&[audio_at(0)])), Err(BeginError::Track { .. })));
    assert_eq!(packager.poll(), None);
}

#[test]
fn init_segments_say_what_the_tracks_are() {
    let mut run = Run::new(4.0);
    let wide = crate::VideoTrack { sample_aspect: (4, 3), ..video_kind("v") };
    let wide = Track { rung: rung("wide"), kind: TrackKind::Video(wide) };
    run.begin(grid(&[video("v"), wide, audio_at(44_100)]));
    let moov = |name: &str| {
        let init = run.inits.iter().find(|i| i.rung == rung(name)).unwrap();
        assert!(init.name.ends_with("-0-init.mp4"), "{}", init.name);
        testing::parse_init(&init.body)
    };
    for (name, aspect, shown) in [("v", None, 640), ("wide", Some((4, 3)), 853)] {
        let moov = moov(name);
        assert_eq!(moov.mvex.as_ref().unwrap().trex.len(), 1);
        assert_eq!(moov.trak[0].mdia.mdhd.timescale, 90_000);
        assert_eq!(moov.trak[0].tkhd.width.integer(), shown);
        let Codec::Avc1(avc1) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else { panic!("avc1") };
        assert_eq!((avc1.visual.width, avc1.visual.height), (640, 360));
        assert_eq!(avc1.pasp.as_ref().map(|p| (p.h_spacing, p.v_spacing)), aspect);
        let mut record = Vec::new();
        mp4_atom::Atom::encode_body(&avc1.avcc, &mut record).unwrap();
        assert_eq!(record, AVCC, "the record goes through unchanged");
    }
    let moov = moov("audio");
    assert_eq!(moov.trak[0].mdia.mdhd.timescale, 44_100);
    let Codec::Mp4a(mp4a) = &moov.trak[0].mdia.minf.stbl.stsd.codecs[0] else { panic!("mp4a") };
    assert_eq!(mp4a.esds.es_desc.dec_config.object_type_indication, 0x40);
    assert_eq!(mp4a.esds.es_desc.dec_config.dec_specific.as_ref().unwrap().raw, [0x11, 0x90]);
}

#[test]
fn init_segments_of_hevc_and_av1_have_their_records_and_colours() {
    let nclx = |transfer_characteristics| {
        Some(mp4_atom::Colr::Nclx {
            colour_primaries: if transfer_characteristics == 2 { 2 } else { 9 },
            transfer_characteristics,
            matrix_coefficients: 9,
            full_range_flag: false,
        })
    };
    let mut run = Run::new(4.0);
    run.begin(grid(&[testing::hevc("hevc"), testing::av1("av1")]));
    let entry = |name: &str| {
        let init = run.inits.iter().find(|i| i.rung == rung(name)).unwrap();
        testing::parse_init(&init.body).trak[0].mdia.minf.stbl.stsd.codecs[0].clone()
    };
    let mut record = Vec::new();
    let Codec::Hvc1(hvc1) = entry("hevc") else { panic!("hvc1") };
    mp4_atom::Atom::encode_body(&hvc1.hvcc, &mut record).unwrap();
    let complete: Vec<bool> = hvc1.hvcc.arrays.iter().map(|array| array.completeness).collect();
    assert_eq!(complete, [true; 3]);
    // The published record has the three arrays as incomplete.
    let differing = record.iter().zip(testing::hvcc()).filter(|(made, given)| *made != given).count();
    assert_eq!((record.len(), differing), (testing::hvcc().len(), 3));
    assert_eq!((hvc1.colr, (hvc1.visual.width, hvc1.visual.height)), (nclx(16), (320, 180)));
    assert_eq!(hvc1.pasp.map(|pasp| (pasp.h_spacing, pasp.v_spacing)), Some((16, 11)));
    let Codec::Av01(av01) = entry("av1") else { panic!("av01") };
    let mut record = Vec::new();
    mp4_atom::Atom::encode_body(&av01.av1c, &mut record).unwrap();
    assert_eq!((record, av01.colr), (testing::av1c(), nclx(2)));
}

#[test]
fn records_of_hevc_and_av1_that_cannot_be_read_are_refused() {
    let mut packager = Packager::new(testing::timing(4.0), 0);
    for (track, record) in [(testing::hevc("v"), testing::hvcc()), (testing::av1("v"), testing::av1c())] {
        let TrackKind::Video(kind) = track.kind else { panic!("video") };
        for length in 0..record.len() {
            let kind =
                crate::VideoTrack { config: Bytes::copy_from_slice(&record[..length]), ..kind.clone() };
            let cut = Track { rung: rung("v"), kind: TrackKind::Video(kind) };
            assert!(matches!(packager.begin(grid(&[cut])), Err(BeginError::Track { .. })), "{length}");
        }
    }
}
