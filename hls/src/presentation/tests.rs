//! Golden playlists, and the rules that apply across reloads.

use super::*;
use crate::ledger::Ledger;
use crate::packager::{CutRule, Output};
use crate::segment::Segment;
use crate::testing::{
    self, Run, START_MS, audio, audio_track, epoch, frames, ms, rung, sound, timing, video,
};
use media::captions::CaptionServices;
use proptest::prelude::*;
use std::time::Duration;

const FPS: (i64, i64) = (30, 1);

/// A broadcast of `epochs` epochs of `seconds` seconds each, packaged.
fn broadcast(latency: f64, epochs: usize, seconds: i64, tracks: &[Track]) -> Run {
    broadcast_on(Run::new(latency), epochs, seconds, tracks)
}

fn broadcast_on(mut run: Run, epochs: usize, seconds: i64, tracks: &[Track]) -> Run {
    for number in 0..epochs {
        let start = START_MS + number as i64 * seconds * 1000;
        run.begin(epoch(number as u32, start, tracks, CutRule::Grid));
        let media: Vec<_> = tracks
            .iter()
            .map(|t| match &t.kind {
                crate::TrackKind::Video(_) => {
                    let gop = (run.timing.gop.as_secs_f64() * 30.0) as usize;
                    (t.rung.as_str(), frames(start, FPS, gop, (seconds * 30) as usize, false))
                }
                crate::TrackKind::Audio(_) => {
                    (t.rung.as_str(), sound(start, 48_000, (seconds * 48_000 / 1024) as usize))
                }
            })
            .collect();
        run.push_all(&media);
        run.end(Some(ms(start + seconds * 1000)));
    }
    run.check();
    run
}

fn feed(presentation: &mut Presentation, output: &Output) {
    match output {
        Output::Init(init) => presentation.add_init(init),
        Output::Part(part) => presentation.add_part(part.info().clone()),
        Output::Segment(segment) => presentation.add(segment.info().clone()),
    }
}

fn presented(run: &Run, tracks: &[Track]) -> Presentation {
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(tracks);
    run.outputs.iter().for_each(|output| feed(&mut presentation, output));
    presentation
}

#[test]
fn a_playlist_as_players_read_it() {
    let tracks = [video("v")];
    let mut run = broadcast(4.0, 2, 2, &tracks);
    for segment in &mut run.segments {
        if segment.info().sequence == 1 {
            *segment = Segment::new(segment.info().clone(), None);
        }
    }
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    run.inits.iter().for_each(|init| presentation.add_init(init));
    run.segments.iter().for_each(|segment| presentation.add(segment.info().clone()));
    presentation.end();
    let init = &run.inits[0].name;
    let (a, b) = (&run.segments[0].info().session, &run.segments[2].info().session);
    assert_eq!(
        presentation.media_playlist(&rung("v")).unwrap(),
        format!(
            "#EXTM3U\n\
             #EXT-X-VERSION:8\n\
             #EXT-X-TARGETDURATION:1\n\
             #EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:0\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MAP:URI=\"{init}\"\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:00.000Z\n\
             #EXTINF:1.00000,\n\
             {a}-0.m4s\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:01.000Z\n\
             #EXT-X-GAP\n\
             #EXTINF:1.00000,\n\
             {a}-1.m4s\n\
             #EXT-X-DISCONTINUITY\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:02.000Z\n\
             #EXTINF:1.00000,\n\
             {b}-2.m4s\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:03.000Z\n\
             #EXTINF:1.00000,\n\
             {b}-3.m4s\n\
             #EXT-X-ENDLIST\n"
        )
    );
}

#[test]
fn hold_back_is_said_where_blocking_is_and_where_players_would_not_keep_it_unasked() {
    let tracks = [video("v")];
    for (latency, blocking, control) in [
        (4.0, false, ""),
        (8.0, false, "#EXT-X-SERVER-CONTROL:HOLD-BACK=5.520\n"),
        (2.0, true, "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,HOLD-BACK=3.000\n"),
        (8.0, true, "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,HOLD-BACK=7.170\n"),
    ] {
        let run = broadcast(latency, 1, 2, &tracks);
        let mut presentation =
            if blocking { Presentation::for_origin(&run.timing) } else { Presentation::new(&run.timing) };
        presentation.set_tracks(&tracks);
        run.outputs.iter().for_each(|output| feed(&mut presentation, output));
        let text = presentation.media_playlist(&rung("v")).unwrap();
        let (init, session) = (&run.inits[0].name, &run.segments[0].info().session);
        assert_eq!(
            text,
            format!(
                "#EXTM3U\n\
                 #EXT-X-VERSION:8\n\
                 #EXT-X-TARGETDURATION:1\n\
                 {control}\
                 #EXT-X-MEDIA-SEQUENCE:0\n\
                 #EXT-X-DISCONTINUITY-SEQUENCE:0\n\
                 #EXT-X-INDEPENDENT-SEGMENTS\n\
                 #EXT-X-MAP:URI=\"{init}\"\n\
                 #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:00.000Z\n\
                 #EXTINF:1.00000,\n\
                 {session}-0.m4s\n\
                 #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:01.000Z\n\
                 #EXTINF:1.00000,\n\
                 {session}-1.m4s\n"
            )
        );
    }
}

