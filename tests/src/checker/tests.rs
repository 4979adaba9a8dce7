//! Tests of the checker itself, with correct streams and with streams that have one error each.

use super::*;
use crate::checker::watch::report;
use chrono::TimeDelta;
use std::io::Write as _;

const MULTIVARIANT: &str = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\
    #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"main\",CHANNELS=\"2\",DEFAULT=YES,URI=\"audio/index.m3u8\"\n\
    #EXT-X-STREAM-INF:BANDWIDTH=3000000,AVERAGE-BANDWIDTH=2500000,CODECS=\"avc1.64001f,mp4a.40.2\",\
    RESOLUTION=1280x720,FRAME-RATE=30.000,AUDIO=\"audio\",CLOSED-CAPTIONS=NONE\n720p/index.m3u8\n";
const VIDEO: &str = "720p/index.m3u8";
const AUDIO: &str = "audio/index.m3u8";

fn start() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().with_timezone(&Utc)
}

fn answer(text: &str, content_type: &str) -> Response {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let headers = [
        ("content-type", content_type),
        ("content-encoding", "gzip"),
        ("cache-control", "no-store"),
        ("access-control-allow-origin", "*"),
    ];
    Response {
        status: 200,
        headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
        body: gzip.finish().unwrap().into(),
        took: Duration::ZERO,
    }
}

/// A media playlist with the segments `first..end`: 2 s each, six in the window, a discontinuity at segment 8.
fn window(first: u64, end: u64) -> String {
    let dsn = u64::from(first > 8);
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-DISCONTINUITY-SEQUENCE:{dsn}\n#EXT-X-INDEPENDENT-SEGMENTS\n"
    );
    for n in first..end {
        let session = if n < 8 { "a" } else { "b" };
        if n == 8 {
            text += "#EXT-X-DISCONTINUITY\n";
        }
        if n == 8 || n == first {
            text += &format!("#EXT-X-MAP:URI=\"{session}-init.mp4\"\n");
        }
        let time =
            (start() + TimeDelta::seconds(2 * n as i64)).to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        text += &format!("#EXT-X-PROGRAM-DATE-TIME:{time}\n#EXTINF:2.00000,\n{session}-{n}.m4s\n");
    }
    text
}

/// A correct playlist with parts: segment 7 of 1 s complete, two parts of segment 8.
const DIVIDED: &str = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:1\n\
    #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.2,HOLD-BACK=3.0\n#EXT-X-PART-INF:PART-TARGET=0.4\n\
    #EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-DISCONTINUITY-SEQUENCE:0\n#EXT-X-INDEPENDENT-SEGMENTS\n\
    #EXT-X-MAP:URI=\"a-init.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00.000Z\n\
    #EXT-X-PART:DURATION=0.36,URI=\"a-7.0.m4s\",INDEPENDENT=YES\n#EXT-X-PART:DURATION=0.36,URI=\"a-7.1.m4s\"\n\
    #EXT-X-PART:DURATION=0.28,URI=\"a-7.2.m4s\"\n#EXTINF:1.00000,\na-7.m4s\n\
    #EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:01.000Z\n\
    #EXT-X-PART:DURATION=0.36,URI=\"a-8.0.m4s\",INDEPENDENT=YES\n#EXT-X-PART:DURATION=0.36,URI=\"a-8.1.m4s\"\n\
    #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"a-8.2.m4s\"\n\
    #EXT-X-RENDITION-REPORT:URI=\"../audio/index.m3u8\",LAST-MSN=8,LAST-PART=1\n";

