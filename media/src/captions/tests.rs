use super::*;

const HELLO: [Triplet; 3] = [[0xfc, 0x94, 0x20], [0xfc, 0xc8, 0x45], [0xf8, 0, 0]];

fn user_data(triplets: &[Triplet]) -> Vec<u8> {
    let mut data = HEAD.to_vec();
    data.extend([0x40 | triplets.len() as u8, 0xff]);
    data.extend(triplets.as_flattened());
    data.push(0xff);
    data
}

fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, payload.len() as u8], payload].concat()
}

fn with_length(nal: &[u8]) -> Vec<u8> {
    [&(nal.len() as u32).to_be_bytes(), nal].concat()
}

/// A slice of H.264, whose payload looks like captions.
fn slice() -> Vec<u8> {
    [vec![0x41], user_data(&HELLO)].concat()
}

#[test]
fn captions_are_found_in_each_codec_that_carries_them() {
    let sei = message(4, &user_data(&HELLO));
    let h264 = [with_length(&[0x09, 0xf0]), with_length(&[&[0x06][..], &sei, &[0x80]].concat())].concat();
    let h264 = [h264, with_length(&slice())].concat();
    assert_eq!(triplets(VideoCodec::H264, &h264), HELLO);
    let hevc = with_length(&[&[39 << 1, 1][..], &sei, &[0x80]].concat());
    assert_eq!(triplets(VideoCodec::Hevc, &hevc), HELLO);
    // A metadata OBU with its size, of the type ITU-T T.35.
    let metadata = [&[4][..], &user_data(&HELLO), &[0x80]].concat();
    let av1 = [&[0x12, 0, 5 << 3 | 2, metadata.len() as u8][..], &metadata].concat();
    assert_eq!(triplets(VideoCodec::Av1, &av1), HELLO);
    for codec in [VideoCodec::Vp8, VideoCodec::Vp9] {
        assert_eq!(triplets(codec, &h264), [] as [Triplet; 0]);
    }
}

#[test]
fn other_messages_are_passed_over_and_several_are_read_in_order() {
    let other = message(5, &[7; 20]);
    let long = [&[4, 0xff, 1][..], &[0; 256]].concat();
    let first = message(4, &user_data(&HELLO[..1]));
    let second = message(4, &user_data(&HELLO[1..]));
    let sei = [&[0x06][..], &other, &first, &long, &second, &[0x80]].concat();
    assert_eq!(triplets(VideoCodec::H264, &with_length(&sei)), HELLO);
}

#[test]
fn emulation_prevention_is_taken_out() {
    let captions = [[0xfc, 0, 0], [1, 0, 0], [0xfc, 0x94, 0x20]];
    let mut escaped = Vec::new();
    for byte in message(4, &user_data(&captions)) {
        if escaped.ends_with(&[0, 0]) && byte <= 3 {
            escaped.push(3);
        }
        escaped.push(byte);
    }
    let nal = [&[0x06][..], &escaped, &[0x80]].concat();
    assert_eq!(triplets(VideoCodec::H264, &with_length(&nal)), captions);
}

#[test]
fn captions_of_earlier_pictures_are_put_in_front() {
    // Zeros, which need emulation prevention, and more than one message holds.
    let earlier: Vec<Triplet> = (0..70).map(|number| [0xfc, 0, number % 4]).collect();
    for (codec, header) in [(VideoCodec::H264, &[0x06][..]), (VideoCodec::Hevc, &[39 << 1, 1])] {
        let own = with_length(&[header, &message(4, &user_data(&HELLO)), &[0x80]].concat());
        let unit = with_captions_before(codec, &own, &earlier).unwrap();
        assert_eq!(triplets(codec, &unit), [&earlier[..], &HELLO].concat());
        assert!(unit.ends_with(&own) && !unit[..unit.len() - own.len()].windows(3).any(|w| w == [0, 0, 1]));
    }
    assert_eq!(with_captions_before(VideoCodec::Av1, &[0x12, 0], &earlier), None);
}

#[test]
fn broken_messages_give_what_is_whole() {
    let sei = [&[0x06][..], &message(4, &user_data(&HELLO)), &[0x80]].concat();
    let unit = with_length(&sei);
    for end in 0..unit.len() {
        for codec in VideoCodec::ALL {
            assert!(triplets(codec, &unit[..end]).len() <= 3);
        }
    }
    for at in 0..unit.len() {
        let mut broken = unit.clone();
        broken[at] ^= 0xff;
        assert!(triplets(VideoCodec::H264, &broken).len() <= MAX_TRIPLETS);
    }
    // A count beyond the data, and process_cc_data_flag that is not set.
    let mut short = user_data(&HELLO);
    short[8] = 0x5f;
    let mut found = Vec::new();
    in_user_data(&short, &mut found);
    assert_eq!(found, HELLO);
    short[8] = 3;
    in_user_data(&short, &mut found);
    assert_eq!(found.len(), 3);
}

fn services(triplets: &[Triplet]) -> Vec<&'static str> {
    let mut services = CaptionServices::NONE;
    note_services(triplets, &mut services);
    services.names().collect()
}

#[test]
fn services_are_those_of_control_codes_and_service_blocks() {
    // Resume caption loading in each channel, with odd parity.
    assert_eq!(services(&[[0xfc, 0x94, 0x20]]), ["CC1"]);
    assert_eq!(services(&[[0xfc, 0x1c, 0x20]]), ["CC2"]);
    assert_eq!(services(&[[0xfd, 0x15, 0x20], [0xfd, 0x9d, 0x20]]), ["CC3", "CC4"]);
    // Field 1 that is open; field 2 with padding or extended data services.
    assert_eq!(services(&[[0xfc, 0x80, 0x80], [0xfd, 0x80, 0x80], [0xfd, 0x01, 0x03]]), ["CC1"]);
    assert_eq!(services(&[[0xff, 0x02, 0x21], [0xfe, 0x42, 0x41]]), ["SERVICE1"]);
    assert_eq!(services(&[[0xff, 0x42, 0xc2], [0xff, 0x42, 0x00], [0xff, 0x42, 0xe2]]), ["SERVICE6"]);
    let invalid = [[0xf8, 0x94, 0x20], [0xf9, 0x15, 0x20], [0xfb, 0x02, 0x21], [0xfa, 0, 0]];
    assert_eq!(services(&invalid), [] as [&str; 0]);
    assert!(invalid.into_iter().all(is_padding));
    assert!(is_padding([0xfc, 0x80, 0x80]) && !is_padding([0xfe, 0, 0]) && !is_padding([0xfc, 0x80, 0x41]));
}

#[test]
fn sets_are_stored_by_their_names() {
    let set = CaptionServices::named(["SERVICE2", "CC3", "CC9", "cc1"]);
    assert_eq!(set.names().collect::<Vec<_>>(), ["CC3", "SERVICE2"]);
    let stored = Vec::<String>::from(set);
    assert_eq!(stored, ["CC3", "SERVICE2"]);
    assert_eq!(CaptionServices::from(stored), set);
    assert_eq!(
        set.union(CaptionServices::named(["CC1"])),
        CaptionServices::named(["CC1", "CC3", "SERVICE2"])
    );
    assert!(CaptionServices::NONE.is_empty() && !set.is_empty());
}
