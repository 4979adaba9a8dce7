//! HEVC and AV1 that are passed through, beside a rung in H.264: a recent FFmpeg publishes by Enhanced RTMP; ffprobe and
//! FFmpeg, hls-parser, the cross-reload checker and hls.js in Chromium judge.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::archived::Archived;
use tests::browser::{self, Play};
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Settings};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::process::Program;
use tests::upsets::INTERRUPTED;
use tests::{fixtures, playlist, probe, publisher, turn, verdict};

/// Passes HEVC and AV1 through; the rung beside them.
const LADDER: &str = "source+hevc+av1,120p@200k";

fn options() -> Options {
    Options::default()
        .set("--ladder", LADDER)
        .set("--reconnect-window", "1")
        // Sound that ends before the first picture, or begins after it.
        .allowing(&["encoder_dropped_units_total", "encoder_silent_frames_total"])
}

/// A recent FFmpeg sends half a second at once by default; the dates of a publisher that comes back then fall back.
const STEADY: [&str; 2] = ["-readrate_initial_burst", "0.001"];

fn once(encoder: &Encoder, clip: &str, name: &str) -> Program {
    let url = encoder.rtmp_url(name);
    publisher::ffmpeg_at(&publisher::recent_ffmpeg(), &fixtures::clip(clip), &url, &STEADY)
}

fn looped(encoder: &Encoder, clip: &str, name: &str) -> Program {
    let url = encoder.rtmp_url(name);
    let input = [&STEADY[..], &["-stream_loop", "-1"]].concat();
    publisher::ffmpeg_at(&publisher::recent_ffmpeg(), &fixtures::clip(clip), &url, &input)
}

/// The attributes of each variant by its rung.
fn variants(multivariant: &str) -> BTreeMap<String, playlist::Attributes> {
    let lines: Vec<&str> = multivariant.lines().collect();
    let stream = |pair: &[&str]| {
        let attributes = playlist::attributes(pair[0].strip_prefix("#EXT-X-STREAM-INF:")?).unwrap();
        Some((pair[1].split('/').next()?.to_owned(), attributes))
    };
    lines.windows(2).filter_map(stream).collect()
}

/// What is wrong with a stream of a clip like `small` whose video is passed through.
fn wrong_with(checker: &Checker, codec: &str, is_hdr: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    if !checker.violations().is_empty() {
        wrong.push(report(checker.violations()));
    }
    let folder = tempfile::tempdir().unwrap();
    let recorded = verdict::recordings(checker, 0, folder.path(), &mut wrong);
    verdict::keyframes_aligned(&recorded, &mut wrong);
    // The flashes of HDR are too dark for the probe, which reads pictures as BT.709.
    if !is_hdr {
        verdict::sound_in_step(&recorded, &mut wrong);
    }
    let mut seen: Vec<_> =
        recorded.iter().map(|one| (one.stream.codec_name.as_str(), one.stream.height)).collect();
    seen.sort_unstable();
    let mut expected = vec![("aac", None), (codec, Some(180)), ("h264", Some(120))];
    expected.sort_unstable();
    if seen != expected {
        wrong.push(format!("{seen:?} instead of {expected:?}"));
    }
    wrong
}

