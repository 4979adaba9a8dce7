//! Tests of parts of segments.

use super::*;
use media::{MediaSpan, Unit};

/// Durations in milliseconds of a rendition's parts, by segment.
fn durations(run: &Run, name: &str) -> Vec<Vec<i64>> {
    let mut by_segment: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for part in run.parts.iter().filter(|p| p.info().rung.as_str() == name) {
        let ms = (part.info().duration.ticks_90k() + 45) / 90;
        by_segment.entry(part.info().sequence).or_default().push(if part.body().is_some() {
            ms
        } else {
            -ms
        });
    }
    by_segment.into_values().collect()
}

fn live(latency: f64, tracks: &[Track], media: &[(&str, Vec<Unit>)]) -> Run {
    let mut run = Run::with_parts(latency);
    run.begin(grid(tracks));
    run.push_all(media);
    run.check();
    run
}

#[test]
fn a_part_comes_out_with_the_first_frame_behind_it() {
    let mut run = Run::with_parts(3.0);
    run.begin(grid(&[video("v")]));
    let samples = frames(START_MS, FPS, 30, 61, false);
    run.push_all(&[("v", samples[..15].to_vec())]);
    assert_eq!(run.parts.len(), 0);
    run.push_all(&[("v", samples[15..16].to_vec())]);
    assert_eq!(durations(&run, "v"), [[500]]);
    run.push_all(&[("v", samples[16..30].to_vec())]);
    assert_eq!((run.parts.len(), run.segments.len()), (1, 0), "the last part ends with its segment");
    run.push_all(&[("v", samples[30..].to_vec())]);
    assert_eq!(durations(&run, "v"), [[500, 500], [500, 500]]);
    run.end(None);
    run.check();
}

#[test]
fn parts_of_all_common_frame_rates_keep_to_part_target() {
    for fps in [
        (24_000, 1001),
        (24, 1),
        (25, 1),
        (30_000, 1001),
        (30, 1),
        (48, 1),
        (50, 1),
        (60_000, 1001),
        (60, 1),
        (15, 1),
    ] {
        for latency in [2.0, 3.0] {
            let gop = ((fps.0 + fps.1 / 2) / fps.1) as usize;
            let run = live(latency, &[video("v")], &[("v", frames(START_MS, fps, gop, 10 * gop + 1, false))]);
            let target = run.timing.parts.unwrap().target.ticks_90k() / 90;
            let parts = durations(&run, "v");
            assert_eq!(parts.len(), 10, "{fps:?}");
            for segment in parts {
                let all_but_last = &segment[..segment.len() - 1];
                assert!(all_but_last.iter().all(|ms| ms * 100 >= target * 85), "{fps:?} {segment:?}");
                assert!(segment.iter().all(|ms| (200..=target).contains(ms)), "{fps:?} {segment:?}");
            }
        }
    }
}

#[test]
fn b_frames_delay_parts_by_what_decoding_needs_and_break_none() {
    let samples = frames(START_MS, FPS, 30, 91, true);
    let run = live(3.0, &[video("v")], &[("v", samples)]);
    assert_eq!(durations(&run, "v"), [[500, 500], [500, 500], [500, 500]]);
    for segment in run.parsed("v") {
        assert_eq!(segment.samples.len(), 30);
        assert!(segment.samples.iter().all(|s| s.0 == 3_000), "even decode times across parts");
    }
}

#[test]
fn audio_has_parts_as_soon_as_video_says_that_no_cut_lies_in_them() {
    let tracks = [video("v"), audio()];
    let mut run = Run::with_parts(3.0);
    run.begin(grid(&tracks));
    run.push_all(&[("audio", sound(START_MS, 48_000, 47))]);
    assert_eq!(run.parts.len(), 0);
    run.push_all(&[("v", frames(START_MS, FPS, 30, 18, false))]);
    assert_eq!((durations(&run, "v"), durations(&run, "audio")), (vec![vec![500]], vec![vec![512]]));
    run.push_all(&[
        ("v", frames(START_MS, FPS, 30, 61, false).split_off(18)),
        ("audio", sound(11_003, 48_000, 60)),
    ]);
    run.check();
    assert_eq!(durations(&run, "audio")[0], [512, 491]);
    assert!(run.parts.iter().filter(|p| p.info().rung == RungName::audio()).all(|p| p.info().independent));
}

/// Players begin to decode at a part's first sample.
#[test]
fn a_part_is_independent_if_it_begins_with_a_keyframe() {
    let mut run = Run::with_parts(2.0);
    run.begin(grid(&[video("v")]));
    run.push_all(&[("v", frames(START_MS, FPS, 20, 120, false))]);
    run.end(None);
    let key_at = |part: &PartInfo| (part.start.ticks_90k() - 90 * START_MS) % (20 * 3_000) == 0;
    let parts: Vec<&PartInfo> = run.parts.iter().map(Part::info).collect();
    assert!(parts.iter().all(|part| part.independent == key_at(part)), "{parts:?}");
    assert!(parts.iter().any(|part| part.independent) && parts.iter().any(|part| !part.independent));
}

