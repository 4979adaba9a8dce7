//! Tests of the validators: checker, box reader, hls-parser, FFmpeg wrappers and browser driver must pass a live stream
//! that FFmpeg makes, and must reject the same stream with errors.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::collections::BTreeSet;
use std::time::Duration;
use tests::checker::watch::{Watch, report};
use tests::checker::{Rule, Settings, Violation};
use tests::patience::eventually;
use tests::reference::{Live, Reference};
use tests::{browser, fixtures, probe, turn};

/// Ignores what FFmpeg 5.1's HLS muxer leaves out by design: AVERAGE-BANDWIDTH, FRAME-RATE, CHANNELS,
/// DISCONTINUITY-SEQUENCE. Its dates differ between renditions by a frame or two, and its first segments come late.
fn ffmpeg_settings() -> Settings {
    let ignore = BTreeSet::from([
        Rule::VariantAttributes,
        Rule::RenditionGroup,
        Rule::DiscontinuitySequenceMissing,
        Rule::DateTimeAlignment,
        Rule::Version,
        Rule::IndependentSegments,
        Rule::ContentType,
    ]);
    Settings { ignore, time_tolerance: Duration::from_millis(150), ..Settings::default() }
}

#[test]
fn a_real_live_stream_passes_and_its_media_is_read_back() {
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let mut reference = Reference::three_rungs();
    for (rung, height) in reference.rungs.iter_mut().zip([180, 144, 90]) {
        rung.height = height;
        rung.bitrate = rung.bitrate.map(|b| b / 10);
    }
    reference.segment_seconds = 1.0;
    reference.gop_seconds = 1.0;
    reference.window = 4;
    let mut live = Live::start(&reference, &clip);
    eventually("segments in every rendition", Duration::from_secs(20), || {
        ["720p", "480p", "360p", "audio"]
            .iter()
            .all(|r| live.folder.path().join(r).join("seg-1.m4s").exists())
            .then_some(())
    });

    let watch = Watch::start(&live.url(), ffmpeg_settings());
    let play = browser::Play::with_switches(live.bare_page(&live.url()), 20.0);
    let played = browser::play(&play).unwrap();
    eprintln!("{played:#?}");
    assert_eq!(played.complaints(&play), Vec::<String>::new());

    let lists: Vec<(String, String)> = ["720p/index.m3u8", "audio/index.m3u8", "index.m3u8"]
        .iter()
        .map(|name| (name.to_string(), std::fs::read_to_string(live.folder.path().join(name)).unwrap()))
        .collect();
    assert_eq!(browser::strict(&lists).unwrap(), Vec::<String>::new());

    live.stop();
    let checker = watch.finish();
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    let renditions = checker.multivariant_seen().unwrap().playlists();
    assert_eq!(renditions.len(), 4, "{renditions:?}");
    for rendition in &renditions {
        assert!(checker.listed(rendition).len() >= 10, "{rendition}");
        let pieces = checker.pieces(rendition);
        assert_eq!(pieces.len(), 1);
        let file = live.folder.path().join("read-back.mp4");
        std::fs::write(&file, pieces[0].concatenated()).unwrap();
        probe::streams(&file.to_string_lossy()).unwrap();
        probe::decodes_clean(&file).unwrap();
    }
}

#[test]
fn strict_mode_complains_about_a_broken_playlist() {
    let broken = "#EXTM3U\n#EXT-X-VERSION:7\n#EXTINF:2.0,\na.m4s\n".to_owned();
    let complaints = browser::strict(&[("broken".into(), broken)]).unwrap();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
}

#[test]
fn the_browser_notices_a_stream_that_stops() {
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let mut reference = Reference::three_rungs();
    reference.rungs.truncate(1);
    reference.rungs[0].height = 90;
    reference.segment_seconds = 1.0;
    reference.gop_seconds = 1.0;
    let live = Live::start(&reference, &clip);
    let list = live.folder.path().join("720p/index.m3u8");
    eventually("segments", Duration::from_secs(20), || {
        std::fs::read_to_string(&list).is_ok_and(|t| t.matches("EXTINF").count() > 3).then_some(())
    });
    let page = live.bare_page(&live.url());
    let play = browser::Play { page, seconds: 12.0, switches: Vec::new(), patience: 20.0 };
    let watcher = std::thread::spawn({
        let play = play.clone();
        move || browser::play(&play)
    });
    // The playlists no longer change: no new segment, no EXT-X-ENDLIST.
    live.freeze();
    let played = watcher.join().unwrap().unwrap();
    eprintln!("{played:#?}");
    assert!(!played.complaints(&play).is_empty());
}

#[test]
fn the_browser_notices_missing_segments() {
    let clip = fixtures::clip("small");
    let _turn = turn::Turn::take();
    let mut reference = Reference::three_rungs();
    reference.rungs.truncate(1);
    reference.rungs[0].height = 90;
    reference.segment_seconds = 1.0;
    reference.gop_seconds = 1.0;
    let live = Live::start(&reference, &clip);
    let first = live.folder.path().join("720p/seg-1.m4s");
    eventually("a second segment", Duration::from_secs(20), || first.exists().then_some(()));
    live.server.hide("720p/seg-6.m4s");
    let watch = Watch::start(&live.url(), ffmpeg_settings());
    eventually("the checker to notice", Duration::from_secs(20), || {
        let missing = |v: &Violation| v.rule == Rule::Status && v.place.ends_with("seg-6.m4s");
        watch.checker().violations().iter().any(missing).then_some(())
    });
}
