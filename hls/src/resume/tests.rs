//! Rendered playlists can be read back, and the next version of each is legal.

use super::*;
use crate::packager::{CutRule, Output, Packager};
use crate::presentation::Presentation;
use crate::testing::{Run, START_MS, audio, epoch, frames, rung, sound, timing, video};
use crate::track::Track;
use proptest::prelude::*;

const FPS: (i64, i64) = (30, 1);

fn feed(presentation: &mut Presentation, output: &Output) {
    match output {
        Output::Init(init) => presentation.add_init(init),
        Output::Part(_) => {}
        Output::Segment(segment) => presentation.add(segment.info().clone()),
    }
}

/// Packages consecutive epochs of the given durations in seconds, with a packager that may continue an earlier one.
fn broadcast(run: &mut Run, number: u32, tracks: &[Track], seconds: &[i64]) {
    let mut start = START_MS;
    for (index, &seconds) in seconds.iter().enumerate() {
        run.begin(epoch(number + index as u32, start, tracks, CutRule::Grid));
        let count = (seconds * FPS.0) as usize;
        let mut media: Vec<(&str, Vec<_>)> = Vec::new();
        for track in tracks {
            let name = track.rung.as_str();
            let samples = if name == "audio" {
                sound(start, 48_000, (seconds * 48_000 / 1024) as usize + 1)
            } else {
                frames(start, FPS, 30, count, false)
            };
            media.push((name, samples));
        }
        run.push_all(&media);
        run.end(None);
        start += seconds * 1000;
    }
}

fn presented(presentation: &mut Presentation, tracks: &[Track], outputs: &[Output]) {
    presentation.set_tracks(tracks);
    outputs.iter().for_each(|output| feed(presentation, output));
}

fn texts(presentation: &Presentation, rungs: &[&str]) -> Vec<(RungName, String)> {
    let text = |name: &&str| Some((rung(name), presentation.media_playlist(&rung(name))?));
    rungs.iter().filter_map(text).collect()
}

fn past(texts: &[(RungName, String)]) -> Result<Past, ResumeError> {
    let read = |(rung, text): &(RungName, String)| Ok((rung.clone(), StoredPlaylist::parse(rung, text)?));
    Past::new(texts.iter().map(read).collect::<Result<Vec<_>, ResumeError>>()?)
}

/// A playlist as m3u8-rs reads it: the first media sequence number, the discontinuity sequence, and each segment's URI
/// with its EXT-X-DISCONTINUITY flag.
fn seen(text: &str) -> (u64, u64, Vec<(String, bool)>) {
    let list = m3u8_rs::parse_media_playlist_res(text.as_bytes()).unwrap();
    let segments = list.segments.iter().map(|s| (s.uri.clone(), s.discontinuity)).collect();
    (list.media_sequence, list.discontinuity_sequence, segments)
}

#[test]
fn what_is_rendered_is_read_back_and_rendered_the_same() {
    let tracks = [video("720p"), video("480p"), audio()];
    let mut run = Run::new(4.0);
    broadcast(&mut run, 0, &tracks, &[4, 3, 60]);
    let mut before = Presentation::new(&run.timing);
    presented(&mut before, &tracks, &run.outputs);
    let texts = texts(&before, &["720p", "480p", "audio"]);
    assert_eq!(
        renditions(&before.multivariant().unwrap()),
        Ok(vec![rung("480p"), rung("720p"), RungName::audio()])
    );
    let past = past(&texts).unwrap();
    assert_eq!(past.next_sequence(), run.packager.next_sequence());
    assert_eq!(past.discontinuities(), before.discontinuities());
    let resumed = Presentation::resume(&run.timing, &past);
    for (rung, text) in &texts {
        assert_eq!(resumed.media_playlist(rung).as_ref(), Some(text));
    }
    assert_eq!(resumed.multivariant(), None, "nothing can be said of what was not measured");
}

