//! How long the start takes, how much memory an idle encoder holds, and that use does not make it grow.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::time::{Duration, Instant};
use tests::encoder_process::{Encoder, Options};
use tests::patience::{eventually, pause, poll};
use tests::process::Program;
use tests::{fixtures, turn};

/// How many streams are published and ended, one after the other; `TEST_CYCLES` sets another number.
fn cycles() -> usize {
    std::env::var("TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

#[test]
fn listening_within_200_ms_and_small_when_idle() {
    let _turn = turn::Turn::take();
    // The best of three: the first start reads the binary from the disk.
    let times: Vec<Duration> = (0..3)
        .map(|_| {
            let encoder = Encoder::start(Options::default());
            // Allocations of the first moments settle.
            pause(Duration::from_millis(300));
            let idle = encoder.stat();
            eprintln!("ready after {:?}, idle: {idle:?}", encoder.started_in);
            assert!(idle.rss_kib < 40 * 1024, "{} KiB when idle", idle.rss_kib);
            encoder.started_in
        })
        .collect();
    assert!(times.iter().any(|t| *t < Duration::from_millis(200)), "{times:?}");
}

#[test]
fn publishing_and_ending_many_times_leaves_nothing_behind() {
    let clip = fixtures::clip("short");
    let _turn = turn::Turn::take();
    let options =
        Options::default().set("--ladder", "source").set("--reconnect-window", "0").set("--latency", "2");
    let encoder = Encoder::start(options);
    let publish = |n: usize| {
        // As fast as it goes: what is left behind does not depend on real time.
        let mut command = std::process::Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]).arg(&clip);
        command.args(["-t", "1", "-c", "copy", "-f", "flv"]).arg(encoder.rtmp_url(&format!("cycle-{n}")));
        eventually("the place to be free again", Duration::from_secs(20), || {
            let mut publisher = Program::spawn("ffmpeg", &mut command);
            publisher.wait(Duration::from_secs(20)).is_some_and(|s| s.success()).then_some(())
        });
    };
    let settled = || {
        // A zombie is a child still.
        eventually("no worker left", Duration::from_secs(20), || encoder.workers().is_empty().then_some(()));
        encoder.stat()
    };
    let began = Instant::now();
    let warm_up = cycles() / 5;
    (0..warm_up).for_each(publish);
    let before = settled();
    (warm_up..cycles()).for_each(publish);
    let after = settled();
    eprintln!("after {warm_up} streams: {before:?}\nafter {}: {after:?}\nin {:?}", cycles(), began.elapsed());
    assert_eq!(encoder.metric("encoder_publish_total", &["accepted"]), cycles() as f64);
    assert_eq!(encoder.metric("encoder_worker_restarts_total", &[]), 0.0);
    // Ended streams stay readable for half a minute; what counts is that it does not add up.
    let allowed = before.rss_kib + 8 * 1024;
    let last = poll(Duration::from_secs(40), || (encoder.stat().rss_kib <= allowed).then_some(()));
    assert!(last.is_some(), "grew from {} to {} KiB", before.rss_kib, encoder.stat().rss_kib);
    let files =
        poll(Duration::from_secs(10), || (encoder.stat().open_files <= before.open_files).then_some(()));
    assert!(files.is_some(), "{} open files, then {}", before.open_files, encoder.stat().open_files);
    assert!(after.threads <= before.threads + 4, "{} threads, then {}", before.threads, after.threads);
    encoder.stop();
}
