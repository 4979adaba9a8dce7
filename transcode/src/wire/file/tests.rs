use super::super::protocol::{FrameReader, FrameWriter};
use super::*;
use crate::demux::{SurveyedAudio, SurveyedVideo, TrackInfo};

/// A record with one parameter set of each kind; lengths of four bytes.
const RECORD: [u8; 16] = [1, 66, 0, 30, 0xff, 0xe1, 0, 3, 0x67, 66, 0, 1, 0, 2, 0x68, 1];

/// 320x180, by SVT-AV1.
const AV1: [u8; 17] = [0x81, 0, 0x0c, 0, 0x0a, 0x0b, 2, 0, 0, 5, 0x61, 0xe7, 0xf6, 0x60, 0x17, 0xc0, 2];

fn unit(pts: i64, dts: i64) -> Unit {
    let data = Bytes::from_static(&[0, 0, 0, 2, 0x65, 1]);
    Unit { pts: MediaTime::from_ticks_90k(pts), dts: MediaTime::from_ticks_90k(dts), key: true, data }
}

fn packet(pts: i64, dts: i64) -> SurveyedPacket {
    let [pts, dts] = [pts, dts].map(MediaTime::from_ticks_90k);
    SurveyedPacket { video: true, pts, dts, key: false, bytes: u32::MAX }
}

fn video_config() -> VideoConfig {
    VideoConfig {
        codec: VideoCodec::H264,
        record: Bytes::from_static(&RECORD),
        width: 320,
        height: 240,
        sample_aspect: (4, 3),
        frame_rate: Some((30_000, 1_001)),
    }
}

/// What the receiver makes of a message.
fn received(message: &FileMessage) -> Result<Option<FileMessage>, ProtocolError> {
    let (mut writer, mut bytes) = (FrameWriter::new(), BytesMut::new());
    writer.encode(message, &mut bytes).unwrap();
    let mut reader = FrameReader::new();
    reader.push(&bytes);
    reader.next()
}

#[test]
fn messages_arrive_as_they_were_sent() {
    let track = |codec: &str, recoded| Some(TrackInfo { codec: codec.into(), recoded });
    let messages = [
        FileMessage::Opened(SourceInfo {
            duration: Some(MediaSpan::from_millis(1_500)),
            video: track("h264", false),
            audio: track("mp3", true),
        }),
        FileMessage::Opened(SourceInfo::default()),
        FileMessage::Media(Media::VideoConfig(video_config())),
        FileMessage::Media(Media::VideoConfig(VideoConfig { frame_rate: None, ..video_config() })),
        FileMessage::Media(Media::AudioConfig(aac::lc_config(48_000, 2).unwrap())),
        FileMessage::Media(Media::AudioConfig(
            // SBR that only the frames signal: the decoder's rate is twice the record's.
            aac::read_config(&aac::lc_config(24_000, 2).unwrap().record, Some(48_000)).unwrap(),
        )),
        FileMessage::Media(Media::VideoConfig(VideoConfig {
            frame_rate: None,
            sample_aspect: (1, 1),
            ..av1::read_config(&Bytes::from_static(&AV1)).unwrap().unwrap()
        })),
        FileMessage::Media(Media::AudioConfig(sound::opus_of_packet(&[0]).unwrap())),
        FileMessage::Media(Media::AudioConfig(sound::config(AudioCodec::Ac3, 48_000, 6, 0))),
        FileMessage::Media(Media::Video(unit(7_200, 3_600))),
        FileMessage::Media(Media::Audio(unit(-5, -5))),
        FileMessage::Surveyed(SurveyInfo {
            duration: Some(MediaSpan::from_millis(1_500)),
            video: Some(SurveyedVideo {
                codec: "hevc".into(),
                profile: Some("Main10".into()),
                width: 3_840,
                height: 2_160,
                frame_rate: Some(59.94),
            }),
            audio: Some(SurveyedAudio {
                codec: "ac3".into(),
                profile: None,
                sample_rate: 48_000,
                channels: 6,
            }),
            other_tracks: true,
        }),
        FileMessage::Packet(packet(7_200, 3_600)),
        FileMessage::Packet(packet(-7_200, 3_600)),
        FileMessage::Failed(FileFailure::Open(-2)),
        FileMessage::Failed(FileFailure::NoMedia),
        FileMessage::Failed(FileFailure::Other("reading failed".into())),
        FileMessage::Ended,
    ];
    for message in messages {
        assert_eq!(received(&message), Ok(Some(message)));
    }
}

#[test]
fn configurations_and_units_that_no_demuxer_makes_are_refused() {
    let odd = |change: fn(&mut VideoConfig)| {
        let mut config = video_config();
        change(&mut config);
        Media::VideoConfig(config)
    };
    let mut cut_short = unit(1, 1);
    cut_short.data = Bytes::from_static(&[0, 0, 0, 9, 0x65]);
    for codec in VideoCodec::ALL {
        assert!(!is_whole(codec, &cut_short), "{codec:?}");
    }
    assert!(is_whole(VideoCodec::H264, &unit(1, 1)));
    let media = [
        odd(|config| config.width = 1),
        odd(|config| config.height = 0),
        odd(|config| config.sample_aspect = (0, 1)),
        odd(|config| config.frame_rate = Some((1, 0))),
        odd(|config| config.frame_rate = Some((1_000, 1))),
        odd(|config| config.record = Bytes::from_static(b"no record")),
        odd(|config| {
            config.record = RECORD.map(|byte| if byte == 0xff { 0xfd } else { byte }).to_vec().into()
        }),
        Media::AudioConfig(AudioConfig { record: Bytes::new(), ..aac::lc_config(48_000, 2).unwrap() }),
        Media::Video(unit(1, 2)),
        Media::Audio(unit(1 << 48, 0)),
        Media::Audio(unit(0, -1 << 48)),
    ];
    for media in media {
        let refused = received(&FileMessage::Media(media.clone()));
        assert!(matches!(refused, Err(ProtocolError::Malformed(_))), "{media:?}: {refused:?}");
    }
    let endless = SourceInfo { duration: Some(MediaSpan::from_ticks_90k(i64::MAX)), ..SourceInfo::default() };
    assert!(received(&FileMessage::Opened(endless)).is_err());
}

#[test]
fn a_long_failure_is_not_sent() {
    let failure = FileMessage::Failed(FileFailure::Other("x".repeat(MAX_FAILURE)));
    let mut bytes = BytesMut::new();
    let outcome = FrameWriter::new().encode(&failure, &mut bytes);
    assert!(matches!(outcome, Err(ProtocolError::TooLong { .. })), "{outcome:?}");
    assert!(bytes.is_empty());
}

#[test]
fn a_packet_far_away_is_refused() {
    let far = FileMessage::Packet(packet(0, 1 << 48));
    assert_eq!(received(&far), Err(ProtocolError::Malformed("packet of a file")));
    let long = SurveyInfo { duration: Some(MediaSpan::from_ticks_90k(1 << 48)), ..SurveyInfo::default() };
    assert!(received(&FileMessage::Surveyed(long)).is_err());
}