#[test]
fn parts_with_one_thing_wrong() {
    let judge = |texts: &[&str]| -> BTreeSet<Rule> {
        let mut checker = Checker::new(Settings::default());
        let wall = start() + TimeDelta::seconds(60);
        let list = answer(MULTIVARIANT, "application/vnd.apple.mpegurl");
        checker.multivariant("multivariant", Fetched { at: Duration::ZERO, wall, response: &list });
        for text in texts {
            let list = answer(text, "application/vnd.apple.mpegurl");
            checker.media(VIDEO, Fetched { at: Duration::ZERO, wall, response: &list });
        }
        checker.violations().iter().map(|v| v.rule).collect()
    };
    let next = DIVIDED.replace(
        "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"a-8.2.m4s\"\n",
        "#EXT-X-PART:DURATION=0.28,URI=\"a-8.2.m4s\"\n#EXTINF:1.0,\na-8.m4s\n\
         #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"a-9.0.m4s\"\n",
    );
    assert_eq!(judge(&[DIVIDED, &next]), BTreeSet::new());
    let cases = [
        ("PART-HOLD-BACK=1.2", "PART-HOLD-BACK=1.1", Rule::HoldBack),
        (",HOLD-BACK=3.0", ",HOLD-BACK=2.9", Rule::HoldBack),
        ("DURATION=0.36,URI=\"a-8.1.m4s\"", "DURATION=0.41,URI=\"a-8.1.m4s\"", Rule::PartDuration),
        ("DURATION=0.36,URI=\"a-8.0.m4s\"", "DURATION=0.3,URI=\"a-8.0.m4s\"", Rule::PartDuration),
        ("DURATION=0.28", "DURATION=0.30", Rule::PartsOfSegment),
        ("#EXT-X-PART-INF:PART-TARGET=0.4\n", "", Rule::PartTarget),
        ("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"a-8.2.m4s\"\n", "", Rule::PreloadHint),
        ("a-7.0.m4s\",INDEPENDENT=YES", "a-7.0.m4s\"", Rule::NotIndependent),
        (
            "#EXT-X-RENDITION-REPORT:URI=\"../audio/index.m3u8\",LAST-MSN=8,LAST-PART=1\n",
            "",
            Rule::RenditionReport,
        ),
        ("LAST-MSN=8,LAST-PART=1", "LAST-MSN=3,LAST-PART=1", Rule::RenditionReport),
    ];
    for (what, instead, rule) in cases {
        assert!(DIVIDED.contains(what), "{what}");
        assert_eq!(judge(&[&DIVIDED.replace(what, instead)]), BTreeSet::from([rule]), "{what} -> {instead}");
    }
    let renamed = next.replace("a-7.1.m4s", "b-7.1.m4s");
    assert_eq!(judge(&[DIVIDED, &renamed]), BTreeSet::from([Rule::PartChanged]));
    let other = next.replace("URI=\"a-8.2.m4s\"", "URI=\"a-8.9.m4s\"");
    assert_eq!(judge(&[DIVIDED, &other]), BTreeSet::from([Rule::HintBroken]));
    assert_eq!(
        judge(&[DIVIDED, &next.replace("TARGET=0.4", "TARGET=0.39")]),
        BTreeSet::from([Rule::PartTarget])
    );
}

/// Rules broken by a stream of `segments` segments that the checker sees after each one; `spoil` may change the
/// responses.
fn rules_broken(segments: u64, spoil: impl Fn(u64, &str, &mut Response)) -> BTreeSet<Rule> {
    rules_with(segments, 2.0, spoil)
}

fn rules_with(segments: u64, pace: f64, spoil: impl Fn(u64, &str, &mut Response)) -> BTreeSet<Rule> {
    let mut checker = Checker::new(Settings::default());
    for end in 3..=segments {
        let at = Duration::from_secs_f64(end as f64 * pace);
        let wall = start() + TimeDelta::from_std(at).unwrap();
        let mut list = answer(MULTIVARIANT, "application/vnd.apple.mpegurl");
        spoil(end, "multivariant", &mut list);
        checker.multivariant("multivariant", Fetched { at, wall, response: &list });
        for rendition in [VIDEO, AUDIO] {
            let mut list = answer(&window(end.saturating_sub(6), end), "application/vnd.apple.mpegurl");
            spoil(end, rendition, &mut list);
            checker.media(rendition, Fetched { at, wall, response: &list });
        }
    }
    eprintln!("{}", report(checker.violations()));
    checker.violations().iter().map(|v| v.rule).collect()
}

/// Rewrites the text of one rendition from segment 7 on.
fn rewritten(place: &'static str, rewrite: impl Fn(String) -> String) -> BTreeSet<Rule> {
    rules_broken(18, move |end, at, response| {
        if end >= 7 && at == place {
            let text = rewrite(response.text().unwrap());
            let mut changed = answer(&text, "application/vnd.apple.mpegurl");
            changed.headers = response.headers.clone();
            *response = changed;
        }
    })
}

#[test]
fn a_good_stream_breaks_no_rule() {
    assert_eq!(rules_broken(30, |_, _, _| {}), BTreeSet::new());
}

#[test]
fn every_rule_of_single_playlists_is_noticed() {
    let cases: [(&str, &str, Rule); 9] = [
        ("#EXT-X-TARGETDURATION:2\n", "", Rule::TargetDuration),
        ("#EXT-X-TARGETDURATION:2", "#EXT-X-TARGETDURATION:0", Rule::TargetDuration),
        ("#EXTINF:2.00000", "#EXTINF:2.50000", Rule::SegmentTooLong),
        ("#EXT-X-VERSION:7", "#EXT-X-VERSION:3", Rule::Version),
        ("#EXT-X-MEDIA-SEQUENCE", "#EXT-X-NOTHING", Rule::MediaSequenceMissing),
        ("#EXT-X-DISCONTINUITY-SEQUENCE", "#EXT-X-NOTHING", Rule::DiscontinuitySequenceMissing),
        ("#EXT-X-INDEPENDENT-SEGMENTS", "#EXT-X-PLAYLIST-TYPE:EVENT", Rule::PlaylistType),
        ("#EXT-X-MAP", "#EXT-X-NOTHING", Rule::MapMissing),
        ("#EXT-X-PROGRAM-DATE-TIME", "#EXT-X-NOTHING", Rule::DateTimeMissing),
    ];
    for (good, bad, rule) in cases {
        let broken = rewritten(VIDEO, |text| text.replace(good, bad));
        assert!(broken.contains(&rule), "{good} -> {bad}: {broken:?} lacks {rule:?}");
    }
    assert!(rewritten(VIDEO, |t| format!("\u{feff}{t}")).contains(&Rule::Syntax));
    assert!(rewritten(VIDEO, |t| t.replace("#EXT-X-DISCONTINUITY\n", "")).contains(&Rule::MapChanged));
}