#[test]
fn the_edge_is_the_end_of_the_playlist() {
    let tracks = [video("v"), audio()];
    let run = broadcast(4.0, 2, 30, &tracks);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    for output in &run.outputs {
        feed(&mut presentation, output);
        for track in &tracks {
            let read = presentation.media_playlist(&track.rung).map(|text| parse(&text));
            let end = read.map(|read| read.media_sequence + read.uris.len() as u64);
            let edge = presentation.edge(&track.rung);
            assert_eq!(edge.map(|edge| edge.last_sequence + 1), end);
            assert!(edge.is_none_or(|edge| !edge.ended));
        }
    }
    presentation.end();
    assert!(presentation.edge(&rung("v")).unwrap().ended);
    assert_eq!(presentation.edge(&rung("none")), None);
}

#[test]
fn a_multivariant_playlist_as_players_read_it() {
    let tracks = [video("720p"), video("360p"), audio()];
    let run = broadcast(4.0, 1, 3, &tracks);
    let text = presented(&run, &tracks).multivariant().unwrap();
    let stream = "BANDWIDTH=896000,AVERAGE-BANDWIDTH=896000,CODECS=\"avc1.64001e,mp4a.40.2\",\
                  RESOLUTION=640x360,FRAME-RATE=30,AUDIO=\"audio\",CLOSED-CAPTIONS=NONE";
    assert_eq!(
        text,
        format!(
            "#EXTM3U\n\
             #EXT-X-VERSION:8\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio/index.m3u8\",GROUP-ID=\"audio\",NAME=\"Audio\",DEFAULT=YES,\
             AUTOSELECT=YES,CHANNELS=\"2\"\n\
             #EXT-X-STREAM-INF:{stream}\n720p/index.m3u8\n\
             #EXT-X-STREAM-INF:{stream}\n360p/index.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=96000,AVERAGE-BANDWIDTH=96000,CODECS=\"mp4a.40.2\",AUDIO=\"audio\",\
             CLOSED-CAPTIONS=NONE\n\
             audio/index.m3u8\n"
        )
    );
}

#[test]
fn variants_say_their_codecs_and_where_one_is_not_sdr_their_ranges() {
    let streams = |tracks: &[Track]| -> Vec<String> {
        let run = broadcast(4.0, 1, 3, tracks);
        let text = presented(&run, tracks).multivariant().unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("#EXT-X-STREAM-INF:"));
        lines.map(|line| line.split_once("CODECS=").unwrap().1.to_owned()).collect()
    };
    assert_eq!(
        streams(&[testing::hevc("source"), video("360p"), audio()]),
        [
            "\"hvc1.2.4.L60.90,mp4a.40.2\",RESOLUTION=320x180,FRAME-RATE=30,VIDEO-RANGE=PQ,AUDIO=\"audio\",CLOSED-CAPTIONS=NONE",
            "\"avc1.64001e,mp4a.40.2\",RESOLUTION=640x360,FRAME-RATE=30,VIDEO-RANGE=SDR,AUDIO=\"audio\",CLOSED-CAPTIONS=NONE",
            "\"mp4a.40.2\",AUDIO=\"audio\",CLOSED-CAPTIONS=NONE",
        ]
    );
    assert_eq!(
        streams(&[testing::av1("source"), video("360p"), audio()]),
        [
            "\"av01.0.00M.10.0.110.02.02.09.0,mp4a.40.2\",RESOLUTION=320x180,FRAME-RATE=30,AUDIO=\"audio\",CLOSED-CAPTIONS=NONE",
            "\"avc1.64001e,mp4a.40.2\",RESOLUTION=640x360,FRAME-RATE=30,AUDIO=\"audio\",CLOSED-CAPTIONS=NONE",
            "\"mp4a.40.2\",AUDIO=\"audio\",CLOSED-CAPTIONS=NONE",
        ]
    );
}

