use super::answer::{MAX_OUTPUT, object, text};
use super::*;
use bytes::Bytes;
use rml_amf0::Amf0Value;
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
        ServerEvent::Media(_)
        | ServerEvent::Metadata(_)
        | ServerEvent::Ended(_)
        | ServerEvent::PublishInstead(_) => unreachable!(),
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

/// A publishing session, and what the publisher sends to it.
struct Publisher {
    session: ServerSession,
    serializer: ChunkSerializer,
    now: Instant,
}

impl Publisher {
    fn new() -> Self {
        let (session, serializer, now) = publishing();
        Self { session, serializer, now }
    }

    /// Sends a message and returns what the session reports.
    fn message(&mut self, type_id: u8, data: &[u8]) -> Option<ServerEvent> {
        let bytes = write(&mut self.serializer, type_id, 0, data);
        let mut input = &bytes[..];
        let event = self.session.handle(&mut input, self.now).unwrap();
        assert!(event.is_some() || input.is_empty());
        event
    }

    fn command(&mut self, name: &str, arguments: Vec<Amf0Value>) -> Option<ServerEvent> {
        self.message(20, &command(name, arguments))
    }

    fn publish(&mut self, key: &str) -> Option<ServerEvent> {
        self.command("publish", vec![Amf0Value::Null, text(key), text("live")])
    }

    #[track_caller]
    fn sends_media(&mut self) {
        let event = self.message(9, b"video");
        assert!(matches!(event, Some(ServerEvent::Media(_))), "{event:?}");
    }

    /// The numbers of the streams that `createStream` returned, and the codes of `onStatus`.
    fn heard(&mut self) -> Vec<String> {
        let commands = replies(&mut self.session).into_iter().filter(|reply| reply.type_id == 20);
        let heard = commands.map(|reply| amf::command(&reply.payload).unwrap());
        heard
            .map(|heard| match heard.arguments.last().unwrap().clone() {
                Amf0Value::Number(stream) => stream.to_string(),
                status => {
                    status.get_object_properties().unwrap().remove("code").unwrap().get_string().unwrap()
                }
            })
            .collect()
    }
}

const START: &str = "NetStream.Publish.Start";

#[test]
fn a_publisher_may_say_goodbye_and_publish_again() {
    let number = |number: f64| vec![Amf0Value::Null, Amf0Value::Number(number)];
    let goodbyes: [Vec<(&str, Vec<Amf0Value>)>; 5] = [
        vec![("FCUnpublish", vec![Amf0Value::Null, text("key")]), ("deleteStream", number(1.0))],
        vec![("closeStream", vec![]), ("deleteStream", vec![])],
        vec![("deleteStream", number(f64::NAN))],
        vec![("closeStream", vec![Amf0Value::Null]), ("releaseStream", vec![Amf0Value::Null, text("key")])],
        vec![("FCUnpublish", vec![])],
    ];
    let mut publisher = Publisher::new();
    for (round, goodbye) in goodbyes.into_iter().enumerate() {
        for (n, (name, arguments)) in goodbye.into_iter().enumerate() {
            let event = publisher.command(name, arguments);
            let ended = matches!(event, Some(ServerEvent::Ended(EndReason::Unpublished)));
            assert!(ended == (n == 0) && (n == 0 || event.is_none()), "{name}: {event:?}");
        }
        // What was under way, and what the publisher had announced for the next publish.
        for (type_id, data) in [(9, &[7; 100_000][..]), (8, b"audio"), (18, &command("onMetaData", vec![]))] {
            assert!(publisher.message(type_id, data).is_none());
        }
        publisher.command("FCPublish", vec![]);
        publisher.command("createStream", vec![Amf0Value::Null]);
        let event = publisher.publish("key?x=1");
        assert!(matches!(event, Some(ServerEvent::Publish(_))), "{event:?}");
        publisher.session.accept().unwrap();
        assert_eq!(publisher.heard(), [format!("{}", round + 1), START.into()]);
        publisher.sends_media();
    }
    assert_eq!(publisher.session.passed_over(), PassedOver { too_long: 10, ..PassedOver::default() });
}

#[test]
fn a_second_publish_goes_on_or_is_judged_anew() {
    let mut publisher = Publisher::new();
    assert!(publisher.publish("key").is_none());
    publisher.sends_media();
    assert!(publisher.command("connect", vec![object([("app", text("other"))])]).is_none());
    assert!(publisher.command("play", vec![Amf0Value::Null, text("key")]).is_none());
    publisher.sends_media();
    assert_eq!(publisher.heard(), [START]);

    let Some(ServerEvent::PublishInstead(request)) = publisher.publish("other?a=b") else { panic!() };
    assert_eq!((request.app.as_str(), request.key.expose(), &*request.query), ("live", "other", "a=b"));
    publisher.session.accept().unwrap();
    assert_eq!(publisher.heard(), [START]);
    publisher.sends_media();

    let event = publisher.publish("");
    assert!(matches!(event, Some(ServerEvent::Refused(Refusal::BadName(_)))), "{event:?}");
    assert!(publisher.message(9, b"video").is_none());
}

