use super::record::exp_golomb;
use super::*;
use bytes::Bytes;
use proptest::prelude::*;

/// Baseline, 320x180, 30000/1001 (ffmpeg 5.1, libx264 ultrafast).
const BASELINE_SPS: &[u8] = &[
    0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x06, 0x7e, 0x7c, 0x04, 0x40, 0x00, 0x00, 0x0f, 0xa4, 0x00, 0x03,
    0xa9, 0x80, 0x3c, 0x50, 0xaa,
];
const SPS: &[u8] = &[0x67, 100, 0, 31, 0xac, 0xd9];
const PPS: &[u8] = &[0x68, 0xeb, 0xe3];

fn stream(units: &[&[u8]], long: bool) -> Vec<u8> {
    let code: &[u8] = if long { &[0, 0, 0, 1] } else { &[0, 0, 1] };
    units.iter().flat_map(|u| [code, u].concat()).collect()
}

fn record_of(units: &[&[u8]]) -> Result<Bytes, H264Error> {
    ParameterSets::of_annex_b(&stream(units, true)).record()
}

/// ue(v) as text (9.1).
fn ue(value: u8) -> String {
    let code = format!("{:b}", u32::from(value) + 1);
    "0".repeat(code.len() - 1) + &code
}

/// A sequence parameter set of the given profile, chroma format and bit depths minus 8: 64x64, level 3.0.
fn sps_with_chroma(profile: u8, chroma_format: u8, luma: u8, chroma: u8) -> Vec<u8> {
    let colour_planes = if chroma_format == 3 { "0" } else { "" };
    let fields = [
        // seq_parameter_set_id
        ue(0),
        ue(chroma_format) + colour_planes + &ue(luma) + &ue(chroma),
        // No transform bypass, no scaling matrix; frame_num and POC of four bits; one reference, no gaps.
        "00".to_owned() + &ue(0) + &ue(0) + &ue(0) + &ue(1) + "0",
        // 4x4 macroblocks, frames only, direct_8x8, no cropping, no VUI; the stop bit.
        ue(3) + &ue(3) + "11001",
    ];
    let bits = fields.concat();
    let padded = bits.len().next_multiple_of(8);
    let bits = format!("{bits:0<padded$}");
    let byte = |bits: &[u8]| bits.iter().fold(0, |value, bit| value << 1 | u8::from(*bit == b'1'));
    [0x67, profile, 0, 30].into_iter().chain(bits.as_bytes().chunks(8).map(byte)).collect()
}

/// High profile, 4:2:0 of 8 bits.
fn high_sps() -> Vec<u8> {
    sps_with_chroma(100, 1, 0, 0)
}

#[test]
fn the_largest_coded_picture_counts() {
    // 320x180 (ffmpeg 5.1, libx264 ultrafast), coded as 320x192.
    let wide = [
        0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x06, 0x7e, 0x7c, 0x04, 0x40, 0x00, 0x00, 0xfa, 0x40, 0x00, 0x3a,
        0x98, 0x03, 0xc5, 0x0a, 0xa8,
    ];
    assert_eq!(largest_picture([&wide[..], PPS]), 320 * 192);
    let small = sps_with_chroma(100, 1, 0, 0);
    assert_eq!(largest_picture([&small[..]]), 64 * 64);
    assert_eq!(largest_picture([&small[..], &wide, PPS]), 320 * 192, "in any place");
    assert_eq!(largest_picture([PPS, &[][..], &[0x67]]), 0, "nothing that can be parsed");
}

#[test]
fn records_round_trip() {
    let record = record_of(&[SPS, PPS]).unwrap();
    assert_eq!(&record[..6], [1, 100, 0, 31, 0xff, 0xe1]);
    let read = Record::read(&record).unwrap();
    assert_eq!(read.length_size, LengthSize::Four);
    assert_eq!(annex_b(read.parameter_sets()), stream(&[SPS, PPS], true));
}

#[test]
fn chroma_and_depths_are_those_of_the_parameter_set() {
    let table =
        [(100, 1, 0, 0), (110, 1, 2, 2), (122, 2, 2, 1), (244, 3, 0, 0), (100, 0, 0, 0), (118, 1, 1, 0)];
    for (profile, chroma_format, luma, chroma) in table {
        let sps = sps_with_chroma(profile, chroma_format, luma, chroma);
        let record = record_of(&[&sps, PPS]).unwrap();
        let expected = [0xfc | chroma_format, 0xf8 | luma, 0xf8 | chroma, 0];
        assert_eq!(record[record.len() - 4..], expected, "profile {profile}");
        let (config, _) = read_config(&record, None).unwrap();
        assert_eq!((config.width, config.height), (64, 64), "profile {profile}");
        let other = h264_reader::avcc::AvcDecoderConfigurationRecord::try_from(&record[..]).unwrap();
        assert_eq!(other.chroma_format(), Some(chroma_format), "profile {profile}");
        assert_eq!(other.bit_depth_luma_minus8(), Some(luma), "profile {profile}");
        assert_eq!(other.bit_depth_chroma_minus8(), Some(chroma), "profile {profile}");
    }
    let baseline = record_of(&[BASELINE_SPS, PPS]).unwrap();
    assert_eq!(baseline[baseline.len() - 3..], *PPS, "these profiles have no such fields");
}

