//! Failures that viewers must not notice: of the worker and of the publisher's connection. Also, which publishers are
//! refused.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rustix::process::Signal;
use std::time::{Duration, Instant};
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Settings};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::{eventually, patience};
use tests::process::{self, Program};
use tests::upsets::INTERRUPTED;
use tests::{fixtures, publisher, turn};

struct Scene {
    _turn: turn::Turn,
    encoder: Encoder,
    publisher: Program,
    watch: Watch,
}

fn scene(options: Options) -> Scene {
    let clip = fixtures::clip("footage-720p30-gop1s");
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(options);
    let publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let url = encoder.wait_for_stream(STREAM);
    let watch = Watch::start(&url, Settings::default());
    let scene = Scene { _turn, encoder, publisher, watch };
    scene.more_segments(2);
    scene
}

impl Scene {
    /// Number of segments that every rendition has listed at least.
    fn listed(&self) -> usize {
        let checker = self.watch.checker();
        let lists = checker.multivariant_seen().map(|m| m.playlists()).unwrap_or_default();
        lists.iter().map(|l| checker.listed(l).len()).min().unwrap_or(0)
    }

    fn more_segments(&self, more: usize) {
        let target = self.listed() + more;
        eventually("more segments", Duration::from_secs(40), || (self.listed() >= target).then_some(()));
    }

    /// Process ID of the only worker of the only stream.
    fn worker(&self) -> u32 {
        let workers = self.encoder.workers();
        assert_eq!(workers.len(), 1, "{workers:?}");
        workers[0]
    }

    fn end(mut self) -> (Checker, String) {
        assert!(self.publisher.exited().is_none(), "the publisher was lost:\n{}", self.publisher.output());
        self.watch.checker().expect_outage();
        self.publisher.stop(Duration::from_secs(5));
        eventually("ENDLIST", Duration::from_secs(40), || self.watch.checker().ended().then_some(()));
        (self.watch.finish(), self.encoder.stop())
    }
}

/// Checks the number of discontinuities after the first segment. A stream's first segment has a discontinuity as well,
/// for players that still hold an earlier stream of the same name.
#[track_caller]
fn discontinuities(checker: &Checker, expected: usize) {
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    for list in checker.multivariant_seen().unwrap().playlists() {
        let count = checker.listed(&list).iter().skip(1).filter(|s| s.discontinuity).count();
        assert_eq!(count, expected, "discontinuities in {list}");
    }
}

#[test]
fn a_killed_worker_is_replaced_within_a_second() {
    let restarts = ["encoder_worker_restarts_total"];
    let scene = scene(Options::default().expecting(&restarts).allowing(INTERRUPTED));
    let worker = scene.worker();
    scene.watch.checker().expect_outage();
    let killed = Instant::now();
    process::signal_pid(worker, Signal::KILL);
    eventually("a new worker", Duration::from_secs(10), || {
        scene.encoder.workers().iter().any(|w| *w != worker).then_some(())
    });
    let took = killed.elapsed();
    scene.more_segments(3);
    scene.watch.checker().outage_over();
    let restarts = scene.encoder.metric("encoder_worker_restarts_total", &[]);
    let (checker, log) = scene.end();
    discontinuities(&checker, 1);
    assert!(took < patience(Duration::from_secs(1)), "a new worker after {took:?}");
    assert_eq!(restarts, 1.0, "not counted:\n{log}");
}

#[test]
fn a_hung_worker_is_replaced() {
    let hangs = ["encoder_worker_hangs_total", "encoder_worker_restarts_total"];
    // What is published while nobody encodes it is dropped once the queue is full.
    let shed = ["encoder_shed_units_total"];
    let scene = scene(Options::default().expecting(&hangs).allowing(&shed).allowing(INTERRUPTED));
    let worker = scene.worker();
    scene.watch.checker().expect_outage();
    process::signal_pid(worker, Signal::STOP);
    eventually("a new worker in place of the stopped one", Duration::from_secs(30), || {
        let workers = scene.encoder.workers();
        (!workers.contains(&worker) && !workers.is_empty()).then_some(())
    });
    scene.more_segments(3);
    scene.watch.checker().outage_over();
    let (checker, _) = scene.end();
    discontinuities(&checker, 1);
}

#[test]
fn a_publisher_who_drops_and_comes_back_goes_on_in_the_same_playlists() {
    let clip = fixtures::clip("footage-720p30-gop1s");
    let options = Options::default()
        .set("--reconnect-window", "15")
        .allowing(INTERRUPTED)
        // The publisher may come back before the encoder has noticed that it was gone.
        .allowing(&["encoder_rejected_total"]);
    let mut scene = scene(options);
    scene.watch.checker().expect_outage();
    scene.publisher.signal(Signal::KILL);
    scene.publisher.wait(Duration::from_secs(5));
    let before = scene.listed();
    scene.publisher = eventually("the publisher to be taken back", Duration::from_secs(12), || {
        let mut again = publisher::ffmpeg_looped(&clip, &scene.encoder.rtmp_url(STREAM));
        // A refused FFmpeg exits immediately.
        again.wait(Duration::from_millis(1500)).is_none().then_some(again)
    });
    scene.more_segments(3);
    assert!(scene.listed() > before);
    scene.watch.checker().outage_over();
    let (checker, _) = scene.end();
    discontinuities(&checker, 1);
}

#[test]
fn a_publisher_who_stays_away_ends_the_stream() {
    let mut scene = scene(Options::default().allowing(INTERRUPTED));
    scene.watch.checker().expect_outage();
    scene.publisher.signal(Signal::KILL);
    scene.publisher.wait(Duration::from_secs(5));
    eventually("ENDLIST", Duration::from_secs(20), || scene.watch.checker().ended().then_some(()));
    let checker = scene.watch.finish();
    discontinuities(&checker, 0);
    eventually("the worker to be gone", Duration::from_secs(5), || {
        scene.encoder.workers().is_empty().then_some(())
    });
}

#[test]
fn second_publishers_are_refused_with_a_reason() {
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let options = Options::default().set("--ladder", "source").expecting(&["encoder_rejected_total"]);
    let encoder = Encoder::start(options);
    let mut first = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    for (key, reason) in [(STREAM, "already being published"), ("other", "busy"), ("no.good", "1 to 64")] {
        let mut second = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(key));
        let status = second.wait(publisher::REFUSAL);
        let said = second.output();
        assert!(status.is_some_and(|s| !s.success()), "{key} was not refused: {status:?}\n{said}");
        assert!(said.contains(reason), "{key}: the reason {reason:?} is not in what FFmpeg shows:\n{said}");
    }
    assert!(first.exited().is_none(), "{}", first.output());
    encoder.stop();
}

#[test]
fn what_is_secret_is_in_no_log_and_no_page() {
    let secret = "hUnTeR2";
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let mut options = Options::default().set("--ladder", "source").expecting(&["encoder_rejected_total"]);
    options.secrets.push(secret.to_owned());
    let encoder = Encoder::start(options);
    // A mistyped key may be another publisher's key, and a query may contain a token.
    let mut refused = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(&format!("no.{secret}")));
    assert!(refused.wait(publisher::REFUSAL).is_some_and(|s| !s.success()));
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(&format!("{STREAM}?token={secret}")));
    let url = encoder.wait_for_stream(STREAM);
    let public = [encoder.client.get(&url).unwrap(), encoder.client.get(&encoder.url("")).unwrap()];
    let internal = ["metrics", "status", "readyz"].map(|path| encoder.admin(path));
    for response in public.iter().chain(&internal) {
        assert!(!response.text().unwrap().contains(secret));
    }
    encoder.stop();
}
