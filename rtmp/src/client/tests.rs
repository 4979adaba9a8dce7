use super::*;
use crate::session::{ServerEvent, ServerSession};
use crate::{EndReason, Refusal};
use std::time::Instant;

fn client() -> ClientSession {
    ClientSession::new("rtmp://localhost/live/secret".parse().unwrap()).unwrap()
}

fn server() -> ServerSession {
    ServerSession::new("127.0.0.1:1".parse().unwrap())
}

/// Carries bytes both ways in pieces of `piece` bytes until neither side has output. Answers a publish request with
/// `refusal`, or accepts it.
fn converse(
    client: &mut ClientSession,
    server: &mut ServerSession,
    refusal: Option<&Refusal>,
    piece: usize,
) -> (Vec<ClientEvent>, Vec<ServerEvent>) {
    let (mut heard, mut seen) = (Vec::new(), Vec::new());
    loop {
        let up = client.take_output();
        for mut input in up.chunks(piece) {
            while let Some(event) = server.handle(&mut input, Instant::now()).unwrap() {
                if matches!(event, ServerEvent::Publish(_)) {
                    match refusal {
                        None => server.accept().unwrap(),
                        Some(refusal) => server.refuse(refusal).unwrap(),
                    }
                }
                seen.push(event);
            }
        }
        let down = std::mem::take(server.output());
        for mut input in down.chunks(piece) {
            while let Some(event) = client.handle(&mut input).unwrap() {
                heard.push(event);
            }
            assert!(input.is_empty());
        }
        if up.is_empty() && down.is_empty() {
            return (heard, seen);
        }
    }
}