#[test]
fn every_sound_track_is_an_alternative_and_only_the_main_one_is_the_default() {
    let mono = |track: Track| {
        let crate::TrackKind::Audio(audio) = track.kind else { unreachable!() };
        let audio = crate::AudioTrack { channels: 1, nominal_bitrate: 64_000, ..audio };
        Track { kind: crate::TrackKind::Audio(audio), ..track }
    };
    // A second rendition in a language is for viewers to choose.
    let others = [
        audio_track(2, "Kommentar", Some("de")),
        mono(audio_track(5, "日本語", Some("ja"))),
        audio_track(6, "Stadion", Some("de")),
    ];
    for pictures in [true, false] {
        let mut tracks = if pictures { vec![video("360p")] } else { Vec::new() };
        tracks.push(audio());
        tracks.extend(others.clone());
        let run = broadcast(4.0, 1, 3, &tracks);
        let presentation = presented(&run, &tracks);
        let text = presentation.multivariant().unwrap();
        let media = "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio/index.m3u8\",GROUP-ID=\"audio\",NAME=\"Audio\",DEFAULT=YES,AUTOSELECT=YES,\
            CHANNELS=\"2\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio_2/index.m3u8\",GROUP-ID=\"audio\",LANGUAGE=\"de\",NAME=\"Kommentar\",\
            AUTOSELECT=YES,CHANNELS=\"2\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio_5/index.m3u8\",GROUP-ID=\"audio\",LANGUAGE=\"ja\",NAME=\"日本語\",\
            AUTOSELECT=YES,CHANNELS=\"1\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,URI=\"audio_6/index.m3u8\",GROUP-ID=\"audio\",LANGUAGE=\"de\",NAME=\"Stadion\",\
            CHANNELS=\"2\"\n";
        // The bandwidth counts the largest of the renditions, of which players play one.
        let with_pictures = "#EXT-X-STREAM-INF:BANDWIDTH=896000,AVERAGE-BANDWIDTH=896000,\
            CODECS=\"avc1.64001e,mp4a.40.2\",RESOLUTION=640x360,FRAME-RATE=30,AUDIO=\"audio\",\
            CLOSED-CAPTIONS=NONE\n360p/index.m3u8\n";
        let sound = "#EXT-X-STREAM-INF:BANDWIDTH=96000,AVERAGE-BANDWIDTH=96000,CODECS=\"mp4a.40.2\",AUDIO=\"audio\",\
            CLOSED-CAPTIONS=NONE\naudio/index.m3u8\n";
        assert_eq!(text, format!("{media}{}{sound}", if pictures { with_pictures } else { "" }));
        let sequences = |name: &str| -> Vec<u64> { run.of(name).iter().map(|s| s.info().sequence).collect() };
        for other in ["audio_2", "audio_5"] {
            assert_eq!(sequences(other), sequences("audio"), "{other}");
            assert_eq!(run.spans(other), run.spans("audio"), "{other}: cut at the same times");
            assert!(presentation.media_playlist(&rung(other)).is_some());
        }
    }
}

#[test]
fn audio_alone_is_a_variant() {
    let run = broadcast(4.0, 1, 3, &[audio()]);
    assert_eq!(
        presented(&run, &[audio()]).multivariant().unwrap(),
        "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-INDEPENDENT-SEGMENTS\n\
         #EXT-X-STREAM-INF:BANDWIDTH=96000,AVERAGE-BANDWIDTH=96000,CODECS=\"mp4a.40.2\",CLOSED-CAPTIONS=NONE\n\
         audio/index.m3u8\n"
    );
}

#[test]
fn captions_are_announced_for_every_variant_and_may_come_later() {
    let tracks = [video("720p"), video("360p"), audio()];
    let run = broadcast(4.0, 1, 3, &tracks);
    let mut presentation = presented(&run, &tracks);
    let before = presentation.multivariant().unwrap();
    let services = CaptionServices::named(["SERVICE1", "CC1", "CC3"]);
    let captioned = tracks.map(|mut track| {
        track.add_captions(services);
        track
    });
    presentation.set_tracks(&captioned);
    let after = presentation.multivariant().unwrap();
    let media = |name: &str, autoselect: &str| {
        format!(
            "#EXT-X-MEDIA:TYPE=CLOSED-CAPTIONS,GROUP-ID=\"captions\",NAME=\"{name}\"{autoselect},INSTREAM-ID=\"{name}\"\n"
        )
    };
    let group = [media("CC1", ",AUTOSELECT=YES"), media("CC3", ""), media("SERVICE1", "")].concat();
    let (head, variants) = before.split_once("#EXT-X-STREAM-INF").unwrap();
    let variants = format!("#EXT-X-STREAM-INF{variants}");
    let expected = head.to_owned() + &group + &variants.replace("CAPTIONS=NONE", "CAPTIONS=\"captions\"");
    assert_eq!(after, expected);
    assert_eq!((before.matches("CAPTIONS=NONE").count(), crate::resume::captions(&after)), (3, services));
    assert_eq!(crate::resume::renditions(&after), crate::resume::renditions(&before));
    assert!(crate::resume::captions(&before).is_empty() && crate::resume::captions("#EXTM3U").is_empty());
}

#[test]
fn nothing_is_published_before_every_rendition_can_be_played() {
    let tracks = [video("v"), audio()];
    let run = broadcast(4.0, 1, 3, &tracks);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    run.inits.iter().for_each(|init| presentation.add_init(init));
    assert_eq!(presentation.multivariant(), None);
    assert_eq!(presentation.media_playlist(&rung("v")), None);
    presentation.add(run.of("v")[0].info().clone());
    assert_eq!(presentation.multivariant(), None);
    presentation.add(run.of("audio")[0].info().clone());
    assert!(presentation.multivariant().is_some());
    assert_eq!(presentation.media_playlist(&rung("other")), None);
}

#[test]
fn a_rendition_of_gaps_alone_is_left_out() {
    let tracks = [video("v"), audio()];
    let run = broadcast(4.0, 1, 5, &tracks);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    run.inits.iter().for_each(|init| presentation.add_init(init));
    for segment in run.of("v") {
        presentation.add(segment.info().clone());
    }
    for segment in run.of("audio") {
        assert!(segment.info().sequence < 3 || presentation.multivariant().is_some());
        presentation.add(segment.info().clone().into_gap());
    }
    let text = presentation.multivariant().unwrap();
    assert!(text.contains("v/index.m3u8") && !text.contains("AUDIO"), "{text}");
}

