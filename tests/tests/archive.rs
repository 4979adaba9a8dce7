//! What remains of a broadcast: playlists and a recording that FFmpeg, hls-parser, hls.js and Chromium take, however the
//! broadcast ended.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tests::browser::{self, Play};
use tests::encoder_process::{Encoder, Options, STREAM, binary, workspace};
use tests::gcs::FakeGcs;
use tests::http::Client;
use tests::patience::eventually;
use tests::process::Program;
use tests::static_server::StaticServer;
use tests::{fixtures, playlist, probe, publisher, turn};

/// The longest picture of what is published here, in seconds.
const FRAME: f64 = 1.0 / 30.0;

/// The only archive of the test's stream.
fn archive(output: &Path) -> Option<PathBuf> {
    let mut folders = std::fs::read_dir(output.join(format!("live/{STREAM}/archive"))).ok()?;
    let folder = folders.next()?.ok()?.path();
    assert!(folders.next().is_none(), "one recording");
    Some(folder)
}

#[track_caller]
fn sealed(output: &Path) -> PathBuf {
    eventually("a complete archive", Duration::from_secs(30), || {
        archive(output).filter(|folder| folder.join("sealed.json").exists())
    })
}

/// Media playlists with their text.
fn playlists(folder: &Path) -> Vec<(String, String)> {
    let read = |name: &str| (name.to_owned(), std::fs::read_to_string(folder.join(name)).unwrap());
    let (name, text) = read("index.m3u8");
    let media: Vec<_> =
        playlist::multivariant(&text).unwrap().playlists().iter().map(|name| read(name)).collect();
    std::iter::once((name, text)).chain(media).collect()
}

/// Seconds that the largest rung's VOD playlist plays.
fn vod_seconds(folder: &Path) -> f64 {
    let text = std::fs::read_to_string(folder.join("720p.m3u8")).unwrap();
    playlist::media(&text).unwrap().duration()
}

/// What holds for every complete archive. Answers how long it is.
#[track_caller]
fn judge(folder: &Path) -> f64 {
    let playlists = playlists(folder);
    assert_eq!(browser::strict(&playlists).unwrap(), [""; 0]);
    assert_eq!(playlists.len(), 5, "three rungs and sound: {playlists:?}");
    for (name, text) in &playlists[1..] {
        assert!(
            text.contains("#EXT-X-PLAYLIST-TYPE:VOD\n") && text.ends_with("#EXT-X-ENDLIST\n"),
            "{name}: {text}"
        );
        let media = playlist::media(text).unwrap();
        for segment in media.segments.iter().filter(|segment| !segment.gap) {
            for uri in [Some(&segment.uri), segment.map.as_ref()].into_iter().flatten() {
                assert!(folder.join(uri).is_file(), "{name} names {uri}");
            }
        }
    }
    pictures(folder);
    let recording = folder.join("recording.mp4");
    let name = recording.to_str().unwrap();
    let streams = probe::streams(name).unwrap();
    let kinds: Vec<_> = streams.iter().map(|stream| stream.codec_type.as_str()).collect();
    assert_eq!(kinds, ["video", "audio"]);
    assert_eq!((streams[0].width, streams[0].height), (Some(1280), Some(720)));
    let (seconds, vod) = (probe::duration(name).unwrap(), vod_seconds(folder));
    eprintln!("recording of {seconds:.3} s, playlists of {vod:.3} s");
    assert!((seconds - vod).abs() <= FRAME, "{seconds} s recorded, {vod} s listed");
    probe::decodes_clean(&recording).unwrap();
    for part in [0.1, 0.5, 0.9] {
        let to = seconds * part;
        let shown = probe::seek(name, to).unwrap();
        assert!((shown - to).abs() <= FRAME + 0.001, "sought {to}, shown {shown}");
    }
    assert!(!folder.join("parts").exists(), "nothing is left of the work");
    seconds
}

