use super::*;
use media::MediaSpan;
use rtmp::MediaMessage;
use rtmp::ingest::Ingest;
use std::time::{Duration, Instant};

/// Ticks of a millisecond.
const MS: i64 = 90;

fn at(ticks: i64) -> MediaTime {
    MediaTime::from_ticks_90k(10 * SECOND + ticks)
}

fn unit(dts: i64, key: bool, bytes: u64) -> UnitFacts {
    UnitFacts { pts: at(dts), dts: at(dts), key, bytes }
}

fn video() -> VideoFacts {
    VideoFacts { codec: "H.264".into(), width: 1280, height: 720, ..VideoFacts::default() }
}

fn audio() -> AudioFacts {
    AudioFacts { codec: "AAC".into(), sample_rate: 48_000, channels: 2, ..AudioFacts::default() }
}

/// What comes at a time: pictures before sound.
fn merged(pictures: &[UnitFacts], sound: &[UnitFacts]) -> Inspector {
    let mut inspector = Inspector::default();
    let mut all: Vec<(MediaTime, bool, UnitFacts)> = (pictures.iter().map(|unit| (unit.dts, false, *unit)))
        .chain(sound.iter().map(|unit| (unit.dts, true, *unit)))
        .collect();
    all.sort_by_key(|(dts, is_sound, _)| (*dts, *is_sound));
    if !pictures.is_empty() {
        inspector.video_facts(video());
    }
    if !sound.is_empty() {
        inspector.audio_facts(audio());
    }
    for (_, is_sound, unit) in all {
        if is_sound { inspector.audio_unit(unit) } else { inspector.video_unit(unit) }
    }
    inspector
}

fn pictures(seconds: i64, rate: i64, gop: i64) -> Vec<UnitFacts> {
    (0..seconds * rate).map(|n| unit(n * SECOND / rate, n % gop == 0, 12_500)).collect()
}

fn sound(seconds: i64) -> Vec<UnitFacts> {
    (0..seconds * 46)
        .map(|n| unit(n * 1_920, true, 340))
        .filter(|unit| unit.dts < at(seconds * SECOND))
        .collect()
}

fn settings(report: &PublishReport) -> Vec<&str> {
    report.advice.iter().map(|advice| advice.setting.as_str()).collect()
}

#[test]
fn a_steady_stream_needs_no_advice() {
    let report = merged(&pictures(30, 30, 60), &sound(30)).report();
    let video = report.video.as_ref().unwrap();
    assert_eq!(
        (video.frame_rate, video.steady, video.pictures, video.keyframes),
        (Some(30.0), true, 900, 15)
    );
    let gop = video.gop.unwrap();
    assert_eq!((gop.least_seconds, gop.median_seconds, gop.most_seconds), (2.0, 2.0, 2.0));
    assert_eq!((video.bits_per_second, video.peak_bits_per_second), (3_000_000, 3_000_000));
    assert_eq!((video.b_frames, video.most_b_frames_in_a_row), (0, 0));
    let audio = report.audio.as_ref().unwrap();
    assert_eq!((audio.bits_per_second, audio.frames), (127_500, 1_380));
    assert_eq!((report.timing.gaps, report.timing.backward_steps), (0, 0));
    assert!(report.timing.drift_ms_per_minute.unwrap().abs() < 1.0, "{:?}", report.timing);
    assert_eq!(settings(&report), [""; 0]);
    assert!((report.seconds - 30.0).abs() < 0.05, "{}", report.seconds);
}

#[test]
fn a_varying_frame_rate_is_told() {
    let mut dts = 0;
    let varying: Vec<UnitFacts> = (0..600)
        .map(|n| {
            dts += if n % 3 == 0 { 20 } else { 47 } * MS;
            unit(dts, n % 60 == 0, 5_000)
        })
        .collect();
    let report = merged(&varying, &sound(20)).report();
    let video = report.video.as_ref().unwrap();
    assert!(!video.steady && (video.frame_rate.unwrap() - 26.3).abs() < 0.1, "{video:?}");
    assert_eq!(settings(&report), ["frame_rate"]);
    // Milliseconds of containers are no variation.
    let rounded: Vec<UnitFacts> =
        (0..600).map(|n| unit((n * 1_000 + 15) / 30 * MS, n % 60 == 0, 5_000)).collect();
    let report = merged(&rounded, &sound(20)).report();
    assert!(report.video.unwrap().steady);
}

