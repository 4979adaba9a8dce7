use super::answer::{MAX_OUTPUT, object, text};
use super::*;
use bytes::Bytes;
use rml_rtmp::messages::MessagePayload;
use rml_rtmp::time::RtmpTimestamp;

fn session() -> (ServerSession, Instant) {
    let mut session = ServerSession::new(([127, 0, 0, 1], 9).into());
    let now = Instant::now();
    let mut c0c1: &[u8] = &[&[3][..], &[0; 1536]].concat();
    assert!(session.handle(&mut c0c1, now).unwrap().is_none());
    let s1 = session.output()[1..1537].to_vec();
    session.output().clear();
    assert!(session.handle(&mut &s1[..], now).unwrap().is_none());
    assert!(session.handshake_done());
    (session, now)
}

fn write(serializer: &mut ChunkSerializer, type_id: u8, timestamp: u32, data: &[u8]) -> Vec<u8> {
    let payload = MessagePayload {
        timestamp: RtmpTimestamp::new(timestamp),
        type_id,
        message_stream_id: 1,
        data: Bytes::copy_from_slice(data),
    };
    serializer.serialize(&payload, false, false).unwrap().bytes
}

fn command(name: &str, arguments: Vec<Amf0Value>) -> Vec<u8> {
    let mut values = vec![text(name), Amf0Value::Number(1.0)];
    values.extend(arguments);
    rml_amf0::serialize(&values).unwrap()
}

fn publishing() -> (ServerSession, ChunkSerializer, Instant) {
    let (mut session, now) = session();
    let mut serializer = ChunkSerializer::new();
    let connect = write(&mut serializer, 20, 0, &command("connect", vec![object([("app", text("live"))])]));
    assert!(session.handle(&mut &connect[..], now).unwrap().is_none());
    let publish = write(&mut serializer, 20, 0, &command("publish", vec![Amf0Value::Null, text("key")]));
    assert!(matches!(session.handle(&mut &publish[..], now), Ok(Some(ServerEvent::Publish(_)))));
    session.accept().unwrap();
    session.output().clear();
    (session, serializer, now)
}

fn replies(session: &mut ServerSession) -> Vec<ChunkMessage> {
    let mut reader = ChunkReader::new(ChunkLimits::BEFORE_PUBLISH);
    // The server's chunk size is 4096 since its answer to `connect`.
    let mut size: &[u8] = &[2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 16, 0];
    assert_eq!(reader.read(&mut size), Ok(None));
    let output = std::mem::take(session.output());
    let mut input = &output[..];
    std::iter::from_fn(|| reader.read(&mut input).unwrap()).collect()
}

/// The request of a publisher with this `app` of `connect` and this name of `publish`, by a session with key paths.
fn request_with_key_paths(app: &str, name: &str) -> Result<PublishRequest, Refusal> {
    let (session, now) = session();
    let mut session = session.with_key_paths();
    let mut serializer = ChunkSerializer::new();
    let connect = object([("app", text(app)), ("tcUrl", text("rtmp://h/secret")), ("pageUrl", text("page"))]);
    let connect = write(&mut serializer, 20, 0, &command("connect", vec![connect]));
    assert!(session.handle(&mut &connect[..], now).unwrap().is_none());
    let publish = command("publish", vec![Amf0Value::Null, text(name), text("record")]);
    let publish = write(&mut serializer, 20, 0, &publish);
    match session.handle(&mut &publish[..], now).unwrap().unwrap() {
        ServerEvent::Publish(request) => Ok(request),
        ServerEvent::Refused(refusal) => Err(refusal),
        ServerEvent::Media(_) | ServerEvent::Metadata(_) | ServerEvent::Ended(_) => unreachable!(),
    }
}

#[test]
fn the_beginning_of_a_key_may_stand_in_the_application() {
    for (app, name, full) in [
        ("live", "key", "key"),
        ("live", "a/b", "a/b"),
        ("live/a", "b?x=1", "a/b"),
        ("live/a/b/?token=t/u", "c?x=1", "a/b/c"),
        ("live/a", "", "a"),
    ] {
        let request = request_with_key_paths(app, name).unwrap();
        assert_eq!((request.app.as_str(), request.full_key().expose()), ("live", full), "{app} {name}");
        assert_eq!(request.query, if name.contains('?') { "x=1" } else { "" });
        assert_eq!(request.details.app_query, if app.contains('?') { "token=t/u" } else { "" });
        assert_eq!(request.details.tc_url, "rtmp://h/secret");
        assert_eq!((&*request.details.page_url, &*request.details.publish_type), ("page", "record"));
    }
    for (app, name) in [("", "key"), ("/live", "key"), ("li.ve/a", "key"), ("live", ""), ("live/", "?x=1")] {
        assert!(matches!(request_with_key_paths(app, name), Err(Refusal::BadName(_))), "{app} {name}");
    }
    let shown =
        format!("{:?}", request_with_key_paths("live/secret?token=secret", "secret?a=secret").unwrap());
    assert!(shown.contains("live") && !shown.contains("secret"), "{shown}");
}