#[test]
fn a_stream_goes_on_with_one_discontinuity_in_every_rendition() {
    let tracks = [video("720p"), audio()];
    let mut run = Run::new(4.0);
    broadcast(&mut run, 0, &tracks, &[40]);
    let mut before = Presentation::new(&run.timing);
    presented(&mut before, &tracks, &run.outputs);
    let past = past(&texts(&before, &["720p", "audio"])).unwrap();

    let mut after = Presentation::resume(&run.timing, &past);
    let mut next = Run::new(4.0);
    next.packager = Packager::resume(timing(4.0), &past);
    broadcast(&mut next, 7, &tracks, &[4]);
    after.set_tracks(&tracks);
    assert_eq!(after.multivariant(), None, "the new renditions cannot be played yet");
    next.outputs.iter().for_each(|output| feed(&mut after, output));
    assert!(after.multivariant().is_some());
    for (rung, old) in texts(&before, &["720p", "audio"]) {
        let (old_first, old_dsn, old) = seen(&old);
        let (first, dsn, new) = seen(&after.media_playlist(&rung).unwrap());
        assert!(first >= old_first && dsn == old_dsn);
        let kept = &old[(first - old_first) as usize..];
        assert_eq!(&new[..kept.len()], kept, "{rung}: what is kept stays as it is");
        let flags: Vec<bool> = new[kept.len()..].iter().map(|(_, discontinuity)| *discontinuity).collect();
        assert_eq!(flags, [true, false, false, false], "{rung}");
    }
    let texts: String = texts(&after, &["720p", "audio"]).into_iter().map(|(_, text)| text).collect();
    assert!(!texts.contains("EXT-X-GAP"));
}

/// The earlier writer died between writing two playlists.
#[test]
fn a_rendition_that_is_behind_gets_gaps() {
    let tracks = [video("720p"), audio()];
    let mut run = Run::new(4.0);
    broadcast(&mut run, 0, &tracks, &[20]);
    let (mut early, mut late) = (Presentation::new(&run.timing), Presentation::new(&run.timing));
    presented(&mut late, &tracks, &run.outputs);
    let is_early = |output: &&Output| !matches!(output, Output::Segment(s) if s.info().sequence >= 18);
    presented(&mut early, &tracks, &run.outputs.iter().filter(is_early).cloned().collect::<Vec<_>>());
    let mut both = texts(&late, &["720p"]);
    both.extend(texts(&early, &["audio"]));
    let past = past(&both).unwrap();
    assert_eq!(past.next_sequence(), 20);
    let resumed = Presentation::resume(&run.timing, &past);
    let audio = resumed.media_playlist(&RungName::audio()).unwrap();
    assert_eq!(audio.matches("#EXT-X-GAP").count(), 2);
    assert_eq!(seen(&audio).2.len(), 20);
    assert_eq!(StoredPlaylist::parse(&RungName::audio(), &audio).unwrap().next(), 20, "read back once more");
}

#[test]
fn another_ladder_goes_on_where_it_can() {
    let before_tracks = [video("1080p"), video("480p"), audio()];
    let after_tracks = [video("720p"), video("480p"), audio()];
    let mut run = Run::new(4.0);
    broadcast(&mut run, 0, &before_tracks, &[3, 40]);
    let mut before = Presentation::new(&run.timing);
    presented(&mut before, &before_tracks, &run.outputs);
    let past = past(&texts(&before, &["1080p", "480p", "audio"])).unwrap();
    let mut after = Presentation::resume(&run.timing, &past);
    let mut next = Run::new(4.0);
    next.packager = Packager::resume(timing(4.0), &past);
    broadcast(&mut next, 7, &after_tracks, &[4]);
    presented(&mut after, &after_tracks, &next.outputs);
    assert_eq!(after.media_playlist(&rung("1080p")), None, "it has ended");
    assert!(!after.multivariant().unwrap().contains("1080p"));
    let (old_first, dsn, list) = seen(&after.media_playlist(&rung("480p")).unwrap());
    let (first, new_dsn, new) = seen(&after.media_playlist(&rung("720p")).unwrap());
    let discontinuities = |list: &[(String, bool)]| list.iter().filter(|(_, flag)| *flag).count() as u64;
    assert_eq!(first, past.next_sequence());
    assert_eq!(first - old_first, list.len() as u64 - 4);
    assert_eq!(new_dsn + 1, dsn + discontinuities(&list), "the same segment, the same number");
    assert_eq!((new.len(), new[0].1), (4, true));
    // Objects of a rendition that was not continued expire when they leave the window.
    broadcast(&mut next, 20, &after_tracks, &[100]);
    next.outputs.iter().for_each(|output| feed(&mut after, output));
    let expired = after.take_expired();
    assert!(expired.iter().filter(|e| e.rung == rung("1080p") && e.name.ends_with(".m4s")).count() > 20);
    assert!(expired.iter().any(|e| e.rung == rung("480p") && e.name.ends_with("init.mp4")), "{expired:?}");
}

