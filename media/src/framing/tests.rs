use super::*;
use crate::h264::facts;
use crate::testing::bytes;
use proptest::prelude::*;

fn read(payload: &str, size: Option<LengthSize>) -> Option<CodedUnit> {
    read_unit(&bytes(payload), size, facts)
}

/// All these stand for an SEI and an IDR slice.
#[test]
fn all_framings_are_read() {
    let expected = bytes("00000003 0605aa 00000004 65010203");
    let four = Some(LengthSize::Four);
    let table = [
        ("lengths", "00000003 0605aa 00000004 65010203", four),
        ("lengths, no configuration", "00000003 0605aa 00000004 65010203", None),
        ("lengths of two bytes", "0003 0605aa 0004 65010203", Some(LengthSize::Two)),
        ("lengths of two bytes, announced as four", "0003 0605aa 0004 65010203", four),
        (
            "lengths of four bytes, announced as two",
            "00000003 0605aa 00000004 65010203",
            Some(LengthSize::Two),
        ),
        ("start codes", "00000001 0605aa 00000001 65010203", four),
        ("start codes of three bytes", "000001 0605aa 000001 65010203", four),
        ("start codes behind zeros, no configuration", "0000000001 0605aa 000001 65010203 0000", None),
        ("a start code inside a length", "0000000b 0605aa 00000001 65010203", four),
        ("start codes inside a length and before it", "0000000e 000001 0605aa 00000001 65010203", four),
        ("one zero behind", "00000003 0605aa 00000004 65010203 00", four),
        ("three zeros behind", "00000003 0605aa 00000004 65010203 000000", four),
        ("nine zeros behind", "00000003 0605aa 00000004 65010203 000000000000000000", four),
        ("zeros inside a length", "00000005 0605aa0000 00000007 65010203000000", four),
        ("an empty unit", "00000003 0605aa 00000000 00000004 65010203", four),
        ("a last unit that is cut short", "00000003 0605aa 00000004 65010203 00000009 65", four),
    ];
    for (name, payload, size) in table {
        let unit = read(payload, size).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((unit.key, unit.has_picture, &unit.data), (true, true, &expected), "{name}");
    }
}

#[test]
fn what_is_as_it_should_be_is_not_copied() {
    let payload = bytes("00000002 09f0 00000003 650102");
    let unit = read_unit(&payload, Some(LengthSize::Four), facts).unwrap();
    assert_eq!(unit.data.as_ptr(), payload.as_ptr());
    let delimited = read("00000001 09f0 00000001 650102", None).unwrap();
    assert_eq!(delimited.data, bytes("00000003 650102"), "a byte stream loses its delimiters");
}

#[test]
fn parameter_sets_without_a_picture_come_out() {
    let unit = read("00000001 67640001 00000001 68eb", None).unwrap();
    assert_eq!((unit.has_picture, unit.sets), (false, vec![bytes("67640001"), bytes("68eb")]));
}

#[test]
fn what_is_no_access_unit_is_none() {
    for payload in
        ["", "00", "000001", "00000001", "00000009 65", "ffffffff 65", "00000002 0605", "0000000000000000"]
    {
        assert_eq!(read(payload, Some(LengthSize::Four)), None, "{payload}");
    }
}

proptest! {
    /// Units survive each framing, whatever is in them (but start codes, which no unit has).
    #[test]
    fn units_survive(units in prop::collection::vec(prop::collection::vec(1u8.., 1..40), 1..8), framing in 0..4) {
        let mut units = units;
        for unit in &mut units {
            unit[0] = 0x65;
        }
        let slices: Vec<&[u8]> = units.iter().map(|unit| &unit[..]).collect();
        let with = |prefix: fn(usize) -> Vec<u8>| -> Bytes {
            slices.iter().flat_map(|unit| [&prefix(unit.len())[..], *unit].concat()).collect()
        };
        let (payload, size) = match framing {
            0 => (length_prefixed(&slices), LengthSize::Four),
            1 => (with(|len| (len as u16).to_be_bytes().to_vec()), LengthSize::Two),
            2 => (with(|len| vec![len as u8]), LengthSize::One),
            _ => (with(|_| vec![0, 0, 1]), LengthSize::Four),
        };
        let unit = read_unit(&payload, Some(size), facts).unwrap();
        prop_assert_eq!(unit.data, length_prefixed(&slices));
    }

    #[test]
    fn no_bytes_panic(payload in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 0x65, 0x67, 0xff]), 0..64)) {
        let payload = Bytes::from(payload);
        for size in [None, Some(LengthSize::One), Some(LengthSize::Two), Some(LengthSize::Four)] {
            read_unit(&payload, size, facts);
        }
    }
}
