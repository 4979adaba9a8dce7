//! Properties for any input: those of `Run::check`, and that every sample is emitted exactly once or counted as
//! dropped.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Plan {
    latency: f64,
    with_parts: bool,
    rule: CutRule,
    fps: (i64, i64),
    gop: usize,
    video: usize,
    b_frames: bool,
    with_audio: bool,
    rate: u32,
    /// Start of audio relative to video, in milliseconds.
    offset: i64,
    /// Number of samples lost before the packager, per thousand.
    loss: u32,
    /// Duration of each epoch in seconds.
    epochs: Vec<i64>,
    /// Whether `end_epoch` gets a time that cuts the epoch short.
    cut_short: bool,
    /// Delay of each rendition's arrival, in milliseconds of decode time.
    delays: [i64; 3],
    seed: u64,
}

prop_compose! {
    fn plans()(
        latency in 2.0..15.0f64,
        with_parts in any::<bool>(),
        rule in prop_oneof![Just(CutRule::Grid), Just(CutRule::SourceKeys)],
        fps in prop_oneof![
            Just((30, 1)), Just((25, 1)), Just((60, 1)), Just((30_000, 1001)), Just((24_000, 1001)), Just((7, 1)), Just((1, 2))
        ],
        gop in 1usize..130,
        video in 0usize..=2,
        b_frames in any::<bool>(),
        with_audio in any::<bool>(),
        rate in prop_oneof![Just(48_000u32), Just(44_100), Just(8_000), Just(96_000)],
        offset in -1_500i64..1_500,
        loss in prop_oneof![Just(0u32), Just(0), 1u32..100],
        epochs in prop::collection::vec(0i64..14, 1..4),
        cut_short in any::<bool>(),
        delays in [0i64..3_000, 0i64..3_000, 0i64..9_000],
        seed in any::<u64>(),
    ) -> Plan {
        Plan {
            latency: if with_parts { 2.0 + latency / 4.0 } else { latency }, with_parts, rule, fps, gop, video, b_frames, with_audio: with_audio || video == 0, rate, offset, loss, epochs,
            cut_short, delays, seed,
        }
    }
}

/// A small random generator seeded by the plan, so that a failing plan reproduces the failure by itself.
fn lost(state: &mut u64, loss: u32) -> bool {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) % 1000) < u64::from(loss)
}

fn run(plan: &Plan) {
    let mut run = if plan.with_parts { Run::with_parts(plan.latency) } else { Run::new(plan.latency) };
    let names = &["a", "b"][..plan.video];
    let mut tracks: Vec<Track> = names.iter().map(|name| video(name)).collect();
    if plan.with_audio {
        tracks.push(audio_at(plan.rate));
    }
    let mut start = START_MS;
    let mut pushed = 0u64;
    let mut seed = plan.seed;
    for (number, &seconds) in plan.epochs.iter().enumerate() {
        run.begin(epoch(number as u32, start, &tracks, plan.rule));
        let count = (seconds * plan.fps.0 / plan.fps.1) as usize;
        let mut all = Vec::new();
        for (i, name) in names.iter().enumerate() {
            // Gaps stay below 30 s, because the packager refuses a longer one as a jump.
            let samples = frames(start, plan.fps, plan.gop, count, plan.b_frames);
            all.extend(samples.into_iter().map(|s| (plan.delays[i], rung(name), s)));
        }
        if plan.with_audio {
            let count = (seconds * i64::from(plan.rate) / 1024) as usize;
            let samples = sound(start + plan.offset, plan.rate.into(), count);
            all.extend(samples.into_iter().map(|s| (plan.delays[2], RungName::audio(), s)));
        }
        all.retain(|_| !lost(&mut seed, plan.loss));
        all.sort_by_key(|(delay, _, s)| s.dts + MediaSpan::from_millis(*delay));
        for (_, rung, sample) in all {
            pushed += 1;
            run.push(&rung, sample).unwrap();
        }
        let end = start + seconds * 1000;
        run.end(plan.cut_short.then(|| ms(end - 700)));
        start = end + 2_000;
    }
    let packaged: usize = run.check().values().sum();
    let counters = run.packager.counters();
    let dropped = counters.late_samples + counters.undecodable_samples + counters.surplus_samples;
    assert_eq!(packaged as u64 + dropped, pushed, "every sample is packaged or counted: {counters:?}");
    let gaps = run.segments.iter().filter(|s| s.body().is_none()).count();
    assert_eq!(counters.gaps, gaps as u64);
    let listed = run.segments.iter().chain(&run.packager.last_gaps);
    if let Some(last) = listed.map(|s| s.info().sequence).max() {
        assert_eq!(run.packager.next_sequence(), last + 1);
        let expected = (last + 1) as usize * tracks.len();
        let left_out = run.packager.last_gaps.len();
        assert_eq!(run.segments.len() + left_out, expected, "every rendition fills every slot");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_what_comes_out_is_legal(plan in plans()) {
        run(&plan);
    }

    #[test]
    fn arbitrary_times_never_panic(
        with_parts in any::<bool>(),
        samples in prop::collection::vec((any::<bool>(), 0u8..3, any::<i64>(), -40_000_000i64..40_000_000), 1..60),
    ) {
        let mut run = if with_parts { Run::with_parts(4.0) } else { Run::new(4.0) };
        run.begin(grid(&[video("a"), audio()]));
        let mut now = 0i64;
        for (key, way, raw, step) in samples {
            let (pts, dts) = match way {
                0 => (raw, raw),
                1 => (raw, raw.wrapping_add(step)),
                _ => { now += step; (now, now - step % 9_000) }
            };
            let sample = Unit {
                pts: MediaTime::from_ticks_90k(pts),
                dts: MediaTime::from_ticks_90k(dts),
                key,
                data: Bytes::from_static(b"x"),
            };
            let rung = if key { rung("a") } else { RungName::audio() };
            let _ = run.push(&rung, sample);
        }
        run.end(None);
        run.check();
    }
}
