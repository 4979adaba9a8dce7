//! A publisher whose media makes the worker try something forbidden: the worker ends, and nothing else does. The worker's
//! walls one by one are tested where the worker is (`encoder/tests/worker/sandbox.rs`).

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use encoder::testing::status::EncoderStatus;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::checker::Settings;
use tests::checker::watch::{Watch, report};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::{fixtures, publisher, turn};

const CLIP: &str = "footage-720p30-gop1s";
/// Bytes of an FLV file's header and of the first back pointer, of a tag's header, and of an AVC video tag's header.
const FILE_HEADER: usize = 13;
const TAG_HEADER: usize = 11;
const AVC_HEADER: usize = 5;

/// A copy of an FLV file in which the keyframe number `which` carries an attack in a user data message: a binary built
/// for tests makes the worker try it.
fn with_attack(clip: &Path, which: usize, attack: &str, folder: &Path) -> PathBuf {
    let flv = std::fs::read(clip).unwrap();
    let mut out = flv[..FILE_HEADER].to_vec();
    let (mut at, mut keyframes) = (FILE_HEADER, 0);
    while at + TAG_HEADER < flv.len() {
        let size = usize::from(flv[at + 1]) << 16 | usize::from(flv[at + 2]) << 8 | usize::from(flv[at + 3]);
        let mut tag = flv[at..at + TAG_HEADER + size].to_vec();
        if tag[0] == 9 && tag[TAG_HEADER] == 0x17 && tag[TAG_HEADER + 1] == 1 {
            if keyframes == which {
                let message = user_data(&format!("attack-from-inside:{attack}."));
                tag.splice(TAG_HEADER + AVC_HEADER..TAG_HEADER + AVC_HEADER, message);
                let size = u32::try_from(tag.len() - TAG_HEADER).unwrap().to_be_bytes();
                tag[1..4].copy_from_slice(&size[1..]);
            }
            keyframes += 1;
        }
        out.extend_from_slice(&tag);
        out.extend_from_slice(&u32::try_from(tag.len()).unwrap().to_be_bytes());
        at += TAG_HEADER + size + 4;
    }
    assert!(keyframes > which, "{keyframes} keyframes");
    let file = folder.join("attack.flv");
    std::fs::write(&file, out).unwrap();
    file
}

/// An SEI NAL unit of unregistered user data, behind its length.
fn user_data(text: &str) -> Vec<u8> {
    let size = u8::try_from(16 + text.len()).unwrap();
    let nal = [&[6, 5, size][..], &[7; 16], text.as_bytes(), &[0x80]].concat();
    [&u32::try_from(nal.len()).unwrap().to_be_bytes()[..], &nal].concat()
}

#[test]
fn a_forbidden_call_ends_the_worker_alone() {
    let folder = tempfile::tempdir().unwrap();
    let clip = with_attack(&fixtures::clip(CLIP), 8, "socket", folder.path());
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(Options::default().set("--ladder", "360p"));
    let status: EncoderStatus = serde_json::from_str(&encoder.admin("status").text().unwrap()).unwrap();
    assert_eq!(status.worker_sandbox.mode.name(), "strict");
    let mut publisher = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM));
    let watch = Watch::start(&encoder.wait_for_stream(STREAM), Settings::default());
    watch.checker().expect_outage();
    let calls = || encoder.metric("encoder_worker_forbidden_calls_total", &["call=\"socket\""]);
    eventually("the forbidden call to be counted", Duration::from_secs(30), || {
        (calls() >= 1.0).then_some(())
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
    assert!(calls() <= 2.0, "{}", calls());
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