#[test]
fn what_the_ladder_names_is_passed_through_and_players_are_told() {
    let _turn = turn::Turn::take();
    let clips = [
        ("hevc-gop1s", "hevc", "hvc1.1.6.L60.90", None),
        ("hevc-pq", "hevc", "hvc1.2.4.L60.90", Some("PQ")),
        ("av1-gop1s", "av1", "av01.0.00M.08", None),
    ];
    let encoder = Encoder::start(options().set("--capacity", "3"));
    let running: Vec<_> = clips.iter().map(|(clip, ..)| once(&encoder, clip, clip)).collect();
    let watches: Vec<_> = clips
        .iter()
        .map(|(clip, ..)| {
            let url = encoder.wait_for_stream(clip);
            let text = encoder.client.get(&url).unwrap().text().unwrap();
            (text, Watch::start(&url, Settings::default()))
        })
        .collect();
    let mut all = Vec::new();
    for (((clip, codec, codecs, range), mut publisher), (text, watch)) in
        clips.into_iter().zip(running).zip(watches)
    {
        let ended = publisher.wait(Duration::from_secs(60));
        assert!(ended.is_some_and(|status| status.success()), "{clip}: {}", publisher.output());
        watch.checker().expect_outage();
        eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
        let checker = watch.finish();
        all.extend(
            wrong_with(&checker, codec, range.is_some()).into_iter().map(|wrong| format!("{clip}: {wrong}")),
        );
        all.extend(browser::strict(&[(clip.to_owned(), text.clone())]).unwrap());
        let variants = variants(&text);
        let said = |rung: &str, name: &str| variants[rung].get(name).map(String::as_str);
        let facts = (
            said("source", "CODECS"),
            said("source", "RESOLUTION"),
            said("source", "FRAME-RATE"),
            said("source", "VIDEO-RANGE"),
            said("120p", "VIDEO-RANGE").is_some(),
        );
        let codecs = format!("{codecs},mp4a.40.2");
        let expected = (Some(codecs.as_str()), Some("320x180"), Some("30"), range, range.is_some());
        if facts != expected || !said("120p", "CODECS").is_some_and(|codecs| codecs.starts_with("avc1.")) {
            all.push(format!("{clip}: {text}"));
        }
    }
    let log = encoder.stop();
    assert!(all.is_empty(), "{}\n{log}", all.join("\n"));
}

/// Plays a looped clip in Chromium for a while; with `low_latency`, in parts.
#[track_caller]
fn played(clip: &str, low_latency: bool, switches: Vec<(f64, i32)>) -> browser::Played {
    let _turn = turn::Turn::take();
    let options = if low_latency { options().set("--latency", "3") } else { options() };
    let encoder = Encoder::start(options.allowing(INTERRUPTED));
    let mut publisher = looped(&encoder, clip, STREAM);
    encoder.wait_for_stream(STREAM);
    let patience = tests::patience::patience(Duration::from_secs(30)).as_secs_f64();
    let page = encoder.url(&format!("?stream=live/{STREAM}"));
    let play = Play { page, seconds: 12.0, switches, patience };
    let played = browser::play(&play).unwrap();
    eprintln!("{played:?}");
    assert!(publisher.exited().is_none(), "{}", publisher.output());
    publisher.stop(Duration::from_secs(5));
    let log = encoder.stop();
    assert_eq!(played.complaints(&play), [""; 0], "{log}");
    assert!(played.audio && played.frames.0 > 200, "{played:?}");
    played
}

#[test]
fn chromium_plays_av1_and_switches_to_h264_and_back() {
    let played = played("av1-gop1s", false, vec![(0.5, 1), (4.0, 0), (8.0, 1)]);
    assert!(played.heights.contains(&180) && played.heights.contains(&120), "{played:?}");
}

#[test]
fn chromium_plays_av1_in_parts() {
    let played = played("av1-gop1s", true, Vec::new());
    assert!(played.requests.iter().any(|(url, _)| url.contains("_HLS_part")), "{played:?}");
    assert!(played.levels.iter().any(|(_, height)| *height == 180), "{played:?}");
}

/// Debian's Chromium does not decode HEVC: hls.js takes the other rung.
#[test]
fn without_hevc_chromium_plays_the_h264_rung() {
    let played = played("hevc-gop1s", false, Vec::new());
    assert_eq!(played.levels.iter().map(|(_, height)| *height).collect::<Vec<_>>(), [120], "{played:?}");
    let source = played.requests.iter().filter(|(url, _)| url.contains("/source/"));
    assert_eq!(source.count(), 0, "{played:?}");
}