#[test]
fn a_frame_longer_than_part_target_is_followed_by_gaps() {
    let mut samples = frames(START_MS, FPS, 30, 61, false);
    samples.drain(4..28);
    let run = live(2.0, &[video("v")], &[("v", samples)]);
    // Three frames; one frame of 0.833 s, which must not be listed with its full duration; the remaining frames.
    assert_eq!(durations(&run, "v")[0], [100, 375, -375, -83, 67]);
    assert_eq!(run.parsed("v")[0].samples[3].0, 25 * 3_000, "its picture stays all the same");
}

#[test]
fn a_late_keyframe_ends_a_segment_where_players_were_not_told_otherwise() {
    let mut samples = frames(START_MS, FPS, 30, 100, false);
    samples[30].key = false;
    samples[45].key = true;
    let run = live(3.0, &[video("v")], &[("v", samples)]);
    let spans = run.spans("v");
    assert_eq!(spans[0], (10_000, 1_450), "the longest segment: its parts were out at 1.0 s");
    assert_eq!(run.packager.counters().forced_cuts, 1);
}

#[test]
fn a_rendition_ahead_of_a_cut_that_it_does_not_have_keeps_what_is_listed() {
    let tracks = [video("a"), video("b")];
    let mut run = Run::with_parts(3.0);
    run.begin(grid(&tracks));
    // "b" has its keyframe late and is pushed first.
    let mut ahead = frames(START_MS, FPS, 30, 70, false);
    ahead[30].key = false;
    ahead[46].key = true;
    ahead[60].key = true;
    for sample in ahead {
        run.push(&rung("b"), sample).unwrap();
    }
    for sample in frames(START_MS, FPS, 30, 70, false) {
        let _ = run.push(&rung("a"), sample);
    }
    run.end(None);
    run.check();
}

#[test]
fn an_epoch_that_ends_within_a_listed_segment_keeps_its_number() {
    let mut run = Run::with_parts(2.0);
    run.begin(grid(&[video("v"), audio()]));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 42, false)), ("audio", sound(START_MS, 48_000, 70))]);
    assert_eq!(run.parts.last().unwrap().info().sequence, 1);
    run.end(Some(ms(11_100)));
    run.begin(epoch(1, 11_100, &[video("v"), audio()], CutRule::Grid));
    run.push_all(&[("v", frames(11_100, FPS, 30, 42, false)), ("audio", sound(11_100, 48_000, 70))]);
    run.end(None);
    run.check();
    let listed = run.of("v")[1];
    assert!(
        listed.info().duration >= MediaSpan::from_millis(330),
        "what was listed stays: {:?}",
        listed.info().duration
    );
}

#[test]
fn a_rendition_that_ends_early_ends_without_a_gap() {
    for (video_frames, audio_frames, short) in [(60, 46, "audio"), (30, 94, "v")] {
        let mut run = Run::with_parts(2.0);
        let tracks = [video("v"), audio()];
        run.begin(grid(&tracks));
        run.push_all(&[
            ("v", frames(START_MS, FPS, 30, video_frames, false)),
            ("audio", sound(START_MS, 48_000, audio_frames)),
        ]);
        run.end(None);
        run.check();
        let gaps = |run: &Run| run.segments.iter().filter(|s| s.body().is_none()).count() as u64;
        assert_eq!((gaps(&run), run.packager.counters().gaps), (0, 0), "{short}");
        let longest = run.segments.iter().map(|s| s.info().sequence).max().unwrap();
        assert!(run.of(short).last().unwrap().info().sequence < longest, "{short} has nothing at the end");

        // If another epoch follows, the renditions' numbers agree again.
        run.begin(epoch(1, 20_000, &tracks, CutRule::Grid));
        run.push_all(&[("v", frames(20_000, FPS, 30, 42, false)), ("audio", sound(20_000, 48_000, 66))]);
        run.end(None);
        run.check();
        assert_eq!((gaps(&run), run.packager.counters().gaps), (1, 1), "{short}");
        assert_eq!(run.of("v").len(), run.of("audio").len());
    }
}

/// The end of an epoch must not count as a frame that would make a part too long: only the last part may be short.
#[test]
fn the_end_makes_no_part_short_but_the_last() {
    for latency in [2.0, 3.0] {
        // Audio ends after video, with it, and before it.
        for (count, heard) in (31..=60_usize).flat_map(|count| [6, 0, -10].map(|more| (count, more))) {
            let mut run = Run::with_parts(latency);
            run.begin(grid(&[video("v"), audio()]));
            let heard = (count * 48_000 / 30 / 1024 + 1).saturating_add_signed(heard);
            run.push_all(&[
                ("v", frames(START_MS, FPS, 30, count, false)),
                ("audio", sound(START_MS, 48_000, heard)),
            ]);
            run.end(None);
            run.check();
            let target = run.timing.parts.unwrap().target.ticks_90k() / 90;
            for name in ["v", "audio"] {
                for segment in durations(&run, name) {
                    // Gap parts cover the time of a picture that lasts longer.
                    let shown = segment.iter().take_while(|ms| **ms > 0).count();
                    let all_but_last = &segment[..shown - 1];
                    assert!(
                        all_but_last.iter().all(|ms| ms * 100 >= target * 85),
                        "{name}, {count} frames: {segment:?} of {target}"
                    );
                }
            }
        }
    }
}
