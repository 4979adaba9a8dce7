//! Tests of a real worker process: H.264 and AAC go in, and ffprobe checks the output. Fault handling is in
//! `faults`, audio in `sound`, the helpers in `support`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod faults;
mod files;
mod memory;
mod sandbox;
mod sound;
mod support;

use support::{Outcome, SECOND, Source, job, rung, transcode};
use transcode::wire::{Job, Keyframes, Request, VideoRung};

/// The display times that must be keyframes on the grid: the first, then the first at or after each multiple of the
/// grid width, one second.
fn on_grid(times: &[i64]) -> Vec<i64> {
    let mut due = i64::MIN;
    let mut keys = Vec::new();
    for &time in times {
        if time >= due {
            due = (time.div_euclid(SECOND) + 1) * SECOND;
            keys.push(time);
        }
    }
    keys
}

/// Checks that every rung has the given times and keyframes, and that a decoder agrees. Holds for every source.
fn check(outcome: &Outcome, rungs: &[VideoRung], times: &[i64], keys: &[i64]) {
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    for (track, rung) in rungs.iter().enumerate() {
        let opening = outcome.only(track as u8);
        assert_eq!(opening.times(false), times, "{}", rung.name);
        assert_eq!(opening.times(true), keys, "{}", rung.name);
        let probe = opening.probe();
        assert_eq!((probe.width, probe.height), (rung.width.into(), rung.height.into()));
        assert_eq!((probe.frames, probe.keys), (times.len(), keys.len()), "{probe:?}");
        assert_eq!((&*probe.pixels, &*probe.aspect), ("yuv420p", "1:1"), "{probe:?}");
        assert_ne!(probe.range, "pc", "{probe:?}");
    }
}

async fn ladder_of(source: Source, rungs: Vec<VideoRung>) -> Outcome {
    let times = source.times();
    assert!(!times.is_empty());
    let outcome = transcode(job(rungs.clone()), source).await;
    check(&outcome, &rungs, &times, &on_grid(&times));
    outcome
}

#[tokio::test]
async fn three_rungs_share_one_keyframe_grid() {
    // The source's times begin off the grid.
    let source = Source::video("640x360", "30", 4, "").shifted(20_007);
    let rungs = vec![rung(640, 360, 30, 600_000), rung(426, 240, 30, 300_000), rung(256, 144, 30, 150_000)];
    let outcome = ladder_of(source, rungs).await;
    assert_eq!(outcome.progress.decoded, 120);
    assert_eq!(outcome.progress.encoded, 360);
    assert_eq!(outcome.progress.decode_errors, 0);
}

#[tokio::test]
async fn every_frame_rate() {
    for rate in ["24", "25", "30000/1001", "50", "60"] {
        let source = Source::video("320x180", rate, 3, "");
        let rungs = vec![rung(320, 180, 60, 300_000), rung(160, 90, 60, 100_000)];
        ladder_of(source, rungs).await;
    }
}

#[tokio::test]
async fn variable_frame_rate_keeps_its_times() {
    let vary = "-vf select='not(mod(n\\,3))+gt(mod(n\\,50)\\,30)' -vsync vfr";
    let source = Source::video("320x180", "50", 4, vary);
    ladder_of(source, vec![rung(320, 180, 60, 300_000), rung(160, 90, 60, 100_000)]).await;
}

#[tokio::test]
async fn portrait_odd_anamorphic_and_other_pixels() {
    let small = || vec![rung(160, 90, 30, 100_000)];
    ladder_of(
        Source::video("180x320", "30", 1, ""),
        vec![rung(180, 320, 30, 300_000), rung(90, 160, 30, 99_000)],
    )
    .await;
    ladder_of(Source::video("322x182", "30", 1, "-vf crop=321:181 -pix_fmt yuv444p"), small()).await;
    ladder_of(Source::video("180x180", "30", 1, "-vf setsar=16/9"), small()).await;
    ladder_of(Source::video("320x180", "30", 1, "-pix_fmt yuvj420p"), vec![rung(320, 180, 30, 300_000)])
        .await;
    ladder_of(Source::video("320x180", "30", 1, "-pix_fmt yuv422p10le"), small()).await;
    ladder_of(Source::video("320x180", "25", 1, "-flags +ilme+ildct -x264opts tff=1"), small()).await;
}