/// For seek bars: each byte range behind its init segment is a picture.
#[track_caller]
fn pictures(folder: &Path) {
    let multivariant = std::fs::read_to_string(folder.join("index.m3u8")).unwrap();
    assert!(multivariant.contains("URI=\"360p-pictures.m3u8\""), "{multivariant}");
    let text = std::fs::read_to_string(folder.join("360p-pictures.m3u8")).unwrap();
    let name = "360p-pictures.m3u8".to_owned();
    assert_eq!(browser::strict(&[(name, text.clone())]).unwrap(), [""; 0]);
    let media = playlist::media(&text).unwrap();
    let ranges: Vec<usize> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#EXT-X-BYTERANGE:")?.strip_suffix("@0")?.parse().ok())
        .collect();
    assert_eq!(ranges.len(), media.segments.len());
    let work = tempfile::tempdir().unwrap();
    for at in [0, ranges.len() / 2, ranges.len() - 1] {
        let segment = &media.segments[at];
        let mut bytes = std::fs::read(folder.join(segment.map.as_ref().unwrap())).unwrap();
        bytes.extend_from_slice(&std::fs::read(folder.join(&segment.uri)).unwrap()[..ranges[at]]);
        let file = work.path().join("picture.mp4");
        std::fs::write(&file, bytes).unwrap();
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]).arg(&file);
        let shown = command.args(["-frames:v", "1", "-f", "framecrc", "-"]).output().unwrap();
        let frames =
            String::from_utf8_lossy(&shown.stdout).lines().filter(|line| line.starts_with("0,")).count();
        assert_eq!(frames, 1, "{}", String::from_utf8_lossy(&shown.stderr));
    }
}

fn in_step(recording: &Path) {
    let (flashes, beeps) = (probe::flashes(recording).unwrap(), probe::beeps(recording).unwrap());
    let errors = probe::sync_errors(&flashes, &beeps);
    let worst = errors.iter().fold(0.0_f64, |worst, error| worst.max(error.abs()));
    eprintln!("{} flashes, sound off by {worst:.3} s at most", errors.len());
    assert!(errors.len() >= 3 && worst <= tests::verdict::SYNC_LIMIT, "{errors:.3?}");
}

fn seal(place: &str, more: &[&str]) -> Program {
    let mut command = Command::new(binary());
    command.args(["archive", "seal", place]).args(more);
    Program::spawn("encoder archive seal", &mut command)
}