/// What the presentation says of a caller that breaks its contract.
#[test]
fn a_segment_out_of_order_is_not_listed_and_one_without_its_init_is_a_gap() {
    let tracks = [video("v")];
    let run = broadcast(4.0, 2, 60, &tracks);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    let shown = |p: &Presentation| {
        let text = p.media_playlist(&rung("v")).unwrap_or_default();
        let listed = text.lines().filter(|line| line.ends_with(".m4s")).count();
        (listed, text.matches("#EXT-X-GAP").count())
    };
    let add = |p: &mut Presentation, index: usize| p.add(run.segments[index].info().clone());
    add(&mut presentation, 0);
    assert_eq!(shown(&presentation), (1, 1), "no init yet");
    presentation.add_init(&run.inits[0]);
    add(&mut presentation, 0);
    assert_eq!(shown(&presentation), (1, 1), "a gap stays a gap: players have seen it");
    add(&mut presentation, 1);
    add(&mut presentation, 3);
    assert_eq!(shown(&presentation), (2, 1), "2 is missing");
    add(&mut presentation, 2);
    assert_eq!(shown(&presentation), (3, 1));
    (60..120).for_each(|index| add(&mut presentation, index));
    assert_eq!(shown(&presentation), (30, 0), "the list began anew at the discontinuity");
    let mut expired: Vec<_> = presentation.take_expired().into_iter().map(|expired| expired.name).collect();
    expired.retain(|name| run.segments[..4].iter().any(|segment| segment.info().name == *name));
    assert_eq!(expired.len(), 4, "{expired:?}");
}

#[test]
fn bandwidth_follows_the_peak_and_never_shrinks() {
    let tracks = [video("v")];
    let run = broadcast(4.0, 1, 20, &tracks);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    presentation.add_init(&run.inits[0]);
    let mut seen = Vec::new();
    for segment in &run.segments {
        let bytes = if segment.info().sequence == 3 { 250_000 } else { 50_000 };
        presentation.add(SegmentInfo { bytes: Some(bytes), ..segment.info().clone() });
        let text = presentation.multivariant().unwrap();
        let value = text.split("BANDWIDTH=").nth(1).unwrap().split(',').next().unwrap();
        seen.push(value.parse::<u64>().unwrap());
    }
    assert_eq!(seen[..4], [800_000, 800_000, 800_000, 2_000_000]);
    assert!(seen[4..].iter().all(|&b| b == 2_000_000));
}

#[test]
fn the_window_is_full_and_the_same_everywhere() {
    let tracks = [video("v"), audio()];
    let run = broadcast(4.0, 1, 120, &tracks);
    let presentation = presented(&run, &tracks);
    for name in ["v", "audio"] {
        let playlist = parse(&presentation.media_playlist(&rung(name)).unwrap());
        // 31 segments: the last audio segment is a few milliseconds shorter than a second.
        assert_eq!((playlist.media_sequence, playlist.uris.len()), (89, 31), "{name}");
        assert!(playlist.total >= 30.0);
    }
}

#[test]
fn a_rendition_that_stays_behind_holds_the_window_only_so_long() {
    let tracks = [video("v"), audio()];
    let run = broadcast(4.0, 1, 200, &tracks);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    run.inits.iter().for_each(|init| presentation.add_init(init));
    run.of("audio")[..3].iter().for_each(|segment| presentation.add(segment.info().clone()));
    run.of("v").into_iter().for_each(|segment| presentation.add(segment.info().clone()));
    let playlist = parse(&presentation.media_playlist(&rung("v")).unwrap());
    assert!(playlist.total <= 3.0 * run.timing.window.as_secs_f64() + 1.1, "{}", playlist.total);
    assert_eq!(presentation.media_playlist(&RungName::audio()), None);
    // When audio resumes, its playlist has the same media sequence as video.
    run.of("audio").into_iter().skip(3).for_each(|segment| presentation.add(segment.info().clone()));
    let audio = parse(&presentation.media_playlist(&RungName::audio()).unwrap());
    let video = parse(&presentation.media_playlist(&rung("v")).unwrap());
    assert_eq!(audio.media_sequence, video.media_sequence);
}

#[test]
fn removed_objects_expire_after_their_retention_and_inits_after_them() {
    let tracks = [video("v")];
    let mut other = video("v");
    if let crate::TrackKind::Video(video) = &mut other.kind {
        video.width = 320;
    }
    let mut run = broadcast(4.0, 1, 20, &tracks);
    let start = START_MS + 20_000;
    run.begin(epoch(1, start, &[other], CutRule::Grid));
    run.push_all(&[("v", frames(start, FPS, 30, 150 * 30, false))]);
    run.end(None);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&tracks);
    let mut expired = Vec::new();
    let mut removed_at = BTreeMap::new();
    for output in &run.outputs {
        feed(&mut presentation, output);
        let Output::Segment(segment) = output else { continue };
        let first = presentation.media_playlist(&rung("v")).map(|text| parse(&text).media_sequence).unwrap();
        removed_at.entry(first).or_insert(segment.info().sequence);
        for over in presentation.take_expired() {
            expired.push(over.name.clone());
            let Some((_, number)) = over.name.trim_end_matches(".m4s").rsplit_once('-') else { panic!() };
            if let Ok(number) = number.parse::<u64>() {
                let waited = segment.info().sequence - removed_at[&(number + 1)];
                assert!(waited >= 31, "a segment of a 30 s playlist is readable for 31 s: {waited}");
                assert!(waited <= 34, "and not for ever: {waited}");
            }
        }
    }
    assert!(expired.contains(&run.inits[0].name), "the first epoch's init is over");
    assert!(!expired.contains(&run.inits[1].name));
    let unique: BTreeSet<_> = expired.iter().collect();
    assert_eq!(unique.len(), expired.len());
    // `take_all` returns all other objects.
    let all = expired.len() + presentation.take_all().len();
    assert_eq!(all, run.segments.len() + run.inits.len());
}

