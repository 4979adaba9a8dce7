use super::*;
use proptest::prelude::*;

/// From ffmpeg 5.1, libx264 ultrafast, 320x180, 30000/1001.
pub(crate) const AVCC: &str = "0142c00dffe100166742c00dda05067e7c04400000fa40003a9803c50aa801000468ce0fc8";

pub(crate) fn bytes(hex: &str) -> Bytes {
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn tag(head: &str, data: &[u8]) -> Bytes {
    [&bytes(head)[..], data].concat().into()
}

fn video(demuxer: &mut FlvDemuxer, head: &str, data: &[u8]) -> Result<Tag, FlvError> {
    demuxer.read(MessageKind::Video, &tag(head, data))
}

fn audio(demuxer: &mut FlvDemuxer, head: &str, data: &[u8]) -> Result<Tag, FlvError> {
    demuxer.read(MessageKind::Audio, &tag(head, data))
}

fn configured() -> FlvDemuxer {
    let mut demuxer = FlvDemuxer::new();
    video(&mut demuxer, "17 00 000000", &bytes(AVCC)).unwrap();
    demuxer
}

fn config(record: &[u8]) -> Result<VideoConfig, FlvError> {
    Ok(h264::read_config(&Bytes::copy_from_slice(record))?.0)
}

#[test]
fn the_configuration_says_what_ffprobe_says() {
    let config = config(&bytes(AVCC)).unwrap();
    assert_eq!((config.width, config.height), (320, 180));
    assert_eq!(config.sample_aspect, (1, 1));
    assert_eq!(config.frame_rate, Some((30_000, 1001)));
    assert_eq!(config.record, bytes(AVCC));
}

#[test]
fn legacy_and_enhanced_tags_carry_the_same() {
    let mut demuxer = configured();
    let Tag::VideoConfig(config) = video(&mut demuxer, "90 61766331", &bytes(AVCC)).unwrap() else {
        panic!()
    };
    assert_eq!((config.width, config.height), (320, 180));
    let idr = bytes("00000003 65 01 02");
    let slice = bytes("00000002 41 03");
    let table = [
        ("17 01 000000", &idr, 0, true),
        ("27 01 000021", &slice, 33, false),
        ("27 01 ffffdf", &slice, -33, false),
        ("91 61766331 000042", &idr, 66, true),
        ("a3 61766331", &slice, 0, false),
        // Two ModEx prefixes, the second with a long size, before CodedFramesX.
        ("a7 02 aabbcc 07 ff 0001 dddd 03 61766331", &slice, 0, false),
    ];
    for (head, data, composition_ms, key) in table {
        let Tag::Video(picture) = video(&mut demuxer, head, data).unwrap() else { panic!("{head}") };
        assert_eq!((picture.composition_ms, picture.key), (composition_ms, key), "{head}");
        assert_eq!(picture.data, *data, "{head}");
    }
    for head in ["17 02 000000", "92 61766331"] {
        let end = Tag::EndOfSequence(MessageKind::Video);
        assert_eq!(video(&mut demuxer, head, &[]).unwrap(), end, "{head}");
    }
    for head in ["", "57 00", "57 00 000000", "94 61766331 00", "17 01 000000", "17 00 000000"] {
        assert_eq!(video(&mut demuxer, head, &[]).unwrap(), Tag::Nothing, "{head}");
    }
}

#[test]
fn a_key_is_an_idr_slice_and_nothing_else() {
    let mut demuxer = configured();
    let table = [
        // The tag says keyframe, but the access unit has a recovery point and a non-IDR slice: an open GOP.
        ("17 01 000000", "00000002 06 06 00000002 41 03", false, true),
        // The tag does not say keyframe, but an IDR slice follows an access unit delimiter.
        ("27 01 000000", "00000002 09 f0 00000002 65 03", true, false),
    ];
    for (head, data, key, flagged) in table {
        let Tag::Video(picture) = video(&mut demuxer, head, &bytes(data)).unwrap() else { panic!("{data}") };
        assert_eq!((picture.key, picture.flagged_key), (key, flagged), "{data}");
    }
}

#[test]
fn what_cannot_be_encoded_is_called_by_its_name() {
    let table = [
        (MessageKind::Video, "91 68766331 000000 00", "HEVC (hvc1)"),
        (MessageKind::Video, "90 61763031", "AV1 (av01)"),
        (MessageKind::Video, "96 00 61766331", "multitrack"),
        (MessageKind::Video, "90 00ff2278", "\\x00\\xff\\\"x"),
        (MessageKind::Video, "1c 00 000000", "HEVC (legacy"),
        (MessageKind::Video, "12 00", "Sorenson"),
        (MessageKind::Audio, "2f 00", "MP3"),
        (MessageKind::Audio, "b2 00", "Speex"),
        (MessageKind::Audio, "90 4f707573", "Opus"),
        (MessageKind::Audio, "95 00 6d703461", "multitrack"),
    ];
    for (kind, body, name) in table {
        match FlvDemuxer::new().read(kind, &bytes(body)) {
            Err(FlvError::Unsupported(text)) => {
                assert!(text.contains(name) && text.contains("takes H.264"), "{body}: {text}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn broken_messages_are_malformed_and_the_next_one_is_read() {
    let mut demuxer = configured();
    let table = [
        (MessageKind::Video, "17"),
        (MessageKind::Video, "17 01 0000"),
        (MessageKind::Video, "17 07 000000 00"),
        (MessageKind::Video, "91 6176"),
        (MessageKind::Video, "91 61766331 0000"),
        (MessageKind::Video, "99 61766331"),
        (MessageKind::Video, "97"),
        (MessageKind::Video, "97 ff 00"),
        (MessageKind::Video, "97 05 00"),
        // Lengths that do not fit; a truncated length; only parameter sets.
        (MessageKind::Video, "17 01 000000 00000009 65 01"),
        (MessageKind::Video, "17 01 000000 ffffffff 65 01"),
        (MessageKind::Video, "17 01 000000 00000001 65 0000"),
        (MessageKind::Video, "17 01 000000 00000001 67"),
        (MessageKind::Video, "17 01 000000 00000000"),
        (MessageKind::Video, "17 00 000000 00"),
        (MessageKind::Audio, "af 01 aa"),
        (MessageKind::Audio, "af 02"),
        (MessageKind::Audio, "af 00 00"),
        (MessageKind::Audio, "93 6d703461"),
    ];
    for (kind, body) in table {
        let read = demuxer.read(kind, &bytes(body));
        assert!(matches!(read, Err(FlvError::Malformed(_))), "{body}: {read:?}");
    }
    assert!(matches!(video(&mut demuxer, "17 01 000000", &bytes("00000001 65")), Ok(Tag::Video(_))));
    let before = video(&mut FlvDemuxer::new(), "17 01 000000", &bytes("00000001 65"));
    assert_eq!(before, Err(FlvError::Malformed("picture before its configuration")));
}

/// Every parameter set is judged: the header's first and later ones, and those in band, at keyframes and elsewhere.
#[test]
fn pictures_above_the_limit_are_refused_wherever_they_are_announced() {
    let refused = |read: Result<Tag, FlvError>| matches!(read, Err(FlvError::Unsupported(why)) if why.contains("61440 pixels"));
    let limited = |most| FlvDemuxer::new().with_max_pixels(most);
    let record = bytes(AVCC);
    assert!(matches!(video(&mut limited(61_440), "17 00 000000", &record), Ok(Tag::VideoConfig(_))));
    assert!(refused(video(&mut limited(61_439), "17 00 000000", &record)));
    let sps = h264::Record::read(&record).unwrap().sps[0].to_vec();
    let in_band = |kind: u8| {
        let length = u32::try_from(sps.len()).unwrap().to_be_bytes();
        [&length[..], &sps, &[0, 0, 0, 2, kind, 1]].concat()
    };
    for (first, kind) in [("17 01 000000", 0x65), ("27 01 000000", 0x41)] {
        let mut demuxer = limited(61_440);
        video(&mut demuxer, "17 00 000000", &record).unwrap();
        assert!(matches!(video(&mut demuxer, first, &in_band(kind)), Ok(Tag::Video(_))));
        let mut demuxer = FlvDemuxer { judged: Vec::new(), ..demuxer }.with_max_pixels(61_439);
        assert!(refused(video(&mut demuxer, first, &in_band(kind))));
    }
}

#[test]
fn lengths_become_four_bytes_in_record_and_units() {
    for (size, unit) in [(1u8, "02 09f0 00 03 650102"), (2, "0002 09f0 0000 0003 650102")] {
        let mut demuxer = FlvDemuxer::new();
        let mut record = bytes(AVCC).to_vec();
        record[4] = 0xfc | (size - 1);
        let Tag::VideoConfig(config) = video(&mut demuxer, "17 00 000000", &record).unwrap() else {
            panic!()
        };
        assert_eq!(config.record, bytes(AVCC), "{size}");
        let Tag::Video(picture) = video(&mut demuxer, "17 01 000000", &bytes(unit)).unwrap() else {
            panic!()
        };
        // The empty NAL unit is removed as well.
        assert_eq!(picture.data, bytes("00000002 09f0 00000003 650102"), "{size}");
        assert!(picture.key);
    }
    let mut record = bytes(AVCC).to_vec();
    record[4] = 0xfe;
    assert!(matches!(config(&record), Err(FlvError::Malformed(_))));
}

/// Decoders do not check the level; phones write level 3.0 for 1080p.
#[test]
fn a_level_too_low_for_the_picture_is_taken() {
    let mut record = bytes(AVCC).to_vec();
    record[3] = 10;
    record[11] = 10;
    assert_eq!(config(&record).unwrap().width, 320);
}

#[test]
fn audio_configurations() {
    // (record, core's object type, sample rate, channels, samples in a frame)
    let table = [
        ("1190", 2, 48_000, 2, 1024),
        ("1210", 2, 44_100, 2, 1024),
        ("1208", 2, 44_100, 1, 1024),
        ("1194", 2, 48_000, 2, 960),
        ("11b0", 2, 48_000, 6, 1024),
        ("11b8", 2, 48_000, 8, 1024),
        // From ffmpeg, followed by the explicit "no SBR".
        ("119056e500", 2, 48_000, 2, 1024),
        // HE-AAC: hierarchical (24 kHz core), and backward compatible.
        ("2b118800", 2, 48_000, 2, 2048),
        ("131056e598", 2, 48_000, 2, 2048),
        // HE-AAC v2: PS turns one channel into two.
        ("eb098800", 2, 48_000, 2, 2048),
        // An explicit sample rate of 48000 Hz.
        ("17805dc010", 2, 48_000, 2, 1024),
    ];
    for (record, core_type, sample_rate, channels, frame_samples) in table {
        let mut demuxer = FlvDemuxer::new();
        for head in ["af 00", "90 6d703461"] {
            let Tag::AudioConfig(config) = audio(&mut demuxer, head, &bytes(record)).unwrap() else {
                panic!()
            };
            let read = (config.core_type, config.sample_rate, config.channels, config.frame_samples);
            assert_eq!(read, (core_type, sample_rate, channels, frame_samples), "{record}");
            assert_eq!(config.record, bytes(record));
        }
        assert_eq!(audio(&mut demuxer, "af 01", &[1, 2]).unwrap(), Tag::Audio(Bytes::from_static(&[1, 2])));
        assert_eq!(audio(&mut demuxer, "91 6d703461", &[1]).unwrap(), Tag::Audio(Bytes::from_static(&[1])));
        assert_eq!(audio(&mut demuxer, "af 01", &[]).unwrap(), Tag::Nothing);
    }
    for broken in ["11", "ff", "ffffff", "1780000010", "17ffffff90", "1680"] {
        assert!(audio(&mut FlvDemuxer::new(), "af 00", &bytes(broken)).is_err(), "{broken}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(kind: bool, bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 1..8)) {
        let mut demuxer = configured();
        let kind = if kind { MessageKind::Video } else { MessageKind::Audio };
        for body in bodies {
            demuxer.read(kind, &body.into()).ok();
        }
    }

    /// Parameter sets with flipped bits are read or refused, and what is read is within bounds.
    #[test]
    fn no_configuration_panics(flips in proptest::collection::vec((0usize..400, 0u8..8), 0..12), cut in 0usize..64) {
        let mut record = bytes(AVCC).to_vec();
        for (at, bit) in flips {
            let at = at % record.len();
            record[at] ^= 1 << bit;
        }
        record.truncate(record.len().saturating_sub(cut / 8));
        if let Ok(config) = config(&record) {
            prop_assert!((16..=8192).contains(&config.width) && (16..=8192).contains(&config.height));
            prop_assert!(config.sample_aspect.0 > 0 && config.sample_aspect.1 > 0);
        }
    }

    #[test]
    fn no_audio_configuration_panics(record in proptest::collection::vec(any::<u8>(), 0..32)) {
        if let Ok(config) = aac::read_config(&record.into(), None) {
            prop_assert!((7_350..=192_000).contains(&config.sample_rate));
            prop_assert!((1..=8).contains(&config.channels));
        }
    }
}
