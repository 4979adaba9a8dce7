//! Closed captions of a publisher: hls.js in Chromium shows them from every rung, FFmpeg reads them in every rung and in
//! the recording, and playlists announce them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::path::Path;
use std::time::Duration;
use tests::archived::Archived;
use tests::captions::{caption, pop_on};
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Settings};
use tests::encoder_process::{Encoder, Options, STREAM, workspace};
use tests::patience::eventually;
use tests::sender::{self, Message};
use tests::static_server::StaticServer;
use tests::{browser, fixtures, playlist, probe, turn, verdict};

/// A caption every half second of 60 pictures a second: twelve pairs and null characters.
const PICTURES_A_CAPTION: usize = 30;
const CAPTIONS: usize = 88;

/// The clip's sound begins before its pictures.
const EARLY_SOUND: &[&str] = &["encoder_dropped_units_total"];

fn text_of(number: usize) -> String {
    format!("HELLO {number:02}")
}

/// The clip with captions `HELLO 00`, `HELLO 01`, ..., from `from_ms` on.
fn captioned(clip: &str, from_ms: u32) -> Vec<Message> {
    let mut pairs = Vec::new();
    for number in 0..CAPTIONS {
        pairs.extend(pop_on(&text_of(number)));
        pairs.resize((number + 1) * PICTURES_A_CAPTION, [0x80, 0x80]);
    }
    let mut messages = sender::messages(&fixtures::clip(clip));
    caption(&mut messages, &pairs, from_ms);
    messages
}

/// Checks that texts are captions that follow each other, each once; returns the numbers of the first and last.
#[track_caller]
fn in_order(what: &str, texts: &[String]) -> (usize, usize) {
    let first = texts.first().unwrap_or_else(|| panic!("{what}: no captions"));
    let first: usize = first.strip_prefix("HELLO ").and_then(|n| n.parse().ok()).unwrap_or_else(|| {
        panic!("{what}: {texts:?}");
    });
    let expected: Vec<String> = (first..).take(texts.len()).map(text_of).collect();
    assert_eq!(texts, expected, "{what}");
    (first, first + texts.len() - 1)
}

#[track_caller]
fn judged(checker: &Checker) -> Vec<verdict::Recorded> {
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    let (folder, mut wrong) = (tempfile::tempdir().unwrap().keep(), Vec::new());
    let recorded = verdict::recordings(checker, 0, &folder, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    recorded
}

/// Three rungs: the published pictures, the same rate encoded, and half of the rate.
#[test]
fn captions_reach_viewers_from_every_rung_and_the_recording() {
    let messages = captioned("small-fps60", 0);
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--ladder", "source,120p60@300k,90p@150k")
        .set("--reconnect-window", "1")
        .allowing(EARLY_SOUND);
    let encoder = Encoder::start(options);
    let sending = sender::send(&encoder.rtmp_url(STREAM), None, messages);
    let url = encoder.wait_for_stream(STREAM);
    let watch = Watch::start(&url, Settings::default());

    let js = workspace().join("tests/js");
    let web = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
    let config = "%7B%22autoStartLoad%22%3Afalse%7D";
    let page = web.url(&format!("player.html?config={config}&src={url}"));
    for (level, height) in [(0, 90), (1, 120), (2, 180)] {
        let read = browser::read_captions(&page, level, 3).unwrap();
        eprintln!("{height}: {read:?}");
        assert_eq!(
            (&read.heights[..], &read.errors[..], &read.console[..]),
            (&[height][..], &[][..], &[][..])
        );
        assert_eq!(read.tracks, [("captions".to_owned(), "CC1".to_owned())]);
        in_order(&height.to_string(), &read.shown);
    }
    let announced = "CLOSED-CAPTIONS=\"captions\"";
    let live = encoder.client.get(&url).unwrap().text().unwrap();
    assert_eq!(live.matches(announced).count(), 4, "{live}");
    assert_eq!(live.matches("INSTREAM-ID=\"CC1\"").count(), 1, "{live}");
    assert_eq!(browser::strict(&[("index.m3u8".to_owned(), live)]).unwrap(), [""; 0]);

    assert_eq!(sending.join().unwrap().unwrap(), None);
    watch.checker().expect_outage();
    eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
    let archived = Archived::complete(encoder.output.path());
    for one in judged(&watch.finish()).iter().filter(|one| one.video) {
        reads_well(&one.rendition, &one.file);
    }
    reads_well("recording", &archived.recording());
    let kept = archived.text("index.m3u8").unwrap();
    assert_eq!(kept.matches(announced).count(), 4, "{kept}");
    encoder.stop();
}

/// Every frame carries captions, and FFmpeg reads all of them.
#[track_caller]
fn reads_well(what: &str, file: &Path) {
    let (captioned, frames) = probe::captioned_frames(file).unwrap();
    let read = in_order(what, &probe::caption_texts(file).unwrap());
    eprintln!("{what}: {captioned} of {frames} frames, captions {read:?}");
    assert!(frames > 1000 && captioned == frames, "{what}: {captioned} of {frames}");
    assert!(read.1 - read.0 > 60, "{what}: {read:?}");
}

/// Captions that begin after viewers have come: the multivariant playlist says so from then on, also in the archive.
#[test]
fn captions_that_begin_later_are_announced_then() {
    let mut messages = captioned("small-fps60", 8_000);
    messages.retain(|message| message.at_ms < 16_000);
    let _turn = turn::Turn::take();
    let options =
        Options::default().set("--ladder", "90p@150k").set("--reconnect-window", "1").allowing(EARLY_SOUND);
    let encoder = Encoder::start(options);
    let sending = sender::send(&encoder.rtmp_url(STREAM), None, messages);
    let url = encoder.wait_for_stream(STREAM);
    let live = || encoder.client.get(&url).unwrap().text().unwrap();
    let before = live();
    assert!(before.contains("CLOSED-CAPTIONS=NONE") && !before.contains("TYPE=CLOSED-CAPTIONS"), "{before}");
    let after = eventually("the announcement", Duration::from_secs(20), || {
        Some(live()).filter(|text| text.contains("INSTREAM-ID=\"CC1\""))
    });
    let names = |text: &str| playlist::multivariant(text).unwrap().playlists();
    assert_eq!(names(&after), names(&before));
    assert!(!after.contains("CLOSED-CAPTIONS=NONE"), "{after}");
    assert_eq!(sending.join().unwrap().unwrap(), None);
    let kept = Archived::complete(encoder.output.path()).text("index.m3u8").unwrap();
    assert!(kept.contains("INSTREAM-ID=\"CC1\""), "{kept}");
    let log = encoder.stop();
    assert!(log.contains("captions are published"), "{log}");
}