#[tokio::test]
async fn anamorphic_pictures_fill_the_frame() {
    // A white square of pixels that are twice as wide as high: a 2:1 rung shows it without bars.
    let source = Source::make(
        "-f lavfi -i color=white:size=180x180:rate=30:duration=1,setsar=2 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let outcome = ladder_of(source, vec![rung(240, 120, 30, 200_000)]).await;
    let picture = outcome.only(0).picture(3);
    assert!(picture.iter().all(|&v| v > 245), "white everywhere");
}

#[tokio::test]
async fn a_slower_rung_gets_every_keyframe() {
    let source = Source::video("320x180", "60", 3, "");
    let times = source.times();
    let rungs = vec![rung(320, 180, 60, 300_000), rung(160, 90, 30, 100_000)];
    let outcome = transcode(job(rungs), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    let (fast, slow) = (outcome.only(0), outcome.only(1));
    assert_eq!(fast.times(false), times);
    assert_eq!(fast.times(true), slow.times(true));
    assert_eq!(fast.times(true), on_grid(&times));
    let half = slow.times(false).len();
    assert!((89..=93).contains(&half), "{half} of {}", times.len());
}

#[tokio::test]
async fn keyframes_follow_the_source_exactly() {
    // Keyframes at irregular places: every 17 pictures, and picture 40.
    let source = Source::video("320x180", "30", 3, "-force_key_frames expr:eq(mod(n,17),0)+eq(n,40)");
    let times = source.times();
    let mut keys: Vec<i64> = source.units(0).iter().filter(|u| u.key).map(|u| u.pts.ticks_90k()).collect();
    keys.sort_unstable();
    assert!(keys.len() >= 6, "{keys:?}");
    let rungs = vec![rung(320, 180, 30, 300_000), rung(160, 90, 30, 100_000)];
    let mut job = job(rungs.clone());
    job.video.keyframes = Keyframes::Source;
    let outcome = transcode(job, source).await;
    check(&outcome, &rungs, &times, &keys);
}

#[tokio::test]
async fn slower_presets_and_no_delay_at_all() {
    let source = || Source::video("320x180", "30", 2, "");
    let rungs = vec![rung(320, 180, 30, 300_000), rung(160, 90, 30, 100_000)];
    for (preset, lookahead, b_frames) in [("veryfast", 10, 3), ("veryfast", 0, 0), ("medium", 40, 8)] {
        let mut job: Job = job(rungs.clone());
        job.video.preset = preset.into();
        job.video.lookahead_frames = lookahead;
        job.video.b_frames = b_frames;
        let source = source();
        let times = source.times();
        let outcome = transcode(job, source).await;
        check(&outcome, &rungs, &times, &on_grid(&times));
        let profiles: Vec<String> = [0, 1].map(|t| outcome.only(t).probe().profile).into();
        assert_eq!(profiles, ["Main", "Main"], "{preset}");
        if b_frames == 0 {
            assert!(outcome.only(0).units.iter().all(|u| u.pts == u.dts));
        }
    }
}

#[tokio::test]
async fn large_rungs_are_high_profile() {
    let source = Source::video("640x480", "30", 1, "");
    let mut job = job(vec![rung(640, 480, 30, 600_000)]);
    job.video.preset = "veryfast".into();
    let outcome = transcode(job, source).await;
    assert_eq!(outcome.only(0).probe().profile, "High");
}

#[tokio::test]
async fn bitrate_stays_under_the_ceiling() {
    // Noise uses every bit that the rate control allows.
    let source = Source::make(
        "-f lavfi -i nullsrc=size=320x180:rate=30:duration=6,geq=random(1)*255:128:128 \
         -c:v libx264 -preset ultrafast -qp 20 -pix_fmt yuv420p",
    );
    let outcome = transcode(job(vec![rung(320, 180, 30, 400_000)]), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    let units = &outcome.only(0).units;
    // Bound for any two seconds: two seconds at the target bitrate plus one full rate-control buffer of one second.
    for window in units.windows(60) {
        let bits: usize = window.iter().map(|u| u.data.len() * 8).sum();
        assert!(bits <= 1_200_000 + 40_000, "{bits} bits in two seconds");
    }
}

#[tokio::test]
async fn a_change_of_resolution_opens_the_rungs_anew() {
    let mut source = Source::video("320x180", "30", 2, "");
    let second = Source::video("240x240", "30", 2, "").shifted(2 * SECOND + 3000);
    let times = [source.times(), second.times()];
    source.requests.extend(second.requests);
    let rungs = vec![rung(320, 180, 30, 300_000), rung(160, 90, 30, 100_000)];
    let outcome = transcode(job(rungs), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    for track in [0, 1] {
        let openings = &outcome.tracks[&track];
        assert_eq!(openings.len(), 2);
        for (opening, times) in openings.iter().zip(&times) {
            assert_eq!(&opening.times(false), times);
            assert!(opening.units[0].key);
            opening.probe();
        }
        // The square picture is pillarboxed: bars left and right.
        let (width, height): (usize, usize) = if track == 0 { (320, 180) } else { (160, 90) };
        let picture = openings[1].picture(10);
        assert_eq!(picture.len(), width * height);
        let dark = |x: usize| (0..height).all(|y| picture[y * width + x] < 24);
        assert!(dark(width / 20) && dark(width - width / 20), "bars at both sides");
        assert!(!dark(width / 2));
    }
}

#[tokio::test]
async fn thumbnails_come_as_often_as_asked() {
    let mut job = job(vec![rung(640, 360, 30, 400_000)]);
    job.thumbnail_every_ms = 1000;
    let outcome = transcode(job, Source::video("640x360", "30", 3, "")).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    // A thumbnail is skipped while the previous one is being made: this source runs faster than real time.
    assert!((1..=3).contains(&outcome.thumbnails.len()), "{}", outcome.thumbnails.len());
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("thumbnail.jpg");
    std::fs::write(&file, &outcome.thumbnails[0]).unwrap();
    let size = support::run_quiet(
        std::process::Command::new("ffprobe")
            .args(["-v", "warning", "-of", "csv=p=0", "-show_entries", "stream=codec_name,width,height"])
            .arg(&file),
    );
    assert_eq!(String::from_utf8(size).unwrap().trim(), "mjpeg,320,180");
}

#[tokio::test]
async fn what_is_packaged_already_is_not_encoded_again() {
    let whole =
        transcode(job(vec![rung(320, 180, 30, 200_000)]), Source::video("320x180", "30", 2, "")).await;
    let pts = |outcome: &Outcome| -> Vec<i64> {
        let mut pts: Vec<i64> = outcome.tracks[&0][0].units.iter().map(|unit| unit.pts.ticks_90k()).collect();
        pts.sort_unstable();
        pts
    };
    let all = pts(&whole);
    let mut job = job(vec![rung(320, 180, 30, 200_000)]);
    job.encode_from_90k = all[37];
    let rest = transcode(job, Source::video("320x180", "30", 2, "")).await;
    assert_eq!(pts(&rest), all[37..]);
    assert!(rest.tracks[&0][0].units[0].key, "it begins with an IDR frame, off the grid");
}

#[tokio::test]
async fn a_job_without_media_finishes() {
    let outcome =
        support::drive(vec![Request::Start(job(vec![rung(320, 180, 30, 1000)])), Request::Finish]).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    assert!(outcome.tracks.is_empty());
}