/// A store may acknowledge a later epoch's init segment before an earlier epoch's.
#[test]
fn an_init_segment_that_comes_early_stays_for_its_epoch() {
    let mut other = video("v");
    if let crate::TrackKind::Video(video) = &mut other.kind {
        video.width = 320;
    }
    let mut run = broadcast(4.0, 1, 4, &[video("v")]);
    let start = START_MS + 4_000;
    run.begin(epoch(1, start, &[other], CutRule::Grid));
    run.push_all(&[("v", frames(start, FPS, 30, 120, false))]);
    run.end(None);
    let mut presentation = Presentation::new(&run.timing);
    presentation.set_tracks(&[video("v")]);
    run.inits.iter().rev().for_each(|init| presentation.add_init(init));
    run.segments.iter().for_each(|segment| presentation.add(segment.info().clone()));
    let text = presentation.media_playlist(&rung("v")).unwrap();
    assert_eq!((parse(&text).uris.len(), text.matches("EXT-X-GAP").count()), (8, 0), "{text}");
    assert_eq!(presentation.take_expired(), []);
}

#[test]
fn a_rung_that_goes_has_no_playlist_and_one_that_comes_starts_in_step() {
    let before = [video("720p"), video("360p")];
    let after = [video("360p"), video("180p")];
    let mut run = broadcast(4.0, 1, 4, &before);
    let mut presentation = presented(&run, &before);
    let outputs = run.outputs.len();
    let start = START_MS + 4_000;
    run.begin(epoch(1, start, &after, CutRule::Grid));
    let media = frames(start, FPS, 30, 120, false);
    run.push_all(&[("360p", media.clone()), ("180p", media)]);
    run.end(None);
    presentation.set_tracks(&after);
    let old = presentation.multivariant().unwrap();
    assert!(old.contains("720p") && !old.contains("180p"), "until the new rung can be played");
    run.outputs[outputs..].iter().for_each(|output| feed(&mut presentation, output));
    let new = presentation.multivariant().unwrap();
    assert!(!new.contains("720p") && new.contains("180p"));
    assert_eq!(presentation.media_playlist(&rung("720p")), None);
    let kept = parse(&presentation.media_playlist(&rung("360p")).unwrap());
    let fresh = parse(&presentation.media_playlist(&rung("180p")).unwrap());
    assert_eq!((kept.media_sequence, kept.discontinuity_sequence), (0, 0));
    assert_eq!((fresh.media_sequence, fresh.discontinuity_sequence), (4, 0));
    assert_eq!(
        kept.discontinuities[&4], fresh.discontinuities[&4],
        "segments agree on their discontinuity number"
    );
}

#[test]
fn a_rung_that_comes_back_begins_a_new_list() {
    let both = [video("a"), video("b")];
    let one = [video("a")];
    let mut run = Run::new(4.0);
    let mut presentation = Presentation::new(&run.timing);
    let mut fed = 0;
    for (number, tracks) in [&both[..], &one[..], &both[..]].into_iter().enumerate() {
        let start = START_MS + number as i64 * 4_000;
        run.begin(epoch(number as u32, start, tracks, CutRule::Grid));
        let media: Vec<_> =
            tracks.iter().map(|t| (t.rung.as_str(), frames(start, FPS, 30, 120, false))).collect();
        run.push_all(&media);
        run.end(None);
        presentation.set_tracks(tracks);
        run.outputs[fed..].iter().for_each(|output| feed(&mut presentation, output));
        fed = run.outputs.len();
    }
    let a = parse(&presentation.media_playlist(&rung("a")).unwrap());
    let b = parse(&presentation.media_playlist(&rung("b")).unwrap());
    assert_eq!((b.media_sequence, b.uris.len()), (8, 4));
    assert_eq!(a.discontinuities[&8], b.discontinuities[&8]);
}

#[test]
fn numbering_continues_an_earlier_presentation() {
    let tracks = [video("v")];
    let run = broadcast(4.0, 2, 2, &tracks);
    let earlier = presented(&run, &tracks);
    assert_eq!(earlier.discontinuities(), 1);
    let mut next = Run::new(4.0);
    next.packager = crate::Packager::new(timing(4.0), run.packager.next_sequence());
    next.begin(epoch(7, START_MS, &tracks, CutRule::Grid));
    next.push_all(&[("v", frames(START_MS, FPS, 30, 60, false))]);
    next.end(None);
    let mut presentation =
        Presentation::new(&next.timing).with_past_discontinuities(earlier.discontinuities());
    presentation.set_tracks(&tracks);
    next.outputs.iter().for_each(|output| feed(&mut presentation, output));
    let playlist = parse(&presentation.media_playlist(&rung("v")).unwrap());
    assert_eq!((playlist.media_sequence, playlist.discontinuity_sequence), (4, 1));
    assert_eq!(playlist.discontinuities[&4], 2);
}

