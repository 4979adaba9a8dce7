use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// The values of a message that can be read to its end.
fn values(bytes: &[u8]) -> Result<Vec<Amf0Value>, AmfError> {
    let AmfMessage { values, cut } = read(bytes);
    cut.map_or(Ok(values), Err)
}

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
    assert_eq!(values(&[marker::NULL; MAX_VALUES + 1]).unwrap().len(), MAX_VALUES);
    assert_eq!(values(&vec![marker::NULL; 16 << 20]), Err(AmfError::TooLong(16 << 20)));
    // Lengths that are announced, but the data is missing.
    assert_eq!(values(&[marker::STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff]), Err(AmfError::Truncated));
    assert_eq!(values(&[marker::LONG_STRING, 0xff, 0xff, 0xff, 0xff]), Err(AmfError::Truncated));
}

/// The property `width` of the first value.
fn width(message: &AmfMessage) -> Option<f64> {
    message.values.first()?.clone().get_object_properties()?.remove("width")?.get_number()
}

fn number(value: f64) -> Vec<u8> {
    [&[marker::NUMBER][..], &value.to_be_bytes()].concat()
}

#[test]
fn what_is_beyond_a_bound_is_left_out_and_the_rest_is_read() {
    let head = |kind: u8, count: u32| [&[kind][..], &count.to_be_bytes()].concat();
    let times = [head(marker::STRICT_ARRAY, 5_000), number(1.0).repeat(5_000)].concat();
    let index =
        [&[marker::OBJECT][..], &string("times"), &times, &string("filepositions"), &times, &[0, 0, 9]];
    let comment = [&[marker::LONG_STRING, 0, 1, 0, 0][..], &[0xe9; 0x1_0000]].concat();
    let nested = [head(marker::STRICT_ARRAY, 300), object("a", &object("b", &times)).repeat(300)].concat();
    for (name, value) in
        [("keyframes", index.concat()), ("comment", comment), ("nested", nested[..900_000].into())]
    {
        // An array with a count that is wrong, and the interesting property in front of and behind the long one.
        let width_first =
            [head(marker::ECMA_ARRAY, 7), string("width"), number(640.0), string(name), value.clone()];
        assert_eq!(width(&read(&width_first.concat())), Some(640.0), "{name}");
        let mut whole =
            [head(marker::ECMA_ARRAY, 0), string(name), value, string("width"), number(640.0)].concat();
        whole.extend([0, 0, marker::OBJECT_END]);
        let message = read(&whole);
        if name != "nested" {
            assert_eq!((width(&message), message.cut), (Some(640.0), None), "{name}");
        }
        assert!(message.values.len() == 1, "{name}");
    }
}

#[test]
fn every_cut_leaves_what_was_before_it() {
    let inner = [&[marker::STRICT_ARRAY, 0, 0, 0, 2][..], &object("y", &number(1.0)), &number(2.0)].concat();
    let properties = [string("width"), number(640.0), string("x"), inner].concat();
    let whole = [vec![marker::ECMA_ARRAY, 0, 0, 0, 9], properties, vec![0, 0, marker::OBJECT_END]].concat();
    assert_eq!(read(&whole).cut, None);
    for cut in 1..whole.len() {
        let message = read(&whole[..cut]);
        assert_eq!(message.cut, Some(AmfError::Truncated), "{cut}");
        assert_eq!(width(&message), (cut >= 21).then_some(640.0), "{cut}");
    }
    // A strict array that announces more than there is, and metadata that goes on in AMF3.
    let lying = [vec![marker::STRICT_ARRAY, 0, 0, 0, 9], number(1.0)].concat();
    assert_eq!(read(&lying).values, [Amf0Value::StrictArray(vec![Amf0Value::Number(1.0)])]);
    let amf3 = [vec![marker::STRING], string("onMetaData"), vec![0x11, 0x0a, 0x0b, 1]].concat();
    assert_eq!(read(&amf3).values, [Amf0Value::Utf8String("onMetaData".into())]);
}

#[test]
fn an_end_marker_at_the_top_cannot_shorten_a_command() {
    let bytes = [vec![marker::STRING], string("x"), vec![marker::OBJECT_END, 5, 5, 5]].concat();
    assert_eq!(values(&bytes), Err(AmfError::BadMarker(marker::OBJECT_END)));
    assert_eq!(values(&[marker::STRICT_ARRAY, 0, 0, 0, 1, 9]), Err(AmfError::BadMarker(9)));
    assert_eq!(values(&[0x11, 1]), Err(AmfError::BadMarker(0x11)));
}

#[test]
fn a_command_needs_nothing_but_its_name() {
    let name = [vec![marker::STRING], string("play")].concat();
    let read = |parts: &[&[u8]]| {
        command(&parts.concat()).map(|read| (read.name, read.transaction, read.arguments, read.cut))
    };
    let play = |transaction, arguments| Ok(("play".to_owned(), transaction, arguments, None));
    assert_eq!(read(&[&name]), play(0.0, vec![]));
    assert_eq!(read(&[&name, &number(4.0)]), play(4.0, vec![]));
    assert_eq!(read(&[&name, &number(4.0), &[marker::NULL]]), play(4.0, vec![Amf0Value::Null]));
    assert_eq!(read(&[&name, &name, &[marker::BOOLEAN, 1]]), play(0.0, vec![Amf0Value::Boolean(true)]));
    let cut = Ok(("play".to_owned(), 0.0, vec![], Some(AmfError::Truncated)));
    assert_eq!(read(&[&name, &[0, 0]]), cut);
    assert_eq!(read(&[]), Err(AmfError::NotACommand));
    assert_eq!(read(&[&number(1.0), &name]), Err(AmfError::NotACommand));
    assert_eq!(read(&[&name[..5]]), Err(AmfError::Truncated));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read(&bytes);
        command(&bytes).ok();
    }

    /// Bytes that resemble AMF get further: the crate must fully read what the scan has written.
    #[test]
    fn what_passes_the_scan_is_read_whole(bytes in proptest::collection::vec(prop_oneof![0u8..0x12, Just(0), any::<u8>()], 0..200)) {
        let (clean, _) = sanitise(&bytes);
        prop_assert!(clean.len() <= 4 * bytes.len() + 64);
        let mut cursor = Cursor::new(&clean[..]);
        prop_assert!(rml_amf0::deserialize(&mut cursor).is_ok());
        prop_assert_eq!(cursor.position(), clean.len() as u64);
    }
}
