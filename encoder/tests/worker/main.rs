//! A real worker process, fed with real H.264 and AAC, judged by ffprobe.

mod support;

use support::{SECOND, Source, job, rung, transcode};

#[tokio::test]
async fn three_rungs_share_one_keyframe_grid() {
    // Times that begin off the grid.
    let source = Source::video("640x360", "30", 4, "").shifted(20_007);
    let times = source.times();
    let rungs = vec![rung(640, 360, 30, 600_000), rung(426, 240, 30, 300_000), rung(256, 144, 30, 150_000)];
    let outcome = transcode(job(rungs.clone()), source).await;
    assert!(outcome.exit.is_clean(), "{:?}", outcome.exit);
    assert_eq!(outcome.progress.decoded, 120);
    assert_eq!(outcome.progress.encoded, 360);

    // First picture, then the first at or after each second.
    let mut due = i64::MIN;
    let grid: Vec<i64> = times
        .iter()
        .copied()
        .filter(|&t| {
            let key = t >= due;
            if key {
                due = (t / SECOND + 1) * SECOND;
            }
            key
        })
        .collect();
    assert_eq!(grid.len(), 5);
    for (track, rung) in rungs.iter().enumerate() {
        let opening = outcome.only(track as u8);
        assert_eq!(opening.times(false), times, "{}", rung.name);
        assert_eq!(opening.times(true), grid, "{}", rung.name);
        let probe = opening.probe();
        assert_eq!((probe.width, probe.height), (rung.width.into(), rung.height.into()));
        assert_eq!((probe.frames, probe.keys), (120, 5), "{probe:?}");
        assert_eq!((&*probe.pixels, &*probe.aspect), ("yuv420p", "1:1"), "{probe:?}");
    }
}
