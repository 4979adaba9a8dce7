//! A real publisher in real time; FFmpeg, hls-parser, the cross-reload checker and hls.js in Chromium judge the result.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::path::Path;
use std::time::Duration;
use tests::browser::{self, Play};
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Settings};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::process::Program;
use tests::publisher::{self, GstSink};
use tests::{fixtures, turn, verdict};

/// Seconds that the browser plays in each of these tests.
const PLAY_SECONDS: f64 = 30.0;

/// Publishes, plays in the browser, ends the publish; returns all complaints, the checker, and the recorded media.
fn whole_chain(
    options: Options,
    publish: impl FnOnce(&str) -> Program,
) -> (Vec<String>, Checker, Vec<verdict::Recorded>) {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(options);
    let mut publisher = publish(&encoder.rtmp_url(STREAM));
    let url = encoder.wait_for_stream(STREAM);
    let watch = Watch::start(&url, Settings::default());

    let mut wrong = Vec::new();
    let play = Play::with_switches(encoder.url(&format!("?stream=live/{STREAM}")), PLAY_SECONDS);
    match browser::play(&play) {
        Ok(played) => {
            wrong.extend(played.complaints(&play));
            eprintln!("{played:?}");
        }
        Err(error) => wrong.push(format!("browser: {error:#}")),
    }
    wrong.extend(strict_complaints(&encoder, &url));
    assert!(publisher.exited().is_none(), "the publisher was lost:\n{}", publisher.output());

    watch.checker().expect_outage();
    publisher.stop(Duration::from_secs(5));
    eventually("ENDLIST in every playlist", Duration::from_secs(20), || {
        watch.checker().ended().then_some(())
    });
    let checker = watch.finish();
    if !checker.violations().is_empty() {
        wrong.push(report(checker.violations()));
    }
    let folder = tempfile::tempdir().unwrap();
    let recorded = verdict::recordings(&checker, 0, folder.path(), &mut wrong);
    verdict::keyframes_aligned(&recorded, &mut wrong);
    let worst = verdict::sound_in_step(&recorded, &mut wrong);
    eprintln!("sound is off by {:.1} ms at most", worst * 1e3);
    encoder.stop();
    (wrong, checker, recorded)
}

/// Complaints of hls-parser in strict mode about the multivariant playlist and every media playlist.
fn strict_complaints(encoder: &Encoder, url: &str) -> Vec<String> {
    let fetch = |url: &str| encoder.client.get(url).and_then(|r| r.text());
    let read = || -> anyhow::Result<Vec<String>> {
        let top = fetch(url)?;
        let mut lists = vec![("multivariant".to_owned(), top.clone())];
        for uri in tests::playlist::multivariant(&top)?.playlists() {
            lists.push((uri.clone(), fetch(&tests::http::join(url, &uri))?));
        }
        browser::strict(&lists)
    };
    read().unwrap_or_else(|error| vec![format!("hls-parser: {error:#}")])
}

fn sizes(recorded: &[verdict::Recorded]) -> Vec<(u32, u32)> {
    let mut sizes: Vec<_> =
        recorded.iter().filter_map(|r| Some((r.stream.width?, r.stream.height?))).collect();
    sizes.sort_unstable();
    sizes
}

#[track_caller]
fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));
}

fn looped(clip: &Path) -> impl FnOnce(&str) -> Program {
    let clip = clip.to_owned();
    move |url| publisher::ffmpeg_looped(&clip, url)
}

#[test]
fn ffmpeg_to_three_rungs() {
    let clip = fixtures::clip("footage-720p30-gop2s");
    let (wrong, checker, recorded) = whole_chain(Options::default(), looped(&clip));
    nothing_wrong(&wrong);
    assert_eq!(sizes(&recorded), [(640, 360), (854, 480), (1280, 720)]);
    assert_eq!(checker.multivariant_seen().unwrap().media.len(), 1, "one audio rendition");
}

#[test]
fn source_passed_through_beside_encoded_rungs() {
    let clip = fixtures::clip("footage-720p30-gop2s");
    let options = Options::default().set("--ladder", "source,480p@1400k,360p@800k");
    let (wrong, checker, recorded) = whole_chain(options, looped(&clip));
    nothing_wrong(&wrong);
    assert_eq!(sizes(&recorded), [(640, 360), (854, 480), (1280, 720)]);
    let playlists = checker.multivariant_seen().unwrap().playlists();
    assert!(playlists.iter().any(|p| p.starts_with("source/")), "{playlists:?}");
}

