//! Publishers with several sound tracks, by Enhanced RTMP's multitrack: each track is an audio rendition, in time with
//! the pictures, in players as in the archive.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use bytes::Bytes;
use rtmp::MessageKind::Audio;
use rtmp::SoundTrackInfo;
use std::process::Command;
use std::time::Duration;
use tests::archived::Archived;
use tests::browser::{self, SwitchingPlayer};
use tests::checker::watch::{Watch, report};
use tests::checker::{Checker, Settings};
use tests::edge_process::Edge;
use tests::encoder_process::{Encoder, Options, STREAM, wait_until_listed, workspace};
use tests::http::{Client, join};
use tests::patience::eventually;
use tests::sender::{self, Announced, Message};
use tests::static_server::StaticServer;
use tests::verdict::Recorded;
use tests::{fixtures, playlist, probe, publisher, tone, turn, verdict};

/// The tones of the clip `sound-tracks`, in Hz, by track.
const TONES: [u32; 3] = [440, 880, 1320];

/// Watches a stream, whose publisher has gone, to its end.
fn ended(watch: Watch) -> Checker {
    eventually("ENDLIST", Duration::from_secs(20), || watch.checker().ended().then_some(()));
    let checker = watch.finish();
    assert!(checker.violations().is_empty(), "{}", report(checker.violations()));
    checker
}

/// EXT-X-MEDIA of each audio rendition: URI, NAME, LANGUAGE, DEFAULT, CHANNELS.
fn media_of(checker: &Checker) -> Vec<[String; 5]> {
    let list = checker.multivariant_seen().unwrap();
    let text = |media: &playlist::Attributes, name: &str| media.get(name).cloned().unwrap_or_default();
    list.media
        .iter()
        .map(|media| ["URI", "NAME", "LANGUAGE", "DEFAULT", "CHANNELS"].map(|name| text(media, name)))
        .collect()
}

/// The tone of each audio rendition, by the rendition's playlist. The ends may be silent.
fn tones_of(recorded: &[Recorded]) -> Vec<(String, Vec<u32>)> {
    let sounds = recorded.iter().filter(|one| !one.video);
    sounds
        .map(|one| {
            let mut heard = tone::loudest(&one.file, &TONES).unwrap();
            heard.pop();
            heard.drain(..1);
            heard.dedup();
            (one.rendition.clone(), heard)
        })
        .collect()
}

/// Playlists that hls-parser in strict mode has something to say about.
fn strict(encoder: &Encoder, url: &str) -> Vec<String> {
    let fetch = |url: &str| encoder.client.get(url).unwrap().text().unwrap();
    let top = fetch(url);
    let mut lists = vec![("multivariant".to_owned(), top.clone())];
    for uri in playlist::multivariant(&top).unwrap().playlists() {
        lists.push((uri.clone(), fetch(&join(url, &uri))));
    }
    browser::strict(&lists).unwrap()
}

/// Every rendition's playlist has parts and reports of the three others, and a reload of the segment after the next one
/// is held until it is there.
fn held_and_reported(top: &str) {
    let client = Client::default();
    let list = |rung: &str, query: &str| {
        let url = format!("{}{query}", join(top, &format!("{rung}/index.m3u8")));
        playlist::media(&client.get(&url).unwrap().text().unwrap()).unwrap()
    };
    let rungs = ["180p", "audio", "audio_2", "audio_3"];
    for rung in rungs {
        let before = list(rung, "");
        let (msn, _) = before.edge();
        let after = list(rung, &format!("?_HLS_msn={}&_HLS_part=0", msn + 1));
        assert!(after.edge() >= (msn + 1, 1), "{rung}: {:?}", after.edge());
        assert!(!after.parts.is_empty() && after.hint.is_some(), "{rung}");
        let mut reported: Vec<_> = after.reports.iter().map(|report| report["URI"].clone()).collect();
        reported.sort_unstable();
        let others = rungs.iter().filter(|other| **other != rung);
        assert_eq!(
            reported,
            others.map(|other| format!("../{other}/index.m3u8")).collect::<Vec<_>>(),
            "{rung}"
        );
    }
}