/// A publisher that changes to another message stream deletes the former one afterwards.
#[test]
fn the_end_of_another_message_stream_is_no_goodbye() {
    let mut publisher = Publisher::new();
    publisher.command("createStream", vec![Amf0Value::Null]);
    publisher.command("createStream", vec![Amf0Value::Null]);
    assert_eq!(publisher.heard(), ["1", "2"]);
    let end = |publisher: &mut Publisher, stream: f64| {
        publisher.command("deleteStream", vec![Amf0Value::Null, Amf0Value::Number(stream)])
    };
    assert!(end(&mut publisher, 2.0).is_none());
    publisher.sends_media();
    // A number that was never given is not another stream's.
    assert!(matches!(end(&mut publisher, 7.0), Some(ServerEvent::Ended(_))));
}

#[test]
fn commands_and_metadata_are_read_as_far_as_possible() {
    let mut publisher = Publisher::new();
    let name = |name: &str| rml_amf0::serialize(&vec![text(name)]).unwrap();
    let number = rml_amf0::serialize(&vec![Amf0Value::Number(3.0)]).unwrap();
    for (type_id, data) in [
        (20, name("FCPublish")),
        (20, [name("FCPublish"), number.clone()].concat()),
        (20, [name("_checkbw"), name("three"), name("x"), number.clone()].concat()),
        (17, [&[0][..], &name("FCPublish")].concat()),
        (20, number.clone()),
        (20, vec![0xff; 100]),
        (20, [name("onFI"), vec![10, 0xff, 0xff, 0xff, 0xff]].concat()),
        (18, name("@setDataFrame")),
        (18, [name("@setDataFrame"), name("onFI"), number.clone()].concat()),
        (18, [name("@setDataFrame"), name("onMetaData"), number.clone()].concat()),
        (15, [&[0][..], &name("@setDataFrame"), &name("onMetaData"), &[0x11, 10, 11, 1]].concat()),
    ] {
        let event = publisher.message(type_id, &data);
        assert!(event.is_none(), "{type_id} {data:?}: {event:?}");
        publisher.sends_media();
    }
    let passed = publisher.session.passed_over();
    assert_eq!(passed, PassedOver { commands: 3, metadata: 1, too_long: 0 });

    let width = [&[0, 5][..], b"width", &[0], &640f64.to_be_bytes()].concat();
    let comment = [&[0, 7][..], b"comment", &[12, 0, 1, 0x86, 0xa0], &[b'x'; 100_000]].concat();
    for cut in [0, 3] {
        let mut data = [name("onMetaData"), vec![8, 0, 0, 0, 99], comment.clone(), width.clone()].concat();
        data.extend(&[0, 0, 9][cut..]);
        let event = publisher.message(18, &data);
        assert!(
            matches!(&event, Some(ServerEvent::Metadata(found)) if found.width == Some(640.0)),
            "{event:?}"
        );
    }
    // A publish without a transaction number, and a goodbye that is its name alone.
    assert!(matches!(publisher.message(20, &name("deleteStream")), Some(ServerEvent::Ended(_))));
    let publish = [name("publish"), name("key")].concat();
    assert!(publisher.message(20, &publish).is_none_or(|event| matches!(event, ServerEvent::Refused(_))));
}

#[test]
fn only_clients_of_enhanced_rtmp_are_told_what_the_server_can_do() {
    let answer = |properties: Vec<(&'static str, Amf0Value)>| {
        let (mut session, now) = session();
        let mut serializer = ChunkSerializer::new();
        let mut all = vec![("app", text("live"))];
        all.extend(properties);
        let connect = write(&mut serializer, 20, 0, &command("connect", vec![object(all)]));
        session.handle(&mut &connect[..], now).unwrap();
        let result = replies(&mut session).into_iter().find(|reply| reply.type_id == 20).unwrap();
        amf::command(&result.payload).unwrap().arguments.remove(0).get_object_properties().unwrap()
    };
    let plain = answer(vec![("videoCodecs", Amf0Value::Number(252.0))]);
    assert_eq!(plain.len(), 2, "{plain:?}");
    let list = Amf0Value::StrictArray(vec![text("*")]);
    for property in
        [("fourCcList", list), ("capsEx", Amf0Value::Number(1.0)), ("videoFourCcInfoMap", object([]))]
    {
        let told = answer(vec![property]);
        assert_eq!(told["capsEx"], Amf0Value::Number(15.0));
        let Amf0Value::StrictArray(list) = &told["fourCcList"] else { panic!("{told:?}") };
        for (map, codec) in [("videoFourCcInfoMap", "hvc1"), ("audioFourCcInfoMap", ".mp3")] {
            assert!(list.contains(&text(codec)));
            let map = told[map].clone().get_object_properties().unwrap();
            assert_eq!(map[codec], Amf0Value::Number(1.0));
        }
    }
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