#[test]
fn both_start_codes_and_trailing_zeros() {
    let mut data = stream(&[&[0x65, 1, 0, 0, 3, 2]], true);
    data.extend(stream(&[&[0x41, 7]], false));
    data.extend([0, 0, 0]);
    assert_eq!(annex_b_units(&data).collect::<Vec<_>>(), [&[0x65, 1, 0, 0, 3, 2][..], &[0x41, 7]]);
}

#[test]
fn three_byte_start_codes_and_trailing_zeros() {
    let stream = [0, 0, 1, 0x41, 7, 0, 0, 0, 1, 0x41, 8, 0];
    let units: Vec<&[u8]> = annex_b_units(&stream).collect();
    assert_eq!(units, [&[0x41, 7][..], &[0x41, 8]]);
    assert_eq!(annex_b_units(&[0, 0, 1]).count(), 0);
    assert_eq!(annex_b_units(&[]).count(), 0);
}

#[test]
fn parameter_sets_and_delimiters_stay_out_of_units() {
    let data = stream(&[&[9, 0xf0], SPS, PPS, &[6, 5], &[12, 0xff, 0x80], &[0x65, 1]], true);
    assert_eq!(&annex_b_to_length_prefixed(&data)[..], [0, 0, 0, 2, 6, 5, 0, 0, 0, 2, 0x65, 1]);
}

#[test]
fn missing_sets_and_truncated_records_are_errors() {
    assert_eq!(record_of(&[SPS]), Err(H264Error::NoParameterSets));
    assert_eq!(record_of(&[PPS]), Err(H264Error::NoParameterSets));
    assert_eq!(record_of(&[]), Err(H264Error::NoParameterSets));
    let record = record_of(&[&high_sps(), PPS]).unwrap();
    // The last four bytes are the optional chroma and depth fields of the high profiles.
    for cut in 0..record.len() - 4 {
        let error = if cut < 6 { H264Error::RecordVersion } else { H264Error::RecordTruncated };
        assert_eq!(Record::read(&record[..cut]), Err(error), "cut at {cut}");
        assert_eq!(read_config(&record.slice(..cut), None).unwrap_err(), error, "cut at {cut}");
    }
    for size in [LengthSize::Two, LengthSize::Four] {
        for broken in [&[0, 0, 0, 2, 1][..], &[0, 9, 1], &[0]] {
            assert_eq!(relength(broken, size), Err(H264Error::UnitLengths), "{broken:?}");
            let mut units = length_prefixed_units(broken, size);
            assert!(units.by_ref().any(|unit| unit.is_err()), "{broken:?}");
            assert_eq!(units.next(), None, "nothing follows an error");
        }
    }
}

#[test]
fn other_records_are_refused_by_name() {
    let good = record_of(&[&high_sps(), PPS]).unwrap();
    let mut lengths = good.to_vec();
    lengths[4] = 0xfe;
    let mut version = good.to_vec();
    version[0] = 2;
    let table = [
        (lengths, H264Error::LengthSize),
        (version, H264Error::RecordVersion),
        (vec![1; MAX_RECORD + 1], H264Error::RecordTooLong),
        (vec![1, 66, 0, 30, 0xff, 0xe0, 1, 0, 1, 0x68], H264Error::NoParameterSets),
        (vec![1, 66, 0, 30, 0xff, 0xe1, 0, 1, 0x67, 0], H264Error::NoParameterSets),
    ];
    for (record, error) in table {
        assert_eq!(read_config(&record.into(), None).unwrap_err(), error);
    }
    // The last set is empty: h264_reader::avcc panics here.
    let empty_last = [&good[..good.len() - 4 - PPS.len() - 2], &[0, 0]].concat();
    assert_eq!(Record::read(&empty_last).unwrap().pps, [&[] as &[u8]]);
}

#[test]
fn a_set_too_long_for_its_length_field_is_not_kept() {
    let mut long = SPS.to_vec();
    long.resize(70_000, 1);
    let mut sets = ParameterSets::default();
    assert!(!sets.keep(&long));
    assert!(sets.keep(PPS));
    assert_eq!(sets.record(), Err(H264Error::NoParameterSets));
    assert_eq!(in_band_config(&[long.into(), PPS.into()], None), None);
}

