//! A publisher whose media makes the worker try something forbidden: the worker ends, and nothing else does. The worker's
//! walls one by one are tested where the worker is (`encoder/tests/worker/sandbox.rs`).

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use encoder::testing::status::EncoderStatus;
use std::time::Duration;
use tests::checker::Settings;
use tests::checker::watch::{Watch, report};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::upsets::INTERRUPTED;
use tests::{fixtures, flv, publisher, turn};

const CLIP: &str = "footage-720p30-gop1s";

#[test]
fn a_forbidden_call_ends_the_worker_alone() {
    let folder = tempfile::tempdir().unwrap();
    // A binary built for tests makes the worker try what the message names.
    let clip = flv::edit_keyframe(&fixtures::clip(CLIP), 8, folder.path(), |units| {
        units.splice(0..0, transcode::attack_message("socket"));
    });
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--ladder", "360p")
        .expecting(&["encoder_worker_forbidden_calls_total", "encoder_worker_restarts_total"])
        .allowing(INTERRUPTED);
    let encoder = Encoder::start(options);
    let status: EncoderStatus = serde_json::from_str(&encoder.admin("status").text().unwrap()).unwrap();
    assert_eq!(status.worker_sandbox.mode.name(), "strict");
    let mut publisher = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM));
    let watch = Watch::start(&encoder.wait_for_stream(STREAM), Settings::default());
    watch.checker().expect_outage();
    let calls = || encoder.metric_if_any("encoder_worker_forbidden_calls_total", &["call=\"socket\""]);
    eventually("the forbidden call to be counted", Duration::from_secs(30), || {
        calls().is_some_and(|calls| calls >= 1.0).then_some(())
    });
    eventually("another worker", Duration::from_secs(10), || {
        (encoder.workers().len() == 1 && encoder.metric("encoder_worker_restarts_total", &[]) >= 1.0)
            .then_some(())
    });
    let listed = |watch: &Watch| {
        let checker = watch.checker();
        let lists = checker.multivariant_seen().map(|m| m.playlists()).unwrap_or_default();
        lists.iter().map(|list| checker.listed(list).len()).min().unwrap_or(0)
    };
    let before = listed(&watch);
    eventually("the stream to go on", Duration::from_secs(20), || {
        (listed(&watch) >= before + 3).then_some(())
    });
    watch.checker().outage_over();
    watch.checker().expect_outage();
    assert!(publisher.stop(Duration::from_secs(5)), "the publisher stayed:\n{}", publisher.output());
    eventually("ENDLIST", Duration::from_secs(40), || watch.checker().ended().then_some(()));
    // Fed again to the next worker, because it is in the kept group of pictures, and then left out.
    assert!(calls().is_some_and(|calls| calls <= 2.0), "{:?}", calls());
    let checker = watch.finish();
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    for list in checker.multivariant_seen().unwrap().playlists() {
        let breaks = checker.listed(&list).iter().skip(1).filter(|segment| segment.discontinuity).count();
        assert_eq!(breaks, 1, "discontinuities in {list}");
    }
    let log = encoder.stop();
    let told: Vec<_> = log.lines().filter(|line| line.contains("a worker made a system call")).collect();
    assert!(!told.is_empty() && told.iter().all(|line| line.contains("call=\"socket\"")), "{log}");
}

#[test]
fn pictures_that_are_too_large_are_refused_with_a_reason() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(Options::default().set("--max-pixels", "300000"));
    let mut publisher = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM));
    assert!(publisher.wait(Duration::from_secs(20)).is_some(), "the publisher was not sent off");
    let log = encoder.stop();
    assert!(log.contains("this encoder takes up to 300000 (--max-pixels)"), "{log}");
}