#[test]
fn the_handshake_takes_version_3_only_and_nothing_that_follows_it() {
    let mut session = ServerSession::new(([127, 0, 0, 1], 9).into());
    let result = session.handle(&mut &[6u8, 0, 0][..], Instant::now());
    assert!(matches!(result, Err(ServerError::Handshake)));
    // The first command arrives in the same read as the last bytes of the handshake.
    let mut session = ServerSession::new(([127, 0, 0, 1], 9).into());
    let mut bytes = vec![3];
    bytes.extend([0; 2 * 1536]);
    let connect = command("connect", vec![object([("app", text("live"))])]);
    bytes.extend(write(&mut ChunkSerializer::new(), 20, 0, &connect));
    assert!(session.handle(&mut &bytes[..], Instant::now()).unwrap().is_none());
    let output = session.output();
    assert!(output.windows(29).any(|part| part == b"NetConnection.Connect.Success"));
}

#[test]
fn acknowledgements_tell_the_running_total_once_a_window() {
    let (mut session, mut serializer, now) = publishing();
    let before = session.received;
    let window = write(&mut serializer, 5, 0, &100_000u32.to_be_bytes());
    session.handle(&mut &window[..], now).unwrap();
    let mut sent = before + window.len() as u32;
    let mut totals = Vec::new();
    for n in 0..50 {
        let video = write(&mut serializer, 9, n * 40, &[0; 10_000]);
        session.handle(&mut &video[..], now).unwrap();
        sent += video.len() as u32;
        for reply in replies(&mut session) {
            assert_eq!(reply.type_id, message_type::ACKNOWLEDGEMENT);
            totals.push(u32::from_be_bytes(*reply.payload.first_chunk().unwrap()));
            assert_eq!(totals.last(), Some(&sent));
        }
    }
    assert_eq!(totals.len(), 5, "{totals:?}");
}

#[test]
fn an_aggregate_is_taken_apart() {
    let (mut session, mut serializer, now) = publishing();
    let mut body = Vec::new();
    for (type_id, time, data) in
        [(9u8, 500u32, &b"video"[..]), (18, 510, b"data"), (8, 0x0100_0000, b"audio")]
    {
        body.push(type_id);
        body.extend(&(data.len() as u32).to_be_bytes()[1..]);
        body.extend(&time.to_be_bytes()[1..]);
        body.push((time >> 24) as u8);
        body.extend([0; 3]);
        body.extend(data);
        body.extend((data.len() as u32 + 11).to_be_bytes());
    }
    // A truncated tag ends the aggregate message.
    body.extend([9, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    let bytes = write(&mut serializer, 22, 2_000, &body);
    let mut input = &bytes[..];
    let mut media = Vec::new();
    while let Some(event) = session.handle(&mut input, now).unwrap() {
        let ServerEvent::Media(message) = event else { panic!("{event:?}") };
        media.push((message.kind, message.timestamp_ms, message.payload));
    }
    let expected = [
        (MessageKind::Video, 2_000, Bytes::from_static(b"video")),
        (MessageKind::Audio, 0x0100_0000 + 1_500, Bytes::from_static(b"audio")),
    ];
    assert_eq!(media, expected);
}

#[test]
fn nothing_is_heard_behind_the_end() {
    let (mut session, mut serializer, now) = publishing();
    let mut bytes = write(&mut serializer, 20, 0, &command("FCUnpublish", vec![Amf0Value::Null]));
    bytes.extend(write(&mut serializer, 9, 0, b"video"));
    bytes.extend(write(&mut serializer, 20, 0, &command("connect", vec![Amf0Value::Null])));
    let mut input = &bytes[..];
    assert!(matches!(session.handle(&mut input, now), Ok(Some(ServerEvent::Ended(EndReason::Unpublished)))));
    assert!(matches!(session.handle(&mut input, now), Ok(None)));
    assert!(input.is_empty());
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let (mut session, mut serializer, now) = publishing();
    let ping = write(&mut serializer, 4, 0, &[0, 6, 0, 0, 0, 1]);
    let result = (0..100_000).find_map(|_| session.handle(&mut &ping[..], now).err());
    assert!(matches!(result, Some(ServerError::OutputOverflow)));
    assert!(session.output().len() <= MAX_OUTPUT);
}

#[test]
fn media_in_odd_places_is_not_media() {
    let (mut session, now) = session();
    let mut serializer = ChunkSerializer::new();
    for type_id in [8, 9, 22] {
        // Only empty media messages pass the limits before publish.
        let header = [type_id, 0, 0, 0, 0, 0, 0, type_id, 1, 0, 0, 0];
        assert!(session.handle(&mut &header[..], now).unwrap().is_none());
    }
    let unpublish = write(&mut serializer, 20, 0, &command("FCUnpublish", vec![Amf0Value::Null]));
    assert!(session.handle(&mut &unpublish[..], now).unwrap().is_none());
}
