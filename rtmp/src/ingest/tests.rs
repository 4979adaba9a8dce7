use super::*;
use crate::MessageKind;
use crate::flv::tests::{AVCC, bytes};
use std::time::{Duration, Instant};

fn message(kind: MessageKind, timestamp_ms: u32, body: &str) -> MediaMessage {
    MediaMessage { kind, timestamp_ms, payload: bytes(body), arrived: Instant::now() }
}

fn video(timestamp_ms: u32, body: &str) -> MediaMessage {
    message(MessageKind::Video, timestamp_ms, body)
}

/// The media from a message that becomes at most one item.
fn push(ingest: &mut Ingest, message: MediaMessage) -> Result<Option<Media>, IngestError> {
    let mut media = ingest.push(message)?;
    let first = media.next();
    assert_eq!(media.next(), None);
    Ok(first)
}

#[test]
fn garbage_is_counted_and_the_stream_lives() {
    let mut ingest = Ingest::new();
    let config = format!("17 00 000000 {AVCC}");
    // A picture before its configuration, then the configuration twice.
    assert_eq!(push(&mut ingest, video(0, "27 01 000000 00000001 41")), Ok(None));
    assert!(matches!(push(&mut ingest, video(0, &config)), Ok(Some(Media::VideoConfig(_)))));
    assert_eq!(push(&mut ingest, video(0, &config)), Ok(None));
    // Lengths that do not fit, an empty body, and a picture.
    assert_eq!(push(&mut ingest, video(33, "27 01 000000 00000009 41")), Ok(None));
    assert_eq!(push(&mut ingest, video(66, "")), Ok(None));
    assert!(
        matches!(push(&mut ingest, video(100, "17 01 000000 00000001 41")), Ok(Some(Media::Video(unit))) if !unit.key)
    );
    assert_eq!(
        ingest.oddities(),
        Oddities { unreadable: 2, false_keys: 1, repeated_configs: 1, other_tracks: 0 }
    );
}

/// A phone is rotated and sends no sequence header. FLV requires one, but decoders follow the change anyway, and
/// players of a `source` rung need an init segment of the new size.
#[test]
fn another_size_in_a_picture_s_own_parameter_sets_is_a_new_configuration() {
    let mut ingest = Ingest::new();
    push(&mut ingest, video(0, &format!("17 00 000000 {AVCC}"))).unwrap();
    let key = |sets: &str| format!("17 01 000000 {sets} 00000001 65");
    // Many encoders send their parameter sets with every IDR picture, and some of these differ from the header.
    let own = "00000016 6742c00dda05067e7c04400000fa40003a9803c50aa8 00000004 68ce0fc8";
    let other_pps = "00000016 6742c00dda05067e7c04400000fa40003a9803c50aa8 00000004 68ce1fc8";
    for (at, sets) in [(0, own), (33, own), (66, other_pps)] {
        assert!(matches!(push(&mut ingest, video(at, &key(sets))), Ok(Some(Media::Video(_)))), "{at}");
    }
    let larger = "0000001a 6764001eacd940a02ff970110000030001000003003c0f162d96 00000004 68efbcb0";
    let mut media = ingest.push(video(100, &key(larger))).unwrap();
    let Some(Media::VideoConfig(config)) = media.next() else { panic!() };
    assert_eq!((config.width, config.height), (640, 360));
    assert!(matches!(media.next(), Some(Media::Video(unit)) if unit.key));
    assert_eq!(media.next(), None);
    // Repeated sets, unreadable sets, and sets without a picture parameter set give no new configuration.
    for (at, sets) in [(133, larger), (166, "00000002 6764 00000002 68ef"), (200, "00000004 6764001e")] {
        assert!(matches!(push(&mut ingest, video(at, &key(sets))), Ok(Some(Media::Video(_)))), "{at}");
    }
    assert_eq!(ingest.oddities(), Oddities::default());
}

#[test]
fn a_configuration_that_means_the_same_is_dropped() {
    let mut ingest = Ingest::new();
    push(&mut ingest, video(0, &format!("17 00 000000 {AVCC}"))).unwrap();
    // Another compatibility byte in the record; a byte behind the parameter sets.
    for record in [AVCC.replacen("0142c0", "0142e0", 1), format!("{AVCC}ff")] {
        assert_eq!(push(&mut ingest, video(0, &format!("17 00 000000 {record}"))), Ok(None), "{record}");
    }
    assert_eq!(ingest.oddities().repeated_configs, 2);
}

/// What came of a publisher that sends one of these bodies ten times a second.
fn sent_for(
    seconds: u64,
    ingest: &mut Ingest,
    bodies: &[(MessageKind, &str)],
) -> Result<Vec<Notice>, IngestError> {
    let began = Instant::now();
    let mut notices = Vec::new();
    for tenth in 0..=10 * seconds {
        for &(kind, body) in bodies {
            let arrived = began + Duration::from_millis(100 * tenth);
            let message = MediaMessage { arrived, ..message(kind, 100 * tenth as u32, body) };
            ingest.push(message)?.for_each(drop);
            notices.extend(ingest.take_notice());
        }
    }
    Ok(notices)
}

