use super::*;
use crate::wire::{AUDIO_TRACK, AudioRung, Keyframes, RungProgress, SoundTrackJob, VideoRung, VideoSettings};
use proptest::prelude::*;

fn job() -> Job {
    Job {
        rungs: vec![VideoRung {
            name: "720p".into(),
            width: 1280,
            height: 720,
            frame_rate: (30_000, 1001),
            bitrate: 2_800_000,
        }],
        video: VideoSettings {
            encoder: "libx264".into(),
            preset: "veryfast".into(),
            keyframes: Keyframes::Grid { ticks_90k: 180_000 },
            lookahead_frames: 10,
            b_frames: 2,
            vbv_ms: 1000,
        },
        audio: Some(AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 }),
        sound_tracks: vec![SoundTrackJob {
            track: AUDIO_TRACK - 1,
            rung: AudioRung { bitrate: 96_000, sample_rate: 44_100, channels: 1 },
        }],
        encode_from_90k: 0,
        max_pixels: 0,
        thumbnail_every_ms: 5000,
    }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn unit() -> impl Strategy<Value = WireUnit> {
    let time = || (-(1i64 << 50)..1 << 50).prop_map(MediaTime::from_ticks_90k);
    (any::<u8>(), time(), time(), any::<bool>(), bytes())
        .prop_map(|(track, pts, dts, key, data)| WireUnit { track, unit: Unit { pts, dts, key, data } })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Start(job())),
        (prop::sample::select(&VideoCodec::ALL[..]), bytes())
            .prop_map(|(codec, record)| Request::VideoConfig { codec, record }),
        (prop::sample::select(&AudioCodec::ALL[..]), any::<(u32, u8, u8)>(), bytes()).prop_map(
            |(codec, (sample_rate, channels, track), record)| Request::AudioConfig {
                track,
                codec,
                sample_rate,
                channels,
                record
            }
        ),
        unit().prop_map(Request::Unit),
        Just(Request::Finish),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let track =
        (any::<u8>(), bytes()).prop_map(|(track, config)| OpenedTrack { track, config: config.to_vec() });
    let rung = any::<(u32, u32)>().prop_map(|(frame_rate_tenths, quantiser_tenths)| RungProgress {
        frame_rate_tenths,
        quantiser_tenths,
    });
    let progress = (any::<(u64, u64, u64)>(), prop::collection::vec(rung, 0..4)).prop_map(
        |((decoded, decode_errors, encoded), rungs)| WorkerProgress {
            decoded,
            decode_errors,
            encoded,
            rungs,
        },
    );
    prop_oneof![
        prop::collection::vec(track, 0..4).prop_map(Response::Opened),
        unit().prop_map(Response::Unit),
        bytes().prop_map(Response::Thumbnail),
        progress.prop_map(Response::Progress),
        Just(Response::Finished),
    ]
}

fn write<M: WireMessage>(messages: &[M]) -> BytesMut {
    let mut encoder = FrameWriter::new();
    let mut out = BytesMut::new();
    for message in messages {
        encoder.encode(message, &mut out).unwrap();
    }
    out
}

/// Decodes `bytes` in reads of the given sizes, cyclically.
fn read<M: WireMessage>(mut bytes: &[u8], sizes: &[usize]) -> Result<Vec<M>, ProtocolError> {
    let mut decoder = FrameReader::new();
    let mut got = Vec::new();
    for &size in sizes.iter().cycle() {
        let (now, later) = bytes.split_at(size.clamp(1, bytes.len().max(1)).min(bytes.len()));
        decoder.push(now);
        while let Some(message) = decoder.next()? {
            got.push(message);
        }
        bytes = later;
        if bytes.is_empty() {
            assert!(!decoder.is_mid_message());
            return Ok(got);
        }
    }
    unreachable!("sizes is not empty")
}

proptest! {
    #[test]
    fn requests_round_trip(messages in prop::collection::vec(request(), 1..6), sizes in prop::collection::vec(1usize..400, 1..8)) {
        prop_assert_eq!(read::<Request>(&write(&messages), &sizes), Ok(messages));
    }

    #[test]
    fn responses_round_trip(messages in prop::collection::vec(response(), 1..6), sizes in prop::collection::vec(1usize..400, 1..8)) {
        prop_assert_eq!(read::<Response>(&write(&messages), &sizes), Ok(messages));
    }

    #[test]
    fn no_bytes_panic(first in any::<u8>(), data in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_worker_protocol(&[&[first], &data[..]].concat());
        // The same bytes after a valid preamble, which reach the frame parser.
        fuzz_worker_protocol(&[&[first & !1], &write(&[Request::Finish])[..PREAMBLE], &data].concat());
        fuzz_worker_protocol(&[&[first | 1], &write(&[Response::Finished])[..PREAMBLE], &data].concat());
        fuzz_worker_protocol(&[&[first | 1], &write(&[FileMessage::Ended])[..PREAMBLE], &data].concat());
    }

    #[test]
    fn damage_never_panics(messages in prop::collection::vec(request(), 1..4), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = write(&messages);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let mut decoder = FrameReader::<Request>::new();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next() {}
    }
}

