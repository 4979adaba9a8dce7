//! A real broadcast into a bucket: the real binary, FFmpeg as publisher, and viewers that read only the bucket's public
//! URLs.

#![allow(clippy::print_stderr, reason = "tests fail by panicking and may say what they measured")]

use std::time::Duration;
use tests::archived::{Archived, seal};
use tests::browser::{self, Play};
use tests::encoder_process::{Encoder, Options, STREAM, workspace};
use tests::gcs::audit::audit;
use tests::gcs::objects::Permission;
use tests::gcs::{FakeGcs, Fault};
use tests::http::Client;
use tests::patience::eventually;
use tests::static_server::StaticServer;
use tests::upsets::STORE_FAILS;
use tests::{fixtures, publisher, turn};

const BUCKET: &str = "live";
const PLAY_SECONDS: f64 = 20.0;

fn options(fake: &FakeGcs) -> Options {
    Options::default()
        .set("--output", &format!("gs://{BUCKET}/tv"))
        .set("--gcs-endpoint", &fake.endpoint())
        .set("--ladder", "480p@1400k,360p@800k")
}

/// Calls take 60 ms, and the page has another origin than the bucket.
#[test]
fn viewers_of_the_bucket_play_without_a_stall() {
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    fake.set_rule(|_| Fault::Slow(Duration::from_millis(60)));
    let encoder = Encoder::start(options(&fake));
    let clip = fixtures::clip("footage-720p30-gop2s");
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));

    let playlist = fake.public_url(BUCKET, &format!("tv/live/{STREAM}/index.m3u8"));
    let client = Client::default();
    eventually("the bucket's multivariant playlist", Duration::from_secs(30), || {
        client.get(&playlist).ok().filter(|answer| answer.status == 200)
    });
    let js = workspace().join("tests/js");
    let page = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
    let play = Play {
        page: page.url(&format!("player.html?src={playlist}")),
        seconds: PLAY_SECONDS,
        switches: vec![(5.0, 0), (10.0, 1)],
        patience: tests::patience::patience(Duration::from_secs(30)).as_secs_f64(),
    };
    let played = browser::play(&play).unwrap();
    eprintln!("{played:?}");
    assert_eq!(played.complaints(&play), [""; 0]);

    publisher.stop(Duration::from_secs(5));
    let ended = eventually("every playlist's end", Duration::from_secs(20), || {
        let report = audit(fake.state().objects.journal(), BUCKET);
        // Seven playlists, including those of the archive with its I-frame playlist.
        (report.ended == (7, 7)).then_some(report)
    });
    eprintln!("{ended:?}");
    assert_eq!(ended.complaints, [""; 0]);
    assert_eq!(ended.gaps, 0);
    encoder.stop();
}

/// The store fails one call in twenty and then every call for ten seconds: no playlist in the bucket ever names a
/// missing object, the origin's viewers notice nothing, and the encoder logs the outage once.
#[test]
fn a_store_that_fails_is_outlived() {
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    let outage = ["encoder_store_writes_total", "encoder_store_gaps_total"];
    let encoder = Encoder::start(options(&fake).expecting(&outage).allowing(&["encoder_store_late_total"]));
    let mut publisher =
        publisher::ffmpeg_looped(&fixtures::clip("footage-720p30-gop2s"), &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    let mut sometimes = tests::gcs::faults::some(1, 0.05, Fault::Status(503));
    let now = fake.now();
    let mut down = tests::gcs::faults::between(
        now + Duration::from_secs(5),
        now + Duration::from_secs(15),
        Fault::Status(503),
    );
    fake.set_rule(move |call| match down(call) {
        Fault::None => sometimes(call),
        fault => fault,
    });
    let watch = tests::checker::watch::Watch::start(&encoder.playlist_url(STREAM), Default::default());
    eventually("the end of the outage", Duration::from_secs(40), || {
        (fake.now() > now + Duration::from_secs(22)).then_some(())
    });
    assert_eq!(tests::checker::watch::report(watch.finish().violations()), "");
    publisher.stop(Duration::from_secs(5));
    let ended = eventually("every playlist's end", Duration::from_secs(30), || {
        let report = audit(fake.state().objects.journal(), BUCKET);
        // Seven playlists, including those of the archive with its I-frame playlist.
        (report.ended == (7, 7)).then_some(report)
    });
    eprintln!("{ended:?}");
    assert_eq!(ended.complaints, [""; 0]);
    assert!(ended.gaps > 0, "ten seconds are more than the deadline");
    let log = encoder.stop();
    assert!(log.contains("late or missing in the store"), "{log}");
}

/// The bucket becomes read-only: viewers of the encoder's own port notice nothing, the log says what is missing, and
/// once the bucket is writable again the stored segments become the archive.
#[test]
fn a_bucket_that_becomes_read_only_is_said_and_viewers_of_the_origin_play_on() {
    let clip = fixtures::clip("footage-720p30-gop1s");
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    let deny = |permissions: &[Permission]| fake.state().objects.deny(BUCKET, permissions);
    let denied = ["encoder_store_writes_total", "encoder_store_gaps_total"];
    let encoder = Encoder::start(options(&fake).expecting(&denied).allowing(STORE_FAILS));
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    eventually("some segments", Duration::from_secs(40), || {
        (encoder.metric("encoder_store_segments_total", &[]) > 24.0).then_some(())
    });
    deny(&[Permission::Create, Permission::Delete]);
    let denied = fake.now();
    let watch = tests::checker::watch::Watch::start(&encoder.playlist_url(STREAM), Default::default());
    eventually("some more seconds", Duration::from_secs(30), || {
        (fake.now() > denied + Duration::from_secs(12)).then_some(())
    });
    let checker = watch.finish();
    assert_eq!(tests::checker::watch::report(checker.violations()), "");
    let log = encoder.log();
    assert!(log.contains("late or missing in the store") && log.contains("storage.objects.create"), "{log}");
    publisher.stop(Duration::from_secs(5));
    eventually("the end to be given up", Duration::from_secs(60), || {
        encoder.log().contains("stream is stored without its last playlists").then_some(())
    });
    encoder.stop();

    deny(&[]);
    let endpoint = fake.endpoint();
    let place = format!("gs://{BUCKET}/tv/live/{STREAM}");
    let said = seal(&place, &["--gcs-endpoint", &endpoint]).succeed(Duration::from_secs(60));
    assert!(said.contains("is complete"), "{said}");
    let copy = tempfile::tempdir().expect("a folder");
    let archived = Archived::complete_in(&fake, BUCKET, "tv", copy.path());
    let judged = archived.judge(3).expect("a good archive");
    eprintln!("{judged:.3?}");
    assert!(judged.seconds > 7.0 && judged.breaks.is_empty(), "{judged:?}");
}