/// The publisher drops and returns within the window: one recording, whose sound is in step to its end.
#[test]
fn a_broadcast_leaves_a_recording_that_plays_and_seeks() {
    let _turn = turn::Turn::take();
    let clip = fixtures::clip("footage-720p30-gop1s");
    let encoder = Encoder::start(Options::default().set("--reconnect-window", "6"));
    let listed = |seconds: f64| {
        eventually("an EVENT playlist", Duration::from_secs(60), || {
            let text = std::fs::read_to_string(archive(encoder.output.path())?.join("720p.m3u8")).ok()?;
            let long = playlist::media(&text).ok()?.duration() > seconds;
            (long && text.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n")).then_some(text)
        })
    };
    let mut first = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let event = listed(10.0);
    first.stop(Duration::from_secs(5));
    let mut second = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let length = playlist::media(&event).unwrap().duration();
    listed(length + 8.0);
    second.stop(Duration::from_secs(5));
    let folder = sealed(encoder.output.path());
    let seconds = judge(&folder);
    let text = std::fs::read_to_string(folder.join("720p.m3u8")).unwrap();
    assert!(text.starts_with(&event.replace("EVENT", "VOD")), "what was said stays");
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{text}");
    in_step(&folder.join("recording.mp4"));

    let js = workspace().join("tests/js");
    let output = encoder.output.path().to_owned();
    let web = StaticServer::start(vec![output.clone(), js.clone(), js.join("node_modules")]).unwrap();
    let path = |file: &str| folder.strip_prefix(&output).unwrap().join(file).to_str().unwrap().to_owned();
    let seeks = [seconds - 3.0, 1.0, seconds / 2.0];
    let watched = browser::watch_file(&web.url(&path("recording.mp4")), &seeks).unwrap();
    eprintln!("{watched:?}");
    assert_eq!((watched.size, watched.audio), ((1280, 720), true));
    assert!((watched.duration - seconds).abs() < FRAME && watched.console.is_empty());
    assert!(watched.responses.contains(&206), "over range requests");
    for (to, (from, until, frames)) in seeks.iter().zip(&watched.played) {
        assert!((from - to).abs() < 0.1 && *until > from + 1.0 && *frames > 10, "{watched:?}");
    }

    let play = Play {
        page: web.url(&format!("player.html?src={}", web.url(&path("index.m3u8")))),
        seconds: 8.0,
        switches: vec![(0.5, 0), (3.0, 2)],
        patience: tests::patience::patience(Duration::from_secs(30)).as_secs_f64(),
    };
    let played = browser::play(&play).unwrap();
    assert_eq!(played.complaints(&play), [""; 0], "{played:?}");
    let log = encoder.stop();
    assert!(log.contains("archive is complete"), "{log}");
}

/// The encoder is killed: everything that was stored is in the archive, and sealing it twice is harmless.
#[test]
fn what_a_killed_encoder_stored_can_be_sealed() {
    let _turn = turn::Turn::take();
    let clip = fixtures::clip("footage-720p30-gop1s");
    let mut encoder = Encoder::start(Options::default());
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let live = encoder.output.path().join(format!("live/{STREAM}/720p/index.m3u8"));
    let listed = eventually("some segments", Duration::from_secs(60), || {
        let media = playlist::media(&std::fs::read_to_string(&live).ok()?).ok()?;
        (media.duration() > 12.0).then_some(media)
    });
    encoder.signal(Signal::KILL);
    encoder.wait(Duration::from_secs(5)).unwrap();
    publisher.stop(Duration::from_secs(5));
    let folder = archive(encoder.output.path()).unwrap();
    assert!(!folder.join("sealed.json").exists());

    let place = format!("{}/live/{STREAM}", encoder.output.path().display());
    let said = seal(&place, &[]).succeed(Duration::from_secs(30));
    eprintln!("{said}");
    assert!(said.contains("is complete") && said.contains("recording.mp4"), "{said}");
    let seconds = judge(&folder);
    assert!(
        seconds >= listed.duration() - FRAME,
        "{seconds} s of {} s that viewers were shown",
        listed.duration()
    );
    in_step(&folder.join("recording.mp4"));
    let recording = std::fs::read(folder.join("recording.mp4")).unwrap();
    let said = seal(&place, &[]).succeed(Duration::from_secs(30));
    assert!(said.contains("was complete"), "{said}");
    assert!(std::fs::read(folder.join("recording.mp4")).unwrap() == recording);
    let mut missing = seal(&format!("{}/live/nobody", encoder.output.path().display()), &[]);
    assert_eq!(missing.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(1));
    let mut mistyped = seal("live", &[]);
    assert_eq!(mistyped.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(64));
}

/// In a bucket: composed by the store, read over HTTP where it is.
#[test]
fn a_bucket_puts_the_recording_together() {
    const BUCKET: &str = "live";
    let _turn = turn::Turn::take();
    let fake = FakeGcs::start(BUCKET);
    let options = Options::default()
        .set("--output", &format!("gs://{BUCKET}/tv"))
        .set("--gcs-endpoint", &fake.endpoint())
        .set("--ladder", "480p@1400k,360p@800k")
        .set("--archive-rung", "360p,480p");
    let encoder = Encoder::start(options);
    let clip = fixtures::clip("footage-720p30-gop2s");
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
    for (file, height) in [("recording.mp4", 360), ("recording-480p.mp4", 480)] {
        let url = fake.public_url(BUCKET, &format!("{folder}{file}"));
        let streams = probe::streams(&url).unwrap();
        assert_eq!((streams[0].height, streams[1].codec_name.as_str()), (Some(height), "aac"));
        let seconds = probe::duration(&url).unwrap();
        assert!((seconds - vod).abs() <= FRAME, "{seconds} s recorded, {vod} s listed");
        probe::seek(&url, seconds / 2.0).unwrap();
    }
    let name = format!("gs://{BUCKET}/tv/live/{STREAM}");
    let said = seal(&name, &["--gcs-endpoint", &fake.endpoint()]).succeed(Duration::from_secs(30));
    assert!(said.contains("was complete"), "{said}");
    encoder.stop();
}