#[test]
fn every_rule_between_reloads_is_noticed() {
    let cases: [(&str, &str, Rule); 5] = [
        ("#EXT-X-TARGETDURATION:2", "#EXT-X-TARGETDURATION:3", Rule::TargetDuration),
        ("a-5.m4s", "z-5.m4s", Rule::SegmentChanged),
        ("a-7.m4s", "a-6.m4s", Rule::NameReused),
        ("#EXT-X-DISCONTINUITY-SEQUENCE:1", "#EXT-X-DISCONTINUITY-SEQUENCE:0", Rule::DiscontinuitySequence),
        ("#EXT-X-INDEPENDENT-SEGMENTS", "#EXT-X-SERVER-CONTROL:HOLD-BACK=6.0", Rule::ServerControl),
    ];
    for (good, bad, rule) in cases {
        let broken = rewritten(VIDEO, |text| text.replace(good, bad));
        assert!(broken.contains(&rule), "{good} -> {bad}: {broken:?} lacks {rule:?}");
    }
}

#[test]
fn windows_that_move_wrongly_are_noticed() {
    let moved = |first: fn(u64) -> u64, last: fn(u64) -> u64| {
        rules_broken(24, move |end, place, response| {
            if place == VIDEO && end >= 16 {
                *response = answer(&window(first(end), last(end)), "application/vnd.apple.mpegurl");
            }
        })
    };
    assert!(moved(|_| 2, |_| 8).contains(&Rule::MediaSequenceBackwards));
    assert!(moved(|end| end + 10, |end| end + 16).contains(&Rule::MediaSequenceHole));
    assert!(moved(|end| end - 2, |end| end).contains(&Rule::WindowTooShort));
}

#[test]
fn late_updates_are_noticed_unless_an_outage_is_expected() {
    assert!(rules_with(10, 3.9, |_, _, _| {}).contains(&Rule::LateUpdate));
    assert!(!rules_with(10, 3.0, |_, _, _| {}).contains(&Rule::LateUpdate));

    let mut checker = Checker::new(Settings::default());
    let see = |checker: &mut Checker, seconds: u64, end: u64| {
        let list = answer(&window(0, end), "application/vnd.apple.mpegurl");
        let at = Duration::from_secs(seconds);
        checker.media(VIDEO, Fetched { at, wall: start() + TimeDelta::seconds(100), response: &list });
    };
    see(&mut checker, 6, 3);
    checker.expect_outage();
    see(&mut checker, 20, 4);
    checker.outage_over();
    see(&mut checker, 22, 5);
    assert_eq!(checker.violations(), []);
    see(&mut checker, 26, 5);
    assert_eq!(checker.violations()[0].rule, Rule::LateUpdate);
}

#[test]
fn the_end_is_final() {
    let spoiled = rules_broken(14, |end, place, response| {
        if place == VIDEO && end == 12 {
            let text = response.text().unwrap() + "#EXT-X-ENDLIST\n";
            *response = answer(&text, "application/vnd.apple.mpegurl");
        }
    });
    assert!(spoiled.contains(&Rule::ChangedAfterEnd));
    let longer = rules_broken(14, |end, place, response| {
        if place == VIDEO && end >= 12 {
            let text = response.text().unwrap() + "#EXT-X-ENDLIST\n";
            *response = answer(&text, "application/vnd.apple.mpegurl");
        }
    });
    assert!(longer.contains(&Rule::ChangedAfterEnd));
}

#[test]
fn wrong_clocks_are_noticed() {
    // Segment 5 starts at 10 s.
    let drifting = rewritten(VIDEO, |t| t.replace("00:00:10.000Z", "00:00:10.500Z"));
    assert!(
        drifting.contains(&Rule::DateTimeDrift) && drifting.contains(&Rule::DateTimeAlignment),
        "{drifting:?}"
    );
    assert!(rewritten(VIDEO, |t| t.replace("2026-01-01", "2027-01-01")).contains(&Rule::DateTimeFuture));
}