#[test]
fn no_more_sets_are_kept_than_a_record_can_count() {
    let mut sets = ParameterSets::default();
    sets.keep(SPS);
    // ue(v) of 1 to 100 in seven bits, then a stop bit.
    for id in 1_u16..=100 {
        let bits = 16 - (id + 1).leading_zeros();
        let code = (id + 1) << (16 - (2 * bits - 1));
        sets.keep(&[&[0x68][..], &code.to_be_bytes(), &[0x80]].concat());
    }
    assert_eq!(Record::read(&sets.record().unwrap()).unwrap().pps.len(), 31);
}

#[test]
fn one_and_two_byte_lengths_become_four() {
    let data = relength(&[0, 2, 0x65, 9, 0, 0, 0, 1, 0x41], LengthSize::Two).unwrap();
    assert_eq!(&data[..], [0, 0, 0, 2, 0x65, 9, 0, 0, 0, 1, 0x41], "the empty unit is removed");
    let data = relength(&[2, 0x65, 9, 1, 0x41], LengthSize::One).unwrap();
    assert_eq!(&data[..], [0, 0, 0, 2, 0x65, 9, 0, 0, 0, 1, 0x41]);
}

/// A VUI that says there is more than there is: decoders decode the pictures, h264-reader refuses the set.
#[test]
fn a_parameter_set_with_a_broken_vui_has_a_size() {
    let cut = &BASELINE_SPS[..11];
    assert!(
        h264_reader::nal::sps::SeqParameterSet::from_bits(h264_reader::rbsp::BitReader::new(&cut[1..]))
            .is_err()
    );
    let record = record_of(&[cut, PPS]).unwrap();
    let (config, _) = read_config(&record, Some((640, 360))).unwrap();
    assert_eq!((config.width, config.height), (320, 180));
    let unreadable = record_of(&[&BASELINE_SPS[..5], PPS]).unwrap();
    assert_eq!(read_config(&unreadable, None).unwrap_err(), H264Error::ParameterSet);
    let (config, _) = read_config(&unreadable, Some((640, 360))).unwrap();
    assert_eq!((config.width, config.height), (640, 360), "onMetaData knows");
}

#[test]
fn a_byte_stream_in_place_of_a_record() {
    let stream = Bytes::from(stream(&[BASELINE_SPS, PPS], true));
    let (config, size) = read_config(&stream, None).unwrap();
    assert_eq!((config.width, config.height, size), (320, 180, LengthSize::Four));
    assert_eq!(config.record, record_of(&[BASELINE_SPS, PPS]).unwrap());
}

#[test]
fn records_that_differ_beside_their_parameter_sets_mean_the_same() {
    let record = record_of(&[&high_sps(), PPS]).unwrap();
    let mut other = record.to_vec();
    other[2] ^= 0x40;
    other.truncate(record.len() - 4);
    assert!(same_parameter_sets(&record, &other));
    assert!(!same_parameter_sets(&record, &record_of(&[BASELINE_SPS, PPS]).unwrap()));
}

#[test]
fn exp_golomb_reads_ids() {
    assert_eq!(exp_golomb(&[0b1000_0000]), Some(0));
    assert_eq!(exp_golomb(&[0b0100_0000]), Some(1));
    assert_eq!(exp_golomb(&[0b0010_1000]), Some(4));
    assert_eq!(exp_golomb(&[]), None);
    assert_eq!(exp_golomb(&[0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn codecs_strings_as_players_know_them() {
    assert_eq!(codecs_string(&[1, 0x64, 0x00, 0x1f, 0xff]).as_deref(), Some("avc1.64001f"));
    assert_eq!(codecs_string(&[1, 0x42, 0xc0, 0x1e]).as_deref(), Some("avc1.42c01e"));
    assert_eq!(codecs_string(&[1, 0x64]), None);
}

fn sizes() -> impl Strategy<Value = LengthSize> {
    prop_oneof![Just(LengthSize::One), Just(LengthSize::Two), Just(LengthSize::Four)]
}

proptest! {
    #[test]
    fn units_survive_both_ways(payloads in prop::collection::vec(prop::collection::vec(2u8.., 1..40), 1..8)) {
        let units: Vec<Vec<u8>> = payloads.into_iter().map(|p| [vec![0x41], p].concat()).collect();
        let borrowed: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
        let prefixed = annex_b_to_length_prefixed(&stream(&borrowed, false));
        let back = annex_b(length_prefixed_units(&prefixed, LengthSize::Four).map(Result::unwrap));
        prop_assert_eq!(annex_b_units(&back).collect::<Vec<_>>(), borrowed);
    }

    #[test]
    fn nothing_panics(data in prop::collection::vec(any::<u8>(), 0..200), size in sizes()) {
        let data = Bytes::from(data);
        let _ = annex_b_to_length_prefixed(&data);
        let _ = relength(&data, size);
        let _ = ParameterSets::of_annex_b(&data).record();
        let _ = read_config(&data, Some((640, 360)));
        let _ = in_band_config(&[data.clone(), data.clone()], None);
        let _ = codecs_string(&data);
    }
}