#[test]
fn an_end_is_read_back_and_can_be_written_before_anything_new() {
    let tracks = [video("720p"), audio()];
    let mut run = Run::new(4.0);
    broadcast(&mut run, 0, &tracks, &[10]);
    let mut before = Presentation::new(&run.timing);
    presented(&mut before, &tracks, &run.outputs);
    let running = past(&texts(&before, &["720p", "audio"])).unwrap();
    assert!(!running.ended());
    let mut resumed = Presentation::resume(&run.timing, &running);
    resumed.end();
    before.end();
    let ends = texts(&before, &["720p", "audio"]);
    assert_eq!(texts(&resumed, &["720p", "audio"]), ends);
    assert!(past(&ends).unwrap().ended());
    let torn = [
        texts(&before, &["720p"]),
        vec![(RungName::audio(), {
            let mut text = ends[1].1.clone();
            text.truncate(text.len() - "#EXT-X-ENDLIST\n".len());
            text
        })],
    ];
    assert!(!past(&torn.concat()).unwrap().ended(), "its writer died between two writes");
}

const GOOD: &str = "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:7\n\
    #EXT-X-DISCONTINUITY-SEQUENCE:0\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"s-0-init.mp4\"\n\
    #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:00.000Z\n#EXTINF:1.00000,\ns-0-7.m4s\n";

#[test]
fn what_is_not_ours_is_refused() {
    let rung = rung("v");
    let read = |text: &str| StoredPlaylist::parse(&rung, text);
    assert!(read(GOOD).is_ok());
    assert!(read(&format!("{GOOD}# a word from somebody\n")).is_ok());
    for (from, to) in [
        ("s-0-7.m4s", "../../other/show/s-0-7.m4s"),
        ("s-0-7.m4s", "s-0-8.m4s"),
        ("s-0-7.m4s", "s-0-7.ts"),
        ("s-0-7.m4s", "http://elsewhere/s-0-7.m4s"),
        ("s-0-init.mp4", "../s-0-init.mp4"),
        ("s-0-init.mp4", "init.mp4"),
        ("#EXT-X-MAP:URI=\"s-0-init.mp4\"\n", ""),
        ("#EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:00.000Z\n", ""),
        ("2026-11-22", "-999-11-22"),
        ("#EXTINF:1.00000", "#EXTINF:NaN"),
        ("#EXTINF:1.00000", "#EXTINF:inf"),
        ("#EXTINF:1.00000", "#EXTINF:-1"),
        ("#EXTINF:1.00000", "#EXTINF:0"),
        ("#EXTINF:1.00000", "#EXTINF:9"),
        ("TARGETDURATION:1", "TARGETDURATION:0"),
        ("TARGETDURATION:1", "TARGETDURATION:4294967297"),
        ("#EXT-X-TARGETDURATION:1\n", ""),
        ("MEDIA-SEQUENCE:7", "MEDIA-SEQUENCE:-7"),
        ("MEDIA-SEQUENCE:7", "MEDIA-SEQUENCE:18446744073709551615"),
        ("#EXT-X-MEDIA-SEQUENCE:7\n", ""),
        ("#EXT-X-DISCONTINUITY-SEQUENCE:0\n", ""),
        ("DISCONTINUITY-SEQUENCE:0", "DISCONTINUITY-SEQUENCE:18446744073709551615"),
        ("s-0-7.m4s\n", "s-0-7.m4s"),
        ("s-0-7.m4s\n", ""),
        ("#EXTM3U\n", ""),
        ("#EXTM3U\n", "\u{feff}#EXTM3U\n"),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD);
        assert!(read(&text).is_err(), "{from:?} as {to:?}");
    }
    assert_eq!(read(&format!("{GOOD}{}", "#\n".repeat(MAX_TEXT / 2))), Err(ResumeError::NotWhole));
    for cut in 0..GOOD.len() {
        assert!(read(&GOOD[..cut]).is_err(), "cut off at {cut}");
    }
    for text in ["", "#EXTM3U\n", GOOD, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n../x/index.m3u8\n"] {
        assert!(renditions(text).is_err(), "{text}");
    }
}