#[test]
fn a_server_lets_us_publish_and_gets_what_we_send() {
    for piece in [1, 7, 100_000] {
        let (mut client, mut server) = (client(), server());
        let (heard, seen) = converse(&mut client, &mut server, None, piece);
        assert_eq!(heard, [ClientEvent::Publishing]);
        let [ServerEvent::Publish(request)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((request.app.as_str(), request.key.expose()), ("live", "secret"));
        assert_eq!(client.server_codecs(), &ServerCodecs::all(), "this server says what it takes");

        // Bodies longer than a chunk, times above the threshold of extended timestamps, and times across the wrap.
        let times = [0x00ff_fff0, 0x0100_0010, u32::MAX - 5, 30, 63, 96];
        client.metadata(crate::flv::write::metadata(None, None, &[])).unwrap();
        for timestamp_ms in times {
            let body = Bytes::from(vec![timestamp_ms as u8; 150_000]);
            client.media(OutgoingTag { kind: MessageKind::Video, timestamp_ms, body }).unwrap();
            let body = Bytes::from(vec![1, 2, 3]);
            client.media(OutgoingTag { kind: MessageKind::Audio, timestamp_ms, body }).unwrap();
        }
        client.finish().unwrap();
        let (_, seen) = converse(&mut client, &mut server, None, piece);
        assert!(matches!(&seen[0], ServerEvent::Metadata(metadata) if metadata.encoder.is_some()));
        let media: Vec<_> = seen
            .iter()
            .filter_map(|event| match event {
                ServerEvent::Media(media) => Some((media.kind, media.timestamp_ms, media.payload.len())),
                _ => None,
            })
            .collect();
        let expected: Vec<_> = times
            .iter()
            .flat_map(|t| [(MessageKind::Video, *t, 150_000), (MessageKind::Audio, *t, 3)])
            .collect();
        assert_eq!(media, expected);
        assert!(matches!(seen.last(), Some(ServerEvent::Ended(EndReason::Unpublished))));
    }
}

#[test]
fn a_refusal_is_heard_in_the_servers_words() {
    let refusal = Refusal::BadName("no such stream".into());
    let (heard, _) = converse(&mut client(), &mut server(), Some(&refusal), 100_000);
    assert_eq!(heard, [ClientEvent::Refused("no such stream".into())]);
}

#[test]
fn being_sent_off_is_heard_too() {
    let (mut client, mut server) = (client(), server());
    converse(&mut client, &mut server, None, 100_000);
    server.refuse(&Refusal::Draining).unwrap();
    let (heard, _) = converse(&mut client, &mut server, None, 100_000);
    assert_eq!(heard, [ClientEvent::SentOff(Refusal::Draining.to_string())]);
}

#[test]
fn a_request_to_reconnect_is_heard_and_the_publish_goes_on() {
    let (mut client, mut server) = (client(), server());
    assert!(!server.ask_to_reconnect(None).unwrap(), "nobody publishes");
    converse(&mut client, &mut server, None, 100_000);
    for tc_url in [None, Some("rtmp://other/live")] {
        assert!(server.ask_to_reconnect(tc_url).unwrap());
        client
            .media(OutgoingTag { kind: MessageKind::Audio, timestamp_ms: 0, body: Bytes::from_static(&[1]) })
            .unwrap();
        let (heard, seen) = converse(&mut client, &mut server, None, 100_000);
        assert_eq!(heard, [ClientEvent::ReconnectAsked(tc_url.map(str::to_owned))]);
        assert!(matches!(&seen[..], [ServerEvent::Media(_)]), "{seen:?}");
    }
}

#[test]
fn what_follows_an_event_in_the_same_read_is_heard_too() {
    let (mut client, mut server) = (client(), server());
    let mut heard = Vec::new();
    loop {
        let up = client.take_output();
        let mut input = &up[..];
        while let Some(event) = server.handle(&mut input, Instant::now()).unwrap() {
            if matches!(event, ServerEvent::Publish(_)) {
                server.accept().unwrap();
                server.refuse(&Refusal::Draining).unwrap();
            }
        }
        let down = std::mem::take(server.output());
        if down.is_empty() {
            break;
        }
        let mut input = &down[..];
        while let Some(event) = client.handle(&mut input).unwrap() {
            heard.push(event);
        }
    }
    assert_eq!(heard, [ClientEvent::Publishing, ClientEvent::SentOff(Refusal::Draining.to_string())]);
}

#[test]
fn nothing_is_sent_before_the_server_agrees_or_after_the_end() {
    let mut client = client();
    client.take_output();
    let tag = || OutgoingTag { kind: MessageKind::Audio, timestamp_ms: 0, body: Bytes::from_static(&[1]) };
    client.media(tag()).unwrap();
    client.finish().unwrap();
    client.media(tag()).unwrap();
    assert!(client.take_output().is_empty());
}

#[test]
fn a_refused_connect_and_a_terse_status_are_refusals() {
    let status = |code: &str| {
        let object = HashMap::from([
            ("level".to_owned(), Amf0Value::Utf8String("error".into())),
            ("code".to_owned(), Amf0Value::Utf8String(code.into())),
        ]);
        Amf0Value::Object(object)
    };
    for name in ["_error", "onStatus"] {
        let values = vec![
            Amf0Value::Utf8String(name.into()),
            Amf0Value::Number(1.0),
            Amf0Value::Null,
            status("Nope\u{7}"),
        ];
        let payload = rml_amf0::serialize(&values).unwrap();
        assert!(matches!(parse_reply(&payload), Ok(Reply::Failure(text)) if text == "Nope"));
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_from_a_server_are_an_answer(bytes: Vec<u8>) {
        let (mut client, mut server) = (client(), server());
        converse(&mut client, &mut server, None, 100_000);
        let mut input = &bytes[..];
        while let Ok(Some(_)) = client.handle(&mut input) {}
    }
}

#[test]
fn servers_say_in_several_ways_what_they_take() {
    use AudioCodec::Opus;
    use VideoCodec::{Av1, Hevc};
    let text = |text: &str| Amf0Value::Utf8String(text.into());
    let object = |entries: Vec<(&str, Amf0Value)>| {
        Amf0Value::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let list = |codes: &[&str]| Amf0Value::StrictArray(codes.iter().map(|code| text(code)).collect());
    let number = Amf0Value::Number;
    for (answer, video, audio) in [
        (object(vec![]), vec![], vec![]),
        (object(vec![("fourCcList", list(&["av01", "vp09"]))]), vec![Av1], vec![]),
        (object(vec![("fourCcList", list(&["*"]))]), vec![Hevc, Av1], vec![]),
        (object(vec![("fourCcList", list(&["Opus"]))]), vec![], vec![Opus]),
        (
            object(vec![
                ("videoFourCcInfoMap", object(vec![("hvc1", number(4.0)), ("av01", number(2.0))])),
                ("audioFourCcInfoMap", object(vec![("Opus", number(1.0))])),
            ]),
            vec![Hevc],
            vec![Opus],
        ),
        (object(vec![("fourCcList", text("hvc1")), ("videoFourCcInfoMap", number(1.0))]), vec![], vec![]),
    ] {
        let mut codecs = ServerCodecs::default();
        codecs.take(&answer);
        assert_eq!(codecs, ServerCodecs { video, audio }, "{answer:?}");
    }
}
