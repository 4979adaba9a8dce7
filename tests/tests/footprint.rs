//! Start-up time, memory of an idle encoder, and absence of growth over many streams.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tests::encoder_process::{Encoder, Options};
use tests::patience::{eventually, pause, poll};
use tests::process::Program;
use tests::{fixtures, turn};

/// Number of concurrent streams.
const AT_ONCE: usize = 3;

/// Warm-up time. Ended streams stay readable for half a minute; after that as many streams expire as start.
const WARM_UP: Duration = Duration::from_secs(40);
/// Limit for idle memory in KiB, most of it pages of code that processes share: 36 of 43 MiB. `make bench` measures the
/// release build, whose goal is 40 MiB. The tests' build is hardly optimised and maps 4 MiB more of its own code.
const IDLE_KIB: u64 = 44 * 1024;

/// Minimum number of streams that are published and ended; `TEST_CYCLES` overrides it.
fn cycles() -> usize {
    std::env::var("TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

#[test]
fn listening_within_200_ms_and_small_when_idle() {
    let _turn = turn::Turn::take();
    // Best of three: the first start reads the binary from disk.
    let times: Vec<Duration> = (0..3)
        .map(|_| {
            let encoder = Encoder::start(Options::default());
            // Let the allocations of the start-up settle.
            pause(Duration::from_millis(300));
            let idle = encoder.stat();
            eprintln!("ready after {:?}, idle: {idle:?}", encoder.started_in);
            assert!(idle.rss_kib < IDLE_KIB, "{} KiB when idle", idle.rss_kib);
            encoder.started_in
        })
        .collect();
    assert!(times.iter().any(|t| *t < Duration::from_millis(200)), "{times:?}");
}

#[test]
fn publishing_and_ending_many_times_leaves_nothing_behind() {
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--ladder", "source")
        .set("--reconnect-window", "0")
        .set("--latency", "2")
        .set("--capacity", &AT_ONCE.to_string())
        // A place is free again a moment after its publisher has left.
        .allowing(&["encoder_rejected_total"]);
    let encoder = Encoder::start(options);
    let publish = |n: usize| {
        // Publish as fast as possible: leaks do not depend on real time.
        let mut command = std::process::Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]).arg(&clip);
        command.args(["-t", "1", "-c", "copy", "-f", "flv"]).arg(encoder.rtmp_url(&format!("cycle-{n}")));
        eventually("a place to be free again", Duration::from_secs(20), || {
            let mut publisher = Program::spawn("ffmpeg", &mut command);
            publisher.wait(Duration::from_secs(20)).is_some_and(|s| s.success()).then_some(())
        });
    };
    let published = AtomicUsize::new(0);
    // Run some streams concurrently, so that no processor idles.
    let publish_while = |more: &(dyn Fn(usize) -> bool + Sync)| {
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while more(published.load(Ordering::Relaxed)) {
                        publish(published.fetch_add(1, Ordering::Relaxed));
                    }
                });
            }
        });
    };
    let settled = || {
        // A zombie still counts as a child.
        eventually("no worker left", Duration::from_secs(20), || encoder.workers().is_empty().then_some(()));
        encoder.stat()
    };
    let began = Instant::now();
    publish_while(&|_| began.elapsed() < WARM_UP);
    let (warm_up, before) = (published.load(Ordering::Relaxed), settled());
    let enough = cycles().max(warm_up + cycles() / 2);
    publish_while(&|count| count < enough);
    let after = settled();
    eprintln!("after {warm_up} streams: {before:?}\nafter {enough}: {after:?}\nin {:?}", began.elapsed());
    assert!(encoder.metric("encoder_publish_total", &["accepted"]) >= enough as f64);
    assert_eq!(encoder.metric("encoder_worker_restarts_total", &[]), 0.0);
    let allowed = before.rss_kib + 8 * 1024;
    let last = poll(Duration::from_secs(40), || (encoder.stat().rss_kib <= allowed).then_some(()));
    assert!(last.is_some(), "grew from {} to {} KiB", before.rss_kib, encoder.stat().rss_kib);
    let files =
        poll(Duration::from_secs(10), || (encoder.stat().open_files <= before.open_files).then_some(()));
    assert!(files.is_some(), "{} open files, then {}", before.open_files, encoder.stat().open_files);
    assert!(after.threads <= before.threads + 4, "{} threads, then {}", before.threads, after.threads);
    encoder.stop();
}