#[test]
fn renditions_that_disagree_are_not_resumed() {
    let with = |from: &str, to: &str| {
        let other = GOOD.replace(from, to);
        past(&[(rung("a"), GOOD.into()), (rung("b"), other)])
    };
    assert!(with("x", "x").is_ok());
    for (from, to) in [
        ("DISCONTINUITY-SEQUENCE:0", "DISCONTINUITY-SEQUENCE:1"),
        ("TARGETDURATION:1", "TARGETDURATION:2"),
        ("#EXTINF", "#EXT-X-DISCONTINUITY\n#EXTINF"),
    ] {
        assert!(matches!(with(from, to), Err(ResumeError::Disagree(_))), "{from:?} as {to:?}");
    }
    assert_eq!(Past::new([]), Err(ResumeError::Empty));
    // A rendition that is no longer written does not count.
    let stale = with("7", "3").unwrap();
    assert_eq!(stale.rungs().collect::<Vec<_>>(), [&rung("a")]);
}

proptest! {
    /// Render, read, continue and render any number of times: numbers continue, and listed segments never change.
    #[test]
    fn every_next_version_is_legal(
        latency in 2.0..15.0f64,
        writers in prop::collection::vec((prop::collection::vec(1i64..20, 1..3), 0usize..40, 1usize..4), 1..4),
    ) {
        let all = [video("720p"), video("480p"), audio()];
        let names = ["720p", "480p", "audio"];
        let mut listed: BTreeMap<(RungName, u64), (String, u64)> = BTreeMap::new();
        let mut ends: BTreeMap<RungName, (u64, u64)> = BTreeMap::new();
        let mut stored: Vec<(RungName, String)> = Vec::new();
        for (writer, (epochs, lost, rungs)) in writers.iter().enumerate() {
            let mut run = Run::new(latency);
            let past = if stored.is_empty() { None } else { Some(past(&stored).unwrap()) };
            let mut presentation = match &past {
                Some(past) => {
                    run.packager = Packager::resume(timing(latency), past);
                    Presentation::resume(&run.timing, past)
                }
                None => Presentation::new(&run.timing),
            };
            let tracks = &all[all.len() - rungs..];
            broadcast(&mut run, writer as u32 * 10, tracks, epochs);
            presentation.set_tracks(tracks);
            // A removed playlist may return at any later position.
            ends.retain(|rung, _| tracks.iter().any(|track| track.rung == *rung));
            let count = run.outputs.len();
            for (index, output) in run.outputs.iter().enumerate() {
                // The writer dies before it writes the last segments.
                if index + lost >= count && matches!(output, Output::Segment(_)) && writer + 1 < writers.len() {
                    continue;
                }
                feed(&mut presentation, output);
                for (rung, text) in texts(&presentation, &names) {
                    let (first, dsn, segments) = seen(&text);
                    let end = first + segments.len() as u64;
                    let before = ends.insert(rung.clone(), (first, end)).unwrap_or_default();
                    prop_assert!(first >= before.0 && end >= before.1 && (before.1 == 0 || first <= before.1));
                    let mut dsn = dsn;
                    for (sequence, (uri, discontinuity)) in (first..).zip(segments) {
                        dsn += u64::from(discontinuity);
                        let known = listed.entry((rung.clone(), sequence)).or_insert_with(|| (uri.clone(), dsn));
                        prop_assert_eq!(&*known, &(uri, dsn), "{} {}", rung, sequence);
                    }
                }
            }
            let next = texts(&presentation, &names);
            if !next.is_empty() {
                stored = next;
            }
        }
        // All renditions have equal discontinuity counts.
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for ((_, sequence), (_, dsn)) in &listed {
            prop_assert_eq!(*counts.entry(*sequence).or_insert(*dsn), *dsn);
        }
    }

    #[test]
    fn damage_never_panics(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 0..8)
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (index, byte, what) in cuts {
            let at = index.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.extend_from_within(at..),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(playlist) = StoredPlaylist::parse(&rung("v"), &text)
            && let Ok(past) = Past::new([(rung("v"), playlist)])
        {
            let mut presentation = Presentation::new(&timing(4.0));
            if past.target_duration() == 1 {
                presentation = Presentation::resume(&timing(4.0), &past);
            }
            presentation.set_tracks(&[video("v")]);
            presentation.end();
            presentation.media_playlist(&rung("v"));
        }
        let _ = renditions(&text);
    }

    #[test]
    fn noise_never_panics(text in "(#EXTM3U\n)?(#EXT[-XINF:,A-Z0-9.=\"]{0,30}\n|[a-z0-9./-]{0,20}\n|\\PC{0,20}\n){0,20}") {
        let _ = StoredPlaylist::parse(&rung("v"), &text);
        let _ = renditions(&text);
    }
}