#[test]
fn at_two_seconds_with_parts() {
    let clip = fixtures::clip("footage-720p30-gop2s");
    let options = Options::default().set("--latency", "2").set("--ladder", "480p@1000k,360p@600k,240p@300k");
    let (wrong, _, _) = whole_chain(options, looped(&clip));
    nothing_wrong(&wrong);
}

#[test]
fn gstreamer_rtmp2sink() {
    let clip = fixtures::clip("footage-720p30-gop2s");
    // Its first pictures have equal times.
    let options = Options::default().allowing(&["encoder_timestamp_repairs_total"]);
    let (wrong, _, _) = whole_chain(options, |url| publisher::gstreamer(&clip, url, GstSink::Rtmp2Sink));
    nothing_wrong(&wrong);
}

#[test]
fn portrait() {
    let clip = fixtures::clip("portrait");
    let (wrong, _, recorded) = whole_chain(Options::default(), looped(&clip));
    nothing_wrong(&wrong);
    assert_eq!(sizes(&recorded), [(360, 640), (480, 854), (720, 1280)]);
}

#[test]
fn surround_sound() {
    let clip = fixtures::clip("surround");
    let (wrong, _, recorded) = whole_chain(Options::default(), looped(&clip));
    nothing_wrong(&wrong);
    let audio = recorded.iter().find(|r| !r.video).unwrap();
    assert_eq!((audio.stream.codec_name.as_str(), audio.stream.channels), ("aac", Some(2)));
}

#[test]
fn gstreamer_rtmpsink_publishes() {
    let clip = fixtures::clip("footage-720p30-gop2s");
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(Options::default().allowing(&["encoder_timestamp_repairs_total"]));
    let mut publisher = publisher::gstreamer(&clip, &encoder.rtmp_url(STREAM), GstSink::RtmpSink);
    let watch = Watch::start(&encoder.wait_for_stream(STREAM), Settings::default());
    eventually("five segments", Duration::from_secs(30), || {
        let checker = watch.checker();
        let lists = checker.multivariant_seen()?.playlists();
        lists.iter().all(|l| checker.listed(l).len() >= 5).then_some(())
    });
    watch.checker().expect_outage();
    publisher.stop(Duration::from_secs(5));
    eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
    let checker = watch.finish();
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    encoder.stop();
}

#[test]
fn the_origin_answers_head_ranges_and_conditions() {
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(Options::default().set("--ladder", "source"));
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let url = encoder.wait_for_stream(STREAM);
    let top = tests::playlist::multivariant(&encoder.client.get(&url).unwrap().text().unwrap()).unwrap();
    let media_url = tests::http::join(&url, &top.playlists()[0]);
    let media = tests::playlist::media(&encoder.client.get(&media_url).unwrap().text().unwrap()).unwrap();
    let segment = tests::http::join(&media_url, &media.segments.last().unwrap().uri);

    let whole = encoder.client.get(&segment).unwrap();
    assert_eq!(whole.status, 200);
    let head = encoder.client.head(&segment).unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-type", "content-length", "cache-control", "etag"] {
        assert!(whole.header(name).is_some(), "{name} is missing");
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
    let part = encoder.client.get_with(&segment, &[("range", "bytes=100-199")]).unwrap();
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[100..200]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 100-199/{}", whole.body.len()).as_str()));
    let beyond = encoder.client.get_with(&segment, &[("range", "bytes=999999999-")]).unwrap();
    assert_eq!(beyond.status, 416);
    let etag = whole.header("etag").unwrap();
    assert_eq!(encoder.client.get_with(&segment, &[("if-none-match", etag)]).unwrap().status, 304);
    assert_eq!(encoder.client.get(&format!("{segment}x")).unwrap().status, 404);
    assert_eq!(encoder.client.get(&encoder.url("live/nobody/index.m3u8")).unwrap().status, 404);
    let page = encoder.client.get(&encoder.url("")).unwrap();
    assert_eq!(
        (page.status, page.header("content-type").is_some_and(|t| t.starts_with("text/html"))),
        (200, true)
    );
}