/// At a latency with parts, and through an edge: the checker asks for the parts of every rendition.
#[test]
fn viewers_choose_among_three_tracks_and_the_archive_has_all() {
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--latency", "4")
        .set("--ladder", "180p@300k")
        // Sound that ends before the first picture.
        .allowing(&["encoder_dropped_units_total"]);
    let encoder = Encoder::start(options);
    let output = encoder.output.path().to_owned();
    let mut publisher =
        publisher::ffmpeg_all_tracks(&fixtures::clip("sound-tracks"), &encoder.rtmp_url(STREAM));
    let url = encoder.wait_for_stream(STREAM);
    let watch = Watch::start(&url, Settings::default());
    let edge = Edge::start(&["--encoders", &format!("127.0.0.1:{}", encoder.ports.http)]);
    let edge_url = edge.playlist_url(STREAM);
    wait_until_listed(&edge_url);
    let at_edge = Watch::start(&edge_url, Settings::default());
    for top in [&url, &edge_url] {
        assert_eq!(strict(&encoder, top), Vec::<String>::new());
        held_and_reported(top);
    }

    let js = workspace().join("tests/js");
    let page = StaticServer::start(vec![js.clone(), js.join("node_modules")]).unwrap();
    let choices = ["Track 2", "Track 3", "Audio", "Track 3"];
    let players =
        [(SwitchingPlayer::Hls, "player.html", &edge_url), (SwitchingPlayer::Shaka, "shaka.html", &url)];
    for (player, file, top) in players {
        let page = page.url(&format!("{file}?src={top}"));
        let heard = browser::switch_sounds(player, &page, &choices, &TONES).unwrap();
        eprintln!("{heard:?}");
        let mut names = heard.names.clone();
        names.sort_unstable();
        assert_eq!(names, ["Audio", "Track 2", "Track 3"], "{player:?}");
        assert_eq!(heard.first, "Audio", "{player:?}");
        let wanted =
            [880, 1320, 440, 1320].into_iter().zip(choices).map(|(tone, name)| (name.to_owned(), tone));
        assert_eq!(heard.heard, wanted.collect::<Vec<_>>(), "{player:?}");
        assert_eq!((heard.errors.len(), heard.console.len()), (0, 0), "{heard:?}");
        assert!(heard.longest_freeze < 1.0, "{heard:?}");
    }

    let seen_at_edge = at_edge.finish();
    assert!(seen_at_edge.violations().is_empty(), "{}", report(seen_at_edge.violations()));
    edge.stop();
    watch.checker().expect_outage();
    publisher.stop(Duration::from_secs(5));
    let checker = ended(watch);
    let own = |uri: &str, name: &str, default: &str, channels: &str| {
        [uri, name, "", default, channels].map(str::to_owned)
    };
    assert_eq!(
        media_of(&checker),
        [
            own("audio/index.m3u8", "Audio", "YES", "2"),
            own("audio_2/index.m3u8", "Track 2", "", "1"),
            own("audio_3/index.m3u8", "Track 3", "", "2"),
        ]
    );
    let mut wrong = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let recorded = verdict::recordings(&checker, 0, folder.path(), &mut wrong);
    let worst = verdict::sound_in_step(&recorded, &mut wrong);
    eprintln!("sound is off by {:.1} ms at most", worst * 1e3);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let tones: Vec<_> = tones_of(&recorded);
    let wanted = ["audio", "audio_2", "audio_3"].into_iter().zip(TONES);
    for (rung, tone) in wanted {
        let (_, heard) = tones.iter().find(|(of, _)| *of == format!("{rung}/index.m3u8")).unwrap();
        assert_eq!(*heard, [tone], "{rung}");
    }

    let archived = Archived::complete(&output);
    let list = playlist::multivariant(&archived.text("index.m3u8").unwrap()).unwrap();
    let uris: Vec<_> = list.media.iter().filter_map(|media| media.get("URI")).collect();
    assert_eq!(uris, ["audio.m3u8", "audio_2.m3u8", "audio_3.m3u8"]);
    assert_eq!(list.playlists().len(), 4);
    let lengths = ["audio.m3u8", "audio_2.m3u8", "audio_3.m3u8"]
        .map(|name| playlist::media(&archived.text(name).unwrap()).unwrap().segments.len());
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    let recording = archived.recording();
    let streams = probe::streams(&recording.to_string_lossy()).unwrap();
    let kinds: Vec<_> = streams.iter().map(|stream| stream.codec_type.as_str()).collect();
    assert_eq!(kinds, ["video", "audio", "audio", "audio"]);
    probe::decodes_clean(&recording).unwrap();
    for (index, tone) in TONES.into_iter().enumerate() {
        let alone = folder.path().join(format!("{index}.mp4"));
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-i"]).arg(&recording);
        command.args(["-map", &format!("0:a:{index}"), "-c", "copy"]).arg(&alone);
        assert!(command.status().unwrap().success());
        let mut heard = tone::loudest(&alone, &TONES).unwrap();
        heard.pop();
        heard.dedup();
        assert_eq!(heard, [tone], "the recording's sound {index}");
    }
    encoder.stop();
}

