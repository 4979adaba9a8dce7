use super::*;
use crate::MessageKind;
use crate::flv::tests::{AVCC, bytes};
use std::time::Instant;

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
    assert_eq!(ingest.oddities(), Oddities { malformed: 2, false_keys: 1, repeated_configs: 1 });
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
fn what_can_never_be_encoded_is_an_error_for_the_publisher() {
    let mut ingest = Ingest::new();
    let error = push(&mut ingest, video(0, "90 68766331 00")).unwrap_err();
    let refusal = Refusal::from(error);
    assert_eq!(
        refusal,
        Refusal::Unsupported("video is HEVC (hvc1); this encoder takes H.264 video and AAC audio".into())
    );
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