#[test]
fn nobody_is_left_in_the_dark_about_what_cannot_be_read() {
    const VVC: (MessageKind, &str) = (MessageKind::Video, "91 76766331 000000 00");
    const ODD_SOUND: (MessageKind, &str) = (MessageKind::Audio, "d2 00");
    const SOUND: (MessageKind, &str) = (MessageKind::Audio, "2f fffb94640000");
    let notice = |kind, reason| vec![Notice { kind, reason }];
    let vvc = || notice(MessageKind::Video, "video is VVC (vvc1)");
    assert_eq!(sent_for(2, &mut Ingest::new(), &[VVC]), Ok(vec![]), "too early");
    assert_eq!(sent_for(9, &mut Ingest::new(), &[VVC, SOUND]), Ok(vvc()), "once");
    let sound = notice(MessageKind::Audio, "audio of an unknown sound format");
    assert_eq!(
        sent_for(60, &mut Ingest::new(), &[ODD_SOUND]),
        Ok(sound),
        "sound is not what a publisher is sent off for"
    );
    let error = sent_for(10, &mut Ingest::new(), &[VVC, SOUND]).unwrap_err();
    let said =
        "no video could be read for 10 s: video is VVC (vvc1); this encoder takes H.264, HEVC, AV1, VP9, VP8";
    assert_eq!(Refusal::from(error), Refusal::Unsupported(said.into()));
    // Once there was a picture, the stream goes on.
    let mut ingest = Ingest::new();
    push(&mut ingest, video(0, &format!("17 00 000000 {AVCC}"))).unwrap();
    assert_eq!(sent_for(60, &mut ingest, &[VVC]), Ok(vvc()));
}

/// A notice stands until something of its kind can be read.
#[test]
fn a_notice_stands_while_it_holds() {
    const VVC: (MessageKind, &str) = (MessageKind::Video, "91 76766331 000000 00");
    let mut ingest = Ingest::new();
    sent_for(2, &mut ingest, &[VVC]).unwrap();
    assert_eq!(ingest.standing_notices().count(), 0, "too early");
    sent_for(4, &mut ingest, &[VVC]).unwrap();
    let notice = Notice { kind: MessageKind::Video, reason: "video is VVC (vvc1)" };
    assert_eq!(ingest.standing_notices().collect::<Vec<_>>(), [notice]);
    push(&mut ingest, video(5_000, &format!("17 00 000000 {AVCC}"))).unwrap();
    assert_eq!(ingest.standing_notices().count(), 0, "it can be read again");
}

/// Frames that come together in a message are placed one behind the other.
#[test]
fn several_frames_in_a_message_follow_each_other() {
    let mut ingest = Ingest::new();
    let frames = "fff14c80 013ffc 2110 fff14c80 013ffc 2110 fff14c80 013ffc 2110";
    let media: Vec<Media> =
        ingest.push(message(MessageKind::Audio, 0, &format!("af 01 {frames}"))).unwrap().collect();
    let times: Vec<i64> = media
        .iter()
        .filter_map(|media| match media {
            Media::Audio(unit) => Some(unit.pts.ticks_90k()),
            _ => None,
        })
        .collect();
    assert_eq!(media.len(), 4, "a configuration and three frames");
    assert_eq!(times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>(), [1920, 1920]);
}

#[test]
fn a_publisher_that_comes_back_goes_on_behind_the_old_end() {
    let after = MediaTime::from_ticks_90k(5_000_000);
    let mut ingest = Ingest::resume(after);
    push(&mut ingest, video(0, &format!("17 00 000000 {AVCC}"))).unwrap();
    let Ok(Some(Media::Video(unit))) = push(&mut ingest, video(0, "17 01 000000 00000001 65")) else {
        panic!()
    };
    assert!(unit.dts > after && unit.key);
}

#[test]
fn rates_from_metadata_are_ratios() {
    for (rate, ratio) in [
        (30.0, Some((30, 1))),
        (29.97, Some((30_000, 1001))),
        (29.97002997, Some((30_000, 1001))),
        (23.976, Some((24_000, 1001))),
        (59.94, Some((60_000, 1001))),
        (12.5, Some((12_500, 1000))),
        (0.0, None),
        (-30.0, None),
        (1e9, None),
        (f64::NAN, None),
    ] {
        assert_eq!(as_ratio(rate), ratio, "{rate}");
    }
}

#[test]
fn sound_tracks_share_the_clock_and_have_configurations_of_their_own() {
    let mut ingest = Ingest::new();
    let track = SoundTrackId::new(1).unwrap();
    let mut all = |at: u32, body: &str| -> Vec<Media> {
        ingest.push(message(MessageKind::Audio, at, body)).unwrap().collect()
    };
    assert!(matches!(&all(1000, "af 00 1190")[..], [Media::AudioConfig(_)]));
    assert!(matches!(&all(1000, "95 00 6d703461 01 1210")[..], [Media::TrackConfig(id, _)] if *id == track));
    assert!(all(1000, "95 00 6d703461 01 1210").is_empty(), "a repeated configuration");
    let main = all(1000, "af 01 2110");
    let other = all(1500, "95 01 6d703461 01 2110");
    let ([Media::Audio(main)], [Media::Track(id, other)]) = (&main[..], &other[..]) else {
        panic!("{main:?} {other:?}");
    };
    assert_eq!((*id, other.pts - main.pts), (track, media::MediaSpan::from_millis(500)));
    // Both at once in one message.
    assert_eq!(all(1521, "95 11 6d703461 00 000002 2110 01 000002 2110").len(), 2);
    for number in 2..6 {
        all(1600, &format!("95 00 6d703461 {number:02x} 1190"));
    }
    assert_eq!(ingest.oddities(), Oddities { other_tracks: 2, repeated_configs: 1, ..Oddities::default() });
}
