use super::*;
use AacExtension::{Sbr, SbrAndPs};
use proptest::prelude::*;

fn bytes(hex: &str) -> Bytes {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn config(hex: &str) -> Result<AudioConfig, AacError> {
    read_config(&bytes(hex), None)
}

/// Writes fields of (value, bits).
fn fields(fields: &[(u32, usize)]) -> Bytes {
    let bits: String = fields.iter().map(|&(value, width)| format!("{value:0width$b}")).collect();
    let padded = bits.len().next_multiple_of(8);
    let bits = format!("{bits:0<padded$}");
    bits.as_bytes()
        .chunks(8)
        .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
        .collect()
}

/// AAC-LC, 48 kHz, with a program config element of `front` (each a pair if true), `back` and `lfe` elements, and a
/// comment.
fn with_program(front: &[bool], back: &[bool], lfe: u32) -> Bytes {
    let mut all = vec![(2, 5), (3, 4), (0, 4), (0, 3), (0, 4), (1, 2), (3, 4)];
    all.extend([(front.len() as u32, 4), (0, 4), (back.len() as u32, 4), (lfe, 2), (1, 3), (1, 4)]);
    // A stereo mixdown element and a matrix mixdown.
    all.extend([(0, 1), (1, 1), (5, 4), (1, 1), (5, 3)]);
    all.extend(front.iter().chain(back).flat_map(|&pair| [(u32::from(pair), 1), (7, 4)]));
    all.extend((0..lfe).map(|_| (3, 4)));
    // A data element and a coupling channel element.
    all.extend([(2, 4), (1, 1), (2, 4)]);
    // Aligned to bytes, a comment of two bytes.
    [&fields(&all)[..], &[2, b'a', b'b']].concat().into()
}

#[test]
fn each_configuration_is_what_the_standard_says() {
    // (record, core type, extension, channel configuration, sample rate, channels, samples in a frame)
    let table = [
        ("1190", 2, None, 2, 48_000, 2, 1024),
        ("1210", 2, None, 2, 44_100, 2, 1024),
        ("0990", 1, None, 2, 48_000, 2, 1024),
        // Channel configurations 1 to 7, 11, 12 and 14.
        ("1188", 2, None, 1, 48_000, 1, 1024),
        ("1198", 2, None, 3, 48_000, 3, 1024),
        ("11a0", 2, None, 4, 48_000, 4, 1024),
        ("11a8", 2, None, 5, 48_000, 5, 1024),
        ("11b0", 2, None, 6, 48_000, 6, 1024),
        ("11b8", 2, None, 7, 48_000, 8, 1024),
        ("11d8", 2, None, 11, 48_000, 7, 1024),
        ("11e0", 2, None, 12, 48_000, 8, 1024),
        ("11f0", 2, None, 14, 48_000, 8, 1024),
        // Frames of 960 samples, alone and with SBR.
        ("1194", 2, None, 2, 48_000, 2, 960),
        ("2b118a00", 2, Some(Sbr), 2, 48_000, 2, 1920),
        // Explicit hierarchical: SBR, PS, and SBR at the core's rate.
        ("2b118800", 2, Some(Sbr), 2, 48_000, 2, 2048),
        ("eb098800", 2, Some(SbrAndPs), 1, 48_000, 2, 2048),
        ("29918800", 2, Some(Sbr), 2, 48_000, 2, 1024),
        // Backward compatible: SBR, SBR and PS, and none ("no SBR").
        ("131056e598", 2, Some(Sbr), 2, 48_000, 2, 2048),
        ("130856e59d4880", 2, Some(SbrAndPs), 1, 48_000, 2, 2048),
        ("119056e500", 2, None, 2, 48_000, 2, 1024),
        // An explicit sample rate of 48000 Hz.
        ("17805dc010", 2, None, 2, 48_000, 2, 1024),
        // Object types of their own frame lengths: AAC-LD (23) with both, ER AAC-ELD (39).
        ("b990", 23, None, 2, 48_000, 2, 512),
        ("b994", 23, None, 2, 48_000, 2, 480),
        ("f8e64000", 39, None, 2, 48_000, 2, 512),
        ("f8e65000", 39, None, 2, 48_000, 2, 480),
        // xHE-AAC: its frame length is not read.
        ("f9464000", 42, None, 2, 48_000, 2, 1024),
    ];
    for (record, core_type, extension, channel_config, sample_rate, channels, frame_samples) in table {
        let expected = AudioConfig {
            codec: AudioCodec::Aac,
            record: bytes(record),
            core_type,
            extension,
            channel_config,
            sample_rate,
            channels,
            frame_samples,
        };
        assert_eq!(config(record), Ok(expected), "{record}");
    }
}

#[test]
fn what_is_reserved_or_too_much_is_refused() {
    assert_eq!(config("11e8"), Err(AacError::Channels), "22.2");
    // Reserved channel configurations 8, 9, 10 and 15; object type 0; rate indices 13 and 14; explicit rates.
    for record in ["11c0", "11c8", "11d0", "11f8", "0190", "1690", "1710", "1780000010", "17ffffff90"] {
        assert_eq!(config(record), Err(AacError::Record), "{record}");
    }
    assert_eq!(read_config(&vec![0x11; MAX_RECORD + 1].into(), None), Err(AacError::RecordTooLong));
}

#[test]
fn a_program_config_element_names_the_channels() {
    let table = [
        (with_program(&[false, true], &[true], 1), 6),
        (with_program(&[false], &[], 0), 1),
        (with_program(&[true], &[], 1), 3),
        (with_program(&[true], &[true], 0), 4),
        // Nothing, and more than eight channels: not believed.
        (with_program(&[], &[], 0), 2),
        (with_program(&[true; 5], &[true; 5], 1), 2),
    ];
    for (record, channels) in table {
        let config = read_config(&record, None).unwrap();
        assert_eq!(
            (config.channel_config, config.channels, config.core_type),
            (0, channels, 2),
            "{record:x?}"
        );
        // "No SBR" and SBR behind the element.
        let extended = |tail: &[u8]| read_config(&[&record[..], tail].concat().into(), None).unwrap();
        assert_eq!(extended(&[0x56, 0xe5, 0x00]).extension, None);
        let sbr = extended(&[0x56, 0xe5, 0x80]);
        assert_eq!((sbr.extension, sbr.sample_rate, sbr.channels), (Some(Sbr), 96_000, channels));
    }
}

#[test]
fn a_program_config_element_cut_short_counts_as_stereo() {
    let record = with_program(&[false, true], &[true], 1);
    for cut in 0..record.len() {
        let read = read_config(&record.slice(..cut), None);
        if cut < 2 {
            assert_eq!(read, Err(AacError::Record), "cut at {cut}");
        } else {
            let config = read.unwrap();
            assert_eq!((config.channel_config, config.channels), (0, 2), "cut at {cut}");
        }
    }
}

#[test]
fn records_cut_short_are_errors_or_what_is_left_of_them() {
    // (record, bytes without which it cannot be read)
    for (record, least) in [
        ("1190", 2),
        ("2b118800", 4),
        ("eb098800", 4),
        ("17805dc010", 5),
        ("131056e598", 2),
        ("130856e59d4880", 2),
        ("f8e64000", 3),
    ] {
        let whole = bytes(record);
        for cut in 0..whole.len() {
            let read = read_config(&whole.slice(..cut), None);
            assert_eq!(read.is_ok(), cut >= least, "{record} cut at {cut}: {read:?}");
            assert!(read.is_ok_and(|config| config.channels <= 2) || cut < least, "{record} cut at {cut}");
        }
    }
}

#[test]
fn plain_lc() {
    let config = read_config(&bytes("1210"), Some(44_100)).unwrap();
    assert_eq!((config.core_type, config.sample_rate, config.channels), (2, 44_100, 2));
    assert_eq!(config.frame_samples, 1024);
}

#[test]
fn he_aac_signalled_by_the_decoder_only_has_long_frames_at_twice_the_rate() {
    // AAC-LC, 24 kHz (index 6), stereo.
    let config = read_config(&bytes("1310"), Some(48_000)).unwrap();
    assert_eq!((config.sample_rate, config.frame_samples, config.extension), (48_000, 2048, Some(Sbr)));
    let unasked = read_config(&bytes("1310"), None).unwrap();
    assert_eq!((unasked.sample_rate, unasked.frame_samples, unasked.extension), (24_000, 1024, None));
}

#[test]
fn he_aac_signalled_in_the_record_is_the_same_with_a_decoder() {
    // Object type 5, core 24 kHz, stereo, extension 48 kHz, then object type 2.
    let config = read_config(&bytes("2b118800"), Some(48_000)).unwrap();
    assert_eq!((config.sample_rate, config.frame_samples), (48_000, 2048));
    assert_eq!((config.core_type, config.extension), (2, Some(Sbr)));
    assert_eq!(Ok(config), read_config(&bytes("2b118800"), None));
}

#[test]
fn what_is_written_is_read_back() {
    assert_eq!(lc_config(48_000, 2).unwrap().record, bytes("1190"));
    assert_eq!(lc_config(47_999, 2), None);
    assert_eq!((lc_config(48_000, 0), lc_config(48_000, 7), lc_config(48_000, 9)), (None, None, None));
    for sample_rate in bits::SAMPLE_RATES {
        for channels in [1, 2, 3, 4, 5, 6, 8] {
            let written = lc_config(sample_rate, channels).unwrap();
            assert_eq!(read_config(&written.record, Some(sample_rate)), Ok(written));
        }
    }
}

#[test]
fn adts_frames_are_split_and_bared() {
    // AAC-LC 48 kHz stereo, no CRC, 9 bytes in all.
    let frame = [0xff, 0xf1, 0x4c, 0x80, 0x01, 0x3f, 0xfc, 0xaa, 0xbb];
    let two = [frame, frame].concat();
    let frames: Vec<_> = adts_frames(&two).collect();
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[1], Ok(AdtsFrame { record: [0x11, 0x90], data: &[0xaa, 0xbb] }));
    assert_eq!(adts_frames(&frame[..8]).collect::<Vec<_>>(), [Err(AacError::Adts)]);
    let mut own_layout = frame;
    own_layout[3] &= 0x3f;
    assert_eq!(adts_frames(&own_layout).collect::<Vec<_>>(), [Err(AacError::AdtsChannels)]);
}

#[test]
fn codecs_strings_as_players_know_them() {
    assert_eq!(codecs_string(&[0x12, 0x10]).as_deref(), Some("mp4a.40.2"));
    assert_eq!(codecs_string(&[0x2b, 0x92, 0x08, 0x00]).as_deref(), Some("mp4a.40.5"));
    assert_eq!(codecs_string(&[0xeb, 0x09]).as_deref(), Some("mp4a.40.29"));
    assert_eq!(codecs_string(&[0xf9, 0x46]).as_deref(), Some("mp4a.40.42"), "xHE-AAC");
    assert_eq!(codecs_string(&[0xf9]), None);
    assert_eq!(codecs_string(&[]), None);
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(record: Vec<u8>, rate: u32) {
        let _ = adts_frames(&record).count();
        let _ = codecs_string(&record);
        if let Ok(config) = read_config(&record.into(), Some(rate)) {
            prop_assert!((7_350..=192_000).contains(&config.sample_rate));
            prop_assert!(CHANNELS.contains(&config.channels) && config.channel_config <= 14);
            prop_assert!((480..=2048).contains(&config.frame_samples));
        }
    }
}
