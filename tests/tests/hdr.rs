//! HDR sources, published by a recent FFmpeg: what comes out is SDR in BT.709, as bright and as colourful as FFmpeg's own
//! filters make it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::checker::Settings;
use tests::checker::watch::{Watch, report};
use tests::encoder_process::{Encoder, Options};
use tests::patience::eventually;
use tests::{fixtures, probe, publisher, turn, verdict};

/// FFmpeg's way from PQ or HLG to SDR; `format=gbrp16le` clips light outside of BT.709's gamut. Debian's FFmpeg 5.1 is
/// asked: FFmpeg 7 adds red, green and blue with equal weights where it fades bright colours.
const REFERENCE: &str = "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:peak=10,\
    format=gbrp16le,zscale=t=bt709:m=bt709:r=tv,format=yuv420p,";

/// Clips, and for each the largest distance of its mean luma and mean chroma from the reference, in steps of 8-bit values.
/// For HLG, FFmpeg's zscale applies the display's gamma to each colour, BT.2100 and the encoder to the luminance.
const CLIPS: [(&str, f64); 3] = [("hdr10", 1.0), ("hlg", 3.0), ("hdr10-av1", 1.0)];

fn output_of(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Mean luma and chroma of each frame, after `filter`.
fn means(file: &Path, filter: &str) -> Vec<[f64; 3]> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file).args(["-an", "-vf"]);
    command.arg(format!("{filter}signalstats,metadata=print:file=-")).args(["-f", "null", "-"]);
    let text = output_of(&mut command);
    let of = |key: &str| -> Vec<f64> {
        let key = format!("lavfi.signalstats.{key}=");
        text.lines().filter_map(|line| line.strip_prefix(&key)?.parse().ok()).collect()
    };
    let (y, u, v) = (of("YAVG"), of("UAVG"), of("VAVG"));
    y.into_iter().zip(u).zip(v).map(|((y, u), v)| [y, u, v]).collect()
}

fn mean(frames: &[[f64; 3]]) -> [f64; 3] {
    [0, 1, 2].map(|at| frames.iter().map(|frame| frame[at]).sum::<f64>() / frames.len() as f64)
}

#[test]
fn hdr_comes_out_as_sdr_in_every_rung() {
    let ffmpeg = publisher::recent_ffmpeg();
    let clips = CLIPS.map(|(name, _)| name);
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--capacity", "3")
        .set("--ladder", "180p@900k,90p@300k")
        .set("--reconnect-window", "1")
        // Sound that ends before the first picture, or begins after it.
        .allowing(&["encoder_dropped_units_total", "encoder_silent_frames_total"]);
    let encoder = Encoder::start(options);
    let running: Vec<_> = clips
        .iter()
        .map(|name| publisher::ffmpeg_at(&ffmpeg, &fixtures::clip(name), &encoder.rtmp_url(name), &[]))
        .collect();
    let watches: Vec<_> =
        clips.iter().map(|name| Watch::start(&encoder.wait_for_stream(name), Settings::default())).collect();
    for mut publisher in running {
        let ended = publisher.wait(Duration::from_secs(60));
        assert!(ended.is_some_and(|status| status.success()), "{}", publisher.output());
    }
    let mut checkers = Vec::new();
    for watch in watches {
        watch.checker().expect_outage();
        eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
        checkers.push(watch.finish());
    }
    encoder.stop();
    for ((name, distance), checker) in CLIPS.into_iter().zip(checkers) {
        assert!(checker.violations().is_empty(), "{name}: {}", report(checker.violations()));
        let (folder, mut wrong) = (tempfile::tempdir().unwrap(), Vec::new());
        let recorded = verdict::recordings(&checker, 0, folder.path(), &mut wrong);
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        // Debian's FFmpeg reads none of these codecs in FLV.
        let source = folder.path().join("source.mp4");
        let mut copy = Command::new(&ffmpeg);
        output_of(
            copy.args(["-v", "error", "-i"]).arg(fixtures::clip(name)).args(["-c", "copy"]).arg(&source),
        );
        let reference = means(&source, REFERENCE);
        let untouched = mean(&means(&source, "format=yuv420p,"));
        for one in recorded.iter().filter(|one| one.video) {
            let (what, made) = (format!("{name} {}", one.rendition), means(&one.file, ""));
            assert!(made.len() > 300 && made.len() <= reference.len(), "{what}: {} frames", made.len());
            let (made, expected) = (mean(&made), mean(&reference[..made.len()]));
            eprintln!("{what}: {made:.2?}, reference {expected:.2?}, without tone mapping {untouched:.2?}");
            for (made, expected) in made.into_iter().zip(expected) {
                assert!((made - expected).abs() <= distance, "{what}");
            }
            let colours = probe::colours(&one.file).unwrap();
            assert_eq!(colours, ["yuv420p", "tv", "bt709", "bt709", "bt709"], "{what}");
        }
    }
}