proptest! {
    /// Bodies of each type, which random frames hardly reach.
    #[test]
    fn no_body_of_a_files_message_panics(kind in 0x21_u8..0x27, body in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut bytes = write(&[FileMessage::Ended]);
        bytes.truncate(PREAMBLE);
        bytes.put_u32_le(body.len() as u32 + 1);
        bytes.put_u8(kind);
        bytes.put_slice(&body);
        fuzz_worker_protocol(&[&[0xff], &bytes[..]].concat());
    }
}

#[test]
fn payload_is_a_slice_of_what_was_read() {
    let data = Bytes::from(vec![7; 100_000]);
    let unit = Unit { pts: MediaTime::ZERO, dts: MediaTime::ZERO, key: true, data };
    let wire = write(&[Request::Unit(WireUnit { track: AUDIO_TRACK, unit })]);
    let mut decoder = FrameReader::<Request>::new();
    decoder.push(&wire);
    let range = decoder.buffer(0).as_ptr_range();
    let Ok(Some(Request::Unit(got))) = decoder.next() else { panic!() };
    assert!(range.contains(&got.unit.data.as_ptr()));
}

/// A change of this layout needs another protocol version.
#[test]
fn a_unit_has_these_bytes() {
    let (pts, dts) = (MediaTime::from_ticks_90k(0x0102_0304), MediaTime::from_ticks_90k(-2));
    let unit = Unit { pts, dts, key: true, data: Bytes::from_static(b"data") };
    let wire = write(&[Request::Unit(WireUnit { track: 7, unit })]);
    let mut expected = vec![23, 0, 0, 0, kind::UNIT, 7, KEY];
    expected.extend([4, 3, 2, 1, 0, 0, 0, 0]);
    expected.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    expected.extend(b"data");
    assert_eq!(wire[PREAMBLE..], expected);
}

#[test]
fn lengths_are_refused_before_anything_is_reserved() {
    let preamble = &write(&[Request::Finish])[..PREAMBLE];
    for (kind, length) in [
        (kind::UNIT, u32::MAX),
        (kind::UNIT, MAX_FRAME as u32 + 1),
        (kind::START, MAX_CONTROL as u32 + 2),
        (kind::FINISH, 2),
    ] {
        let mut decoder = FrameReader::<Request>::new();
        decoder.push(preamble);
        decoder.push(&length.to_le_bytes());
        decoder.push(&[kind]);
        let length = length as usize;
        assert_eq!(decoder.next(), Err(ProtocolError::TooLong { length }));
        assert!(decoder.buffer.capacity() < 1000);
    }
}

#[test]
fn what_the_other_side_would_refuse_is_not_written() {
    let data = Bytes::from(vec![0; MAX_UNIT + 1]);
    let mut out = BytesMut::from(&b"before"[..]);
    let result = FrameWriter::new().encode(&Response::Thumbnail(data), &mut out);
    assert_eq!(result, Err(ProtocolError::TooLong { length: MAX_UNIT + 2 }));
    assert_eq!(&out[..], b"before");
}

#[test]
fn other_versions_directions_and_programs_are_told_apart() {
    let mut decoder = FrameReader::<Request>::new();
    decoder.push(b"ENCW\x09\x00>\x00");
    assert_eq!(decoder.next(), Err(ProtocolError::Version { theirs: 9 }));

    let mut decoder = FrameReader::<Response>::new();
    decoder.push(&write(&[Request::Finish]));
    assert_eq!(decoder.next(), Err(ProtocolError::Preamble));

    let mut decoder = FrameReader::<Response>::new();
    decoder.push(b"x");
    assert_eq!(decoder.next(), Err(ProtocolError::Preamble));
    decoder.push(b"more");
    assert_eq!(decoder.next(), Err(ProtocolError::Preamble), "it stays broken");
}

#[test]
fn a_cut_off_message_is_noticed() {
    let wire = write(&[Request::Start(job())]);
    let mut decoder = FrameReader::<Request>::new();
    decoder.push(&wire[..wire.len() - 1]);
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.is_mid_message());
}