/// The sound of a clip once more, as another track.
fn as_track(message: &Message, number: u8) -> Message {
    let (packet_type, data) = (message.body[1], &message.body[2..]);
    let body = Bytes::from([&[0x95, packet_type], &b"mp4a"[..], &[number], data].concat());
    Message { body, ..message.clone() }
}

/// Names from `onMetaData`; a track that pauses and ends is silent; one that comes late, and the fifth, are passed over.
#[test]
fn tracks_have_names_and_stay_in_step_when_one_of_them_pauses() {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(
        Options::default()
            .set("--ladder", "180p@300k")
            .expecting(&[
                "encoder_silent_frames_total",
                "encoder_passed_over_tracks_total",
                "encoder_timestamp_repairs_total",
            ])
            .allowing(&["encoder_dropped_units_total"]),
    );
    let clip = sender::messages(&fixtures::clip("small"));
    let mut messages = Vec::new();
    for message in clip {
        if message.kind == Audio {
            let is_config = message.body[1] == 0;
            // Track 1 pauses between 4 s and 7 s, and ends at 11 s. Track 2 begins at 6 s.
            if is_config || message.at_ms < 4_000 || (7_000..11_000).contains(&message.at_ms) {
                messages.push(as_track(&message, 1));
            }
            if message.at_ms >= 6_000 {
                messages.push(as_track(&message, 2));
            }
            if is_config {
                let config = as_track(&message, 2);
                messages.push(Message { at_ms: 6_000, ..config });
            }
        }
        messages.push(message);
    }
    messages.sort_by_key(|message| message.at_ms);
    let info = |number, name: Option<&str>, language: Option<&str>| SoundTrackInfo {
        number,
        name: name.map(str::to_owned),
        language: language.map(str::to_owned),
    };
    let announced = Announced {
        sound_tracks: vec![
            info(0, Some("Original \"mix\""), Some("eng")),
            info(1, Some("Kommentar\r\n#EXT-X-ENDLIST"), Some("de-AT")),
        ],
        ..Announced::default()
    };
    let sending = sender::send(&encoder.rtmp_url(STREAM), Some(announced), messages);
    let watch = Watch::start(&encoder.wait_for_stream(STREAM), Settings::default());
    assert_eq!(sending.join().unwrap().unwrap(), None);
    watch.checker().expect_outage();
    let checker = ended(watch);
    assert_eq!(
        media_of(&checker),
        [
            ["audio/index.m3u8", "Original 'mix'", "en", "YES", "2"].map(str::to_owned),
            ["audio_2/index.m3u8", "Kommentar #EXT-X-ENDLIST", "de-AT", "", "2"].map(str::to_owned),
        ]
    );
    let mut wrong = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let recorded = verdict::recordings(&checker, 0, folder.path(), &mut wrong);
    let worst = verdict::sound_in_step(&recorded[..2], &mut wrong);
    eprintln!("sound is off by {:.1} ms at most", worst * 1e3);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let beeps = |rendition: &str| {
        let one = recorded.iter().find(|one| one.rendition.starts_with(rendition)).unwrap();
        (probe::beeps(&one.file).unwrap(), probe::duration(&one.file.to_string_lossy()).unwrap())
    };
    let (main, length) = beeps("audio/");
    let (other, other_length) = beeps("audio_2/");
    // Of the beeps at 1, 3, 5 … 13 s the pause has that at 5 s, the end those at 11 s and 13 s.
    assert_eq!((main.len(), other.len()), (7, 4), "{main:?} {other:?}");
    assert!(other.iter().all(|beep| main.iter().any(|of| (beep - of).abs() <= 0.04)), "{main:?} {other:?}");
    assert!((length - other_length).abs() < 0.1, "{length} {other_length}");
    encoder.stop();
}
