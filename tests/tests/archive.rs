//! The archive of a broadcast: playlists and a recording that FFmpeg, hls-parser, hls.js and Chromium accept, however
//! the broadcast ended. The archive of a broadcast by two encoders is tested in `takeover.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;
use tests::archived::{Archived, FRAME, seal};
use tests::browser::{self, Play};
use tests::encoder_process::{Encoder, Options, STREAM, workspace};
use tests::gcs::{FakeGcs, Fault};
use tests::http::Client;
use tests::patience::eventually;
use tests::process::signal_pid;
use tests::static_server::StaticServer;
use tests::upsets::{INTERRUPTED, STORE_FAILS};
use tests::{fixtures, playlist, probe, publisher, turn};

const BUCKET: &str = "live";
/// Three rungs and audio.
const RENDITIONS: usize = 4;

fn clip() -> std::path::PathBuf {
    fixtures::clip("footage-720p30-gop1s")
}

fn into_a_bucket(fake: &FakeGcs) -> Options {
    Options::default()
        .set("--output", &format!("gs://{BUCKET}/tv"))
        .set("--gcs-endpoint", &fake.endpoint())
        .set("--ladder", "480p@1400k,360p@800k")
}

/// Waits until the EVENT playlist of the top rung lists more than this many seconds; returns its text.
#[track_caller]
fn event_playlist(output: &Path, seconds: f64) -> String {
    eventually("an EVENT playlist", Duration::from_secs(60), || {
        let text = Archived::of(output)?.text("720p.m3u8")?;
        let long = playlist::media(&text).ok()?.duration() > seconds;
        (long && text.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n")).then_some(text)
    })
}

/// Waits until the top rung's live playlist in a directory lists this many seconds.
#[track_caller]
fn listed_live(output: &Path, seconds: f64) {
    let live = output.join(format!("live/{STREAM}/720p/index.m3u8"));
    eventually("some segments", Duration::from_secs(60), || {
        let media = playlist::media(&std::fs::read_to_string(&live).ok()?).ok()?;
        (media.duration() > seconds).then_some(())
    });
}

/// The publisher drops and returns within the reconnect window: the archive is one recording with audio in sync to the
/// end.
#[test]
fn a_broadcast_leaves_a_recording_that_plays_and_seeks() {
    let clip = clip();
    let _turn = turn::Turn::take();
    let options = Options::default().set("--reconnect-window", "6").allowing(INTERRUPTED);
    let encoder = Encoder::start(options);
    let output = encoder.output.path().to_owned();
    let mut first = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let event = event_playlist(&output, 10.0);
    // Killed: FFmpeg says goodbye when it is asked to stop, and that ends the broadcast.
    first.signal(Signal::KILL);
    first.wait(Duration::from_secs(5));
    let mut second = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    event_playlist(&output, playlist::media(&event).unwrap().duration() + 8.0);
    second.stop(Duration::from_secs(5));
    let archived = Archived::complete(&output);
    let judged = archived.judge(RENDITIONS).unwrap();
    eprintln!("{judged:.3?}");
    assert_eq!(judged.breaks.len(), 1);
    eprintln!("sound off by {:.3} s at most", archived.in_step(judged.breaks[0]).unwrap());
    archived.in_step(0.0).unwrap();
    let text = archived.text("720p.m3u8").unwrap();
    assert!(text.starts_with(&event.replace("EVENT", "VOD")), "what was said stays");

    let js = workspace().join("tests/js");
    let web = StaticServer::start(vec![output.clone(), js.clone(), js.join("node_modules")]).unwrap();
    let folder = archived.folder().strip_prefix(&output).unwrap();
    let url = |file: &str| web.url(folder.join(file).to_str().unwrap());
    watch_recording(&url("recording.mp4"), judged.seconds, (1280, 720));
    let play = Play {
        page: web.url(&format!("player.html?src={}", url("index.m3u8"))),
        seconds: 8.0,
        switches: vec![(0.5, 0), (3.0, 2)],
        patience: tests::patience::patience(Duration::from_secs(30)).as_secs_f64(),
    };
    let played = browser::play(&play).unwrap();
    assert_eq!(played.complaints(&play), [""; 0], "{played:?}");
    let log = encoder.stop();
    assert!(log.contains("archive is complete"), "{log}");
}

/// Chromium seeks forwards and backwards over range requests, and plays to the end.
#[track_caller]
fn watch_recording(url: &str, seconds: f64, size: (u32, u32)) {
    let seeks = [seconds - 3.0, 1.0, seconds / 2.0];
    let watched = browser::watch_file(url, &seeks).unwrap();
    eprintln!("{watched:?}");
    assert_eq!((watched.size, watched.audio), (size, true));
    assert!((watched.duration - seconds).abs() < FRAME && watched.console.is_empty(), "{watched:?}");
    assert!(watched.responses.contains(&206), "over range requests: {watched:?}");
    for (to, (from, until, frames)) in seeks.iter().zip(&watched.played) {
        assert!((from - to).abs() < 0.1 && *until > from + 1.0 && *frames > 10, "{watched:?}");
    }
}

/// The worker dies: another worker continues in the same recording.
#[test]
fn a_killed_worker_is_a_break_in_the_recording() {
    let clip = clip();
    let _turn = turn::Turn::take();
    let options = Options::default().expecting(&["encoder_worker_restarts_total"]).allowing(INTERRUPTED);
    let encoder = Encoder::start(options);
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    listed_live(encoder.output.path(), 6.0);
    let workers = encoder.workers();
    signal_pid(workers[0], Signal::KILL);
    eventually("another worker", Duration::from_secs(10), || {
        encoder.workers().iter().any(|worker| !workers.contains(worker)).then_some(())
    });
    listed_live(encoder.output.path(), 16.0);
    publisher.stop(Duration::from_secs(5));
    let archived = Archived::complete(encoder.output.path());
    let judged = archived.judge(RENDITIONS).unwrap();
    eprintln!("{judged:.3?}");
    assert_eq!(judged.breaks.len(), 1);
    archived.in_step(judged.breaks[0]).unwrap();
    encoder.stop();
}

/// The encoder is killed: every stored segment is in the sealed archive, and sealing twice is harmless.
#[test]
fn what_a_killed_encoder_stored_can_be_sealed() {
    let clip = clip();
    let _turn = turn::Turn::take();
    let mut encoder = Encoder::start(Options::default());
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    listed_live(encoder.output.path(), 12.0);
    encoder.signal(Signal::KILL);
    encoder.wait(Duration::from_secs(5)).unwrap();
    publisher.stop(Duration::from_secs(5));
    let archived = Archived::of(encoder.output.path()).unwrap();
    assert!(!archived.is_complete());

    let place = format!("{}/live/{STREAM}", encoder.output.path().display());
    let said = seal(&place, &[]).succeed(Duration::from_secs(30));
    eprintln!("{said}");
    assert!(said.contains("is complete") && said.contains("recording.mp4"), "{said}");
    let judged = archived.judge(RENDITIONS).unwrap();
    assert!(judged.seconds >= 12.0 - FRAME, "{judged:?}, and viewers were shown more than 12 s");
    archived.in_step(0.0).unwrap();
    let recording = std::fs::read(archived.recording()).unwrap();
    let said = seal(&place, &[]).succeed(Duration::from_secs(30));
    assert!(said.contains("was complete"), "{said}");
    assert!(std::fs::read(archived.recording()).unwrap() == recording);
    let mut missing = seal(&format!("{}/live/nobody", encoder.output.path().display()), &[]);
    assert_eq!(missing.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(1));
    let mut mistyped = seal("live", &[]);
    assert_eq!(mistyped.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(64));
}

/// With a bucket, the store composes the recording, and clients read it from the bucket over HTTP.
#[test]
fn a_bucket_puts_the_recording_together() {
    let clip = fixtures::clip("footage-720p30-gop2s");
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    let encoder = Encoder::start(into_a_bucket(&fake).set("--archive-rung", "360p,480p"));
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    eventually("some segments", Duration::from_secs(60), || {
        (encoder.metric("encoder_store_segments_total", &[]) > 20.0).then_some(())
    });
    publisher.stop(Duration::from_secs(5));
    let object = |end: &str| {
        let state = fake.state();
        let entry = state.objects.journal().iter().rev().find(|entry| entry.name.ends_with(end))?;
        entry.object.as_ref().map(|_| entry.name.clone())
    };
    let mark = eventually("a complete archive", Duration::from_secs(30), || object("/sealed.json"));
    let folder = mark.strip_suffix("sealed.json").unwrap();
    let client = Client::default();
    let vod = client.get(&fake.public_url(BUCKET, &format!("{folder}480p.m3u8"))).unwrap().text().unwrap();
    let vod = playlist::media(&vod).unwrap().duration();
    for (file, size) in [("recording.mp4", (640, 360)), ("recording-480p.mp4", (854, 480))] {
        let url = fake.public_url(BUCKET, &format!("{folder}{file}"));
        let streams = probe::streams(&url).unwrap();
        assert_eq!((streams[0].height, streams[1].codec_name.as_str()), (Some(size.1), "aac"));
        let seconds = probe::duration(&url).unwrap();
        assert!((seconds - vod).abs() <= FRAME, "{seconds} s recorded, {vod} s listed");
        probe::seek(&url, seconds / 2.0).unwrap();
        watch_recording(&url, seconds, size);
    }
    let name = format!("gs://{BUCKET}/tv/live/{STREAM}");
    let said = seal(&name, &["--gcs-endpoint", &fake.endpoint()]).succeed(Duration::from_secs(30));
    assert!(said.contains("was complete"), "{said}");
    encoder.stop();
}

/// The encoder is killed while calls to its bucket fail. The first seal command fails half-way; the second one
/// succeeds.
#[test]
fn what_a_killed_encoder_stored_in_a_bucket_can_be_sealed() {
    let clip = clip();
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    fake.set_rule(tests::gcs::faults::some(1, 0.05, Fault::Status(503)));
    let options = into_a_bucket(&fake).allowing(STORE_FAILS);
    let mut encoder = Encoder::start(options);
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    let stored = || {
        let names = fake.state().objects.names(BUCKET);
        names.iter().filter(|name| name.ends_with(".m4s")).count()
    };
    // More than 54 segments of 1 s in three renditions: more components than one composition takes.
    eventually("some segments", Duration::from_secs(60), || (stored() > 54).then_some(()));
    encoder.signal(Signal::KILL);
    encoder.wait(Duration::from_secs(5)).unwrap();
    publisher.stop(Duration::from_secs(5));

    let place = format!("gs://{BUCKET}/tv/live/{STREAM}");
    let endpoint = ["--gcs-endpoint", &fake.endpoint()];
    // Sealing composes some forty objects into two, and then those two into one. The third composition fails.
    let mut compositions = 0;
    fake.set_rule(move |call| {
        compositions += usize::from(call.operation == tests::gcs::Operation::Compose);
        if compositions > 2 { Fault::Status(403) } else { Fault::None }
    });
    let mut first = seal(&place, &endpoint);
    assert_eq!(first.wait(Duration::from_secs(60)).and_then(|status| status.code()), Some(1));
    assert!(first.output().contains("is not complete"), "{}", first.output());
    fake.set_rule(|_| Fault::None);
    let said = seal(&place, &endpoint).succeed(Duration::from_secs(60));
    eprintln!("{said}");
    assert!(said.contains("is complete") && said.contains("0 missing, 1 compositions"), "{said}");

    let copy = tempfile::tempdir().unwrap();
    let archived = Archived::complete_in(&fake, BUCKET, "tv", copy.path());
    let judged = archived.judge(RENDITIONS - 1).unwrap();
    eprintln!("{judged:.3?}");
    assert_eq!((judged.gaps, judged.breaks.len()), (0, 0));
    assert!(judged.seconds > 16.0, "{judged:?} of {} segments", stored());
    archived.in_step(0.0).unwrap();
}