/// A presentation of what a store acknowledges, in any order, with the ledger that gives it the segments in order.
struct Acknowledged {
    ledger: Ledger,
    presentation: Presentation,
}

impl Acknowledged {
    fn new(timing: &Timing) -> Self {
        Self { ledger: Ledger::default(), presentation: Presentation::new(timing) }
    }

    /// An output of the packager, whose upload begins.
    fn enter(&mut self, output: &Output) {
        if let Output::Segment(segment) = output {
            self.ledger.enter(segment.info().clone(), Duration::MAX);
        }
    }

    /// The outcome of an upload.
    fn acknowledge(&mut self, output: &Output, stored: bool) {
        match output {
            Output::Init(init) => {
                self.presentation.add_init(init);
                self.ledger.init_readable(init);
            }
            Output::Part(_) => {}
            Output::Segment(segment) => {
                let SegmentInfo { rung, sequence, .. } = segment.info();
                assert!(if stored {
                    self.ledger.readable(rung, *sequence)
                } else {
                    self.ledger.never(rung, *sequence)
                });
            }
        }
        while let Some(segment) = self.ledger.next_live() {
            self.presentation.add(segment);
        }
    }
}

#[test]
fn a_late_segment_of_before_a_rung_went_holds_nothing_and_expires() {
    let both = [video("a"), video("b")];
    let one = [video("a")];
    let mut run = Run::new(4.0);
    let mut store = Acknowledged::new(&run.timing);
    let mut late = None;
    for (number, (tracks, seconds)) in
        [(&both[..], 4), (&one[..], 4), (&both[..], 90)].into_iter().enumerate()
    {
        let start = START_MS + number as i64 * 4_000;
        let fed = run.outputs.len();
        run.begin(epoch(number as u32, start, tracks, CutRule::Grid));
        let media: Vec<_> =
            tracks.iter().map(|t| (t.rung.as_str(), frames(start, FPS, 30, seconds * 30, false))).collect();
        run.push_all(&media);
        run.end(None);
        store.presentation.set_tracks(tracks);
        run.outputs[fed..].iter().for_each(|output| store.enter(output));
        for output in &run.outputs[fed..] {
            match output {
                Output::Segment(s) if s.info().rung == rung("b") && s.info().sequence == 3 => {
                    late = Some(output.clone());
                }
                Output::Segment(s) if s.info().rung == rung("b") && s.info().sequence == 9 => {
                    store.acknowledge(&late.take().unwrap(), true);
                    store.acknowledge(output, true);
                }
                output => store.acknowledge(output, true),
            }
        }
    }
    let mut presentation = store.presentation;
    let (a, b) = (rung("a"), rung("b"));
    let playlist = |rung: &RungName| parse(&presentation.media_playlist(rung).unwrap());
    assert_eq!(playlist(&a).media_sequence, playlist(&b).media_sequence);
    assert_eq!(playlist(&a).uris.len(), playlist(&b).uris.len());
    let name = run.of("b")[3].info().name.clone();
    assert!(presentation.take_expired().contains(&Expired { rung: b, name }));
}

/// The state that players keep between reloads, read with m3u8-rs where m3u8-rs supports it.
struct Read {
    media_sequence: u64,
    discontinuity_sequence: u64,
    uris: Vec<String>,
    total: f64,
    /// Discontinuity sequence number of each media sequence number.
    discontinuities: BTreeMap<u64, u64>,
    target_duration: u64,
    server_control: String,
    date_times: Vec<String>,
}

fn parse(text: &str) -> Read {
    let (_, playlist) = m3u8_rs::parse_media_playlist(text.as_bytes()).unwrap();
    assert_eq!(playlist.version, Some(8));
    assert!(playlist.independent_segments);
    assert!(text.contains("#EXT-X-DISCONTINUITY-SEQUENCE:"), "Apple 8.17");
    let lines =
        |prefix: &str| text.lines().filter(|l| l.starts_with(prefix)).map(str::to_owned).collect::<Vec<_>>();
    let mut number = playlist.discontinuity_sequence;
    let mut discontinuities = BTreeMap::new();
    for (i, segment) in playlist.segments.iter().enumerate() {
        number += u64::from(segment.discontinuity);
        discontinuities.insert(playlist.media_sequence + i as u64, number);
        assert!(segment.duration.round() as u64 <= playlist.target_duration);
    }
    let mut date_times = lines("#EXT-X-PROGRAM-DATE-TIME:");
    // One more PROGRAM-DATE-TIME stands before the parts of the open segment.
    let open = text.lines().rev().take_while(|l| l.starts_with('#')).any(|l| l.starts_with("#EXT-X-PART:"));
    assert_eq!(date_times.len(), playlist.segments.len() + usize::from(open));
    date_times.truncate(playlist.segments.len());
    Read {
        media_sequence: playlist.media_sequence,
        discontinuity_sequence: playlist.discontinuity_sequence,
        uris: playlist.segments.iter().map(|s| s.uri.clone()).collect(),
        total: playlist.segments.iter().map(|s| f64::from(s.duration)).sum(),
        discontinuities,
        target_duration: playlist.target_duration,
        server_control: lines("#EXT-X-SERVER-CONTROL:").concat(),
        date_times,
    }
}