/// The recording of a broadcast has the passed-through video, and another FFmpeg decodes all of it; a publisher that comes
/// back with the same codec goes on in it.
#[test]
fn a_recording_has_the_video_that_was_passed_through() {
    for (clip, codec) in [("hevc-gop1s", "hevc"), ("av1-gop1s", "av1")] {
        let _turn = turn::Turn::take();
        let encoder = Encoder::start(options().set("--reconnect-window", "8").allowing(INTERRUPTED));
        let mut first = looped(&encoder, clip, STREAM);
        let url = encoder.wait_for_stream(STREAM);
        let listed = |least: f64| {
            eventually("segments", Duration::from_secs(60), || {
                let top = playlist::multivariant(&encoder.client.get(&url).ok()?.text().ok()?).ok()?;
                let media = tests::http::join(&url, &top.playlists()[0]);
                let media = playlist::media(&encoder.client.get(&media).ok()?.text().ok()?).ok()?;
                (media.duration() > least).then_some(media.duration())
            })
        };
        let before = listed(6.0);
        // Killed: FFmpeg says goodbye when it is asked to stop, and that ends the broadcast.
        first.signal(Signal::KILL);
        first.wait(Duration::from_secs(5));
        let mut second = looped(&encoder, clip, STREAM);
        listed(before + 6.0);
        second.stop(Duration::from_secs(5));
        let archived = Archived::complete(encoder.output.path());
        let file = archived.folder().join("recording.mp4");
        probe::decodes_clean(&file).unwrap();
        let streams = probe::streams(&file.to_string_lossy()).unwrap();
        let video = streams.iter().find(|stream| stream.codec_type == "video").unwrap();
        assert_eq!((video.codec_name.as_str(), video.height), (codec, Some(180)));
        let seconds = probe::duration(&file.to_string_lossy()).unwrap();
        assert!(seconds > before + 6.0, "{seconds}");
        encoder.stop();
    }
}

/// A ladder of `source` alone has a rung in H.264 beside HEVC. The next publisher's H.264 is passed through in the same
/// place, and HEVC after it is encoded: viewers may not have it.
#[test]
fn a_publisher_with_another_codec_goes_on_in_the_same_renditions() {
    let _turn = turn::Turn::take();
    let options =
        options().set("--ladder", "source+hevc").set("--reconnect-window", "10").allowing(INTERRUPTED);
    let encoder = Encoder::start(options);
    let mut running = looped(&encoder, "hevc-gop1s", STREAM);
    let url = encoder.wait_for_stream(STREAM);
    let watch = Watch::start(&url, Settings::default());
    let more_segments = || {
        let before = watch.checker().listed("source/index.m3u8").len();
        eventually("more segments", Duration::from_secs(40), || {
            (watch.checker().listed("source/index.m3u8").len() >= before + 4).then_some(())
        });
    };
    more_segments();
    for (clip, said) in [
        ("small-gop1s", "passed_through=\"H.264\""),
        ("hevc-gop1s", "rung `source` is encoded: HEVC is published, and the stream began with H.264"),
    ] {
        watch.checker().expect_outage();
        running.signal(Signal::KILL);
        running.wait(Duration::from_secs(5));
        running = looped(&encoder, clip, STREAM);
        eventually(said, Duration::from_secs(40), || encoder.log().contains(said).then_some(()));
        more_segments();
        watch.checker().outage_over();
        let variants = variants(&encoder.client.get(&url).unwrap().text().unwrap());
        for rung in ["source", "180p"] {
            assert!(variants[rung]["CODECS"].starts_with("avc1."), "{variants:?}");
        }
    }
    watch.checker().expect_outage();
    running.stop(Duration::from_secs(5));
    eventually("ENDLIST", Duration::from_secs(30), || watch.checker().ended().then_some(()));
    let checker = watch.finish();
    let mut wrong = Vec::new();
    if !checker.violations().is_empty() {
        wrong.push(report(checker.violations()));
    }
    let log = encoder.stop();
    assert!(wrong.is_empty(), "{}\n{log}", wrong.join("\n"));
    assert!(log.contains("180p in H.264 added: not every player decodes HEVC"), "{log}");
}
