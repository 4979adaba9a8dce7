use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// An object with one property.
fn object(key: &str, value: &[u8]) -> Vec<u8> {
    [&[marker::OBJECT][..], &string(key), value, &[0, 0, marker::OBJECT_END]].concat()
}

#[test]
fn what_rml_amf0_writes_is_read_back() {
    let properties = HashMap::from([
        ("a".to_string(), Amf0Value::Number(1.5)),
        ("b".to_string(), Amf0Value::StrictArray(vec![Amf0Value::Boolean(true), Amf0Value::Null])),
        ("c".to_string(), Amf0Value::Object(HashMap::new())),
    ]);
    let sent = vec![Amf0Value::Utf8String("x".into()), Amf0Value::Number(0.0), Amf0Value::Object(properties)];
    assert_eq!(values(&rml_amf0::serialize(&sent).unwrap()).unwrap(), sent);
}

#[test]
fn values_that_the_crate_cannot_read_become_null_at_their_place() {
    let date = [&[marker::DATE][..], &[0; 10]].concat();
    let xml = [&[marker::XML, 0, 0, 0, 2][..], b"<>"].concat();
    let typed =
        [&[marker::TYPED_OBJECT][..], &string("Class"), &string("k"), &[marker::NULL, 0, 0, 9]].concat();
    let table = [
        (date, Amf0Value::Null),
        (vec![marker::REFERENCE, 0, 1], Amf0Value::Null),
        (vec![marker::UNSUPPORTED], Amf0Value::Null),
        (vec![marker::UNDEFINED], Amf0Value::Null),
        (vec![marker::LONG_STRING, 0, 0, 0, 1, b'y'], Amf0Value::Utf8String("y".into())),
        (xml, Amf0Value::Utf8String("<>".into())),
        (typed, Amf0Value::Object(HashMap::from([("k".into(), Amf0Value::Null)]))),
        // Latin-1 and an empty key.
        (vec![marker::STRING, 0, 1, 0xe9], Amf0Value::Utf8String("\u{fffd}".into())),
        (object("", &[marker::NULL]), Amf0Value::Object(HashMap::from([("_".into(), Amf0Value::Null)]))),
    ];
    for (bytes, expected) in table {
        let framed = [object("date", &bytes), vec![marker::BOOLEAN, 7]].concat();
        let read = values(&framed).unwrap();
        let properties = HashMap::from([("date".to_string(), expected)]);
        assert_eq!(read, [Amf0Value::Object(properties), Amf0Value::Boolean(true)], "{bytes:?}");
    }
}

#[test]
fn nesting_and_numbers_are_bounded() {
    for head in
        [&[marker::STRICT_ARRAY, 0, 0, 0, 1][..], &[marker::OBJECT, 0, 1, b'a'], &[8, 0, 0, 0, 0, 0, 1, b'a']]
    {
        assert_eq!(values(&head.repeat(MAX_DEPTH + 1)), Err(AmfError::TooDeep));
        assert_eq!(values(&head.repeat(1_600)), Err(AmfError::TooDeep));
    }
    let deepest = [[marker::STRICT_ARRAY, 0, 0, 0, 1].repeat(MAX_DEPTH), vec![marker::NULL]].concat();
    assert!(values(&deepest).is_ok());
    assert_eq!(values(&[marker::NULL; MAX_VALUES]).unwrap().len(), MAX_VALUES);
    assert_eq!(values(&[marker::NULL; MAX_VALUES + 1]), Err(AmfError::TooMany));
    assert_eq!(values(&vec![marker::NULL; 16 << 20]), Err(AmfError::TooLong(16 << 20)));
    // Lengths that are announced, but the data is missing.
    assert_eq!(values(&[marker::STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff]), Err(AmfError::Truncated));
    assert_eq!(values(&[marker::LONG_STRING, 0xff, 0xff, 0xff, 0xff]), Err(AmfError::Truncated));
}

#[test]
fn every_cut_is_an_error_and_no_panic() {
    let whole = [string("k"), object("x", &object("y", &[marker::NUMBER, 0, 0, 0, 0, 0, 0, 0, 0]))].concat();
    let whole = [vec![marker::STRING], whole].concat();
    assert!(values(&whole).is_ok());
    for cut in 1..whole.len() {
        // A cut between the two values leaves one whole value.
        let ends_well = cut == 4;
        assert_eq!(values(&whole[..cut]).is_ok(), ends_well, "{cut}");
    }
}

#[test]
fn an_end_marker_at_the_top_cannot_shorten_a_command() {
    let bytes = [vec![marker::STRING], string("x"), vec![marker::OBJECT_END, 5, 5, 5]].concat();
    assert_eq!(values(&bytes), Err(AmfError::BadMarker(marker::OBJECT_END)));
    assert_eq!(values(&[marker::STRICT_ARRAY, 0, 0, 0, 1, 9]), Err(AmfError::BadMarker(9)));
    assert_eq!(values(&[0x11, 1]), Err(AmfError::BadMarker(0x11)));
}

#[test]
fn commands_have_three_values() {
    let name = [vec![marker::STRING], string("play")].concat();
    let number = [0u8; 9].to_vec();
    let null = vec![marker::NULL];
    for short in [
        vec![],
        name.clone(),
        [name.clone(), number.clone()].concat(),
        [number.clone(), null.repeat(3)].concat(),
    ] {
        assert_eq!(command(&short), Err(AmfError::NotACommand), "{short:?}");
    }
    let whole = [name, number, null].concat();
    assert_eq!(command(&whole).unwrap(), ("play".into(), 0.0, vec![Amf0Value::Null]));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        values(&bytes).ok();
        command(&bytes).ok();
    }

    /// Bytes that resemble AMF get further: the crate must fully read everything that passes the scan.
    #[test]
    fn what_passes_the_scan_is_read_whole(bytes in proptest::collection::vec(prop_oneof![0u8..0x12, Just(0), any::<u8>()], 0..200)) {
        if let Ok(clean) = sanitise(&bytes) {
            prop_assert!(clean.len() <= 4 * bytes.len() + 16);
            let mut cursor = Cursor::new(&clean[..]);
            prop_assert!(rml_amf0::deserialize(&mut cursor).is_ok());
            prop_assert_eq!(cursor.position(), clean.len() as u64);
        }
    }
}