#[test]
fn b_frames_are_those_that_are_shown_before_their_predecessor() {
    let sent = |order: &[i64]| {
        let frame = SECOND / 25;
        let units = (0..250).map(|n| {
            let of_group = order.len() as i64;
            let shown = n / of_group * of_group + order[(n % of_group) as usize];
            UnitFacts { pts: at((shown + 4) * frame), dts: at(n * frame), key: n % 50 == 0, bytes: 5_000 }
        });
        merged(&units.collect::<Vec<_>>(), &sound(10)).report()
    };
    let video = |report: &PublishReport| {
        let video = report.video.as_ref().unwrap();
        (video.b_frames > 0, video.most_b_frames_in_a_row)
    };
    assert_eq!(video(&sent(&[0])), (false, 0));
    let two = sent(&[2, 0, 1]);
    assert_eq!((video(&two), settings(&two)), ((true, 2), vec![]));
    let pyramid = sent(&[3, 1, 0, 2]);
    assert_eq!((video(&pyramid), settings(&pyramid)), ((true, 3), vec!["b_frames"]));
}

#[test]
fn a_keyframe_that_does_not_come_is_a_long_gop() {
    let report = merged(&pictures(20, 25, 250), &sound(20)).report();
    let gop = report.video.as_ref().unwrap().gop.unwrap();
    assert_eq!((gop.median_seconds, gop.most_seconds), (10.0, 10.0));
    assert_eq!(settings(&report), ["keyframe_interval"]);
    let once = merged(&pictures(20, 25, 100_000), &sound(20)).report();
    let video = once.video.as_ref().unwrap();
    assert_eq!((video.gop, video.since_keyframe_seconds), (None, Some(19.96)));
    assert_eq!(settings(&once), ["keyframe_interval"]);
    let then_never: Vec<UnitFacts> =
        (0..500).map(|n| unit(n * SECOND / 25, n < 100 && n % 50 == 0, 5_000)).collect();
    let gop = merged(&then_never, &sound(20)).report().video.unwrap().gop.unwrap();
    assert_eq!((gop.median_seconds, gop.most_seconds), (2.0, 17.96));
    let short = merged(&pictures(20, 25, 5), &sound(20)).report();
    assert_eq!(settings(&short), ["keyframe_interval"]);
}

#[test]
fn steps_back_and_gaps_are_counted() {
    let mut units = pictures(20, 25, 50);
    for unit in &mut units[250..] {
        (unit.pts, unit.dts) =
            (unit.pts + MediaSpan::from_millis(4_000), unit.dts + MediaSpan::from_millis(4_000));
    }
    for unit in &mut units[400..] {
        (unit.pts, unit.dts) =
            (unit.pts + MediaSpan::from_millis(-8_000), unit.dts + MediaSpan::from_millis(-8_000));
    }
    let mut inspector = Inspector::new(Arrival::File);
    inspector.video_facts(video());
    units.into_iter().for_each(|unit| inspector.video_unit(unit));
    let report = inspector.report();
    let TimingReport { gaps, longest_gap_seconds, backward_steps, .. } = report.timing;
    assert_eq!((gaps, longest_gap_seconds, backward_steps), (1, 4.04, 1));
    let video = report.video.as_ref().unwrap();
    assert_eq!((video.frame_rate, video.bits_per_second > 2_400_000), (Some(25.0), true));
    assert!(settings(&report).contains(&"timestamps") && settings(&report).contains(&"network"));
}

#[test]
fn one_picture_a_second_has_no_gaps() {
    let report = merged(&pictures(60, 1, 2), &sound(60)).report();
    assert_eq!((report.timing.gaps, report.video.unwrap().frame_rate), (0, Some(1.0)));
    let mut holes = sound(20);
    holes.retain(|unit| !(at(5 * SECOND)..at(6 * SECOND)).contains(&unit.dts));
    assert_eq!(merged(&pictures(20, 25, 50), &holes).report().timing.gaps, 1);
}

#[test]
fn sound_whose_clock_is_fast_drifts() {
    // At each moment both are sent; the sound's clock gains a thousandth.
    let mut inspector = Inspector::default();
    inspector.video_facts(video());
    inspector.audio_facts(audio());
    for ms in 0..60_000 {
        if ms % 40 == 0 {
            inspector.video_unit(unit(ms * MS, ms % 2_000 == 0, 5_000));
        }
        if ms % 20 == 0 {
            inspector.audio_unit(unit(ms * MS + ms * MS / 1_000, true, 300));
        }
        if ms == 15_000 {
            assert_eq!(inspector.report().timing.drift_ms_per_minute, None, "too early");
        }
    }
    let report = inspector.report();
    let drift = report.timing.drift_ms_per_minute.unwrap();
    assert!((drift - 60.0).abs() < 2.0, "{drift}");
    assert!((report.timing.sound_ahead_ms.unwrap() - 68.0).abs() < 12.0, "{:?}", report.timing);
    assert_eq!(settings(&report), ["audio_clock"]);
}

