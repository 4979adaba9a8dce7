//! What another service is told about streams: over a broadcast with an interruption, with the service down meanwhile,
//! and after an encoder was killed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tests::archived::{Archived, seal};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::event_receiver::EventReceiver;
use tests::patience::eventually;
use tests::process::signal_pid;
use tests::upsets::INTERRUPTED;
use tests::{fixtures, playlist, publisher, turn};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn clip() -> std::path::PathBuf {
    fixtures::clip("footage-720p30-gop1s")
}

/// A stream of one small rung, whose events go to the receiver.
fn options(receiver: &EventReceiver) -> Options {
    Options::default().set("--ladder", "360p@800k").set("--events", &receiver.url())
}

/// Waits until the stored playlist lists this many seconds.
#[track_caller]
fn listed(output: &Path, seconds: f64) {
    let live = output.join(format!("live/{STREAM}/360p/index.m3u8"));
    eventually("some segments", Duration::from_secs(60), || {
        let media = playlist::media(&std::fs::read_to_string(&live).ok()?).ok()?;
        (media.duration() > seconds).then_some(())
    });
}

/// Checks what an event says about a complete archive against the files.
#[track_caller]
fn matches_the_files(data: &Value, output: &Path) {
    let archived = Archived::of(output).unwrap();
    assert_eq!(Path::new(data["store"].as_str().unwrap()), output);
    assert!(output.join(data["playlist"].as_str().unwrap()).is_file(), "{data}");
    let recording = &data["recordings"][0];
    let file = output.join(recording["object"].as_str().unwrap());
    assert_eq!(file, archived.recording());
    assert_eq!(recording["bytes"], file.metadata().unwrap().len());
    let session = archived.folder().file_name().unwrap().to_str().unwrap();
    assert_eq!(data["session"], session);

    let (mut segments, mut bytes) = (0, 0);
    for rung in ["360p", "audio"] {
        let media = playlist::media(&archived.text(&format!("{rung}.m3u8")).unwrap()).unwrap();
        for segment in &media.segments {
            segments += 1;
            bytes += archived.folder().join(&segment.uri).metadata().unwrap().len();
        }
    }
    assert_eq!(data["segments"], segments);
    assert_eq!(data["segments_bytes"], bytes);
    let rungs: Vec<_> = data["tracks"].as_array().unwrap().iter().map(|track| &track["rung"]).collect();
    assert_eq!(rungs, ["360p", "audio"]);
}

#[test]
fn a_broadcast_is_told_from_its_start_to_its_archive() {
    let clip = clip();
    let _turn = turn::Turn::take();
    let mut receiver = EventReceiver::start();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let options = options(&receiver)
        .set("--events-secret", secret.to_str().unwrap())
        .set("--reconnect-window", "8")
        .expecting(&["encoder_events_total"])
        .allowing(INTERRUPTED)
        // The publisher may come back before the encoder has noticed that it was gone.
        .allowing(&["encoder_rejected_total"]);
    let encoder = Encoder::start(Options { secrets: vec![SECRET.to_owned()], ..options });
    let output = encoder.output.path().to_owned();
    let mut first = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let started = receiver.wait_for("stream.started", 1);
    assert_eq!(started.event["subject"], format!("live/{STREAM}"));
    assert_eq!(started.data()["latency_seconds"], 6.0);
    listed(&output, 2.0);

    // The receiver is down while the publisher is lost and comes back.
    receiver.down();
    first.signal(Signal::KILL);
    first.wait(Duration::from_secs(5));
    let mut second = eventually("the publisher to be taken back", Duration::from_secs(7), || {
        let mut again = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
        again.wait(Duration::from_millis(1500)).is_none().then_some(again)
    });
    eventually("a failed attempt", Duration::from_secs(20), || {
        (encoder.metric("encoder_events_total", &["retried"]) > 0.0).then_some(())
    });
    receiver.up();
    assert_eq!(receiver.wait_for("stream.interrupted", 1).data()["reason"], "closed");
    assert!(receiver.wait_for("stream.resumed", 1).data()["interrupted_seconds"].as_f64().unwrap() < 8.0);

    second.stop(Duration::from_secs(5));
    // FFmpeg says goodbye: the stream ends without an interruption.
    let ended = receiver.wait_for("stream.ended", 1);
    assert_eq!(ended.data()["reason"], "unpublished");
    assert!(ended.data()["received_bytes"].as_u64().unwrap() > 100_000, "{}", ended.event);
    let ready = receiver.wait_for("archive.ready", 1);
    assert_eq!(ready.data()["session"], ended.data()["session"]);
    matches_the_files(ready.data(), &output);
    receiver.verify(SECRET).unwrap();
    // The publisher that came back too early was refused.
    let kinds: Vec<_> = receiver.kinds().into_iter().filter(|kind| kind != "publish.refused").collect();
    let expected =
        ["stream.started", "stream.interrupted", "stream.resumed", "stream.ended", "archive.ready"];
    assert_eq!(kinds, expected);
    assert_eq!(encoder.metric("encoder_events_waiting", &[]), 0.0);
    encoder.stop();
}

/// A dead worker is a problem; the archive of a killed encoder is told of by the process that completes it.
#[test]
fn an_archive_that_another_process_completes_is_told_of() {
    let clip = clip();
    let _turn = turn::Turn::take();
    let receiver = EventReceiver::start();
    let options = options(&receiver).expecting(&["encoder_worker_restarts_total"]).allowing(INTERRUPTED);
    let mut encoder = Encoder::start(options);
    let output = encoder.output.path().to_owned();
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    listed(&output, 4.0);
    signal_pid(encoder.workers()[0], Signal::KILL);
    eventually("the dead worker to be told of", Duration::from_secs(20), || {
        let is_dead = |problem: &Value| problem["problem"] == "worker_restarts" && problem["count"] == 1;
        let told = |data: &Value| data["problems"].as_array().is_some_and(|all| all.iter().any(is_dead));
        receiver.events().iter().any(|event| told(event.data())).then_some(())
    });
    encoder.signal(Signal::KILL);
    encoder.wait(Duration::from_secs(5)).unwrap();
    publisher.stop(Duration::from_secs(5));
    assert_eq!(receiver.kinds(), ["stream.started"]);

    let place = format!("{}/live/{STREAM}", output.display());
    seal(&place, &["--events", &receiver.url()]).succeed(Duration::from_secs(60));
    let ready = receiver.wait_for("archive.ready", 1);
    matches_the_files(ready.data(), &output);
    // The event may have been lost: it is told again, with the same ID.
    seal(&place, &["--events", &receiver.url()]).succeed(Duration::from_secs(60));
    assert_eq!(receiver.kinds(), ["stream.started", "archive.ready"]);
}