#[test]
fn renditions_that_disagree_are_noticed() {
    let broken = rewritten(AUDIO, |text| {
        text.replace("#EXT-X-DISCONTINUITY\n", "").replace("CONTINUITY-SEQUENCE:1", "CONTINUITY-SEQUENCE:0")
    });
    assert!(broken.contains(&Rule::DiscontinuityAlignment), "{broken:?}");
    assert!(
        rewritten(AUDIO, |t| t.replace("TARGETDURATION:2", "TARGETDURATION:4"))
            .contains(&Rule::TargetDuration)
    );
}

#[test]
fn every_rule_of_the_multivariant_playlist_is_noticed() {
    let cases: [(&str, &str, Rule); 17] = [
        ("#EXT-X-VERSION:7", "#EXT-X-VERSION:3", Rule::Version),
        ("#EXT-X-INDEPENDENT-SEGMENTS\n", "", Rule::IndependentSegments),
        ("BANDWIDTH=3000000,", "", Rule::VariantAttributes),
        ("BANDWIDTH=3000000,", "BANDWIDTH=2000000,", Rule::VariantAttributes),
        ("AVERAGE-BANDWIDTH=2500000,", "", Rule::VariantAttributes),
        (",RESOLUTION=1280x720", "", Rule::VariantAttributes),
        (",FRAME-RATE=30.000", "", Rule::VariantAttributes),
        ("CODECS=\"avc1.64001f,mp4a.40.2\",", "", Rule::VariantAttributes),
        (",mp4a.40.2", "", Rule::VariantAttributes),
        ("AUDIO=\"audio\"", "AUDIO=\"other\"", Rule::RenditionGroup),
        (",NAME=\"main\"", "", Rule::RenditionGroup),
        ("CHANNELS=\"2\",", "", Rule::RenditionGroup),
        (",CLOSED-CAPTIONS=NONE", "", Rule::RenditionGroup),
        ("CAPTIONS=NONE", "CAPTIONS=\"cc\"", Rule::RenditionGroup),
        ("TYPE=AUDIO", "TYPE=CLOSED-CAPTIONS", Rule::RenditionGroup),
        ("720p/index.m3u8", "721p/index.m3u8", Rule::RenditionsChanged),
        ("#EXTM3U", "EXTM3U", Rule::Syntax),
    ];
    for (good, bad, rule) in cases {
        let broken = rewritten("multivariant", |text| text.replace(good, bad));
        assert!(broken.contains(&rule), "{good} -> {bad}: {broken:?} lacks {rule:?}");
    }
    let swapped = rewritten("multivariant", |text| {
        let media = text.lines().find(|l| l.starts_with("#EXT-X-MEDIA")).unwrap().to_owned();
        text.replace(&format!("{media}\n"), "") + &media + "\n"
    });
    assert!(swapped.contains(&Rule::RenditionGroup));
}

#[test]
fn every_header_rule_is_noticed() {
    let without = |name: &'static str, value: Option<&'static str>| {
        rules_broken(5, move |_, place, response| {
            if place == VIDEO {
                response.headers.retain(|(n, _)| n != name);
                response.headers.extend(value.map(|v| (name.to_owned(), v.to_owned())));
            }
        })
    };
    assert!(without("content-type", Some("text/plain")).contains(&Rule::ContentType));
    assert!(without("access-control-allow-origin", None).contains(&Rule::Cors));
    assert!(without("cache-control", Some("max-age=3600")).contains(&Rule::CacheControl));
    assert!(without("content-encoding", None).contains(&Rule::Gzip));
    assert!(
        rules_broken(5, |_, place, r| if place == VIDEO {
            r.status = 404
        })
        .contains(&Rule::Status)
    );
}

#[test]
fn removed_segments_are_asked_for_until_their_time_is_over() {
    let mut checker = Checker::new(Settings::default());
    for end in 6..=8 {
        let list = answer(&window(end - 6, end), "application/vnd.apple.mpegurl");
        let at = Duration::from_secs(2 * end);
        checker.media(VIDEO, Fetched { at, wall: start() + TimeDelta::seconds(100), response: &list });
    }
    // Segment 0 left at 14 s, segment 1 at 16 s; each must stay available for its own 2 s plus the playlist's 12 s.
    assert_eq!(checker.retention_due(Duration::from_secs(20)), []);
    assert_eq!(checker.retention_due(Duration::from_secs(27)), [(VIDEO.to_owned(), "a-0.m4s".to_owned())]);
    assert_eq!(checker.retention_due(Duration::from_secs(29)), [(VIDEO.to_owned(), "a-1.m4s".to_owned())]);
    let mut gone = answer("", "");
    gone.status = 404;
    let fetched = Fetched { at: Duration::from_secs(29), wall: start(), response: &gone };
    checker.retained(VIDEO, "a-1.m4s", fetched);
    assert_eq!(checker.violations()[0].rule, Rule::Retention);
}
