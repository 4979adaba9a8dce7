use super::*;
use media::{AudioCodec, VideoCodec, aac, h264};
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
    Ok(h264::read_config(&Bytes::copy_from_slice(record), None)?.0)
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
fn what_cannot_be_read_is_called_by_its_name() {
    let table = [
        (MessageKind::Video, "91 76766331 000000 00", "VVC"),
        (MessageKind::Video, "90 00ff2278", "unknown FourCC"),
        (MessageKind::Video, "12 00", "Sorenson"),
        (MessageKind::Video, "1f 00", "unknown codec id"),
        (MessageKind::Audio, "9f 00", "short audio tag"),
        (MessageKind::Audio, "90 78797a31", "unknown FourCC"),
        (MessageKind::Audio, "d2 00", "unknown sound format"),
    ];
    for (kind, body, name) in table {
        match FlvDemuxer::new().read(kind, &bytes(body)) {
            Err(FlvError::Unreadable(reason)) => assert!(reason.contains(name), "{body}: {reason}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

/// Sequence start and first frames as FFmpeg 9 sends them.
#[test]
fn all_codecs_of_enhanced_rtmp_are_read() {
    let hvcc = "0101600000009000000000003cf000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003003c95\
        9809210001002b42010101600000030090000003000003003ca00a080b9f796566924caf0168080000030008000003\
        00c84022000100074401c172b46240";
    let av1 = "12000a0b0200000561e7f66357cc02301400ff";
    let vp9 = "824983420013f00b36043824";
    let table = [
        (VideoCodec::Hevc, format!("90 68766331 {hvcc}"), "91 68766331 000050 00000003 260109"),
        (VideoCodec::Hevc, format!("1c 00 000000 {hvcc}"), "1c 01 000050 00000003 260109"),
        (
            VideoCodec::Av1,
            "90 61763031 81000c000a0b0200000561e7f66017c002".into(),
            &format!("91 61763031 {av1}"),
        ),
        (
            VideoCodec::Av1,
            "1d 00 000000 81000c000a0b0200000561e7f66017c002".into(),
            &format!("1d 01 000000 {av1}"),
        ),
        (VideoCodec::Vp9, "90 76703039 01000000000b820202020000".into(), &format!("91 76703039 {vp9}")),
        (VideoCodec::Vp8, String::new(), "91 76703038 1002009d012a4001b400"),
    ];
    for (codec, start, key) in table {
        let mut demuxer = FlvDemuxer::new();
        let mut config = match demuxer.read(MessageKind::Video, &bytes(&start)).unwrap() {
            Tag::VideoConfig(config) => Some(config),
            _ => None,
        };
        let Tag::Video(picture) = demuxer.read(MessageKind::Video, &bytes(key)).unwrap() else {
            panic!("{start}")
        };
        assert!(picture.key && picture.flagged_key, "{start}");
        let offset = if codec == VideoCodec::Hevc { 0x50 } else { 0 };
        assert_eq!(picture.composition_ms, offset, "{start}");
        config = config.or(picture.config);
        let config = config.unwrap();
        assert_eq!((config.codec, config.width, config.height), (codec, 320, 180), "{start}");
        let Tag::Video(picture) = demuxer.read(MessageKind::Video, &bytes(key)).unwrap() else {
            panic!("{start}")
        };
        assert_eq!(picture.config, None, "told once");
        if codec == VideoCodec::Av1 {
            assert_eq!(picture.data, bytes(&av1[4..]), "without its temporal delimiter");
        }
    }
    let table = [
        (AudioCodec::Opus, "90 4f707573 4f707573486561640102380180bb0000000000", "91 4f707573 fc7e"),
        (AudioCodec::Opus, "", "91 4f707573 fc7e"),
        (
            AudioCodec::Flac,
            "90 664c6143 100010000000000000000bb802f000000000000000000000000000000000000000000",
            "91 664c6143 fff8",
        ),
        (AudioCodec::Ac3, "90 61632d33", "91 61632d33 0b77fe95144043e106f46370"),
        (AudioCodec::Eac3, "90 65632d33", "91 65632d33 0b77017f3487c0002084"),
        (AudioCodec::Mp3, "", "91 2e6d7033 fffb94640000"),
        (AudioCodec::Mp3, "", "2f fffb94640000"),
    ];
    for (codec, start, frame) in table {
        let mut demuxer = FlvDemuxer::new();
        let config = match demuxer.read(MessageKind::Audio, &bytes(start)).unwrap() {
            Tag::AudioConfig(config) => Some(config),
            _ => None,
        };
        let Tag::Audio(audio) = demuxer.read(MessageKind::Audio, &bytes(frame)).unwrap() else {
            panic!("{frame}")
        };
        let config = config.or(audio.config).unwrap();
        assert_eq!((config.codec, config.sample_rate, config.channels), (codec, 48_000, 2), "{frame}");
        let Tag::Audio(audio) = demuxer.read(MessageKind::Audio, &bytes(frame)).unwrap() else {
            panic!("{frame}")
        };
        assert_eq!(audio.config, None, "told once");
    }
}

#[test]
fn old_sound_formats_describe_themselves() {
    let table = [
        ("3f 0000", AudioCodec::PcmS16, 44_100, 2),
        ("0a 0000", AudioCodec::PcmS16, 22_050, 1),
        ("3d 0000", AudioCodec::PcmU8, 44_100, 2),
        ("1e 0000", AudioCodec::AdpcmFlash, 44_100, 1),
        ("4f 0000", AudioCodec::Nellymoser, 16_000, 1),
        ("6a 0000", AudioCodec::Nellymoser, 22_050, 1),
        ("72 0000", AudioCodec::Alaw, 8_000, 1),
        ("83 0000", AudioCodec::Mulaw, 8_000, 2),
        ("b6 0000", AudioCodec::Speex, 16_000, 1),
    ];
    for (body, codec, sample_rate, channels) in table {
        let read = FlvDemuxer::new().read(MessageKind::Audio, &bytes(body)).unwrap();
        let Tag::Audio(CodedAudio { config: Some(config), frames }) = read else { panic!("{body}") };
        assert_eq!(
            (config.codec, config.sample_rate, config.channels),
            (codec, sample_rate, channels),
            "{body}"
        );
        assert_eq!(frames, [Bytes::from_static(&[0, 0])], "{body}");
    }
}

/// OBS sends further sound tracks beside the first one, each in messages of its own.
#[test]
fn the_first_track_goes_on_and_others_are_passed_over() {
    let mut demuxer = configured();
    let slice = "00000002 41 03";
    let table = [
        ("one track, the first", format!("a6 03 61766331 00 {slice}"), true),
        ("one track, another", format!("a6 03 61766331 02 {slice}"), false),
        ("many tracks", format!("a6 13 61766331 01 000001 ff 00 000006 {slice}"), true),
        ("many codecs", format!("a6 23 76766331 01 000001 ff 61766331 00 000006 {slice}"), true),
        ("many tracks without the first", "a6 13 61766331 01 000001 ff 02 000001 ff".into(), false),
        ("ModEx before the tracks", format!("a7 02 aabbcc 06 03 61766331 00 {slice}"), true),
    ];
    for (name, body, first) in table {
        match demuxer.read(MessageKind::Video, &bytes(&body)) {
            Ok(Tag::Video(picture)) => assert!(first && picture.data == bytes(slice), "{name}"),
            Ok(Tag::OtherTrack) => assert!(!first, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut demuxer = FlvDemuxer::new();
    let start = demuxer.read(MessageKind::Audio, &bytes("95 00 6d703461 00 1190"));
    assert!(matches!(start, Ok(Tag::AudioConfig(_))), "{start:?}");
    let frame = demuxer.read(MessageKind::Audio, &bytes("95 01 6d703461 00 2110"));
    assert!(matches!(frame, Ok(Tag::Audio(_))), "{frame:?}");
    assert_eq!(demuxer.read(MessageKind::Audio, &bytes("95 01 6d703461 01 2110")), Ok(Tag::OtherTrack));
    for broken in [
        "95",
        "95 01",
        "95 01 6d70",
        "95 01 6d703461",
        "95 11 6d703461 00 0000",
        "95 11 6d703461 00 000009 00",
        "95 31 6d703461 00",
    ] {
        let read = demuxer.read(MessageKind::Audio, &bytes(broken));
        assert!(matches!(read, Err(FlvError::Unreadable(_))), "{broken}: {read:?}");
    }
}

#[test]
fn sound_tracks_beside_the_first_are_read_each_by_itself_up_to_the_limit() {
    let mut demuxer = FlvDemuxer::new();
    let mut read = |body: &str| {
        let OtherSound { tags, passed_over } = demuxer.read_other_sound(&bytes(body));
        let tags: Vec<_> = tags.into_iter().map(|(id, tag)| (id.number(), tag)).collect();
        (tags, passed_over)
    };
    let config = |tag: &Result<Tag, FlvError>| match tag {
        Ok(Tag::AudioConfig(config)) => (config.sample_rate, config.channels),
        other => panic!("{other:?}"),
    };
    // Messages of the first track, and messages without tracks, have nothing for the others.
    for first in
        ["95 00 6d703461 00 1190", "af 00 1190", "90 6d703461 1190", "", "9", "95", "95 31 6d703461 01"]
    {
        assert!(matches!(read(first), (tags, 0) if tags.is_empty()), "{first}");
    }
    // A frame before any configuration takes up no track.
    assert!(matches!(&read("95 01 6d703461 09 2110").0[..], [(9, Err(FlvError::Unreadable(_)))]));
    // 48 kHz stereo, and two configurations of other rates in one message beside one for the first track.
    assert_eq!(config(&read("95 00 6d703461 03 1190").0[0].1), (48_000, 2));
    let (tags, _) = read("95 10 6d703461 00 000002 1190 05 000002 1210 06 000002 1208");
    let found: Vec<_> = tags.iter().map(|(id, tag)| (*id, config(tag))).collect();
    assert_eq!(found, [(5, (44_100, 2)), (6, (44_100, 1))]);
    assert!(matches!(&read("95 01 6d703461 05 2110").0[..], [(5, Ok(Tag::Audio(_)))]));
    // Three tracks beside the first are enough.
    assert!(matches!(read("95 00 6d703461 07 1190"), (tags, 1) if tags.is_empty()));
    assert!(matches!(&read("95 02 6d703461 06").0[..], [(6, Ok(Tag::EndOfSequence(MessageKind::Audio)))]));
    // A message that is cut: what came before the cut counts.
    assert_eq!(read("95 11 6d703461 05 000002 2110 06 000009 21").0.len(), 1);
}

/// Cameras send their parameter sets in front of keyframes, and no sequence header.
#[test]
fn a_configuration_is_made_from_parameter_sets_in_band() {
    let record = bytes(AVCC);
    let sets = h264::Record::read(&record).unwrap();
    let unit = |nal: &[u8]| [&u32::try_from(nal.len()).unwrap().to_be_bytes()[..], nal].concat();
    let start = |nal: &[u8]| [&[0, 0, 0, 1][..], nal].concat();
    for framed in [unit as fn(&[u8]) -> Vec<u8>, start] {
        let (sps, pps, idr) = (framed(sets.sps[0]), framed(sets.pps[0]), framed(&[0x65, 1, 2]));
        // In one message, and each in a message of its own.
        for messages in [vec![[&sps[..], &pps, &idr].concat()], vec![sps.clone(), pps.clone(), idr.clone()]] {
            let mut demuxer = FlvDemuxer::new();
            let early = video(&mut demuxer, "27 01 000000", &framed(&[0x41, 1]));
            assert_eq!(early, Err(FlvError::Unreadable("picture before its configuration")));
            let mut configs = Vec::new();
            let mut pictures = Vec::new();
            for message in &messages {
                match video(&mut demuxer, "17 01 000000", message).unwrap() {
                    Tag::VideoConfig(config) => configs.push(config),
                    Tag::Video(picture) => {
                        configs.extend(picture.config);
                        pictures.push(picture.data);
                    }
                    other => assert_eq!(other, Tag::Nothing),
                }
            }
            assert_eq!(configs.iter().map(|c| (c.width, c.height)).collect::<Vec<_>>(), [(320, 180)]);
            assert!(pictures[0].ends_with(&unit(&[0x65, 1, 2])), "{:?}", pictures[0]);
        }
    }
}

#[test]
fn adts_headers_are_removed_and_configure() {
    // AAC-LC, 48 kHz, stereo: a header of seven bytes, and a frame of two.
    let frame = "fff14c80 013ffc 2110";
    let mut demuxer = FlvDemuxer::new();
    let Tag::Audio(read) = audio(&mut demuxer, "af 01", &bytes(frame)).unwrap() else { panic!() };
    assert_eq!(read.config.map(|c| (c.sample_rate, c.channels, c.record)), Some((48_000, 2, bytes("1190"))));
    assert_eq!(read.frames, [bytes("2110")]);
    let two = [bytes(frame), bytes(frame)].concat();
    let Tag::Audio(read) = audio(&mut demuxer, "af 01", &two).unwrap() else { panic!() };
    assert_eq!((read.config, read.frames.len()), (None, 2));
    // A raw frame that begins with the bits of a sync word.
    let Tag::Audio(read) = audio(&mut demuxer, "af 01", &bytes("fff14c80 022ffc 2110")).unwrap() else {
        panic!()
    };
    assert_eq!(read.frames[0].len(), 9);
    // The configuration that was sent says more than the header: here SBR.
    let mut demuxer = FlvDemuxer::new();
    audio(&mut demuxer, "af 00", &bytes("2b118800")).unwrap();
    let Tag::Audio(read) = audio(&mut demuxer, "af 01", &bytes(frame)).unwrap() else { panic!() };
    assert_eq!((read.config, read.frames), (None, vec![bytes("2110")]));
}

/// Raw AAC without any configuration: after some frames, one is assumed.
#[test]
fn aac_without_a_configuration_is_assumed_to_be_what_the_metadata_says() {
    for (rate, frame, expected) in [(Some(48_000.0), "2110", (48_000, 2)), (None, "0110", (44_100, 1))] {
        let mut demuxer = FlvDemuxer::new();
        demuxer.metadata(&Metadata { audio_sample_rate: rate, ..Metadata::default() });
        let reads: Vec<_> = (0..12).map(|_| audio(&mut demuxer, "af 01", &bytes(frame))).collect();
        assert!(reads[..9].iter().all(Result::is_err));
        let Ok(Tag::Audio(CodedAudio { config: Some(config), .. })) = &reads[9] else {
            panic!("{:?}", reads[9])
        };
        assert_eq!((config.sample_rate, config.channels), expected);
        assert!(matches!(&reads[11], Ok(Tag::Audio(CodedAudio { config: None, .. }))));
    }
}

#[test]
fn broken_messages_are_passed_over_and_the_next_one_is_read() {
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
        // Lengths that do not fit; nothing but an empty unit.
        (MessageKind::Video, "17 01 000000 00000009 65 01"),
        (MessageKind::Video, "17 01 000000 ffffffff 65 01"),
        (MessageKind::Video, "17 01 000000 00000000"),
        (MessageKind::Video, "17 00 000000 00"),
        (MessageKind::Audio, "af 01 aa"),
        (MessageKind::Audio, "af 02"),
        (MessageKind::Audio, "af 00 00"),
        (MessageKind::Audio, "93 6d703461"),
    ];
    for (kind, body) in table {
        let read = demuxer.read(kind, &bytes(body));
        assert!(matches!(read, Err(FlvError::Unreadable(_))), "{body}: {read:?}");
    }
    assert!(matches!(video(&mut demuxer, "17 01 000000", &bytes("00000001 65")), Ok(Tag::Video(_))));
    let before = video(&mut FlvDemuxer::new(), "17 01 000000", &bytes("00000001 65"));
    assert_eq!(before, Err(FlvError::Unreadable("picture before its configuration")));
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
        assert!(refused(video(&mut limited(61_439), first, &in_band(kind))));
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
        // The empty NAL unit and the delimiter are removed as well.
        assert_eq!(picture.data, bytes("00000003 650102"), "{size}");
        assert!(picture.key);
    }
    let mut record = bytes(AVCC).to_vec();
    record[4] = 0xfe;
    assert!(matches!(config(&record), Err(FlvError::Unreadable(_))));
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
        let coded = |data: &'static [u8]| {
            Tag::Audio(CodedAudio { frames: vec![Bytes::from_static(data)], config: None })
        };
        assert_eq!(audio(&mut demuxer, "af 01", &[1, 2]).unwrap(), coded(&[1, 2]));
        assert_eq!(audio(&mut demuxer, "91 6d703461", &[1]).unwrap(), coded(&[1]));
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