#[test]
fn no_sound_and_no_pictures() {
    let silent = merged(&pictures(10, 30, 60), &[]).report();
    assert_eq!((silent.audio.as_ref(), settings(&silent)), (None, vec!["audio"]));
    let blind = merged(&[], &sound(10)).report();
    assert_eq!((blind.video.as_ref(), settings(&blind)), (None, vec!["video"]));
    let nothing = Inspector::default().report();
    assert_eq!((nothing.seconds, settings(&nothing)), (0.0, vec![]));
    assert_eq!(brief(&nothing), "nothing yet");
    for report in [silent, blind, nothing] {
        assert!(screen(&report).lines().all(|line| line.len() <= 100), "{}", screen(&report));
    }
}

#[test]
fn bursts_are_told() {
    let mut units = pictures(20, 25, 50);
    for unit in &mut units[250..275] {
        unit.bytes = 100_000;
    }
    let report = merged(&units, &sound(20)).report();
    assert_eq!(report.video.as_ref().unwrap().peak_bits_per_second, 20_000_000);
    assert_eq!(settings(&report), ["rate_control"]);
}

#[test]
fn sound_that_is_not_as_devices_play_it() {
    let mut inspector = merged(&pictures(10, 25, 50), &sound(10));
    inspector.audio_facts(AudioFacts {
        codec: "MP3".into(),
        sample_rate: 22_050,
        channels: 6,
        profile: None,
    });
    let report = inspector.report();
    assert_eq!(settings(&report), ["sample_rate", "channels", "audio_codec"]);
    assert_eq!(report.audio.unwrap().format_changes, 1);
}

/// Whatever comes: no figure overflows, and memory stays as it is.
#[test]
fn hostile_times_do_no_harm() {
    let mut inspector = Inspector::default();
    let times = [0, i64::MAX / 4, -i64::MAX / 4, 1, 1 << 40, -1, 5, 5, 6];
    for n in 0..10_000 {
        let dts = MediaTime::from_ticks_90k(times[n % times.len()]);
        let facts = UnitFacts { pts: dts, dts, key: n % 2 == 0, bytes: u64::MAX / 2 };
        inspector.video_unit(facts);
        inspector.audio_unit(facts);
    }
    let report = inspector.report();
    assert_eq!(report.video.as_ref().unwrap().pictures, 10_000);
    assert!(inspector.video.gops.len() <= KEPT && !screen(&report).is_empty());
    assert!(serde_json::to_string(&report).is_ok());
}

#[test]
fn profiles_and_captions_are_read() {
    let profile = |record: &[u8]| h264_profile(record).unwrap();
    assert_eq!(profile(&[1, 100, 0, 31]), "High, level 3.1");
    assert_eq!(profile(&[1, 66, 0xc0, 40]), "Constrained Baseline, level 4.0");
    assert_eq!(h264_profile(&[1, 100]), None);
    let sei = [&[0, 0, 0, 12][..], &[6, 4, 9, 0xb5, 0, 0x31], b"GA94", &[3, 0xff]].concat();
    let slice = [0, 0, 0, 2, 0x65, 0x88];
    assert!(has_captions(&[&slice[..], &sei].concat()));
    assert!(!has_captions(&slice) && !has_captions(&[0, 0, 1]) && !has_captions(&[]));
}

/// What the live path repairs and cannot read is in the report: jumps, and sound of an unknown kind.
#[test]
fn the_report_has_what_the_ingest_repairs_and_cannot_read() {
    let mut ingest = Ingest::new();
    let mut inspector = Inspector::default();
    let began = Instant::now();
    for n in 0..200_u32 {
        let jumped = if n >= 100 { 3_600_000 } else { 0 };
        let arrived = began + Duration::from_millis(u64::from(n) * 40);
        // Sorenson pictures are read by nobody; so is sound of the reserved format 12.
        let bodies = [
            (MessageKind::Audio, vec![0x2f, 0xff, 0xfb, 0x94, 0x64, 0, 0]),
            (MessageKind::Video, vec![0x22, 0, 0]),
        ];
        for (kind, body) in bodies {
            let timestamp_ms = n * 40 + jumped;
            let message = MediaMessage { kind, timestamp_ms, payload: body.into(), arrived };
            for media in ingest.push(message).unwrap() {
                inspector.media(&media);
            }
        }
        inspector.counted(ingest.repairs(), ingest.oddities(), ingest.standing_notices());
    }
    let report = inspector.report();
    assert_eq!(report.timing.repairs.get("jumps_forward"), Some(&1), "{report:?}");
    assert_eq!(report.passed_over.get("unreadable"), Some(&200));
    assert_eq!(report.unreadable.first().map(|unreadable| unreadable.kind.as_str()), Some("video"));
    assert!(!settings(&report).contains(&"video"), "it comes: {report:?}");
    assert!(["codec", "timestamps"].iter().all(|setting| settings(&report).contains(setting)), "{report:?}");
    assert!(inspector.repairs() >= 1);
}