/// Reloads after every step and compares each playlist with all earlier ones and with the other renditions' playlists.
#[derive(Default)]
struct Player {
    uris: BTreeMap<(RungName, u64), String>,
    discontinuities: BTreeMap<u64, u64>,
    last: BTreeMap<RungName, (u64, u64, u64)>,
    constants: Option<(u64, String)>,
}

impl Player {
    fn reload(&mut self, presentation: &Presentation, rung: &RungName) {
        let Some(text) = presentation.media_playlist(rung) else { return };
        let read = parse(&text);
        let constants = (read.target_duration, read.server_control);
        assert_eq!(*self.constants.get_or_insert(constants.clone()), constants, "never change");
        let end = read.media_sequence + read.uris.len() as u64;
        let (msn, dsn, last_end) = self.last.get(rung).copied().unwrap_or_default();
        assert!(read.media_sequence >= msn && read.discontinuity_sequence >= dsn && end >= last_end);
        self.last.insert(rung.clone(), (read.media_sequence, read.discontinuity_sequence, end));
        for (i, uri) in read.uris.into_iter().enumerate() {
            let msn = read.media_sequence + i as u64;
            assert_eq!(
                *self.uris.entry((rung.clone(), msn)).or_insert(uri.clone()),
                uri,
                "same MSN, same URI"
            );
        }
        for (msn, number) in read.discontinuities {
            assert_eq!(*self.discontinuities.entry(msn).or_insert(number), number, "of {msn} in {rung}");
        }
        assert!(read.date_times.is_sorted());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn reloads_never_contradict_each_other(
        latency in prop_oneof![Just(2.0), Just(4.0), Just(10.5), Just(15.0)],
        with_parts in any::<bool>(),
        epochs in 1usize..6,
        seconds in 3i64..60,
        shuffle in prop::collection::vec(0usize..12, 40),
        gaps in prop::collection::vec(any::<bool>(), 7),
    ) {
        let tracks = [video("a"), video("b"), audio()];
        let run = if with_parts { Run::with_parts(latency) } else { Run::new(latency) };
        let run = broadcast_on(run, epochs, seconds, &tracks);
        let mut store = Acknowledged::new(&run.timing);
        if with_parts {
            store.presentation = Presentation::for_origin(&run.timing);
        }
        store.presentation.set_tracks(&tracks);
        let mut player = Player::default();
        let mut objects = BTreeSet::new();
        // Uploads are acknowledged out of order, up to twelve objects apart.
        let acknowledged = |i: usize| i + if with_parts { 0 } else { shuffle[i % shuffle.len()] };
        let mut order: Vec<(usize, bool, &Output)> = run
            .outputs
            .iter()
            .enumerate()
            .flat_map(|(i, output)| [(i, false, output), (acknowledged(i), true, output)])
            .collect();
        order.sort_by_key(|(at, is_acknowledged, _)| (*at, *is_acknowledged));
        for (i, (_, is_acknowledged, output)) in order.into_iter().enumerate() {
            match output {
                output if !is_acknowledged => store.enter(output),
                Output::Part(part) => store.presentation.add_part(part.info().clone()),
                output => store.acknowledge(output, !(gaps[i % 7] && i % 3 == 0)),
            }
            let presentation = &mut store.presentation;
            tracks.iter().for_each(|track| player.reload(presentation, &track.rung));
            for expired in presentation.take_expired() {
                for track in &tracks {
                    let text = presentation.media_playlist(&track.rung).unwrap_or_default();
                    let listed = track.rung == expired.rung && text.contains(&expired.name);
                    prop_assert!(!listed, "{expired:?} is still listed");
                }
                prop_assert!(objects.insert(expired));
            }
        }
        prop_assert!(store.ledger.is_listed());
        let mut presentation = store.presentation;
        presentation.end();
        for track in &tracks {
            prop_assert!(presentation.media_playlist(&track.rung).unwrap().ends_with("#EXT-X-ENDLIST\n"));
        }
    }
}

/// All versions of a playlist with parts. A segment and its last part appear in the same version.
fn versions(run: &Run, tracks: &[Track], name: &str) -> Vec<String> {
    let mut presentation = Presentation::for_origin(&run.timing);
    presentation.set_tracks(tracks);
    let mut versions = Vec::new();
    for (i, output) in run.outputs.iter().enumerate() {
        feed(&mut presentation, output);
        let segment_follows = matches!(
            (output, run.outputs.get(i + 1)),
            (Output::Part(part), Some(Output::Segment(next))) if part.info().rung == next.info().rung
        );
        versions.extend(presentation.media_playlist(&rung(name)).filter(|_| !segment_follows));
    }
    versions.dedup();
    versions
}

#[test]
fn a_low_latency_playlist_as_players_read_it() {
    let tracks = [video("v"), audio()];
    let mut run = Run::with_parts(2.0);
    run.begin(epoch(0, START_MS, &tracks, CutRule::Grid));
    run.push_all(&[("v", frames(START_MS, FPS, 30, 52, false)), ("audio", sound(START_MS, 48_000, 81))]);
    let playlist = versions(&run, &tracks, "v").pop().unwrap();
    let (init, session) = (run.inits[0].name.clone(), run.segments[0].info().session.clone());
    assert_eq!(
        playlist,
        format!(
            "#EXTM3U\n\
             #EXT-X-VERSION:8\n\
             #EXT-X-TARGETDURATION:1\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.290,HOLD-BACK=3.000\n\
             #EXT-X-PART-INF:PART-TARGET=0.37500\n\
             #EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:0\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MAP:URI=\"{init}\"\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:00.000Z\n\
             #EXT-X-PART:DURATION=0.33333,URI=\"{session}-0.0.m4s\",INDEPENDENT=YES\n\
             #EXT-X-PART:DURATION=0.33333,URI=\"{session}-0.1.m4s\"\n\
             #EXT-X-PART:DURATION=0.33333,URI=\"{session}-0.2.m4s\"\n\
             #EXTINF:1.00000,\n\
             {session}-0.m4s\n\
             #EXT-X-PROGRAM-DATE-TIME:2026-11-22T12:00:01.000Z\n\
             #EXT-X-PART:DURATION=0.33333,URI=\"{session}-1.0.m4s\",INDEPENDENT=YES\n\
             #EXT-X-PART:DURATION=0.33333,URI=\"{session}-1.1.m4s\"\n\
             #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{session}-1.2.m4s\"\n\
             #EXT-X-RENDITION-REPORT:URI=\"../audio/index.m3u8\",LAST-MSN=1,LAST-PART=1\n"
        )
    );
    run.end(None);
    let last = versions(&run, &tracks, "v").pop().unwrap();
    assert!(last.contains(&format!("{session}-2.0.m4s\"\n#EXT-X-RENDITION-REPORT")), "{last}");
}

#[test]
fn parts_are_listed_for_two_segments_and_readable_for_three_target_durations_more() {
    let tracks = [video("v")];
    let run = broadcast_on(Run::with_parts(3.0), 1, 12, &tracks);
    let mut presentation = Presentation::for_origin(&run.timing);
    presentation.set_tracks(&tracks);
    let (mut newest, mut expired) = (0, BTreeSet::new());
    for output in &run.outputs {
        feed(&mut presentation, output);
        expired.extend(presentation.take_expired().into_iter().map(|expired| expired.name));
        let Output::Segment(segment) = output else { continue };
        newest = segment.info().sequence;
        let text = presentation.media_playlist(&rung("v")).unwrap();
        for part in &run.parts {
            let age = newest as i64 - part.info().sequence as i64;
            if (0..5).contains(&age) {
                assert!(!expired.contains(&part.info().name), "{} at {newest}", part.info().name);
            }
            if age >= 8 {
                assert!(expired.contains(&part.info().name), "{} at {newest}", part.info().name);
            }
            if age >= 0 {
                assert_eq!(text.contains(&part.info().name), age <= 1, "{} at {newest}", part.info().name);
            }
        }
    }
    assert_eq!(newest, 11);
}

#[test]
fn a_hint_comes_true_where_the_grid_holds() {
    let tracks = [video("v"), audio()];
    let run = broadcast_on(Run::with_parts(3.0), 1, 9, &tracks);
    for name in ["v", "audio"] {
        let mut hints: Vec<String> = Vec::new();
        for text in versions(&run, &tracks, name) {
            let hint = text.lines().find_map(|line| line.strip_prefix("#EXT-X-PRELOAD-HINT:TYPE=PART,URI="));
            hints.push(hint.unwrap().trim_matches('"').to_owned());
        }
        hints.dedup();
        let made: Vec<&str> = run
            .parts
            .iter()
            .filter(|p| p.info().rung.as_str() == name)
            .map(|p| p.info().name.as_str())
            .collect();
        // The first segment's parts are listed together with the segment; the last hint names a part that is never
        // made.
        assert!(hints.len() >= 14, "{hints:?}");
        assert_eq!(hints[..hints.len() - 1], made[2..made.len()], "{name}");
    }
}

#[test]
fn the_edge_counts_parts() {
    let tracks = [video("v")];
    let run = broadcast_on(Run::with_parts(3.0), 1, 3, &tracks);
    let mut presentation = Presentation::for_origin(&run.timing);
    presentation.set_tracks(&tracks);
    let mut edges = Vec::new();
    for output in &run.outputs {
        feed(&mut presentation, output);
        edges.extend(presentation.edge(&rung("v")));
    }
    edges.dedup();
    let edge =
        |last_sequence, last_parts, open_parts| Edge { last_sequence, last_parts, open_parts, ended: false };
    assert_eq!(
        edges,
        [
            edge(0, 2, 0),
            edge(0, 2, 1),
            edge(0, 2, 2),
            edge(1, 2, 0),
            edge(1, 2, 1),
            edge(1, 2, 2),
            edge(2, 2, 0)
        ]
    );
}
